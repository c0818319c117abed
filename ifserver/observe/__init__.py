"""What operators see: the admin endpoint, and the commands that ask it."""
