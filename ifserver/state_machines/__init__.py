"""One stream as a table of (state, event) -> (state, effects). Pure: no I/O, no clock, no reactor."""
