"""Resizing with the bits of Pillow or torch, several times as fast, where numba is installed (the extra ``jit``).

Images are resampled where they lie, an image at a time: nothing is copied before, and only a crop's own pixels are
read. It is done where Pillow's own filters resample bytes channel by channel, and where torch does so with antialiasing
and without floats; and where those that are installed have been seen to give the same bits (`vertical_first`,
`by_torch`). What `resample` declines is left to them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_modes_mapping
from torchvision.transforms.v2 import functional as v2

from lmdbpipe.modes import MODES, image_of, pixels_of
from lmdbpipe.transforms.arithmetic import LEVELS
from lmdbpipe.transforms.gather import Source, Store, source_dtype, store_of
from lmdbpipe.transforms.pool import POOL
from lmdbpipe.transforms.raw import Size, outside_error
from lmdbpipe.transforms.windows import Windows

_MODES = ("CMYK", "HSV", "L", "RGB", "YCbCr")
"""Modes whose bytes Pillow resamples as they are; it multiplies those with an alpha channel by it first."""
_TORCH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
"""What torch has of Pillow's filters in all versions that are supported."""
FILTERS = tuple(Image.Resampling[name] for name in ("BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"))


def resample(source: Source, windows: Windows, mode: str | int, size: Size, kind: int) -> Tensor | list[Tensor] | None:
    """Resample rectangles of images as ``PIL.Image.Image.resize`` does, or torchvision's ``resize`` of version 2.

    Args:
        source: Where the images lie.
        windows: Which rectangles.
        mode: The PIL mode of the images; of tensors the number of channels, which says that torch is to be followed.
        size: (height, width) of the results, or an array [n, 2].
        kind: The number of Pillow's filter.

    Returns:
        A C-contiguous tensor [n, C, H, W] that nobody else holds, or a list of [C, H, W] where sizes differ. None
        where it was not done: there is no numba, they would do it in another way, a rectangle is empty or reaches
        over an edge, or the results are few pixels.

    Raises:
        TransformError: If images reach over the memory's ends.
    """
    count, channels = len(windows), mode if isinstance(mode, int) else MODES[mode].channels
    wanted = _each(size, count)
    pixels = wanted.prod(axis=1)
    if pixels.sum() < LEVELS or source_dtype(source) != torch.uint8:
        return None
    parts = _parts(source, windows)
    if parts is None or not (wanted > 0).all() or not all(_within(*part) for part in parts):
        return None
    rules = _rules(mode, kind)
    if rules is None:
        return None
    dense = isinstance(size, tuple)
    total = int(pixels.sum()) * channels
    out = POOL.empty((total,), torch.uint8) if dense else torch.empty(total, dtype=torch.uint8, device="cpu")
    targets = (np.cumsum(pixels) - pixels) * channels
    begin = 0
    for store, some in parts:
        rows = slice(begin, begin + len(some))
        _run(store, some, channels, wanted[rows], targets[rows], rules, out.numpy())
        begin = rows.stop
    if isinstance(size, tuple):
        return out.view(count, channels, *size)
    split = zip(torch.split(out, (pixels * channels).tolist()), wanted.tolist(), strict=True)
    return [part.view(channels, *hw) for part, hw in split]


class Rules(NamedTuple):
    """How to resample: the number of Pillow's filter, and how the kernel's ``vertical_first`` and ``short`` are set."""

    kind: int
    vertical_first: bool
    short: bool


def _rules(mode: str | int, kind: int) -> Rules | None:
    if kind not in FILTERS or _kernel() is None:
        return None
    if isinstance(mode, int):
        return Rules(kind, vertical_first=False, short=True) if kind in by_torch() else None
    order = vertical_first() if mode in _MODES else None
    return None if order is None else Rules(kind, order, short=False)


@cache
def vertical_first() -> bool | None:
    """Say how the installed Pillow orders its two passes, between which it rounds: try it, once a process.

    Returns:
        Whether it makes images that lose more than twice as many lines as columns lower first and narrower then (as
        version 13 does), or all narrower first (as versions before). None where its bits are neither way's.
    """

    def theirs(pixels: Tensor, mode: str, size: tuple[int, int], kind: int) -> NDArray[np.uint8]:
        return pixels_of(image_of(pixels.permute(1, 2, 0).numpy(), mode).resize(size[::-1], kind)).transpose(2, 0, 1)

    tried = [
        (pixels, size, kind, theirs(pixels, mode, size, kind))
        for mode, kind in product(("L", "RGB", "CMYK"), FILTERS)
        for pixels, size in _examples(MODES[mode].channels)
    ]

    def gives(order: bool) -> bool:
        return all(
            np.array_equal(_resampled(pixels, size, Rules(kind, order, short=False)), expected)
            for pixels, size, kind, expected in tried
        )

    return next((order for order in (True, False) if gives(order)), None)


@cache
def by_torch() -> frozenset[int]:
    """Say which of Pillow's filters torch has with the same bits as here: try it, once a process.

    Whether bytes are resampled as such or by way of floats depends on the versions and on the processor.
    """

    def gives(mode: InterpolationMode) -> bool:
        rules = Rules(pil_modes_mapping[mode], vertical_first=False, short=True)
        return all(
            np.array_equal(
                _resampled(pixels, size, rules), v2.resize_image(held, list(size), interpolation=mode).numpy()
            )
            for channels in (1, 2, 3, 4)
            for pixels, size in _examples(channels)
            for held in (pixels, pixels.contiguous())
        )

    return frozenset(pil_modes_mapping[mode] for mode in _TORCH if gives(mode))


def _examples(channels: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """Give images [C, H, W], HxWxC in memory, and sizes to resample them to."""
    rng = np.random.default_rng(20_011)
    sizes = [((29, 23), (11, 14)), ((29, 23), (10, 14)), ((31, 9), (30, 40)), ((7, 40), (19, 6)), ((5, 6), (16, 17))]
    levels = np.array([0, 40, 200, 255], np.uint8)
    return [(torch.from_numpy(rng.choice(levels, (*old, channels))).permute(2, 0, 1), new) for old, new in sizes]


def _resampled(pixels: Tensor, size: tuple[int, int], rules: Rules) -> NDArray[np.uint8]:
    """Resample one image [C, H, W]."""
    store = store_of(pixels[None])
    assert store is not None
    out = np.empty((len(pixels), *size), np.uint8)
    windows = Windows.full(1, (pixels.shape[1], pixels.shape[2]))
    _run(store, windows, len(pixels), _each(size, 1), np.zeros(1, np.int64), rules, out.reshape(-1))
    return out


def prepare() -> None:
    """Let numba load or compile, where it is installed, what images are resampled with."""
    if _kernel() is not None:
        vertical_first()
        by_torch()


@cache
def _kernel() -> Any:
    try:
        from lmdbpipe.transforms import passes  # noqa: PLC0415 it needs numba
    except ImportError:
        return None
    return passes.resample


def _run(
    store: Store,
    windows: Windows,
    channels: int,
    wanted: NDArray[np.int64],
    targets: NDArray[np.int64],
    rules: Rules,
    out: NDArray[np.uint8],
) -> None:
    """Let the kernel resample images of one store, all of whose rectangles lie within them."""
    count = len(windows)
    begins, full = store.offsets[windows.rows], _full(store, windows)
    outside = (begins < 0) | (begins + full.prod(axis=1) * channels > len(store.memory))
    if outside.any():
        first = int(outside.argmax())
        raise outside_error(store.memory, int(begins[first]), int(full[first].prod()) * channels)
    flips = np.zeros(count, np.bool_)
    _kernel()(
        store.memory.numpy(),
        begins,
        full,
        np.ascontiguousarray(windows.top),
        np.ascontiguousarray(windows.left),
        _each(windows.size, count),
        flips if windows.hflip is None else np.ascontiguousarray(windows.hflip),
        flips if windows.vflip is None else np.ascontiguousarray(windows.vflip),
        targets,
        wanted,
        (1, channels) if store.hwc else (channels, 1),
        int(rules.kind),
        rules.vertical_first,
        rules.short,
        out,
    )


def _parts(source: Source, windows: Windows) -> list[tuple[Store, Windows]] | None:
    """Where images lie, and which rectangles of those: all at once, of a list one by one; None if not plain memory."""
    if not isinstance(source, list):
        store = store_of(source)
        return None if store is None else [(store, windows)]
    stores = [store_of(source[row][None]) for row in windows.rows.tolist()]
    singles = [replace(windows.take(np.array([i])), rows=np.zeros(1, np.int64)) for i in range(len(windows))]
    parts = [(store, single) for store, single in zip(stores, singles, strict=True) if store is not None]
    return parts if len(parts) == len(windows) else None


def _within(store: Store, windows: Windows) -> bool:
    """Whether all rectangles lie within their images, and hold pixels."""
    begins, sizes = np.stack([windows.top, windows.left], axis=1), _each(windows.size, len(windows))
    return bool(((begins >= 0) & (sizes > 0) & (begins + sizes <= _full(store, windows))).all())


def _full(store: Store, windows: Windows) -> NDArray[np.int64]:
    """(height, width) of the images that rectangles lie in: [n, 2]."""
    return _each(store.size if isinstance(store.size, tuple) else store.size[windows.rows], len(windows))


def _each(size: Size, count: int) -> NDArray[np.int64]:
    """(height, width) of each: [n, 2]."""
    return np.full((count, 2), size, np.int64) if isinstance(size, tuple) else np.ascontiguousarray(size, np.int64)
