"""Compiling by numba, an optional extra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def jit(function: _Function) -> _Function:
    """Let numba compile a function when it is first called, or load what it compiled before.

    The function runs without the interpreter's lock, so other threads go on meanwhile.

    Raises:
        ImportError: If numba (the extra ``jit``) is not installed.
    """
    import numba  # noqa: PLC0415 takes half a second

    compile_: Any = numba.njit
    try:
        compiled: _Function = compile_(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep what is compiled
        compiled = compile_(nogil=True, error_model="numpy")(function)
    return compiled
