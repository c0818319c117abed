"""What a Django project uses of ifserver (docs/start/channels.rst). Importing this needs Channels."""

from ifserver.django.consumers import GroupSendMixin
from ifserver.django.layer import ChannelLayer

__all__ = ["ChannelLayer", "GroupSendMixin"]
