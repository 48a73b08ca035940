"""Which samples: any, or consecutive ones, which are read as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.int64] | range
"""Any samples, as int64 ``[n]``; or consecutive ones, ascending."""


def as_list(indices: Indices) -> Iterable[int]:
    """Iterate over indices as plain integers."""
    return indices if isinstance(indices, range) else indices.tolist()
