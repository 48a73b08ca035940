"""``lmdbpipe demo``: what the package brings on this machine, measured in under two minutes.

It takes a folder of images if one is given, else a torchvision dataset that lies on this disk or can be downloaded,
else torchvision's FakeData. Both sides give the same uint8 batches through the same DataLoader, in one process: the
dataset itself, and the file that is built from it in a temporary folder. What is always the same (here a resize) is
baked into the file; that is how the file is meant to be used, and part of what it saves.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import v2

from lmdbpipe.dataset import LMDBDataset
from lmdbpipe.errors import SourceError, TransformError
from lmdbpipe.sources.imagefolder import ImageFolderSource
from lmdbpipe.table import megabytes

Open: TypeAlias = Callable[..., Any]
"""Opens a dataset, given its ``transform``."""

_BATCH = 128
_SIDE = 160
"""Images whose sizes vary are made this many pixels wide and high."""
_SECONDS = 15.0
"""How long one pass over the source may take; from it follows how many images are used."""
_LEAST_SECONDS = 1.0
"""A measurement takes at least this long, and two epochs."""
_MOST_BYTES = 256 * 1024**2
_MOST_IMAGES = 20_000
_PROBED = 16
_ROOTS = ("data", "datasets", "~/data", "~/datasets", "~/.cache/torchvision")
_KNOWN: dict[str, Callable[..., Any]] = {
    "Imagenette (160 px)": functools.partial(datasets.Imagenette, split="val", size="160px"),
    "Imagenette (320 px)": functools.partial(datasets.Imagenette, split="val", size="320px"),
    "Imagenette": functools.partial(datasets.Imagenette, split="val"),
    "Oxford-IIIT Pet": functools.partial(datasets.OxfordIIITPet, split="test"),
    "CIFAR10": functools.partial(datasets.CIFAR10, train=False),
    "CIFAR100": functools.partial(datasets.CIFAR100, train=False),
    "FashionMNIST": functools.partial(datasets.FashionMNIST, train=False),
    "MNIST": functools.partial(datasets.MNIST, train=False),
}
"""Datasets that are looked for, those first that are files to be decoded, as most people's are."""
_DOWNLOADED = "Imagenette (160 px)"
_DOWNLOAD_SECONDS = 40
_CONNECT_SECONDS = 4


class Choice(NamedTuple):
    """The dataset of a demo."""

    name: str
    open: Open


class Row(NamedTuple):
    """A line of the table."""

    name: str
    images_per_second: float


def demo(data: Path | None, *, download: bool, echo: Callable[[str], Any]) -> list[Row]:
    """Run the demo, and report by `echo`.

    Raises:
        ConfigError: `data` is no folder of images.
    """
    with tempfile.TemporaryDirectory(prefix="lmdbpipe-demo-") as folder:
        choice = choose(data, Path(folder), download=download, echo=echo)
        indices, baked = _plan(choice)
        images = f"{len(indices):,} images" + (f", resized to {_SIDE}x{_SIDE}" if baked else "")
        echo(f"Data: {choice.name}; {images}")
        source = Subset(choice.open(transform=_compose(baked, v2.PILToTensor())), indices)
        start = time.perf_counter()
        wrapped = LMDBDataset(
            Subset(choice.open(transform=v2.PILToTensor()), indices), root=folder, name="demo", db_transform=baked
        )
        echo(f"Built in {time.perf_counter() - start:.1f} s. Now reading, in batches of {_BATCH}, in one process ...")
        rows = list(_measure(source, wrapped))
        echo(_table(rows))
        totals = wrapped.records.databases[0].manifest.totals
        payload, size = totals["payload_bytes"], Path(wrapped.path).stat().st_size
        echo(f"File: {megabytes(size)} for {megabytes(payload)} of pixels and labels ({size / payload:.2f} times)")
        wrapped.records.close()
    return rows


def choose(data: Path | None, folder: Path, *, download: bool, echo: Callable[[str], Any]) -> Choice:
    """Choose the dataset; what is downloaded goes into `folder`.

    Raises:
        ConfigError: `data` is no folder of images.
    """
    if data is not None:
        ImageFolderSource().open(str(data))
        return Choice(f"the images in {data}", functools.partial(datasets.ImageFolder, str(data.expanduser())))
    for root in dict.fromkeys(Path(root).expanduser() for root in _ROOTS):
        if found := _find(root):
            return Choice(f"torchvision's {found.name}, found in {root}", found.open)
    if download:
        echo(f"Downloading {_DOWNLOADED}, 94 MB, if that takes no longer than {_DOWNLOAD_SECONDS} s ...")
        if (downloaded := _download(folder)) is not None:
            return Choice(f"torchvision's {downloaded.name}, downloaded for this demo", downloaded.open)
        echo("That did not work.")
    name = "torchvision's FakeData, noise made on the fly; --data DIR measures your own images instead"
    return Choice(name, functools.partial(datasets.FakeData, size=4000, image_size=(3, 96, 96)))


def _find(root: Path) -> Choice | None:
    if root.is_dir():
        for name, kind in _KNOWN.items():
            with contextlib.suppress(RuntimeError, OSError, ImportError):  # how datasets say that they are not there
                opener = functools.partial(kind, str(root))
                opener()
                return Choice(name, opener)
    return None


def _download(folder: Path) -> Choice | None:
    """Download a dataset in a process of its own, which can be stopped."""
    process = multiprocessing.get_context("spawn").Process(target=_fetch, args=(str(folder),), daemon=True)
    process.start()
    process.join(_DOWNLOAD_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return _find(folder) if process.exitcode == 0 else None


def _fetch(folder: str) -> None:
    socket.setdefaulttimeout(_CONNECT_SECONDS)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            _KNOWN[_DOWNLOADED](folder, download=True)
        except Exception as error:  # no network, no room, a changed archive: the demo has other data
            raise SystemExit(1) from error


def _plan(choice: Choice) -> tuple[list[int], Any]:
    """Decide which images are used, spread over the dataset, and what is baked into the file.

    Raises:
        SourceError: An image cannot be read.
    """
    dataset = choice.open()
    candidates = _spread(range(len(dataset)), _MOST_IMAGES)
    probed = _spread(candidates, _PROBED)
    try:
        baked = v2.Compose([v2.Resize(_SIDE), v2.CenterCrop(_SIDE)]) if _vary(dataset, candidates, probed) else None
        transformed = choice.open(transform=_compose(baked, v2.PILToTensor()))
        start = time.perf_counter()
        nbytes = max(transformed[index][0].nbytes for index in probed)
        affordable = _SECONDS * len(probed) / (time.perf_counter() - start)
    except Exception as error:
        raise SourceError(f"{choice.name}: an image cannot be read: {error}") from error
    return _spread(candidates, int(max(min(affordable, _MOST_BYTES / nbytes), _BATCH))), baked


def _vary(dataset: Any, candidates: Sequence[int], probed: Sequence[int]) -> bool:
    """Whether images differ in size. Of files, all headers are looked at until one differs."""
    if isinstance(dataset, datasets.ImageFolder):
        sizes = (_size_of(dataset.samples[index][0]) for index in candidates)
    else:
        sizes = (dataset[index][0].size for index in probed)
    first = next(sizes)
    return any(size != first for size in sizes)


def _size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _spread(items: Sequence[int], count: int) -> list[int]:
    """Take up to `count` items, evenly spaced."""
    count = min(len(items), count)
    return [items[k * len(items) // count] for k in range(count)]


def _compose(baked: Any, last: Any) -> Any:
    return last if baked is None else v2.Compose([*baked.transforms, last])


def _measure(source: Any, wrapped: LMDBDataset) -> Iterator[Row]:
    """Read in each way, and check that the file gives what the dataset gives."""
    own = DataLoader(source, batch_size=_BATCH)
    cursor = DataLoader(wrapped.stream(batch_size=_BATCH), batch_size=None)
    if not all(map(torch.equal, next(iter(own)), next(iter(cursor)))):
        raise TransformError("the file gives other images than the dataset; please report this")
    yield Row("the dataset itself", _rate(own, epochs=1, least=0))
    yield Row("LMDBDataset, DataLoader(shuffle=True)", _rate(DataLoader(wrapped, batch_size=_BATCH, shuffle=True)))
    yield Row("stream in cursor order", _rate(cursor))
    yield Row("stream, shuffled", _rate(DataLoader(wrapped.stream(batch_size=_BATCH, shuffle=True), batch_size=None)))


def _rate(loader: DataLoader[Any], *, epochs: int = 2, least: float = _LEAST_SECONDS) -> float:
    """Read some epochs, and go on for some seconds; give images a second."""
    start, images = time.perf_counter(), 0
    while epochs > 0 or time.perf_counter() - start < least:
        images += sum(len(batch[0]) for batch in loader)
        epochs -= 1
    return images / (time.perf_counter() - start)


def _table(rows: list[Row]) -> str:
    width = max(len(row.name) for row in rows)
    lines = [f"\n  {'':{width}}  {'images/s':>12}  {'ratio':>8}"]
    for name, rate in rows:
        lines.append(f"  {name:{width}}  {rate:12,.0f}  {rate / rows[0].images_per_second:8.1f}")
    return "\n".join([*lines, ""])
