"""Exchanges: the requests and WebSockets of a server, from their offer to a worker to their end."""
