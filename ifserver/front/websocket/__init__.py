"""WebSockets: from frames to messages and back."""
