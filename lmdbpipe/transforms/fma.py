"""Multiplying and adding with one rounding, for functions that numba compiles; it needs numba."""

from __future__ import annotations

from typing import Any

from llvmlite import binding
from numba.core import types
from numba.extending import intrinsic

_is_x86 = binding.get_process_triple().startswith(("x86", "i386", "i686"))
if _is_x86 and not binding.get_host_cpu_features().get("fma"):
    raise ImportError("this processor cannot multiply and add with one rounding")


def _multiply_and_add(_: Any, x: Any, y: Any, z: Any) -> Any:
    return types.float32(types.float32, types.float32, types.float32), lambda _, builder, __, xyz: builder.fma(*xyz)


fma: Any = intrinsic(_multiply_and_add)
"""``x * y + z`` of floats, rounded once."""
