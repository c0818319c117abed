"""The commands of ``ifserver``, one module each; `ifserver.cli` imports the one that is given.

A command reads its settings, opens its sockets and forks. Then `running` installs the reactor, and calls the command's
``build`` for a service (`ifserver.services`). A ``build`` imports what must not be imported before that.
"""
