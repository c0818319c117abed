"""Every error that ifserver raises, in one tree.

::

    IfserverError
    |-- ConfigurationError       the operator's: a setting, a URL, an application that cannot be found (exit code 2)
    |-- ChannelNameError         a channel name that breaks the grammar, or names a node that is not configured
    |-- UndecodableError         a payload that is no message of this format version
    |-- TransitionError          a stream was told something that cannot happen in its state: our bug or a bad peer
    |-- NodeError                a node did not do what it was asked
    |   |-- NodeUnreachable      it was not asked: there is no connection; nothing was sent
    |   |-- PushInDoubt          the connection broke before the answer: it may or may not have happened
    |   `-- NodeRefused          it answered with an error (out of memory, read-only, no permission)
    |-- ApplicationError         the application broke the ASGI specification; raised into it by ``send()``
    `-- ClientDisconnected       raised by ``send()`` once the client has left; an ``OSError``, as ASGI 2.4 asks

Errors of other libraries are translated at the border where they arise and kept as ``__cause__``.
"""

from __future__ import annotations

__all__ = [
    "ApplicationError",
    "ChannelNameError",
    "ClientDisconnected",
    "ConfigurationError",
    "IfserverError",
    "NodeError",
    "NodeRefused",
    "NodeUnreachable",
    "PushInDoubt",
    "TransitionError",
    "UndecodableError",
]


class IfserverError(Exception):
    """Base of all errors that are raised on purpose here."""


class ConfigurationError(IfserverError):
    """What the operator asked for cannot be; the text names the setting and its value, and fits one line."""


class ChannelNameError(IfserverError, ValueError):
    """A channel name breaks the grammar of `ifserver.channels`, or names a node that is not configured."""


class UndecodableError(IfserverError, ValueError):
    """A payload is no message that this version understands."""


class TransitionError(IfserverError):
    """A stream was handed an event that its state has no row for. Nothing has changed."""


class NodeError(IfserverError):
    """A node did not do what it was asked."""


class NodeUnreachable(NodeError):
    """There is no connection to the node, so nothing was sent to it."""


class PushInDoubt(NodeError):
    """The connection broke before the node answered: the messages were taken, or they were not."""


class NodeRefused(NodeError):
    """The node answered with an error, and did nothing."""


class ApplicationError(IfserverError, RuntimeError):
    """The application sent what the ASGI specification does not allow here."""


class ClientDisconnected(IfserverError, OSError):
    """The client has left, so nothing more can be sent (ASGI, "Disconnected client - send exception")."""
