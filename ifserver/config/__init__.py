"""Settings: one description of each, for its flag, variable, TOML key and documentation."""
