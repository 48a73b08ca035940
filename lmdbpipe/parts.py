"""How much of an epoch comes from which file: parts, and the exact count of samples of each."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence

from lmdbpipe.checks import whole
from lmdbpipe.errors import ConfigError
from lmdbpipe.order import apportion


@dataclasses.dataclass(frozen=True)
class Part:
    """A file, or several, with its part in an epoch: exactly one of `proportion`, `repeat` and `choose`.

    Args:
        path: The file's path, or a pattern (``"web-*.lmdb"``), whose files count as one.
        proportion: Its share of the epoch, relative to those of the other parts, which then have one, too.
        repeat: How many times each of its samples occurs in an epoch, on average: 2 for twice, 0.5 for half of them.
            The count is rounded to the nearest whole number of samples, halves up.
        choose: How many of its samples occur in an epoch.

    Raises:
        ConfigError: Not exactly one is given, or it is not a finite number above 0 (an integer for `choose`).

    Where the count is above the number of its samples, all of them occur equally often, and a rest of them once more.
    The rest, or what is chosen where the count is below, is drawn afresh in every epoch, spread over all of it.
    """

    path: str | os.PathLike[str]
    _: dataclasses.KW_ONLY
    proportion: float | None = None
    repeat: float | None = None
    choose: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise ConfigError(f"the path of a part must be a string or a path, not {self.path!r}")
        given = {name: getattr(self, name) for name in ("proportion", "repeat", "choose")}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"{self.path}: give exactly one of proportion, repeat and choose, not {', '.join(given) or 'none'}"
            )
        ((name, value),) = given.items()
        if name == "choose":
            whole(f"{self.path}: choose", value, 1)
        elif not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ConfigError(f"{self.path}: {name} must be a finite number above 0, got {value!r}")


def count_parts(parts: Sequence[Part], lengths: Sequence[int], epoch_size: int | None = None) -> tuple[int, ...]:
    """Count the samples that each part gives to an epoch.

    Args:
        parts: All with a proportion, or none.
        lengths: How many samples each has.
        epoch_size: Samples of an epoch, dealt to proportions by the largest remainders; as many as there are in all
            parts by default.

    Raises:
        ConfigError: Some parts have a proportion and some have not, `epoch_size` is given without proportions or is
            not an integer of at least 1, a part has no samples, or none of its samples would occur.
    """
    check_epoch_size(epoch_size)
    absolute = [part for part in parts if part.proportion is None]
    if absolute and len(absolute) < len(parts):
        raise ConfigError(f"{absolute[0].path}: has no proportion, but other parts have: give one to all, or to none")
    if absolute and epoch_size is not None:
        raise ConfigError(f"{absolute[0].path}: has no proportion, which epoch_size could be dealt to")
    for part, length in zip(parts, lengths, strict=True):
        if not length:
            raise ConfigError(f"{part.path}: has no samples to mix")
    total = sum(lengths) if epoch_size is None else epoch_size
    shares = [part.proportion for part in parts if part.proportion is not None]
    counts = apportion(total, shares) if shares else [_absolute(*pair) for pair in zip(parts, lengths, strict=True)]
    for part, length, count in zip(parts, lengths, counts, strict=True):
        if not count:
            raise ConfigError(f"{part.path}: none of its {length} samples would occur in an epoch")
    return tuple(counts)


def check_epoch_size(epoch_size: int | None) -> None:
    """Raise ConfigError unless it is an integer of at least 1, or None."""
    if epoch_size is not None:
        whole("epoch_size", epoch_size, 1)


def _absolute(part: Part, length: int) -> int:
    return part.choose or math.floor((part.repeat or 0) * length + 0.5)
