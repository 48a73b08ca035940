"""Operations on bytes with Pillow's bits, many times as fast as Pillow where numba is installed (the extra ``jit``).

Which operations, and with what values, may differ from image to image. They are done in place where the installed
Pillow has been seen to give the same bits (`known`), elsewhere by Pillow itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lmdbpipe.modes import image_of, pixels_of
from lmdbpipe.transforms import tone
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.operations import MAPS, Edit, Operation, by_pil, make_edit
from lmdbpipe.transforms.step import Params, Spec, Step

Edits = NDArray[np.float64]
"""For n images, k operations each: [n, k, 7], as `Edit` has them."""
_FIXED = 32768.0
"""Places that Pillow's fixed-point arithmetic reaches; beyond, it computes with floats."""


class Edited(Step):
    """A step that does operations of Pillow's, or version 2's on tensors; its parameters are `Edits`."""

    draws = True

    @property
    def anywhere(self) -> bool:
        """The CPU computes."""
        return False

    def accept(self, spec: Spec) -> Spec | str:
        """PIL images of modes L and RGB; in version 2 bytes of as many channels."""
        if spec.kind == "pil":
            return spec if spec.mode in ("L", "RGB") else f"mode {spec.mode} is left to PIL"
        if not self.is_v2:
            return "version 1 is batched for PIL images only, so before they become tensors"
        if spec.dtype != torch.uint8 or spec.channels not in (1, 3):
            return "it is batched for PIL images and for bytes, so before they become floats"
        return spec

    def fixed(self, spec: Spec, size: Any) -> int | None:
        """It varies."""
        return None

    def stack(self, ones: Sequence[Sequence[Edit]]) -> Params:
        """Give `Edits` of as many operations for each image."""
        return np.array(ones, np.float64).reshape(len(ones), -1, 7)

    def fill(self, spec: Spec) -> tuple[int, ...]:
        """The colour of pixels from outside."""
        return (0,) * spec.channels

    def prepare(self) -> None:
        """Load or compile what images are edited with."""
        known()
        if self.is_v2:
            tone.prepare()

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Edit every image."""
        out, fill = self.infer(batch.spec), self.fill(batch.spec)
        assert isinstance(out, Spec)
        return batch.edited(out, lambda pixels, own: edit(pixels, batch.spec, own, fill), params)


def edit(pixels: Tensor, spec: Spec, edits: Edits, fill: tuple[int, ...]) -> None:
    """Edit images in place.

    Args:
        pixels: uint8 [n, C, H, W], contiguous.
        spec: What they are: PIL images of mode L or RGB, or tensors.
        edits: Each image's own.
        fill: The colour of pixels from outside.
    """
    if spec.kind != "pil":
        tone.tone(pixels, edits, fill, hwc=spec.hwc)
        return
    here = _computable(edits, pixels.shape[2:])
    if here.any():
        _run(pixels.numpy(), np.where(here[:, None, None], edits, 0.0), fill)  # the others stay as they are
    for i in np.flatnonzero(~here).tolist():
        image = image_of(pixels[i].permute(1, 2, 0).numpy(), spec.mode)
        for own in edits[i].tolist():
            image = by_pil(image, own, fill)
        pixels[i].copy_(torch.from_numpy(pixels_of(image)).permute(2, 0, 1))


def edit_alike(pixels: Tensor, own: Edit, spec: Spec | None = None) -> Tensor:
    """Do one operation to all of some images in place.

    Args:
        pixels: uint8 [..., C, H, W], contiguous.
        own: Which.
        spec: What they are; PIL images of mode L or RGB, if not given.

    Returns:
        The same tensor.
    """
    images = pixels.view(-1, *pixels.shape[-3:])
    spec = spec or Spec.pil("L" if images.shape[1] == 1 else "RGB")
    edit(images, spec, np.tile(own, (len(images), 1, 1)), (0,) * images.shape[1])
    return pixels


@cache
def known() -> frozenset[Operation]:
    """The operations for which the installed Pillow gives the bits that are computed here: tried once a process.

    None without numba. A processor that multiplies and adds in one rounding may give others for some of them.
    """
    if _kernel() is None:
        return frozenset()
    rng = np.random.default_rng(20_011)
    factors = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS)
    edits = [
        make_edit(Operation.IDENTITY),
        *(make_edit(*pair) for pair in product(factors, (0.0, 0.1, 0.37, 0.7, 0.99, 1.01, 1.3, 1.7, 3.1))),
        *(make_edit(Operation.HUE, shift) for shift in (0, 31, 200)),
        *(make_edit(operation) for operation in (Operation.AUTOCONTRAST, Operation.EQUALIZE, Operation.INVERT)),
        *(make_edit(Operation.POSTERIZE, bits) for bits in (1, 4, 8)),
        *(make_edit(Operation.SOLARIZE, threshold) for threshold in (0.0, 99.5, 255.0)),
        *(make_edit(operation, 1, 0, 3, 0, 1, -2) for operation in MAPS),
        *(make_edit(operation, 1.1, 0, -3.3, 0, 0.7, 2.6) for operation in MAPS),
        *(make_edit(operation, 0.8, 0.6, -7.1, -0.6, 0.8, 13.9) for operation in MAPS),
    ]
    others = set()
    for mode, fill in (("L", (9,)), ("RGB", (7, 8, 9))):
        pixels = rng.integers(0, 256, (41, 53, len(fill)), np.uint8)
        pixels[:20] = pixels[:20] // 4 + 60
        images = np.repeat(pixels.transpose(2, 0, 1)[None], len(edits), axis=0)
        _run(images, np.array(edits)[:, None], fill)
        for own, ours in zip(edits, images, strict=True):
            theirs = pixels_of(by_pil(image_of(pixels, mode), own, fill))
            if not np.array_equal(ours, theirs.transpose(2, 0, 1)):
                others.add(Operation(int(own[0])))
    return frozenset(Operation) - others


def _computable(edits: Edits, size: Sequence[int]) -> NDArray[np.bool_]:
    """For which images, of (height, width), all operations are known and within Pillow's fixed-point arithmetic."""
    computable = np.full(len(edits), bool(known()))
    if len(known()) < len(Operation):
        computable &= np.isin(edits[..., 0], list(known())).all(axis=1)
    rows, columns = np.nonzero(edits[..., 0] == Operation.AFFINE)
    if len(rows):
        height, width = size
        corners = np.array([[0.0, width, 0.0, width], [0.0, 0.0, height, height], [1.0, 1.0, 1.0, 1.0]])
        places = edits[rows, columns, 1:].reshape(-1, 2, 3) @ corners
        computable[rows[(np.abs(places) >= _FIXED).any(axis=(1, 2))]] = False
    return computable


def _run(images: NDArray[np.uint8], edits: Edits, fill: tuple[int, ...]) -> None:
    """Let the kernel edit images [n, C, H, W] of one size."""
    assert images.flags.c_contiguous  # or a copy would be edited
    flat = images.reshape(*images.shape[:2], images.shape[2] * images.shape[3])
    _kernel()(flat, images.shape[3], np.ascontiguousarray(edits), np.array(fill, np.uint8))


@cache
def _kernel() -> Any:
    try:
        from lmdbpipe.transforms import editing  # noqa: PLC0415 it needs numba
    except ImportError:
        return None
    return editing.edit


def colour(fill: Any, mode: str) -> tuple[int, ...]:
    """The bytes that Pillow makes of a colour, as torchvision's transforms take it: a number, some, or None for 0.

    Raises:
        ValueError, TypeError: It is none of this mode.
    """
    channels = len(mode)
    values = [0] if fill is None else list(fill) if isinstance(fill, (list, tuple)) else [fill]
    if len(values) not in (1, channels):
        raise ValueError(f"{len(values)} values are no colour of mode {mode}")
    whole = tuple(int(value) for value in values * (channels // len(values)))
    pixels: list[int] = pixels_of(Image.new(mode, (1, 1), whole if channels > 1 else whole[0])).ravel().tolist()
    return tuple(pixels)
