"""Real ranks over gloo: training that ends on every rank, exact metrics, meshes, and a killed job resumed elsewhere."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lmdbpipe import LMDBIterableDataset
from lmdbpipe.errors import ConfigError

from .conftest import FileOf
from .helpers import flat, numbers, results, run_jobs

LENGTH = 67
LAYOUTS = [(world_size, num_workers) for world_size in (2, 3, 4) for num_workers in (0, 2)]


@pytest.fixture(scope="module")
def jobs(file_of: FileOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what all jobs wrote."""
    return run_jobs("tests.faces.ranks_job", file_of(LENGTH), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(("world_size", "num_workers"), LAYOUTS)
@pytest.mark.parametrize("kind", ["pad", "drop", "allow", "pipe"])
def test_training_ends_on_every_rank(jobs: Path, kind: str, world_size: int, num_workers: int) -> None:
    """67 samples on 2, 3 and 4 ranks: DDP ends with the same weights everywhere, each epoch dealt as documented."""
    ranks = results(jobs, f"{kind}-{world_size}-{num_workers}", world_size)
    assert len({rank["weights"] for rank in ranks}) == 1
    for epoch in range(2):
        batches = [rank["epochs"][epoch] for rank in ranks]
        assert list(map(len, batches)) == [rank["length"] for rank in ranks]
        seen = Counter(flat(map(flat, batches)))
        expected = {"drop": LENGTH - LENGTH % world_size, "allow": LENGTH}.get(kind, LENGTH + -LENGTH % world_size)
        assert seen.total() == expected
        assert len(seen) == (expected if kind == "drop" else LENGTH)
        if kind != "allow":
            assert len({tuple(map(len, rank)) for rank in batches}) == 1
    first, second = (flat(map(flat, (rank["epochs"][epoch] for rank in ranks))) for epoch in range(2))
    assert first != second


@pytest.mark.parametrize(("world_size", "num_workers"), LAYOUTS)
def test_masks_make_metrics_exact(jobs: Path, world_size: int, num_workers: int) -> None:
    """With pad every collective has its partners, and the mask leaves each sample counted once."""
    assert results(jobs, f"mask-{world_size}-{num_workers}", world_size) == [[sum(range(LENGTH)), LENGTH]] * world_size


def test_ranks_along_a_mesh_dimension(jobs: Path, file_of: FileOf) -> None:
    """Ranks that differ in the other dimension only get the same samples; the dimension's positions are the ranks."""
    ranks = results(jobs, "mesh-4", 4)
    expected = [
        numbers(LMDBIterableDataset(file_of(LENGTH), batch_size=4, shuffle=True, rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert ranks == [expected[0], expected[0], expected[1], expected[1]]
    wrongs: list[dict[str, Any]] = [{"mesh": object()}, {"mesh": object(), "rank": 0, "world_size": 1}]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="mesh"):
            LMDBIterableDataset(file_of(LENGTH), **wrong)


@pytest.mark.parametrize("uneven", ["pad", "drop"])
def test_a_killed_job_goes_on_with_other_ranks(jobs: Path, file_of: FileOf, uneven: str) -> None:
    """Four ranks killed in the second epoch, then two, then three: each sample once, the undisturbed global batches."""
    folder = Path(jobs, f"killed-{uneven}")
    kills = [json.loads(line) for line in Path(folder, "kills.log").read_text().splitlines()]
    assert [kill[0] for kill in kills] == [1, 1]
    steps: dict[tuple[int, int], list[int]] = {}
    ends = [*kills, [3, 0]]
    start = [0, 0]
    for (name, world_size), end in zip((("four", 4), ("two", 2), ("three", 3)), ends, strict=True):
        logs = [Path(folder, f"{name}-{rank}.log").read_text().splitlines() for rank in range(world_size)]
        for lines in itertools.zip_longest(*logs, fillvalue=""):
            if not all(lines):
                continue  # killed in between; the step is not in the checkpoint
            records = list(map(json.loads, lines))
            place = records[0][:2]
            assert all(record[:2] == place for record in records)
            if start < place <= end:
                assert tuple(place) not in steps
                steps[tuple(place)] = flat(record[2] for record in records)
        start = end
    stream = LMDBIterableDataset(file_of(LENGTH), batch_size=12, shuffle=True, seed=7)
    for epoch, world_size in enumerate((4, 3, 3)):  # the ranks that took its last step
        undisturbed = numbers(stream)
        found = [steps[place] for place in sorted(steps) if place[0] == epoch]
        assert found[:-1] == undisturbed[:-1]
        last = undisturbed[-1]
        if uneven == "drop":
            assert found[-1] == last[: len(last) - len(last) % world_size]
        else:
            assert found[-1] == last + undisturbed[0][: -len(last) % world_size]  # the first of the epoch again
