"""Processes: supervisors and their children, restarts, liveness, handing over, systemd."""
