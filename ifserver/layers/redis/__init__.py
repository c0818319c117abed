"""A Redis or Valkey as a node."""
