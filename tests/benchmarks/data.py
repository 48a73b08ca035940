"""The images that are measured: made from a seed, or photos from a folder.

The synthetic images are windows of one large picture of 1/f noise, which has the spectrum of natural images: they look
like clouds, and JPEG compresses them about as well as photos. The same arguments give the same bytes everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

Pixels = npt.NDArray[np.uint8]

_CLASSES = 10
_CHUNK_BYTES = 64 << 20
_JPEG = (".jpg", ".jpeg")
_JPEG_QUALITY = 90


class Source(Protocol):
    """What every contender builds from: a map-style dataset of (PIL image, label), as torchvision has them."""

    transform: Any
    shape: tuple[int, int] | None
    """Height and width of every image, or None where they vary."""
    labels: list[int]

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image, transformed where there is a transform, and its label."""

    def encoded(self, index: int) -> bytes | None:
        """The image's JPEG file, or None where there is none."""


class Images(Dataset[tuple[Any, int]]):
    """Equal-sized images over an ``.npy`` file of NHWC pixels, read through a memory map.

    A ``length`` beyond the file's repeats it, so that a long dataset costs no disk.
    """

    def __init__(self, path: Path, length: int | None = None, transform: Any = None) -> None:
        self.path = path
        self.transform = transform
        self._pixels: Pixels | None = None
        stored = self._map()
        self.stored = len(stored)
        self.shape: tuple[int, int] | None = (stored.shape[1], stored.shape[2])
        self.length = self.stored if length is None else length
        self.labels = [int(label) for label in _labels(self.length)]

    def _map(self) -> Pixels:
        if self._pixels is None:
            self._pixels = np.load(self.path, mmap_mode="r").view(np.ndarray)
        return self._pixels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}

    def __repr__(self) -> str:
        return f"Images({self.path.name!r}, length={self.length})"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image: Any = Image.fromarray(self._map()[index % self.stored])
        return (image if self.transform is None else self.transform(image)), self.labels[index]

    def encoded(self, index: int) -> bytes | None:
        """None: these images are pixels."""
        return None


class Photos(Dataset[tuple[Any, int]]):
    """JPEG files of varying sizes under one folder a class, in the order of torchvision's ImageFolder."""

    shape: tuple[int, int] | None = None

    def __init__(self, root: Path, transform: Any = None) -> None:
        self.root = root
        self.transform = transform
        classes = sorted(folder for folder in root.iterdir() if folder.is_dir())
        files = [(file, label) for label, folder in enumerate(classes) for file in sorted(folder.iterdir())]
        found = [(file, label) for file, label in files if file.suffix.lower() in _JPEG]
        if not found:
            raise FileNotFoundError(f"no JPEG files: {root} has none in its folders (one folder a class is expected)")
        self.files = [file for file, _ in found]
        self.labels = [label for _, label in found]

    def __repr__(self) -> str:
        return f"Photos({self.root.name!r}, length={len(self)})"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self.files[index]) as opened:
            image: Any = opened.convert("RGB")
        return (image if self.transform is None else self.transform(image)), self.labels[index]

    def encoded(self, index: int) -> bytes | None:
        """The file as it lies on disk."""
        return self.files[index].read_bytes()


def make_images(folder: Path, count: int, side: int, length: int | None = None) -> Images:
    """Images of ``side``x``side``, made once and kept in ``folder``."""
    path = folder / f"images-{side}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        stored = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, side, side, 3))
        rng = np.random.default_rng(side)
        windows = np.lib.stride_tricks.sliding_window_view(_canvas(), (side, side), axis=(0, 1))
        step = max(1, _CHUNK_BYTES // (side * side * 3))
        for start in range(0, count, step):
            block = stored[start : start + step]
            rows = rng.integers(0, windows.shape[0], len(block))
            columns = rng.integers(0, windows.shape[1], len(block))
            block[:] = windows[rows, columns].transpose(0, 2, 3, 1)
        stored.flush()
        del stored
        partial.replace(path)
    return Images(path, length)


def make_photos(folder: Path, count: int) -> Photos:
    """JPEG files of 300 to 520 pixels a side, made once and kept in ``folder``."""
    root = folder / f"photos-{count}"
    if not root.exists():
        partial = folder / f"photos-{count}.partial"
        canvas, rng = _canvas(), np.random.default_rng(count)
        for index in range(count):
            height, width = (int(side) for side in rng.integers(300, 520, 2))
            top, left = int(rng.integers(0, len(canvas) - height)), int(rng.integers(0, len(canvas) - width))
            file = partial / f"{index % _CLASSES:02d}" / f"{index:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(canvas[top : top + height, left : left + width]).save(file, quality=_JPEG_QUALITY)
        partial.replace(root)
    return Photos(root)


def _labels(length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(length).integers(0, _CLASSES, length)


def _canvas(side: int = 1024) -> Pixels:
    """A picture of 1/f noise, sidexsidex3: the spectrum falls with frequency as that of natural images does."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1 / side
    grey, *tints = (np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency) for _ in range(4))
    colours = np.stack([grey + 0.3 * tint for tint in tints], axis=-1)
    scaled = 128 + 50 * (colours - colours.mean()) / colours.std()
    pixels: Pixels = np.clip(scaled, 0, 255).astype(np.uint8)
    return pixels
