"""What the commands of ``ifserver`` do; `ifserver.cli` imports the module of the one that is given."""
