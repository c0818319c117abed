"""The quick cases are run wherever ``make autobahn`` has made the suite: making it downloads much."""

from tests.autobahn import suite

collect_ignore = [] if suite.is_made() else ["test_autobahn.py"]
