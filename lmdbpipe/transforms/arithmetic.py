"""Elementwise operations that wait until pixels move, known by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[Any]
LEVELS = 256
"""Values of a byte."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Dtypes that hold any other of as many bytes."""


@dataclass(frozen=True)
class Arithmetic:
    """One operation: ``x.to(dtype)`` or, in place, ``x.div_(operand)``, ``mul_``, ``sub_``.

    Attributes:
        name: The tensor method.
        operand: A dtype, one number for all, or a number for each channel (or one in a tuple, which torch computes
            with as with a tensor).
    """

    name: str
    operand: torch.dtype | float | tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to [..., C, H, W]; in place except where the dtype changes."""
        operand: Any = self.operand
        if isinstance(operand, tuple):
            operand = _column(operand, x.dtype, x.device)
        elif self.name == "div_" and x.device.type != "cpu" and x.dtype in (torch.float32, torch.float64):
            operand = torch.full((), operand, dtype=x.dtype, device=x.device)  # by a number CUDA multiplies by 1/number
        result: Tensor = getattr(x, self.name)(operand)
        return result


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give [C, 1, 1], which nobody writes to."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def compute(operations: Sequence[Arithmetic], x: Tensor) -> Tensor:
    """Apply one after the other."""
    for operation in operations:
        x = operation(x)
    return x


def compute_into(operations: Sequence[Arithmetic], x: Tensor, out: Tensor) -> None:
    """Apply one after the other; the last conversion lands in ``out``."""
    last = max((i for i, operation in enumerate(operations) if operation.name == "to"), default=-1)
    out.copy_(compute(operations[: max(last, 0)], x))
    compute(operations[last + 1 :], out)


def bits_of(x: Tensor) -> Bits:
    """View a tensor as integers of its elements' size."""
    return x.view(_BITS[x.element_size()]).numpy()
