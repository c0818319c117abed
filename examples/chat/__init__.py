"""A chat room that joins every tab, whichever worker process holds its WebSocket. Start reading in ``app.py``."""
