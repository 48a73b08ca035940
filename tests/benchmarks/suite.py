"""The whole run: every dataset of a plan is built, its cases are measured, then what needs a process of its own."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from .cold import measure_cold
from .data import Images, Photos, make_images, make_photos
from .footprint import Footprint
from .runner import Runner
from .setting import Setting
from .workloads import Case, Data, Plan

log = logging.getLogger(__name__)

FOOTPRINT = ("first-batch", "memory")
COLD = "cold"


def names(plan: Plan) -> set[str]:
    """What a run can be narrowed to."""
    return {*(data.key for data in plan.data), *(case.key for case in plan.cases), *FOOTPRINT, COLD}


def measure(setting: Setting, only: Sequence[str], photos: Path | None) -> None:
    """Fill the table with what ``only`` names (cases, their datasets, ``first-batch``, ``memory``, ``cold``) or all."""
    plan = setting.plan
    wanted = only or [data.key for data in plan.data] + [*FOOTPRINT, COLD]
    for number, data in enumerate(plan.data):
        cases = [case for case in plan.cases if case.data == data.key and _chosen(case, wanted)]
        probes = [name for name in FOOTPRINT if name in wanted] if number == 0 else []
        if cases or probes:
            _measure_one(setting, data, cases, probes, photos)
    if COLD in wanted:
        data = next(data for data in plan.data if data.key == plan.cold_data)
        log.info("measuring with a cold cache")
        measure_cold(setting, make_images(setting.work, data.count, data.side))


def _measure_one(
    setting: Setting, data: Data, cases: Sequence[Case], probes: Sequence[str], photos: Path | None
) -> None:
    source: Images | Photos
    if data.varying:
        source = Photos(photos) if photos else make_photos(setting.work, data.count)
    else:
        source = make_images(setting.work, data.count, data.side)
    runner = Runner(setting)
    folders = runner.build(data, source)
    runner.measure(data, source, folders, cases)
    footprint = Footprint(setting, data)
    if "first-batch" in probes:
        footprint.first_batch(source, folders)
    if "memory" in probes and isinstance(source, Images):
        footprint.memory(source, folders)
    for folder in set(folders.values()):
        shutil.rmtree(folder, ignore_errors=True)


def _chosen(case: Case, wanted: Sequence[str]) -> bool:
    return any(case.key == name or case.key.startswith(f"{name}/") for name in wanted)
