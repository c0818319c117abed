"""The package as a Django app: what importing it brings along, and what it must not."""

from __future__ import annotations

import subprocess
import sys

import pytest

SETUP = """
import sys
{before}
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["ifserver.django"], IFSERVER={project})
django.setup()
{then}
"""


def run(then: str, before: str = "", project: str = "{}") -> str:
    """What a new process prints in which Django is set up with the app."""
    code = SETUP.format(before=before, then=then, project=project)
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_it_needs_neither_channels_nor_twisted() -> None:
    without = "sys.modules['channels'] = None"
    assert run("print(sorted({'twisted', 'channels.layers'} & set(sys.modules)))", without) == "[]"
    assert run("import ifserver.django as d; print(d.ChannelLayer.__module__)") == "ifserver.django.layer"


def test_unknown_names_are_no_attributes() -> None:
    import ifserver.django

    with pytest.raises(AttributeError, match="has no attribute 'Layer'"):
        _ = ifserver.django.Layer


def test_its_settings_hold_in_every_process_of_the_project() -> None:
    then = "from ifserver.config.sources import configuration; print(configuration({}).of('layer.prefix'))"
    assert "'x:', origin='IFSERVER[\"layer\"][\"prefix\"]'" in run(then, project="{'layer': {'prefix': 'x:'}}")


def test_settings_that_cannot_be_are_for_the_checks_to_say() -> None:
    then = "from django.core import checks; print([each.id for each in checks.run_checks()])"
    assert run(then, project="{'layer': {'prefi': 'x:'}}") == "['ifserver.E002']"
