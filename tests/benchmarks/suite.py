"""The whole run: every dataset of a plan is built, its cases are measured, then what needs a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from .built import forget
from .cold import measure_cold, prepare_cold
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


def measure(setting: Setting, only: Sequence[str], photos: Path | None, *, build_only: bool = False) -> None:
    """Fill the table with what ``only`` names (cases, their datasets, ``first-batch``, ``memory``, ``cold``) or all.

    With ``build_only``, build what that needs and measure nothing else.
    """
    plan = setting.plan
    wanted = only or [data.key for data in plan.data] + [*FOOTPRINT, COLD]
    for number, data in enumerate(plan.data):
        cases = [case for case in plan.cases if case.data == data.key and _chosen(case, wanted)]
        probes = [name for name in FOOTPRINT if name in wanted] if number == 0 else []
        if cases or probes:
            source = _source(setting, data, photos)
            if build_only:
                _build_one(setting, data, source, probes)
            else:
                _measure_one(setting, data, source, cases, probes)
    if COLD in wanted:
        data = next(data for data in plan.data if data.key == plan.cold_data)
        log.info("measuring with a cold cache")
        (prepare_cold if build_only else measure_cold)(setting, make_images(setting.work, data.count, data.side))


def _source(setting: Setting, data: Data, photos: Path | None) -> Images | Photos:
    if data.varying:
        return Photos(photos) if photos else make_photos(setting.work, data.count)
    stored = next(other.count for other in setting.plan.data if other.key == data.folder)
    return make_images(setting.work, stored, data.side, data.count)


def _runner(setting: Setting, data: Data) -> Runner:
    taking_part = [one for one in setting.contenders if not data.contenders or one.name in data.contenders]
    return Runner(setting, taking_part)


def _build_one(setting: Setting, data: Data, source: Images | Photos, probes: Sequence[str]) -> None:
    _runner(setting, data).build(data, source)
    if "memory" in probes and isinstance(source, Images):
        Footprint(setting, data).prepare(source)


def _measure_one(
    setting: Setting, data: Data, source: Images | Photos, cases: Sequence[Case], probes: Sequence[str]
) -> None:
    runner = _runner(setting, data)
    folders = runner.build(data, source)
    runner.measure(data, source, folders, cases)
    footprint = Footprint(setting, data)
    if "first-batch" in probes:
        footprint.first_batch(source, folders)
    if "memory" in probes and isinstance(source, Images):
        footprint.memory(source, folders)
    for folder in set() if setting.keep else set(folders.values()):
        forget(folder)


def _chosen(case: Case, wanted: Sequence[str]) -> bool:
    return any(case.key == name or case.key.startswith(f"{name}/") for name in wanted)
