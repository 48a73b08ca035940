"""The benchmark runs from end to end, on a few images, with whatever peers are installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .cli import main
from .contenders import CONTENDERS
from .workloads import TINY

_ALWAYS = {"lmdbpipe", "memmap copy", "file read", "torchvision"}


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Put torch's thread count back: a run sets it for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.filterwarnings("ignore")  # peers warn as they like
def test_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every contender is measured or named with a reason; what is always installed fails nowhere."""
    assert main(["--out", str(tmp_path), "--tiny"]) == 0

    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))

    failed = {name: reason for _, name, reason in results["failed"]}
    assert not {name: reason for name, reason in failed.items() if name.startswith(tuple(_ALWAYS))}
    measured = {row["contender"] for row in results["rows"]}
    named = measured | failed.keys() | {name for name, _ in results["missing"]}
    assert {contender.name for contender in CONTENDERS} <= named
    ours = {row["measure"]["key"] for row in results["rows"] if row["contender"].startswith("lmdbpipe")}
    assert {case.key for case in TINY.cases} | {"small/first-batch", "small/memory", "cold"} <= ours
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "results.json", "table.md"]
