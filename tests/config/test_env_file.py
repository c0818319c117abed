"""Files of variables: what they say, and that what is none is an error that names its line and shows no value."""

from __future__ import annotations

import pytest

from ifserver.config.env_file import parse_env
from ifserver.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("\n# a comment\n  \n", {}),
        ("# without an end", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("  A = 1  ", {"A": "1"}),
        ("export A=1\nexport\tB=2", {"A": "1", "B": "2"}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("A= # no value", {"A": ""}),
        ("A=two words # a comment", {"A": "two words"}),
        ("A=a#b", {"A": "a#b"}),
        ("A=p@ss$word!=", {"A": "p@ss$word!="}),
        ("A=postgres://u:p@h/d?x=1&y=2", {"A": "postgres://u:p@h/d?x=1&y=2"}),
        ("A='${B} \\n # \"x\"'  # a comment", {"A": '${B} \\n # "x"'}),
        ('A="a\\nb\\t\\"c\\" \\\\ \\${B} \\x"', {"A": 'a\nb\t"c" \\ ${B} \\x'}),
        ('A="-----BEGIN-----\nx\n"\nB=2', {"A": "-----BEGIN-----\nx\n", "B": "2"}),
        ("A=''\nB=\"\"", {"A": "", "B": ""}),
        ("A=ä", {"A": "ä"}),
    ],
)
def test_what_a_file_says(text: str, variables: dict[str, str]) -> None:
    assert parse_env(text, ".env") == variables


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A", "1: expected NAME=VALUE"),
        ("A=1\n\n# c\n1B=2", "4: expected NAME=VALUE"),
        ("A B=1", "1: expected NAME=VALUE"),
        ("A='secret", "1: A: the value's ' is not closed"),
        ('A=1\nB="secret\\"', "2: B: the value's \" is not closed"),
        ("A='secret'more", "1: A: something follows the quotes"),
        ("A='secret'# no space", "1: A: something follows the quotes"),
        ("A=x${B}", "1: A: ${...} is not replaced by a variable's value; put it in single quotes"),
        ('A="x${B}"', "1: A: ${...} is not replaced by a variable's value; put it in single quotes"),
        ("A=#secret", "1: A: a value that begins with # needs quotes"),
        ("A='a\0b'", "1: A: a variable cannot hold a NUL character"),
    ],
)
def test_what_is_none(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_env(text, ".env")
    assert str(caught.value) == f".env:{said}"
    assert "secret" not in str(caught.value)
