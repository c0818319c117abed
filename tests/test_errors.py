"""The error tree."""

from __future__ import annotations

import inspect

import pytest

from ifserver import errors
from ifserver.errors import IfserverError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


def test_all_errors_are_exported() -> None:
    assert sorted(errors.__all__) == sorted(each.__name__ for each in CLASSES)


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_ours_and_drawn_in_the_docstring(error: type[Exception]) -> None:
    assert issubclass(error, IfserverError)
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__
    assert error.__doc__


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (errors.ChannelNameError, ValueError),
        (errors.UndecodableError, ValueError),
        (errors.ApplicationError, RuntimeError),
        # ASGI 2.4: send() raises an OSError once the client has left.
        (errors.ClientDisconnected, OSError),
        (errors.NodeUnreachable, errors.NodeError),
        (errors.PushInDoubt, errors.NodeError),
        (errors.NodeRefused, errors.NodeError),
    ],
)
def test_an_error_can_be_caught_as_what_it_is(error: type[Exception], base: type[Exception]) -> None:
    assert issubclass(error, base)


def test_what_was_not_sent_is_told_from_what_may_have_been() -> None:
    kinds = (errors.NodeUnreachable, errors.PushInDoubt, errors.NodeRefused)
    assert not any(issubclass(a, b) for a in kinds for b in kinds if a is not b)
