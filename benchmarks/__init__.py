"""Measurements and simulations. They are run from a checkout (``python -m benchmarks.placement``), never installed."""
