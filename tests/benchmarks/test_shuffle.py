"""Shuffles are measured from end to end on a few images, with whatever peers are installed; statistics are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .orders import ours, quality, uniform
from .shuffle import main

_COUNTS = {"batch_size": 100, "chunk_length": 50, "class_length": 200}


@pytest.mark.usefixtures("_impatient")
@pytest.mark.filterwarnings("ignore")  # peers warn as they like
def test_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every shuffle is measured or named as missing; nothing but the results is left."""
    assert main(["--out", str(tmp_path), "--tiny"]) == 0
    text = (tmp_path / "shuffle.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert (tmp_path / "shuffle.png").read_bytes().startswith(b"\x89PNG")
    lines = json.loads((tmp_path / "shuffle.json").read_text(encoding="utf-8"))["lines"]
    measured = {line["name"] for line in lines if line["costs"]}
    assert "lmdbpipe" in measured
    assert all(name in measured or f"Missing: {name}" in text for name in ("webdataset", "datasets"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shuffle.json", "shuffle.md", "shuffle.png"]


def test_statistics_of_known_orders() -> None:
    """In order nothing moves and all neighbours stay; a uniform permutation moves by a third, and mixes batches."""
    length = 20_000
    found = quality(np.arange(length), **_COUNTS)
    assert (found.displacement, found.neighbours, found.chunks, found.classes) == (0, 1, 2, 1)
    found = quality(uniform(length), **_COUNTS)
    assert found.displacement == pytest.approx(1, rel=0.05)
    assert found.neighbours < 0.001
    assert found.classes == pytest.approx(100 * (1 - 0.99**100), rel=0.02)
    with pytest.raises(ValueError, match="every sample once"):
        quality(np.zeros(length, np.int64), **_COUNTS)


def test_larger_buffers_shuffle_better() -> None:
    """More classes come into a batch with every buffer, up to a uniform permutation's."""
    length = 20_000
    buffers = [100, 1_000, 5_000, length]
    classes = [quality(ours(length, 50, buffer), **_COUNTS).classes for buffer in buffers]
    assert classes == sorted(classes)
    assert classes[-1] == pytest.approx(quality(uniform(length), **_COUNTS).classes, rel=0.02)
