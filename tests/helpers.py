"""What tests of building and reading share: strict equality, small datasets, and the content of a file."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

FEW_CORES = "ignore:This DataLoader will create:UserWarning"
"""torch warns where a loader has more workers than the machine has cores; that is no fault of the reader."""


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same: of one type, and equal to the last bit."""
    if type(left) is not type(right):
        return False
    for kind, compare in _COMPARED:
        if isinstance(left, kind):
            return compare(left, right)
    return bool(left == right)


def _same_images(left: Image.Image, right: Image.Image) -> bool:
    if (left.mode, left.size) != (right.mode, right.size) or left.tobytes() != right.tobytes():
        return False
    return left.mode != "P" or left.convert("RGBA").tobytes() == right.convert("RGBA").tobytes()


def _same_tensors(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (left.dtype, left.shape) == (right.dtype, right.shape) and _bits(left) == _bits(right)


def _same_arrays(left: Any, right: Any) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.names:  # there may be padding between the fields, and in a long double
        return all(same(left[name], right[name]) for name in left.dtype.names)
    return bool(left == right) if isinstance(left, np.longdouble) else left.tobytes() == right.tobytes()


def _same_dicts(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)


def _same_items(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


def _same_floats(left: float, right: float) -> bool:
    return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))


_COMPARED: list[tuple[Any, Callable[[Any, Any], bool]]] = [
    (Image.Image, _same_images),
    (torch.Tensor, _same_tensors),
    (np.ndarray | np.generic, _same_arrays),
    (dict, _same_dicts),
    (tuple | list, _same_items),
    (float, _same_floats),
    (complex, lambda left, right: same(left.real, right.real) and same(left.imag, right.imag)),
]


def _bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def image(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """An image of random pixels; size is (width, height)."""
    rng = np.random.default_rng([seed, *size, *mode.encode()])
    width, height = size
    if mode == "1":
        return Image.fromarray(rng.integers(2, size=(height, width), dtype=np.uint8) * 255).convert("1")
    if mode in ("I;16", "I", "F"):
        values = rng.integers(60_000, size=(height, width))
        return Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    if mode == "P":
        made = Image.fromarray(rng.integers(8, size=(height, width), dtype=np.uint8)).convert("P")
        made.putpalette(rng.integers(256, size=24, dtype=np.uint8).tobytes())
        return made
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, rng.integers(256, size=width * height * bands, dtype=np.uint8).tobytes())


class Listed(Dataset[Any]):
    """A map-style dataset of given samples."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class Pictures(Dataset[Any]):
    """(image, label) pairs; image k has the mode and size that `form` gives for k, and a transform if one is set.

    Args:
        length: How many.
        form: Gives the mode and the (width, height) of an image; ("RGB", (8, 8)) for all by default.
        transform: As torchvision's datasets have it.
    """

    def __init__(
        self,
        length: int,
        form: Callable[[int], tuple[str, tuple[int, int]]] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.length = length
        self.form = form
        self.transform = transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        mode, size = self.form(index) if self.form else ("RGB", (8, 8))
        picture: Any = image(mode, size, index)
        if self.transform is not None:
            picture = self.transform(picture)
        return picture, index % 10


class Stream(IterableDataset[Any]):
    """An iterable of the samples of a map-style dataset, of unknown length, that can be read again."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[index] for index in range(len(self.dataset)))


class OneShot(IterableDataset[Any]):
    """Gives a new iterator each time, but all over one that can be read but once."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self.samples = iter(samples)

    def __iter__(self) -> Iterator[Any]:
        yield from self.samples


class Failing(Pictures):
    """Raises KeyError at one index, as long as its flag file is there."""

    def __init__(self, length: int, at: int, flag: Path) -> None:
        super().__init__(length)
        self.at = at
        self.flag = str(flag)

    def __getitem__(self, index: int) -> Any:
        if index == self.at and Path(self.flag).exists():
            raise KeyError("a label is missing")
        return super().__getitem__(index)


class Slow(Pictures):
    """Takes its time."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.0005)
        return super().__getitem__(index)


OPTIONS: dict[str, Any] = {"subdir": False, "lock": False, "max_dbs": 3}
if int(lmdb.__version__.split(".")[0]) >= 3:
    OPTIONS["lib_version"] = 0


def dump(path: str | Path, name: bytes) -> dict[bytes, bytes]:
    """All keys and values of one of a file's databases, in key order."""
    with lmdb.open(str(path), readonly=True, **OPTIONS) as env, env.begin(db=env.open_db(name, create=False)) as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def content(path: str | Path) -> dict[bytes, bytes]:
    """Every data value of a file by its key."""
    return dump(path, b"data")


def change(path: str | Path, name: bytes, key: bytes, value: bytes | None) -> None:
    """Damage a file: put another value in one of its databases, or delete it."""
    with lmdb.open(str(path), map_size=2**30, **OPTIONS) as env:
        database = env.open_db(name)
        with env.begin(write=True, db=database) as txn:
            txn.delete(key) if value is None else txn.put(key, value)


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true; given up after a minute."""
    deadline = time.monotonic() + 60
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def files(folder: Path) -> list[str]:
    """The names of what lies in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder that anyone may enter, and, where tests run as root, another user for the while."""
    is_root = os.getuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
