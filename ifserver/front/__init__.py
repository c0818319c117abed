"""The interface server's side: the clients' bytes on one end, messages on the other."""
