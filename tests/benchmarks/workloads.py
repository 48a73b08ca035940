"""What is measured, as plain data: datasets, cases over them, sizes of a full and of a tiny run, and what must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torchvision import transforms

Mode = Literal["sequential", "shuffled", "get", "train", "loader", "carry"]

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar_train(side: int) -> Any:
    """The train transforms of most CIFAR examples."""
    steps = [transforms.RandomCrop(side, padding=4), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])


def flip_normalize(side: int) -> Any:
    """Flip, ToTensor, Normalize: for images that were resized when they were stored."""
    steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    return transforms.Compose(steps)


def imagenet_train(side: int) -> Any:
    """The train transforms of most ImageNet examples."""
    steps = [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])


@dataclass(frozen=True, kw_only=True)
class Data:
    """A dataset: so many images of sidexside, or photos of varying sizes that are cropped to sidexside."""

    key: str
    title: str
    side: int
    count: int
    batch_size: int
    varying: bool = False
    of: str = ""
    """The dataset whose images these are, so often that there are ``count``; its own if empty."""
    contenders: tuple[str, ...] = ()
    """Who reads it; all if empty."""

    @property
    def folder(self) -> str:
        """What the folder is named by that it is built in."""
        return self.of or self.key


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row group of the table: one way to read one dataset, by every contender that can."""

    key: str
    title: str
    data: str
    mode: Mode
    baseline: str
    transform: Callable[[int], Any] | None = None
    threads: int = 0
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a run."""

    data: tuple[Data, ...]
    cases: tuple[Case, ...]
    rounds: int
    turn_seconds: float
    """A turn repeats whole epochs until this much time has gone."""
    first_batch_repeats: int
    memory_growth: int
    """How many times longer the second dataset of the memory measurement is."""
    cold_bytes: int
    cold_rounds: int
    fill_memory: bool
    """Whether the page cache is filled before each pass over a cold file."""
    get_count: int
    """How many samples are fetched one by one."""
    slow_seconds: float = 4.0
    """Whose turn takes longer has no more than ``slow_rounds``."""
    slow_rounds: int = 3
    limit_seconds: float = 300.0
    """One turn, check or build that takes longer has failed."""
    buffer_size: int = 10_000
    cold_data: str = "medium"
    """Whose images fill the file that is read with a cold cache."""


CASES: tuple[Case, ...] = (
    Case(key="small/sequential", title="sequential", data="small", mode="sequential", baseline="memmap copy"),
    Case(key="small/shuffled", title="shuffled", data="small", mode="shuffled", baseline="memmap copy"),
    Case(key="small/get", title="random get, a sample at a time", data="small", mode="get", baseline="torchlmdb"),
    Case(
        key="small/train",
        title="crop, flip, normalise",
        data="small",
        mode="train",
        baseline="torchlmdb",
        transform=cifar_train,
    ),
    Case(
        key="small/train-threads",
        title="crop, flip, normalise, two threads",
        data="small",
        mode="train",
        baseline="ffcv",
        transform=cifar_train,
        threads=2,
    ),
    Case(
        key="small/train-workers",
        title="crop, flip, normalise, two workers",
        data="small",
        mode="train",
        baseline="torchlmdb",
        transform=cifar_train,
        workers=2,
    ),
    Case(
        key="small/loader",
        title="map-style DataLoader, crop, flip, normalise",
        data="small",
        mode="loader",
        baseline="torchlmdb",
        transform=cifar_train,
    ),
    Case(
        key="small/loader-workers",
        title="map-style DataLoader, crop, flip, normalise, two workers",
        data="small",
        mode="loader",
        baseline="torchlmdb",
        transform=cifar_train,
        workers=2,
    ),
    Case(
        key="small/carry",
        title="batches from two workers",
        data="small",
        mode="carry",
        baseline="memmap copy",
        workers=2,
    ),
    Case(
        key="long/carry",
        title="batches from two workers",
        data="long",
        mode="carry",
        baseline="memmap copy",
        workers=2,
    ),
    Case(
        key="long/train",
        title="crop, flip, normalise",
        data="long",
        mode="train",
        baseline="lmdbpipe",
        transform=cifar_train,
    ),
    Case(
        key="long/train-workers",
        title="crop, flip, normalise, two workers",
        data="long",
        mode="train",
        baseline="lmdbpipe",
        transform=cifar_train,
        workers=2,
    ),
    Case(key="medium/sequential", title="sequential", data="medium", mode="sequential", baseline="memmap copy"),
    Case(
        key="medium/train",
        title="flip, normalise",
        data="medium",
        mode="train",
        baseline="torchlmdb",
        transform=flip_normalize,
    ),
    Case(
        key="photos/train",
        title="random resized crop, flip, normalise",
        data="photos",
        mode="train",
        baseline="torchvision",
        transform=imagenet_train,
    ),
)


def _long(count: int, side: int, batch_size: int) -> Data:
    """An epoch against which it does not count that worker processes are started for it, and ended."""
    return Data(
        key="long",
        title=f"{side}x{side}, long epochs",
        side=side,
        count=count,
        batch_size=batch_size,
        of="small",
        contenders=("lmdbpipe", "memmap copy"),
    )


FULL = Plan(
    data=(
        Data(key="small", title="32x32", side=32, count=50_000, batch_size=256),
        _long(500_000, side=32, batch_size=256),
        Data(key="medium", title="224x224", side=224, count=6_000, batch_size=128),
        Data(key="photos", title="photos", side=224, count=334, batch_size=64, varying=True),
    ),
    cases=CASES,
    rounds=5,
    turn_seconds=0.5,
    first_batch_repeats=21,
    memory_growth=10,
    cold_bytes=4_200_000_000,
    cold_rounds=3,
    fill_memory=True,
    get_count=5_000,
)

TINY = Plan(
    data=(
        Data(key="small", title="32x32", side=32, count=160, batch_size=32),
        _long(320, side=32, batch_size=32),
        Data(key="medium", title="224x224", side=224, count=12, batch_size=4),
        Data(key="photos", title="photos", side=224, count=8, batch_size=4, varying=True),
    ),
    cases=CASES,
    rounds=1,
    turn_seconds=0.0,
    first_batch_repeats=2,
    memory_growth=2,
    cold_bytes=4_000_000,
    cold_rounds=1,
    fill_memory=False,
    get_count=50,
    limit_seconds=60.0,
    buffer_size=100,
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What must hold: ``measure`` of ``contender`` is at least ``factor`` times another row, or at most ``limit``."""

    measure: str
    contender: str = "lmdbpipe"
    factor: float = 1.0
    of: str = ""
    """The contender compared with; ``"every peer"`` compares with the best of them."""
    of_measure: str = field(default="")
    """Where that one's row stands; the same measure unless said otherwise."""
    limit: float | None = None


TARGETS: tuple[Target, ...] = (
    Target(measure="small/sequential", factor=0.8, of="memmap copy"),
    Target(measure="small/sequential", factor=1.4, of="ffcv"),
    Target(measure="small/shuffled", factor=1.0, of="ffcv"),
    Target(measure="small/train", factor=36, of="torchlmdb"),
    Target(measure="small/train", factor=2, of="ffcv"),
    Target(measure="small/train-threads", factor=3, of="ffcv"),
    Target(measure="small/train-workers", factor=1, of="lmdbpipe", of_measure="small/train"),
    Target(measure="small/loader", factor=12, of="torchlmdb"),
    Target(measure="small/loader-workers", factor=5, of="torchlmdb"),
    Target(measure="small/carry", factor=4, of="memmap copy"),
    Target(measure="long/carry", factor=4, of="memmap copy"),
    Target(measure="long/train-workers", factor=1, of="lmdbpipe", of_measure="long/train"),
    Target(measure="medium/sequential", factor=0.9, of="memmap copy"),
    Target(measure="medium/sequential", factor=1.5, of="ffcv"),
    Target(measure="medium/train", factor=5, of="torchlmdb"),
    Target(measure="medium/train", factor=1.8, of="ffcv"),
    Target(measure="photos/train", factor=2.2, of="torchvision"),
    Target(measure="photos/train", contender="lmdbpipe exact=False", factor=3, of="torchvision"),
    Target(measure="photos/train", factor=1, of="every peer"),
    Target(measure="cold", contender="lmdbpipe readahead=True", factor=1, of="dd"),
    Target(measure="cold", contender="lmdbpipe readahead=False", factor=1, of="dd"),
    Target(measure="small/first-batch", limit=20),
    Target(measure="small/memory-growth", limit=1.1),
)
