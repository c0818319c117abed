"""HTTP/1: from bytes to exchanges and back."""
