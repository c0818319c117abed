"""``ifserver status`` and ``ifserver top``: what an admin endpoint reports, on a terminal."""
