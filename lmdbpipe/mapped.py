"""Memory that belongs to a file's map, as torch sees it without a copy."""

from __future__ import annotations

import numpy as np
import torch


class _Memory:
    """An array interface over some addresses. It claims to be writable, so that torch takes it; nobody writes."""

    def __init__(self, owner: object, address: int, length: int) -> None:
        self._owner = owner
        self.__array_interface__ = {"shape": (length,), "typestr": "|u1", "data": (address, False), "version": 3}


def view(owner: object, address: int, length: int) -> torch.Tensor:
    """View some bytes, uint8 ``[length]``. Not all need be readable, if nobody reads them.

    Args:
        owner: Lives as long as the view does: what keeps the file open.
        address: Where in memory they begin.
        length: How many.
    """
    return torch.from_numpy(np.asarray(_Memory(owner, address, length)))
