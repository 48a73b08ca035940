"""Operations on bytes in tensors, with the bits of torchvision's version 2.

Whether torch rounds a sum once or twice depends on the processor, and at the end of an image on how many pixels it has.
So operations with such sums are tried for every size, on an image of one colour for which it makes a difference at
every pixel; the others once a process. What differs in a bit is left to torchvision, and so is all without numba (the
extra ``jit``).
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

_COLOUR, _LEVEL, _RATIO = (217, 134, 159), 245, 0.18
"""For these every sum depends on whether it is rounded once or twice."""
_WHOLE = 2**24
"""Floats hold whole numbers up to here, so the sum of so few levels does not depend on the order."""
_SIZES = 1 << 14
"""For how many it is remembered whether torch's sums are ours."""
_LIMITS = {
    Operation.BRIGHTNESS: (0.0, np.inf),
    Operation.CONTRAST: (0.0, np.inf),
    Operation.COLOR: (0.0, np.inf),
    Operation.HUE: (-0.5, 0.5),
    Operation.SHARPNESS: (0.0, np.inf),
    Operation.POSTERIZE: (0.0, 8.0),
    Operation.SOLARIZE: (-np.inf, 255.0),
}
"""Beyond these values torchvision raises an error."""
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
    here = _computable(edits, tuple(pixels.shape[1:]), hwc=hwc)
    if here.any():
        own = np.where(here[:, None, None], edits, 0.0)  # the others stay as they are
        flat = pixels.numpy().reshape(*pixels.shape[:2], -1)
        _compiled().tone(flat, pixels.shape[3], own, np.array(fill, np.uint8))
    for i in np.flatnonzero(~here).tolist():
        pixels[i].copy_(by_torchvision(held(pixels[i], hwc=hwc), edits[i].tolist(), fill))


def _computable(edits: NDArray[np.float64], shape: tuple[int, ...], *, hwc: bool) -> NDArray[np.bool_]:
    """For which images, of (C, H, W), all operations give here what they give in torchvision."""
    here, settings = np.ones(len(edits), bool), _settings()
    numbers = edits[..., 0]
    for number in set(numbers.ravel().tolist()) - {Operation.IDENTITY}:
        operation, chosen = Operation(int(number)), numbers == number
        low, high = _LIMITS.get(operation, (-np.inf, np.inf))
        if all(same_as_torch(operation, shape, layout, settings) for layout in {hwc, False}):
            chosen &= ~((edits[..., 1] >= low) & (edits[..., 1] <= high))
        here &= ~chosen.any(axis=1)
    return here


def by_torchvision(image: Tensor, edits: Sequence[Sequence[float]], fill: tuple[int, ...]) -> Tensor:
    """Let torchvision edit an image [C, H, W]."""
    for number, *values in edits:
        operation = Operation(int(number))
        if operation == Operation.AFFINE:
            (height, width), theta = image.shape[1:], _theta(values)
            grid = _geometry._affine_grid(theta, w=width, h=height, ow=width, oh=height)
            image = _geometry._apply_grid_transform(image, grid, "nearest", fill=list(map(float, fill)))
        elif operation != Operation.IDENTITY:
            image = _FUNCTIONS[operation](image, values[0])
    return image


def prepare() -> None:
    """Load or compile what images are edited with."""
    if _compiled() is not None:
        _compiled().tone(np.zeros((1, 3, 1), np.uint8), 1, np.zeros((1, 1, 7)), np.zeros(3, np.uint8))


def same_as_torch(operation: Operation, shape: tuple[int, ...], hwc: bool, settings: Any) -> bool:
    """Whether torch gives the bits that are computed here: tried once a process, or for each size.

    Args:
        operation: On what to try it.
        shape: (C, H, W) of an image.
        hwc: Whether it lies as H x W x C in memory.
        settings: Those of torch that may matter.

    Returns:
        False, too, without numba or a processor with FMA.
    """
    if _compiled() is None or settings[: len(_SETTINGS)] != _SETTINGS or operation == Operation.BILINEAR:
        return False
    if not all(shape) or not _tried(operation, shape[0], hwc, settings):
        return False
    if operation == Operation.AFFINE:
        return _moved_alike(shape[1], shape[2], settings)
    if operation == Operation.SHARPNESS:
        return _sharpened_alike(shape, hwc, settings)
    if operation == Operation.CONTRAST and shape[1] * shape[2] * 255 >= _WHOLE:
        return False
    return operation not in (Operation.CONTRAST, Operation.COLOR) or _blended_alike(shape, hwc, settings)


@cache
def _tried(operation: Operation, channels: int, hwc: bool, _: Any) -> bool:
    """Whether an image of a size that fills vectors comes out alike."""
    size = 48, 48
    pixels = np.random.default_rng(2_741).integers(0, 256, (channels, *size), np.uint8)
    fill = (7, 8, 9)[:channels]
    for own in _examples(operation, Maps(size, is_v2=True, of_tensors=True)):
        ours = pixels.reshape(1, channels, -1).copy()
        _compiled().tone(ours, size[1], np.array([[own]]), np.array(fill, np.uint8))
        theirs = by_torchvision(held(torch.from_numpy(pixels), hwc=hwc), [own], fill)
        if not np.array_equal(ours.reshape(pixels.shape), theirs.numpy()):
            return False
    return True


def _examples(operation: Operation, maps: Maps) -> list[Edit]:
    """An operation with some values."""
    if operation == Operation.AFFINE:
        turned = [maps.affine(angle, (3, -2), 0.9, (angle / 9, 0)) for angle in (13.0, 163.0, -97.0)]
        return [*turned, maps.affine(shear=(0.0, 17.0), center=(0, 0))]
    values: dict[Operation, tuple[float, ...]] = {Operation.HUE: (0.31, -0.17), Operation.POSTERIZE: (3, 8)}
    values |= {Operation.QUARTERS: (1, 2, 3), Operation.SOLARIZE: (99.5, 130)}
    return [make_edit(operation, value) for value in values.get(operation, (0.37, 1.7))]


def _of_one_colour(shape: tuple[int, ...]) -> Tensor:
    """An image [C, H, W] on which roundings show."""
    return torch.tensor(_COLOUR[: shape[0]], dtype=torch.uint8, device="cpu").view(-1, 1, 1).repeat(1, *shape[1:])


def _theta(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").reshape(1, 2, 3)


@lru_cache(maxsize=_SIZES)
def _moved_alike(height: int, width: int, _: Any) -> bool:
    """Whether pixels come from where torch takes them, before that is rounded."""
    for own in _examples(Operation.AFFINE, Maps((height, width), is_v2=True, of_tensors=True)):
        theirs = _geometry._affine_grid(_theta(own[1:]), w=width, h=height, ow=width, oh=height)
        if not _equal(_compiled().places(height, width, np.array(own[1:])), theirs):
            return False
    return True


@lru_cache(maxsize=_SIZES)
def _sharpened_alike(shape: tuple[int, ...], hwc: bool, _: Any) -> bool:
    """Whether the sum that sharpens is that of torch at every pixel."""
    if min(shape[1:]) <= 2:
        return True
    image, rest = _of_one_colour(shape), 1.0 - _RATIO
    output = held(image, hwc=hwc).to(torch.float32, copy=True)
    kernel = torch.ones((shape[0], 1, 3, 3), device="cpu")
    smooth = torch.nn.functional.conv2d(output, kernel, groups=shape[0]).fill_(_LEVEL)  # for its layout
    inner = output[..., 1:-1, 1:-1]
    inner.add_(smooth.sub_(inner), alpha=rest)
    sharp = image[..., 1:-1, 1:-1].numpy().copy()
    return _equal(_compiled().sharpened(sharp, np.full_like(sharp, _LEVEL), rest), inner)


@lru_cache(maxsize=_SIZES)
def _blended_alike(shape: tuple[int, ...], hwc: bool, _: Any) -> bool:
    """Whether sums with an ``alpha``, of grey and of a mean, are those of torch at every pixel."""
    image, rest = _of_one_colour(shape), 1.0 - _RATIO
    pixels, image = image.numpy().reshape(shape[0], -1), held(image, hwc=hwc)
    levels = np.empty(pixels.shape[1], np.float32)
    if shape[0] == 3:
        red, green, blue = image.unbind(-3)
        grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
        _compiled().add_up(pixels, levels)
        blended = image.mul(_RATIO).add_(grey.unsqueeze(-3), alpha=rest)
        if not _equal(levels, grey) or not _equal(_compiled().mixed(pixels, _RATIO, levels, rest), blended):
            return False
    levels[:] = _LEVEL
    blended = image.mul(_RATIO).add_(torch.full((1, 1, 1), float(_LEVEL), device="cpu"), alpha=rest)
    return _equal(_compiled().mixed(pixels, _RATIO, levels, rest), blended)


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
