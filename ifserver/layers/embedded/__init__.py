"""A node in memory, and the broker that other processes reach it by."""
