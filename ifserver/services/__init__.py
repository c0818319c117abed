"""Composition roots: from settings to running services, in order."""
