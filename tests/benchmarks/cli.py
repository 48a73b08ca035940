"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .contender import Contender
from .contenders import CONTENDERS
from .machine import describe, imported
from .plot import draw
from .probe import Prober
from .report import as_json, as_markdown, from_json
from .rows import Table
from .setting import Setting
from .suite import measure, names
from .workloads import FULL, TINY


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write ``table.md``, ``results.json`` and ``plot.png``."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO if options.verbose else logging.WARNING)
    torch.set_num_threads(options.torch_threads)
    plan = TINY if options.tiny else FULL
    unknown = set(options.only or ()) - names(plan)
    if unknown:
        parser.error(f"--only: no {', '.join(sorted(unknown))} among {', '.join(sorted(names(plan)))}")
    plan = dataclasses.replace(
        plan,
        rounds=options.rounds or plan.rounds,
        cold_rounds=options.rounds or plan.cold_rounds,
        cold_bytes=options.cold_bytes or plan.cold_bytes,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    table, start = Table(), time.perf_counter()
    contenders = _present(options.contenders, table)
    with (
        tempfile.TemporaryDirectory(dir=options.out, prefix="data-") as temporary,
        imported(),
        Prober(plan.limit_seconds) as prober,
    ):
        if options.tiny:
            prober.start()
        setting = Setting(plan, contenders, options.data or Path(temporary), table, prober, keep=bool(options.data))
        measure(setting, options.only or (), options.photos, build_only=options.build_only)
    if options.data and not options.build_only:
        table.notes.append("builds may be those of an earlier run, and their times of then (--data)")
    machine = {**describe(), "rounds": str(plan.rounds)}
    minutes = (time.perf_counter() - start) / 60
    if options.add and (options.out / "results.json").exists():
        earlier, before = from_json((options.out / "results.json").read_text(encoding="utf-8"))
        minutes += float(before.pop("minutes"))
        table.add_earlier(earlier)
        if machine != before:
            table.notes.append(f"figures were added to those of another machine: {before}")
    machine["minutes"] = f"{minutes:.1f}"
    text = as_markdown(table, machine)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    (options.out / "results.json").write_text(as_json(table, machine), encoding="utf-8")
    draw(table, options.out / "plot.png")
    sys.stdout.write(text)
    return 0


def _present(chosen: list[str] | None, table: Table) -> list[Contender]:
    """The contenders asked for that can run; the others are noted as missing."""
    present = []
    for contender in CONTENDERS:
        if chosen and contender.name not in chosen:
            continue
        reason = contender.available()
        if reason is None:
            present.append(contender)
        else:
            table.missing.append((contender.name, reason))
    return present


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="lmdbpipe and its peers, measured.")
    parser.add_argument("--out", type=Path, required=True, help="folder for table.md, results.json and plot.png")
    parser.add_argument("--tiny", action="store_true", help="the same steps on a few images: figures mean nothing")
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos, one folder a class (default: made ones)")
    parser.add_argument("--rounds", type=int, help="rounds a case (default: 5; 3 with a cold cache)")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="as small, small/train, first-batch, memory, cold")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", choices=[one.name for one in CONTENDERS])
    parser.add_argument("--add", action="store_true", help="to the figures that OUT has of other cases")
    parser.add_argument("--data", type=Path, help="folder for what is built, kept and used again (default: none)")
    parser.add_argument("--build-only", action="store_true", help="build what --only needs, and measure nothing else")
    parser.add_argument("--cold-bytes", type=int, help="size of the file read with a cold cache (default: 4.2 GB)")
    parser.add_argument("--torch-threads", type=int, default=1, help="torch's own threads in the main process")
    parser.add_argument("--verbose", action="store_true", help="say what is being measured")
    return parser
