"""What operators see: the admin endpoint, and the commands that ask it."""

from __future__ import annotations

from types import ModuleType

from ifserver.errors import ConfigurationError

__all__ = ["import_tracing"]


def import_tracing(setting: str) -> ModuleType:
    """`ifserver.observe.tracing`, which only those need for whom `setting` is on.

    Raises:
        ConfigurationError: OpenTelemetry's API is not installed.
    """
    try:
        from ifserver.observe import tracing
    except ImportError as error:
        raise ConfigurationError(f"{setting}: {error}: pip install 'ifserver[otel]'") from error
    return tracing
