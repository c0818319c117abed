"""The Django app: ``manage.py runserver``, ``manage.py ifserver``, and system checks."""

import contextlib
import os
import sys

from django.apps import AppConfig
from django.conf import settings
from django.core.management import get_commands

from ifserver.config import sources
from ifserver.errors import ConfigurationError
from ifserver.process import own_process

__all__ = ["IfserverConfig"]


class IfserverConfig(AppConfig):  # type: ignore[misc]
    """``ifserver.django`` in ``INSTALLED_APPS``."""

    name = "ifserver.django"
    label = "ifserver"
    verbose_name = "ifserver"

    def ready(self) -> None:
        from ifserver.django import checks

        checks.register()
        if get_commands().get("".join(sys.argv[1:2])) != self.name:
            own_process.raise_again()
        # It was for the command that manage.py became. What is started from here may be another project's.
        os.environ.pop(sources.PROJECT_VARIABLE, None)
        # What cannot be, the system checks say; commands that have nothing to do with it go on.
        with contextlib.suppress(ConfigurationError):
            sources.set_project(getattr(settings, "IFSERVER", {}))
