"""What the benchmarks do to the machine."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from . import machine

_GIB = 1024**3


@pytest.mark.parametrize("frees", [True, False])
def test_free_memory_is_filled(frees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros are read until little is free, but no more than there is memory; the file is gone afterwards."""
    looks = itertools.count()
    told = {"MemTotal": lambda: _GIB, "MemFree": lambda: _GIB - (next(looks) * 2**26 if frees else 0)}
    monkeypatch.setattr(machine, "_memory", lambda entry: told[entry]())
    with machine.filler(tmp_path) as fill:
        assert fill() is frees
        assert next(looks) == (10 if frees else 0)
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_told_nothing_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux."""
    monkeypatch.setattr(machine, "_memory", lambda entry: None)
    with machine.filler(tmp_path) as fill:
        assert not fill()
