"""What setup.cfg cannot hold."""

import re
from pathlib import Path

from setuptools import setup

# A package index shows no pictures that are in the repository.
readme = (Path(__file__).parent / "README.rst").read_text("utf-8")
setup(long_description=re.sub(r"^\.\. image:: docs/.*\n(   .*\n)*\n", "", readme, flags=re.MULTILINE))
