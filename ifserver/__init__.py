"""ifserver: an interface server that keeps the clients' connections while workers run the application."""

__version__ = "0.1.0"
