"""Real ranks over gloo, for test_ranks.py: one process that imports torch once and forks the ranks of every job.

Usage: ``python -m tests.faces.ranks_job FILE FOLDER`` writes ``FOLDER/<job>-<rank>.json`` for each rank of each job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from lmdbpipe import LMDBIterableDataset, LMDBReader

from .helpers import loader

Job = Callable[[int, int], Any]
TIMEOUT = 120  # seconds until a hanging job is given up, so that the test fails instead of hanging


def launch(folder: Path, world_size: int, jobs: Mapping[str, Job]) -> list[ForkProcess]:
    """Fork ranks, which do some jobs one after the other; each writes what each job returns."""
    meeting = Path(folder, f"{next(iter(jobs))}.init")

    def run(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
        for name, job in jobs.items():
            result = job(rank, world_size)
            Path(folder, f"{name}-{rank}.json").write_text(json.dumps(result))
            dist.barrier()
        dist.destroy_process_group()

    processes = [ForkProcess(target=run, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    return processes


def wait(processes: list[ForkProcess]) -> None:
    """Wait until all ranks have ended well."""
    deadline = time.monotonic() + TIMEOUT
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if any(codes):
        raise SystemExit(f"{len(codes)} ranks ended with {codes}")


def train(path: str, num_workers: int, uneven: Any, *, pipe: bool = False) -> Job:
    """Two epochs of data-parallel training, ending with one sum over all ranks."""

    def job(rank: int, world_size: int) -> Any:
        kind: Any = LMDBReader if pipe else LMDBIterableDataset
        torch.manual_seed(0)
        dataset = kind(path, batch_size=4, shuffle=True, uneven=uneven)
        batches = loader(dataset, num_workers, shuffle=True if pipe else None)
        model = DistributedDataParallel(torch.nn.Linear(72, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        epochs = []
        for _ in range(2):
            seen = []
            with Join([model], enable=uneven == "allow"):
                for images, labels in batches:
                    seen.append(labels.tolist())
                    optimizer.zero_grad()
                    model(images.flatten(1).float()).mean().backward()
                    optimizer.step()
            epochs.append(seen)
        weights = model.module.weight.sum().item()
        return {"epochs": epochs, "length": len(batches), "weights": weights}

    return job


def evaluate(path: str, num_workers: int) -> Job:
    """The mean label over a padded epoch, exact by its mask, reduced over all ranks at every step."""

    def job(rank: int, world_size: int) -> Any:
        dataset = LMDBIterableDataset(path, batch_size=4, with_mask=True)
        totals = torch.zeros(2, dtype=torch.int64)
        for (_, labels), mask in loader(dataset, num_workers):
            step = torch.stack([labels[mask].sum(), mask.sum()])
            dist.all_reduce(step)
            totals += step
        return totals.tolist()

    return job


def mesh(path: str) -> Job:
    """Data-parallel along one of two dimensions."""

    def job(rank: int, world_size: int) -> Any:
        device_mesh = init_device_mesh("cpu", (world_size // 2, 2), mesh_dim_names=("dp", "tp"))
        dataset = LMDBIterableDataset(path, batch_size=4, shuffle=True, mesh=device_mesh["dp"])
        return [labels.tolist() for _, labels in loader(dataset, 2 * (rank % 2))]

    return job


def stepwise(
    path: str, folder: Path, name: str, batch_size: int, num_workers: int, slowly: bool, *, uneven: Any
) -> Job:
    """Train from the last checkpoint, if there is one, to the end of the third epoch; a checkpoint after every step."""

    def job(rank: int, world_size: int) -> Any:
        dataset = LMDBIterableDataset(path, batch_size=batch_size, shuffle=True, seed=7, uneven=uneven)
        checkpoint = folder / "checkpoint.json"
        epoch = 0
        if checkpoint.exists():
            saved = json.loads(checkpoint.read_text())
            dataset.load_state_dict(saved)
            epoch = saved["epoch"]
        batches = loader(dataset, num_workers)
        with Path(folder, f"{name}-{rank}.log").open("w") as log:
            for number in range(epoch, 3):
                for step, (_, labels) in enumerate(batches, 1):
                    dist.barrier()
                    state = dataset.state_dict(batches=step)
                    log.write(json.dumps([number, state["position"], labels.tolist()]) + "\n")
                    log.flush()
                    dist.barrier()  # every rank has logged the step before it is saved
                    if rank == 0:
                        Path(folder, "checkpoint.new").write_text(json.dumps(state))
                        Path(folder, "checkpoint.new").replace(checkpoint)
                    dist.barrier()
                    time.sleep(0.02 if slowly else 0)
        return "done"

    return job


def kill_in(epoch: int, position: int, folder: Path, processes: list[ForkProcess]) -> None:
    """SIGKILL all ranks once the checkpoint is past a position, and note where it then stands."""
    checkpoint = folder / "checkpoint.json"
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and all(process.is_alive() for process in processes):
        if checkpoint.exists():
            saved = json.loads(checkpoint.read_text())
            if (saved["epoch"], saved["position"]) >= (epoch, position):
                break
        time.sleep(0.002)
    for process in processes:
        os.kill(process.pid or 0, signal.SIGKILL)
    for process in processes:
        process.join()
    saved = json.loads(checkpoint.read_text())
    with Path(folder, "kills.log").open("a") as log:
        log.write(json.dumps([saved["epoch"], saved["position"]]) + "\n")


def kill_and_resume(path: str, folder: Path, uneven: Any) -> None:
    """Kill four ranks in the second epoch, then the two that go on, and let three finish."""
    folder.mkdir()

    def start(name: str, world_size: int, batch_size: int, num_workers: int, *, slowly: bool) -> list[ForkProcess]:
        job = stepwise(path, folder, name, batch_size, num_workers, slowly, uneven=uneven)
        return launch(folder, world_size, {name: job})

    kill_in(1, 24, folder, start("four", 4, 3, 2, slowly=True))
    kill_in(1, 48, folder, start("two", 2, 6, 0, slowly=True))
    wait(start("three", 3, 4, 2, slowly=False))


def main(path: str, folder: Path) -> None:
    """Run all jobs."""
    for world_size in (2, 3, 4):
        jobs: dict[str, Job] = {"mesh-4": mesh(path)} if world_size == 4 else {}
        for num_workers in (0, 2):
            name = f"{world_size}-{num_workers}"
            for uneven in ("pad", "drop", "allow"):
                jobs[f"{uneven}-{name}"] = train(path, num_workers, uneven)
            jobs[f"pipe-{name}"] = train(path, num_workers, "pad", pipe=True)
            jobs[f"mask-{name}"] = evaluate(path, num_workers)
        wait(launch(folder, world_size, jobs))
    for uneven in ("pad", "drop"):
        kill_and_resume(path, Path(folder, f"killed-{uneven}"), uneven)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
