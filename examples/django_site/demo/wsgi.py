"""The same site for a WSGI server: all of it but the chat, since WSGI knows no WebSockets."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

from demo.first_start import prepare_database

__all__ = ["application"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
application = StaticFilesHandler(get_wsgi_application())
prepare_database()
