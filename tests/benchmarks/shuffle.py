"""Shuffles compared: how good they are, and what they cost where the file is not in memory.

    python -m tests.benchmarks.shuffle --out DIR          # two minutes or so
    python -m tests.benchmarks.shuffle --out DIR --tiny   # some seconds; figures mean nothing

prints a table, and leaves it in DIR as ``shuffle.md``, ``shuffle.json`` and ``shuffle.png``. Peers that are not
installed are named as missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from lmdbpipe import LMDBDataset
from lmdbpipe.machine import drop_cache

from .contender import Contender, Job
from .contenders.huggingface import HuggingFaceDatasets
from .contenders.ours import FILE, LMDBPipe
from .contenders.webdataset import WebDataset
from .data import Source, make_images
from .machine import describe
from .orders import Quality, huggingface, ours, quality, uniform, webdataset

_BATCH = 256
_CLASSES = 160
_PEER_BUFFER = 1000  # the default of both
_DEFAULT = 10_000  # ours
_COLOURS = {"lmdbpipe": "#c2410c", "webdataset": "#1d4ed8", "datasets": "#0f766e", "uniform": "#737373"}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    length: int
    side: int
    shard_length: int
    buffers: tuple[int, ...]
    peer_length: int
    """Samples that peers read from the disk: they take many times as long for each."""
    rounds: int


FULL = Size(160_000, 64, 5_000, (1_000, 3_000, 10_000, 30_000, 100_000, 160_000), 16_000, 3)
TINY = Size(3_200, 16, 400, (200, 1_000, 3_200), 800, 1)


@dataclasses.dataclass
class Line:
    """A shuffle: what it is, how good, and how many times as long as reading in order it takes from the disk."""

    name: str
    buffer_size: int | None
    quality: Quality
    costs: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)
    """Images a second from the disk."""

    @property
    def cost(self) -> float | None:
        """The median over the rounds."""
        return statistics.median(self.costs) if self.costs else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the files."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shuffle", description="Shuffles, measured.")
    parser.add_argument("--out", type=Path, required=True, help="folder for shuffle.md, shuffle.json and shuffle.png")
    parser.add_argument("--tiny", action="store_true", help="the same steps on a few images: figures mean nothing")
    options = parser.parse_args(arguments)
    size = TINY if options.tiny else FULL
    work = options.out / "work"
    try:
        lines, notes = measure(size, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = "\n\n".join([as_table(lines), *notes]) + "\n"
    (options.out / "shuffle.md").write_text(text, encoding="utf-8")
    result = {"machine": describe(), "lines": [dataclasses.asdict(line) for line in lines], "notes": notes}
    (options.out / "shuffle.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(lines, options.out / "shuffle.png")
    sys.stdout.write(text)
    return 0


def measure(size: Size, work: Path) -> tuple[list[Line], list[str]]:
    """All shuffles, and what is to be said about the measurement."""
    source = make_images(work, min(size.length, 4096), size.side, size.length)
    folder = work / "ours"
    folder.mkdir()
    LMDBPipe().build(source, folder)
    chunk = LMDBDataset.from_path(folder / FILE).records.chunk_length
    gc.collect()
    counts = {"batch_size": _BATCH, "chunk_length": chunk, "class_length": max(size.length // _CLASSES, 1)}
    lines = [Line("lmdbpipe", buffer, quality(ours(size.length, chunk, buffer), **counts)) for buffer in size.buffers]
    notes = [_cold(LMDBPipe(), source, folder, lines, size.rounds)]
    peers: list[tuple[Contender, Any]] = [(WebDataset(), webdataset), (HuggingFaceDatasets(), huggingface)]
    for contender, order_of in peers:
        order = order_of(size.length, size.shard_length)
        if isinstance(order, str):
            notes.append(f"Missing: {contender.name} ({order}).")
            continue
        line = Line(contender.name, _PEER_BUFFER, quality(order, **counts))
        lines.append(line)
        short = make_images(work, min(size.peer_length, 4096), size.side, size.peer_length)
        built = work / contender.folder
        built.mkdir()
        contender.build(short, built)
        notes.append(_cold(contender, short, built, [line], size.rounds))
    lines.append(Line("uniform", None, quality(uniform(size.length), **counts)))
    about = (
        f"{size.length:,} images of {size.side}x{size.side} in chunks of {chunk}, sorted into {_CLASSES} classes;"
        f" batches of {_BATCH}; peers with their defaults over shards of {size.shard_length:,}."
    )
    return lines, [about, *notes]


def _cold(contender: Contender, source: Source, folder: Path, lines: list[Line], rounds: int) -> str:
    """Read in order and with each shuffle in turns, dropping the files from the page cache before each."""
    rates = []
    cached = 0.0
    for _ in range(rounds):
        before, still = _read(contender, source, folder, None)
        cached = max(cached, still)
        rates.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9 / before)
        for line in lines:
            seconds, still = _read(contender, source, folder, line.buffer_size)
            cached = max(cached, still)
            line.costs.append(seconds / before)
            line.rates.append(len(source) / seconds)
    return (
        f"{contender.name} read {len(source):,} images in order at {statistics.median(rates):.2f} GB/s from the disk;"
        f" at most {cached:.0%} was cached before a pass."
    )


def _read(contender: Contender, source: Source, folder: Path, buffer_size: int | None) -> tuple[float, float]:
    """Seconds of a pass in order, or shuffled, and the part of the largest file that was cached before it."""
    gc.collect()  # nobody may map the files
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    cached = [drop_cache(file) or 0.0 for file in files][-1]
    reader = contender.open(source, folder)
    job = Job(batch_size=_BATCH, buffer_size=buffer_size or 1)
    start = time.perf_counter()
    for _ in reader.sequential(job) if buffer_size is None else reader.shuffled(job):
        pass
    seconds = time.perf_counter() - start
    reader.close()
    return seconds, cached


def as_table(lines: list[Line]) -> str:
    """Markdown."""
    rows = [
        "| shuffle | buffer | displacement | neighbours kept | chunks in a batch | classes in a batch | cold images/s "
        "| time, in order = 1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        found = line.quality
        buffer = "" if line.buffer_size is None else f"{line.buffer_size:,}"
        cost = " | " if line.cost is None else f"{statistics.median(line.rates):,.0f} | {line.cost:.2f}"
        if (line.name, line.buffer_size) == ("lmdbpipe", _DEFAULT):
            buffer = f"**{buffer}**"
        rows.append(
            f"| {line.name} | {buffer} | {found.displacement:.2f} | {found.neighbours:.3%} | {found.chunks:.0f} "
            f"| {found.classes:.0f} | {cost} |"
        )
    return "\n".join(rows)


def draw(lines: list[Line], path: Path) -> None:
    """Classes in a batch, and the speed of a cold read, by the size of the buffer."""
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, title in (
            (left, "classes in a batch of a file sorted by class"),
            (right, "images a second from the disk"),
        ):
            axes.set_title(title, loc="left", fontsize=8)
            axes.set_xscale("log")
            axes.set_xlabel("samples in the buffer")
            axes.grid(color="#e5e5e5")
        for name, colour in _COLOURS.items():
            own = [line for line in lines if line.name == name]
            buffers = [line.buffer_size for line in own if line.buffer_size is not None]
            classes = [line.quality.classes for line in own]
            if name == "uniform":
                left.axhline(classes[0], color=colour, linestyle="--", label="uniform permutation")
            elif own:
                left.plot(buffers, classes, "o-", color=colour, label=name)
                right.plot(buffers, [statistics.median(line.rates) for line in own], "o-", color=colour, label=name)
        left.set_ylim(0)
        right.set_yscale("log")
        left.legend(frameon=False)
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
