"""ifserver: an interface server that keeps the clients' connections while workers run the application."""

__version__ = "1.0.0"
