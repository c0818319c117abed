"""What is listened on: endpoints, sockets and TLS."""
