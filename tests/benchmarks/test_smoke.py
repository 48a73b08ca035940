"""The benchmark runs from end to end, on a few images, with whatever peers are installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .cli import main
from .contenders import CONTENDERS
from .workloads import TARGETS, TINY

_ALWAYS = {"lmdbpipe", "memmap copy", "file read", "torchvision"}


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Put torch's thread count back: a run sets it for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads", "_impatient")
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


@pytest.mark.usefixtures("torch_threads", "_impatient")
@pytest.mark.filterwarnings("ignore")
def test_parts_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was built is used again, figures are put beside those of an earlier run, and every target has its line."""
    out, data = tmp_path / "out", tmp_path / "data"
    run = ["--out", str(out), "--data", str(data), "--tiny", "--contenders", "lmdbpipe", "memmap copy", "--add"]
    assert main([*run, "--build-only", "--only", "small"]) == 0
    (built,) = data.glob("small-*/lmdbpipe/data.lmdb")
    before = built.stat().st_mtime_ns
    assert main([*run, "--only", "small/sequential"]) == 0
    assert main([*run, "--only", "small/get"]) == 0
    assert built.stat().st_mtime_ns == before

    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    measured = [(row["measure"]["key"], row["contender"]) for row in results["rows"]]
    assert len(set(measured)) == len(measured)
    assert {("small/sequential", "lmdbpipe"), ("small/get", "lmdbpipe"), ("small/build", "lmdbpipe")} <= set(measured)
    table = (out / "table.md").read_text(encoding="utf-8").partition("## Targets")[2].splitlines()
    lines = [line for line in table if line.startswith("|")][2:]
    assert len(lines) == len(TARGETS)
    assert sum("not measured" not in line for line in lines) == 1  # against the memmap copy
