"""The worker's side: messages on one end, the application on the other."""
