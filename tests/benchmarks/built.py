"""What contenders build, with the time that it took: kept from run to run where the folder of the datasets is kept."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .contender import Contender
from .data import Source
from .machine import disk_usage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A dataset on disk."""

    source: str
    """What it was built of, as the source's ``repr`` says."""
    seconds: float
    size: int
    """Bytes on disk when it was built: some contenders add to it later."""


def build(contender: Contender, source: Source, folder: Path) -> Built:
    """Build into an empty folder, or take what an earlier run has built there of the same source."""
    note = _note(folder)
    if folder.is_dir() and note.exists():
        built = Built(**json.loads(note.read_text(encoding="utf-8")))
        if built.source == repr(source):
            return built
    forget(folder)
    folder.mkdir(parents=True)
    log.info("building %s with %s", source, contender.name)
    start = time.perf_counter()
    contender.build(source, folder)
    built = Built(repr(source), time.perf_counter() - start, disk_usage(folder))
    note.write_text(json.dumps(asdict(built)), encoding="utf-8")
    return built


def forget(folder: Path) -> None:
    """Delete what was built there."""
    _note(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
