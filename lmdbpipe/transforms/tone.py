"""Brightness, contrast, saturation and hue of bytes in tensors, with the bits of torchvision's version 2.

Whether torch rounds a sum once or twice depends on the processor, and at the end of an image on how many pixels it has.
So for every size its floats are compared with those that are computed here; where they differ in a bit, torchvision
does it, and so it does without numba (the extra ``jit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from lmdbpipe.transforms.operations import Operation
from lmdbpipe.transforms.step import held

Tones = NDArray[np.float64]
"""For n images, k operations each, one after the other: [n, k, 2], the number of an `Operation` and its factor."""

_WHOLE = 2**24
"""Floats hold whole numbers up to here, so the sum of so few levels does not depend on the order."""
_TRIES = 16
"""Images that are compared: where torch rounds in another way, one in five values differs."""
_FUNCTIONS = {
    Operation.BRIGHTNESS: v2.adjust_brightness_image,
    Operation.CONTRAST: v2.adjust_contrast_image,
    Operation.COLOR: v2.adjust_saturation_image,
    Operation.HUE: v2.adjust_hue_image,
}


def tone(pixels: Tensor, tones: Tones, *, hwc: bool) -> None:
    """Change colours of images in place.

    Args:
        pixels: uint8 [n, C, H, W], contiguous; 1 or 3 channels.
        tones: Each image's own; what is `Operation.IDENTITY` does nothing.
        hwc: Whether torchvision would hold the images as H x W x C in memory.
    """
    shape, settings = tuple(pixels.shape[1:]), _settings()
    if all(same_as_torch(shape, layout, settings) for layout in {hwc, False}):
        flat = pixels.numpy().reshape(*pixels.shape[:2], -1)
        _compiled().tone(flat, np.ascontiguousarray(tones))
        return
    for image, own in zip(pixels, tones.tolist(), strict=True):
        image.copy_(by_torchvision(held(image, hwc=hwc), own))


def by_torchvision(image: Tensor, tones: Sequence[tuple[float, float]]) -> Tensor:
    """Let torchvision change the colours of an image [C, H, W]."""
    for operation, factor in tones:
        if operation:
            image = _FUNCTIONS[Operation(int(operation))](image, factor)
    return image


def prepare() -> None:
    """Load or compile what colours are changed with."""
    if _compiled() is not None:
        _compiled().tone(np.zeros((1, 3, 1), np.uint8), np.zeros((1, 1, 2)))


@lru_cache(maxsize=4096)
def same_as_torch(shape: tuple[int, ...], hwc: bool, settings: Any) -> bool:
    """Whether torch gives the bits that are computed here: tried once a process for each size.

    Args:
        shape: (C, H, W) of an image.
        hwc: Whether it lies as H x W x C in memory.
        settings: Those of torch that may matter.

    Returns:
        False, too, for images of more than 65,793 pixels, and without numba or a processor with FMA.
    """
    count = int(np.prod(shape[1:]))
    if not 0 < count * 255 < _WHOLE or _compiled() is None or settings != (torch.float32, False):
        return False
    rng = np.random.default_rng(2_741)
    for number in range(_TRIES):
        pixels = rng.integers(0, 256, shape, np.uint8)
        image, ratio = held(torch.from_numpy(pixels), hwc=hwc), float(rng.uniform(0.1, 1.9))
        if not _sums_are_alike(pixels.reshape(shape[0], -1), image, ratio):
            return False
        tones = [(operation, ratio / 4 if operation == Operation.HUE else ratio) for operation in _FUNCTIONS]
        own = [tones[number % len(tones)], tones[number // len(tones)]]
        theirs = by_torchvision(image, own)
        ours = pixels.reshape(1, shape[0], -1).copy()
        _compiled().tone(ours, np.array([own], np.float64))
        if not np.array_equal(ours.reshape(shape), theirs.numpy()):
            return False
    return True


def _sums_are_alike(pixels: NDArray[np.uint8], image: Tensor, ratio: float) -> bool:
    """Whether sums with an ``alpha``, of grey and of a mean, are those of torch at every pixel."""
    levels = np.empty(pixels.shape[1], np.float32)
    rest = 1.0 - ratio
    if len(pixels) == 3:
        red, green, blue = image.unbind(-3)
        grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
        _compiled().add_up(pixels, levels)
        blended = image.mul(ratio).add_(grey.unsqueeze(-3), alpha=rest)
        if not _equal(levels, grey) or not _equal(_compiled().mixed(pixels, ratio, levels, rest), blended):
            return False
    levels[:] = np.float32(ratio * 99)
    mean = torch.full((1, 1, 1), ratio * 99)
    return _equal(_compiled().mixed(pixels, ratio, levels, rest), image.mul(ratio).add_(mean, alpha=rest))


def _equal(ours: NDArray[np.float32], theirs: Tensor) -> bool:
    return np.array_equal(ours, theirs.numpy().reshape(ours.shape))


def _settings() -> tuple[Any, ...]:
    """What may decide how torch computes; `same_as_torch` knows what it must be."""
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu")


@cache
def _compiled() -> Any:
    try:
        from lmdbpipe.transforms import toning  # noqa: PLC0415 it needs numba
    except ImportError:
        return None
    return toning
