"""The site's one app: its pages, a guestbook, uploads and two streams."""
