"""Operations on bytes in tensors, with the bits of torchvision's version 2.

Whether torch rounds a sum once or twice depends on the processor, and at the end of an image on how many pixels it has.
So for every size each operation is tried, and torch's floats are compared with those that are computed here; what
differs in a bit is left to torchvision, and so is all without numba (the extra ``jit``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as v2
from torchvision.transforms.v2.functional import _geometry

from lmdbpipe.transforms.operations import Edit, Maps, Operation, make_edit
from lmdbpipe.transforms.step import held

_WHOLE = 2**24
"""Floats hold whole numbers up to here, so the sum of so few levels does not depend on the order."""
_TRIES = 3
"""Images on which each operation is tried."""
_SETTINGS = (torch.float32, False, "highest")
"""With others torch computes otherwise; see `_settings`."""
_FUNCTIONS: dict[Operation, Callable[[Tensor, float], Tensor]] = {
    Operation.BRIGHTNESS: v2.adjust_brightness_image,
    Operation.CONTRAST: v2.adjust_contrast_image,
    Operation.COLOR: v2.adjust_saturation_image,
    Operation.HUE: v2.adjust_hue_image,
    Operation.SHARPNESS: v2.adjust_sharpness_image,
    Operation.AUTOCONTRAST: lambda image, _: v2.autocontrast_image(image),
    Operation.EQUALIZE: lambda image, _: v2.equalize_image(image),
    Operation.INVERT: lambda image, _: v2.invert_image(image),
    Operation.POSTERIZE: lambda image, bits: v2.posterize_image(image, int(bits)),
    Operation.SOLARIZE: v2.solarize_image,
    Operation.QUARTERS: lambda image, quarters: torch.rot90(image, int(quarters), (-2, -1)),
}


def tone(pixels: Tensor, edits: NDArray[np.float64], fill: tuple[int, ...], *, hwc: bool) -> None:
    """Edit images in place.

    Args:
        pixels: uint8 [n, C, H, W], contiguous; 1 or 3 channels.
        edits: Each image's own, one after the other: [n, k, 7]; see `lmdbpipe.transforms.operations.Edit`.
        fill: The colour of pixels from outside.
        hwc: Whether torchvision would hold the images as H x W x C in memory; after an operation it may not.
    """
    shape, settings = tuple(pixels.shape[1:]), _settings()
    alike = frozenset.intersection(*(same_as_torch(shape, layout, settings) for layout in {hwc, False}))
    here = np.asarray(np.isin(edits[..., 0], [Operation.IDENTITY, *alike]).all(axis=1))
    if here.any():
        own = np.where(here[:, None, None], edits, 0.0)  # the others stay as they are
        flat = pixels.numpy().reshape(*pixels.shape[:2], -1)
        _compiled().tone(flat, pixels.shape[3], own, np.array(fill, np.uint8))
    for i in np.flatnonzero(~here).tolist():
        pixels[i].copy_(by_torchvision(held(pixels[i], hwc=hwc), edits[i].tolist(), fill))


def by_torchvision(image: Tensor, edits: Sequence[Sequence[float]], fill: tuple[int, ...]) -> Tensor:
    """Let torchvision edit an image [C, H, W]."""
    for number, *values in edits:
        operation = Operation(int(number))
        if operation == Operation.AFFINE:
            (height, width), theta = image.shape[1:], torch.tensor(values, dtype=torch.float32).reshape(1, 2, 3)
            grid = _geometry._affine_grid(theta, w=width, h=height, ow=width, oh=height)
            image = _geometry._apply_grid_transform(image, grid, "nearest", fill=list(map(float, fill)))
        elif operation != Operation.IDENTITY:
            image = _FUNCTIONS[operation](image, values[0])
    return image


def prepare() -> None:
    """Load or compile what images are edited with."""
    if _compiled() is not None:
        _compiled().tone(np.zeros((1, 3, 1), np.uint8), 1, np.zeros((1, 1, 7)), np.zeros(3, np.uint8))


@lru_cache(maxsize=4096)
def same_as_torch(shape: tuple[int, ...], hwc: bool, settings: Any) -> frozenset[Operation]:
    """For which operations torch gives the bits that are computed here: tried once a process for each size.

    Args:
        shape: (C, H, W) of an image.
        hwc: Whether it lies as H x W x C in memory.
        settings: Those of torch that may matter.

    Returns:
        None without numba or a processor with FMA.
    """
    if _compiled() is None or settings[: len(_SETTINGS)] != _SETTINGS or not all(shape):
        return frozenset()
    rng = np.random.default_rng(2_741)
    fill = (7, 8, 9)[: shape[0]]
    others = {Operation.BILINEAR}
    if shape[1] * shape[2] * 255 >= _WHOLE:
        others.add(Operation.CONTRAST)
    for _ in range(_TRIES):
        pixels = rng.integers(0, 256, shape, np.uint8)
        image, ratio = held(torch.from_numpy(pixels), hwc=hwc), float(rng.uniform(0.1, 1.9))
        if not _sums_are_alike(pixels.reshape(shape[0], -1), image, ratio):
            others |= {Operation.CONTRAST, Operation.COLOR}
        if not _sharpened_alike(pixels, image, ratio):
            others.add(Operation.SHARPNESS)
        for own in _examples(ratio, Maps((shape[1], shape[2]), is_v2=True, of_tensors=True)):
            ours = pixels.reshape(1, shape[0], -1).copy()
            _compiled().tone(ours, shape[2], np.array([[own]]), np.array(fill, np.uint8))
            if not np.array_equal(ours.reshape(shape), by_torchvision(image, [own], fill).numpy()):
                others.add(Operation(int(own[0])))
            if own[0] == Operation.AFFINE and not _places_are_alike(own, shape):
                others.add(Operation.AFFINE)
    return frozenset(Operation) - others


def _examples(ratio: float, maps: Maps) -> list[Edit]:
    """Operations of every kind, with values by a number from 0.1 to 1.9."""
    return [
        *(make_edit(operation, ratio) for operation in (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR)),
        make_edit(Operation.HUE, ratio / 4),
        make_edit(Operation.SHARPNESS, ratio),
        *(make_edit(operation) for operation in (Operation.AUTOCONTRAST, Operation.EQUALIZE, Operation.INVERT)),
        make_edit(Operation.POSTERIZE, int(ratio * 4) + 1),
        make_edit(Operation.SOLARIZE, ratio * 130),
        maps.rotation(180 if maps.size[0] != maps.size[1] else int(ratio * 2) * 90),
        maps.affine(ratio * 180, (ratio * 3, -ratio), ratio, (ratio * 20, 0)),
        maps.affine(shear=(0.0, ratio * 9 - 9), center=(0, 0)),
    ]


def _places_are_alike(own: Edit, shape: tuple[int, ...]) -> bool:
    """Whether pixels come from where torch takes them, before that is rounded."""
    height, width = shape[1:]
    ours = _compiled().places(height, width, np.array(own[1:]))
    theta = torch.tensor(own[1:], dtype=torch.float32).reshape(1, 2, 3)
    return _equal(ours, _geometry._affine_grid(theta, w=width, h=height, ow=width, oh=height))


def _sharpened_alike(pixels: NDArray[np.uint8], image: Tensor, ratio: float) -> bool:
    """Whether the sum that sharpens is that of torch at every pixel."""
    if min(pixels.shape[1:]) <= 2:
        return True
    output, rest = image.to(torch.float32, copy=True), 1.0 - ratio
    blurred = torch.from_numpy(pixels[:, :-2, :-2]).to(torch.float32)  # any levels will do
    inner = output[..., 1:-1, 1:-1]
    inner.add_(blurred.sub_(inner), alpha=rest)
    ours = _compiled().sharpened(pixels[:, 1:-1, 1:-1].copy(), pixels[:, :-2, :-2].copy(), rest)
    return _equal(ours, inner)


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
    """What may decide how torch computes; `_SETTINGS` says what the first of them must be."""
    exact = torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()
    return *exact, torch.get_num_threads(), torch.backends.mkldnn.enabled


@cache
def _compiled() -> Any:
    try:
        from lmdbpipe.transforms import toning  # noqa: PLC0415 it needs numba
    except ImportError:
        return None
    return toning
