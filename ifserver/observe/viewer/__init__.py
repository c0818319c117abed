"""``ifserver status`` and ``ifserver top``: what an admin endpoint tells, on a terminal."""
