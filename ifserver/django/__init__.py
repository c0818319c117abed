"""What a Django project uses of ifserver.

``INSTALLED_APPS = ["ifserver.django", ...]`` makes ``manage.py runserver`` ifserver (docs/start/django.rst). The names
below are the channel layer (docs/start/channels.rst) and test cases (docs/howto/testing.rst).

Each name is imported when it is first asked for: test cases do not need Channels, the channel layer needs no tests, and
Django imports this package before its models are ready.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ifserver.process import own_process

if TYPE_CHECKING:
    from ifserver.django.consumers import GroupSendMixin
    from ifserver.django.layer import ChannelLayer
    from ifserver.django.testing import ChannelsLiveServerTestCase, LiveServerTestCase

__all__ = ["ChannelLayer", "ChannelsLiveServerTestCase", "GroupSendMixin", "LiveServerTestCase"]

_MODULES = {
    "ChannelLayer": "layer",
    "ChannelsLiveServerTestCase": "testing",
    "GroupSendMixin": "consumers",
    "LiveServerTestCase": "testing",
}

if "django.core.management" in sys.modules and sys.argv[1:2] in (["runserver"], ["ifserver"]):
    # The first of our code that runs in manage.py, which imports the rest of the site now. The app looks whether the
    # command is ours.
    own_process.end_at_once()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found
