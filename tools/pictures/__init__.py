"""The pictures of the documentation, taken of the running thing: ``make pictures`` writes them into ``docs/pictures``.

Nothing is acted: real processes are started, killed and edited, and a real Chromium looks at them.
"""
