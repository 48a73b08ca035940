"""Checks of arguments: what is in range comes back, what is not is named with what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lmdbpipe import LMDBConfig
from lmdbpipe.checks import flag, whole
from lmdbpipe.epochs import EpochCounter
from lmdbpipe.errors import ConfigError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)], ids=repr)
def test_integers_of_any_kind_are_integers(value: Any) -> None:
    """NumPy's integers count as Python's, and become them."""
    assert whole("n", value, 0, 3) == 3
    assert type(whole("n", value)) is int
    assert type(LMDBConfig(rounds=value).rounds) is int
    counter = EpochCounter()
    counter.set(value)
    assert counter.begin() == 3


@pytest.mark.parametrize(
    ("low", "high", "value", "message"),
    [
        (None, None, 1.0, "n must be an integer, got 1.0"),
        (1, None, 0, "n must be an integer of at least 1, got 0"),
        (0, None, True, "n must be an integer of at least 0, got True"),
        (0, 3, 4, "n must be an integer from 0 to 3, got 4"),
        (0, 3, "2", "n must be an integer from 0 to 3, got '2'"),
        (0, 3, np.float32(2), "n must be an integer from 0 to 3, got"),
        (0, 3, np.array([1, 2]), "n must be an integer from 0 to 3, got array"),
        (0, 3, torch.tensor(1.5), "n must be an integer from 0 to 3, got tensor"),
    ],
)
def test_other_values_are_named(low: int | None, high: int | None, value: Any, message: str) -> None:
    """What is no integer, or out of range, is an error that says what would do and what was given."""
    with pytest.raises(ConfigError, match=message):
        whole("n", value, low, high)


def test_flags_are_booleans() -> None:
    """Only True and False are flags."""
    assert flag("f", True) is True
    for value in (1, None, np.True_, "yes"):
        with pytest.raises(ConfigError, match="f must be True or False, got"):
            flag("f", value)
