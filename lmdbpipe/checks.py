"""Checks of arguments that all settings share: integers in a range, and flags. NumPy's integers are integers, too."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from lmdbpipe.errors import ConfigError


def whole(name: str, value: SupportsIndex, low: int | None = 0, high: int | None = None) -> int:
    """Give `value` as an int.

    Raises:
        ConfigError: It is not an integer, or not in ``low <= value <= high``; the message names `name`.
    """
    try:
        number = operator.index(value)
    except TypeError:  # also an array has an __index__, which says that it is none
        in_range = False
    else:
        in_range = (low is None or number >= low) and (high is None or number <= high)
    if in_range and not isinstance(value, bool):
        return number
    bounds = "" if low is None else f" of at least {low}" if high is None else f" from {low} to {high}"
    raise ConfigError(f"{name} must be an integer{bounds}, got {value!r}")


def flag(name: str, value: object) -> bool:
    """Give `value`.

    Raises:
        ConfigError: It is neither True nor False; the message names `name`.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    return value
