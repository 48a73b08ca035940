"""The error tree."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from lmdbpipe import errors
from lmdbpipe.errors import LMDBPipeError

ALL = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_are_of_the_package_and_built_in(kind: type[Exception]) -> None:
    """Each error is an LMDBPipeError and the built-in one that the picture shows; it keeps its message."""
    assert issubclass(kind, LMDBPipeError)
    shown = re.search(rf"\b{kind.__name__}(?:\((\w+)\))?", errors.__doc__ or "")
    assert shown, "the module's picture does not show it"
    if shown[1]:
        assert shown[1] in [base.__name__ for base in kind.__mro__]
    assert str(kind("what: why")) == "what: why"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_travel_between_processes(kind: type[Exception]) -> None:
    """An error pickles with its type and message, as a DataLoader's workers need it."""
    again = pickle.loads(pickle.dumps(kind("what: why")))
    assert type(again) is kind
    assert str(again) == "what: why"
