"""What the tests of trainers run: one process that imports the trainers once and forks the ranks of every job.

Usage: ``python -m tests.trainers.jobs FILE FOLDER`` writes ``FOLDER/<job>-<rank>.json`` for each rank of each job.
Warnings are errors here as in pytest, but for those that the trainers make themselves.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import accelerate
import lightning
import torch
from accelerate.data_loader import prepare_data_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.transforms import v2

from lmdbpipe import LMDBDataset, LMDBIterableDataset

from ..faces.helpers import loader

Job = Callable[[], Any]
TIMEOUT = 120  # seconds until a hanging job is given up, so that the test fails instead of hanging
AUGMENT = v2.Compose([v2.PILToTensor(), v2.RandomCrop(3)])
OPTIONS: dict[str, Any] = {"shuffle": True, "buffer_size": 10, "seed": 3, "transform": AUGMENT}
EPOCHS = 3
LAYOUTS = [(1, 0), (2, 0), (2, 2)]  # ranks and workers
IGNORED = (
    ".*set_vital",  # torchdata calls what torch has deprecated
    ".*LeafSpec",  # and so does Lightning
    "Your `IterableDataset` has `__len__` defined",  # Lightning asks whether it counts workers and ranks: it does
    "The 'train_dataloader' does not have many workers",  # it would like as many as there are cores
    "`weights_only` was not set",
    "Be aware that when using `ckpt_path`",  # the resumed run saves no checkpoints of its own
)


def seen(epoch: int, batch: Any) -> list[Any]:
    """What is compared of a batch: its epoch, its labels, and its augmented pixels."""
    images, labels = batch
    return [epoch, labels.tolist(), images.flatten(1).sum(1).tolist()]


class Data(lightning.LightningDataModule):  # type: ignore[misc]
    """The recipe: a StatefulDataLoader, whose state Lightning saves, and the epoch told when it is made."""

    def __init__(self, path: str, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.stream = LMDBIterableDataset(path, batch_size=batch_size, **OPTIONS)
        self.num_workers = num_workers

    def train_dataloader(self) -> Any:
        """Make the loader of the epoch that comes."""
        self.stream.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        options: dict[str, Any] = {"multiprocessing_context": "fork"} if self.num_workers else {}
        return StatefulDataLoader(self.stream, batch_size=None, num_workers=self.num_workers, **options)


class Model(lightning.LightningModule):  # type: ignore[misc]
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(27, 1)
        self.batches: list[Any] = []

    def training_step(self, batch: Any, _: int) -> Any:
        """Train on a batch."""
        self.batches.append(seen(self.trainer.current_epoch, batch))
        return self.layer(batch[0].flatten(1).float()).mean()

    def configure_optimizers(self) -> Any:
        """Give the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def fit(data: Data, folder: Path, devices: int, resumed: Path | None = None, **every: Any) -> dict[str, Any]:
    """Train to the end with Lightning, from a checkpoint if there is one, saving some."""
    model = Model()
    saving = [ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1, **every)] if every else []
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=EPOCHS,
        callbacks=saving,
        enable_checkpointing=bool(saving),
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=resumed)
    return {"batches": model.batches, "length": trainer.num_training_batches}


def with_lightning(path: str, folder: Path, devices: int, num_workers: int) -> Job:
    """An undisturbed run that saves after every step, or at the ends of epochs, and a run from each checkpoint."""

    def job() -> Any:
        result: dict[str, Any] = {}
        saves: dict[str, dict[str, Any]] = {
            "steps": {"every_n_train_steps": 1},
            "epochs": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        }
        for name, every in saves.items():
            saved = folder / f"lightning-{devices}-{num_workers}-{name}"
            result[name] = fit(Data(path, 6, num_workers), saved, devices, **every)
            result[name]["resumed"] = {
                step: fit(Data(path, 6, num_workers), folder, devices, next(saved.glob(f"*step={step}.ckpt")))
                for step in range(1, result[name]["length"] * EPOCHS)
                if (step % result[name]["length"] == 0) == (name == "epochs")
            }
        return result

    return job


def prepared(stream: LMDBIterableDataset, accelerator: Any, num_workers: int) -> Any:
    """The recipe: Accelerate's loader, which counts and moves batches, told not to deal what is dealt already."""
    return prepare_data_loader(
        loader(stream, num_workers),
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
    )


def with_accelerate(path: str, num_workers: int) -> Job:
    """Two epochs by the recipe, and the rest of them after each batch, resumed by counting."""

    def job() -> Any:
        accelerator = accelerate.Accelerator(cpu=True)
        stream = LMDBIterableDataset(path, batch_size=4, **OPTIONS)
        batches = prepared(stream, accelerator, num_workers)
        epochs: list[list[Any]] = []
        states = []
        for epoch in range(2):
            epochs.append([])
            for step, batch in enumerate(batches, start=1):
                assert accelerator.gradient_state.end_of_dataloader == (step == len(batches))
                epochs[epoch].append(seen(epoch, batch))
                states.append(stream.state_dict(batches=step))
        resumed: list[list[Any]] = []
        for state in states:
            stream = LMDBIterableDataset(path, batch_size=4, **OPTIONS)
            stream.load_state_dict(state)
            rest = prepared(stream, accelerator, num_workers)
            resumed.append([])
            for epoch in range(state["epoch"], 2):
                rest.set_epoch(epoch)  # Accelerate counts by itself, and from 0
                resumed[-1].append([seen(epoch, batch) for batch in rest])
        return {"epochs": epochs, "resumed": resumed, "length": len(batches)}

    return job


def dispatched(path: str) -> Job:
    """An epoch through Accelerate's dispatcher: the first process reads for all, so it must be the only rank."""

    def job() -> Any:
        stream = LMDBIterableDataset(path, batch_size=4, rank=0, world_size=1, **OPTIONS)
        return [seen(0, batch) for batch in accelerate.Accelerator(cpu=True).prepare(loader(stream))]

    return job


def map_style(path: str) -> Job:
    """An epoch of the map-style face, prepared as any dataset is."""

    def job() -> Any:
        dataset = LMDBDataset.from_path(path, transform=AUGMENT)
        batches = DataLoader(dataset, batch_size=4, shuffle=True)
        return [seen(0, batch) for batch in accelerate.Accelerator(cpu=True).prepare(batches)]

    return job


def launch(folder: Path, name: str, world_size: int, job: Job) -> None:
    """Fork the ranks of a job, with the variables that torchrun sets; each writes what it returns.

    Raises:
        SystemExit: A rank failed, or did not end in time; it says what failed first.
    """
    errors = Path(folder, f"{name}.errors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
            GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="tests",
            OMP_NUM_THREADS="1",
        )  # fmt: skip
        try:
            Path(folder, f"{name}-{rank}.json").write_text(json.dumps(job()))
        except BaseException as error:
            with errors.open("a") as log:  # its first line is the cause: other ranks fail for want of this one
                log.write(f"rank {rank}: {error!r}\n")
            raise
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    processes = [ForkProcess(target=run, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * world_size:
        said = errors.read_text() if errors.exists() else ""
        raise SystemExit(f"job {name}: the ranks ended with {codes}, None for not at all\n{said}")


def main(path: str, folder: Path) -> None:
    """Run all jobs."""
    jobs = {
        f"lightning-{ranks}-{workers}": (ranks, with_lightning(path, folder, ranks, workers))
        for ranks, workers in LAYOUTS
    }
    jobs |= {f"accelerate-{workers}": (2, with_accelerate(path, workers)) for workers in (0, 2)}
    jobs |= {"dispatched": (2, dispatched(path)), "map": (2, map_style(path))}
    for name, (world_size, job) in jobs.items():
        launch(folder, name, world_size, job)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for message in IGNORED:
        warnings.filterwarnings("ignore", message)
    main(sys.argv[1], Path(sys.argv[2]))
