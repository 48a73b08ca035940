"""Checks of arguments that every setting of this package shares: whole numbers in a range, and names from a list."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from lmdbpipe.errors import ConfigError

LENGTH_LIMIT = 2**62  # samples; sums of two positions still fit int64


def whole(name: str, value: SupportsIndex, low: int | None = 0, high: int | None = None) -> int:
    """Return ``value`` as an int, NumPy integers included, or raise ConfigError unless ``low <= value <= high``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    number = operator.index(value)
    if (low is not None and number < low) or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} must be {bounds}, not {number}")
    return number


def flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False, or raise ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}")
    return value
