"""Greyscale, inversion, posterising, solarising, contrast: on bytes by PIL's own formulas, on tensors by torchvision's.

PIL works by look-up table, and makes grey as ``(19595 R + 38470 G + 7471 B + 32768) >> 16`` (ITU-R 601-2 luma, Pillow's
``L24`` macro). On tensors torchvision's kernels run on many images at once; they are elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.edits import Edited, edit_alike, known
from lmdbpipe.transforms.gather import near
from lmdbpipe.transforms.operations import Operation, make_edit
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, Step, below
from lmdbpipe.transforms.streams import Words

Function = Callable[[Tensor], Tensor]


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.to(torch.int32).unbind(-3)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)


def _like_pil(x: Tensor, channels: int) -> Tensor:
    if x.shape[-3] == 3 and near(x.device) and Operation.COLOR in known():
        edit_alike(x, make_edit(Operation.COLOR, 0.0))
        return x if channels == 3 else x[..., :1, :, :].contiguous()
    grey = _grey(x) if x.shape[-3] == 3 else x
    return grey if channels == 1 else grey.expand(*x.shape[:-3], channels, *x.shape[-2:]).contiguous()


def _grey_reason(spec: Spec) -> str | None:
    if spec.kind == "pil":
        return None if spec.mode in ("L", "RGB") else f"PIL has its own way from {spec.mode} to grey"
    if spec.channels not in (1, 3):
        return f"torchvision takes no {spec.channels} channels here"
    return "the last bits of float sums depend on where in memory they are" if spec.dtype.is_floating_point else None


class Grayscale(Step):
    """``v1.Grayscale``."""

    prepare = Edited.prepare

    @staticmethod
    def kernel(x: Tensor, channels: int) -> Tensor:
        """Torchvision's own for tensors."""
        result: Tensor = v1.rgb_to_grayscale(x, channels)
        return result

    def accept(self, spec: Spec) -> Spec | str:
        """L and RGB, and integer tensors."""
        reason = _grey_reason(spec)
        channels = self.t.num_output_channels
        if reason or channels not in (1, 3):
            return reason or f"{channels} output channels"
        if spec.kind == "pil":
            return Spec.pil("L" if channels == 1 else "RGB")
        return replace(spec, channels=channels if spec.channels == 3 or channels == 1 or self.widens else 1)

    widens = False

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Make all grey."""
        spec, channels = self.infer(batch.spec), self.t.num_output_channels
        assert isinstance(spec, Spec)
        if batch.spec.kind == "pil":
            return (
                batch if batch.spec.mode == "L" and channels == 1 else batch.map(lambda x: _like_pil(x, channels), spec)
            )
        return batch.map(lambda x: self.kernel(x, channels).contiguous(), spec)


class GrayscaleV2(Grayscale):
    """``v2.Grayscale``."""

    widens = True

    @staticmethod
    def kernel(x: Tensor, channels: int) -> Tensor:
        """Torchvision's own for tensors."""
        result: Tensor = v2.rgb_to_grayscale_image(x, channels)
        return result


class Chance(Step):
    """A step that is applied to each image with probability ``p``, and keeps its shape and dtype."""

    words = 1
    draws = True
    as_tensor = True
    """Whether torchvision compares ``p`` with a tensor (rounded to float32) or with its item."""

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give bool [n]."""
        return below(words[:, 0], self.t.p, as_tensor=self.as_tensor), size

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One bool."""
        drawn = torch.rand(1)
        return bool(drawn < self.t.p if self.as_tensor else drawn.item() < self.t.p), size

    def stack(self, ones: Sequence[Any]) -> Params:
        """Give bool [n]."""
        return np.array(ones, bool)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Apply `function` to the chosen images."""
        return batch.map_where(params, self.function(batch.spec))

    def function(self, spec: Spec) -> Function:
        """Give what is done to [..., C, H, W]."""
        raise NotImplementedError


class RandomGrayscale(Chance):
    """``v1.RandomGrayscale``."""

    prepare = Edited.prepare
    kernel = staticmethod(Grayscale.kernel)

    def accept(self, spec: Spec) -> Spec | str:
        """L and RGB, and integer tensors."""
        return _grey_reason(spec) or spec

    def function(self, spec: Spec) -> Function:
        """Grey, with as many channels as before."""
        if spec.kind == "pil":
            return lambda x: _like_pil(x, spec.channels)
        return lambda x: self.kernel(x, spec.channels)


class RandomGrayscaleV2(RandomGrayscale):
    """``v2.RandomGrayscale``."""

    kernel = staticmethod(GrayscaleV2.kernel)


class _Table(Chance):
    """A step that PIL does by look-up table."""

    as_tensor = False

    def accept(self, spec: Spec) -> Spec | str:
        """L and RGB, and tensors of one or three channels."""
        if spec.kind == "pil":
            return spec if spec.mode in ("L", "RGB") else f"PIL does not do this to mode {spec.mode}"
        if spec.channels not in (1, 3):
            return f"torchvision takes no {spec.channels} channels here"
        if spec.dtype not in (torch.uint8, torch.float32):
            return f"{spec.dtype} is left to torchvision"
        return spec


class RandomInvert(_Table):
    """``v1.RandomInvert``."""

    def function(self, spec: Spec) -> Function:
        """Invert."""
        function: Function = torch.bitwise_not if spec.dtype == torch.uint8 else v1.invert
        return function


class RandomPosterize(_Table):
    """``v1.RandomPosterize``."""

    def accept(self, spec: Spec) -> Spec | str:
        """Bytes only, and 0 to 8 bits."""
        if spec.dtype != torch.uint8:
            return f"{spec.dtype} is left to torchvision"
        if not isinstance(self.t.bits, int) or not (spec.kind == "pil") <= self.t.bits <= 8:
            return f"bits is {self.t.bits!r}"
        return super().accept(spec)

    def function(self, spec: Spec) -> Function:
        """Keep the high bits."""
        mask = 256 - (1 << (8 - self.t.bits))
        return lambda x: x & mask


class RandomSolarize(_Table):
    """``v1.RandomSolarize``."""

    def accept(self, spec: Spec) -> Spec | str:
        """Thresholds that torchvision takes."""
        if spec.kind == "tensor" and self.t.threshold > (255 if spec.dtype == torch.uint8 else 1):
            return f"the threshold {self.t.threshold} is above the largest value"
        return super().accept(spec)

    def function(self, spec: Spec) -> Function:
        """Invert from the threshold on."""
        threshold = self.t.threshold
        if spec.dtype == torch.uint8:
            if spec.kind == "pil":  # which takes any number
                threshold = max(math.ceil(threshold), 0)
            return lambda x: x if threshold > 255 else (x >= threshold).view(torch.uint8).neg_().bitwise_xor_(x)
        return lambda x: v1.solarize(x, threshold)


class RandomAutocontrast(_Table):
    """``v1.RandomAutocontrast``."""

    prepare = Edited.prepare

    def function(self, spec: Spec) -> Function:
        """Stretch every channel."""
        if spec.kind == "pil":
            return _stretch
        function: Function = v1.autocontrast
        return function


def _stretch(x: Tensor) -> Tensor:
    """Pillow's ``ImageOps.autocontrast``: a table for each channel of each image, truncated to integers."""
    if not x.numel():
        return x
    if near(x.device) and Operation.AUTOCONTRAST in known():
        return edit_alike(x, make_edit(Operation.AUTOCONTRAST))
    low, high = (edge.to(torch.float64).unsqueeze(-1) for edge in (x.amin((-2, -1)), x.amax((-2, -1))))
    levels = torch.arange(256, dtype=torch.float64, device=x.device)
    scale = torch.full_like(high, 255.0) / (high - low)  # a plain number would be multiplied by the reciprocal
    table = torch.where(high > low, (levels * scale + -low * scale).trunc().clamp(0, 255), levels).to(torch.uint8)
    return table.gather(-1, x.flatten(-2).to(torch.int64)).view(x.shape)


class RandomAutocontrastV2(RandomAutocontrast):
    """``v2.RandomAutocontrast``."""

    as_tensor = True

    def function(self, spec: Spec) -> Function:
        """Stretch every channel."""
        if spec.kind == "pil":
            return _stretch
        function: Function = v2.autocontrast_image
        return function


class RandomInvertV2(RandomInvert):
    """``v2.RandomInvert``."""

    as_tensor = True

    def function(self, spec: Spec) -> Function:
        """Invert."""
        function: Function = v2.invert_image
        return function


class RandomPosterizeV2(RandomPosterize):
    """``v2.RandomPosterize``."""

    as_tensor = True


class RandomSolarizeV2(RandomSolarize):
    """``v2.RandomSolarize``."""

    as_tensor = True


class RGB(Step):
    """``v2.RGB``."""

    def accept(self, spec: Spec) -> Spec | str:
        """L, RGB and RGBA, and tensors."""
        if spec.kind == "pil":
            return (
                Spec.pil("RGB") if spec.mode in ("L", "RGB", "RGBA") else f"PIL has its own way from {spec.mode} to RGB"
            )
        if spec.channels == 2:
            return "torchvision takes no 2 channels here"
        return replace(spec, channels=max(spec.channels, 3))

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Repeat or drop channels."""
        spec = self.infer(batch.spec)
        assert isinstance(spec, Spec)
        if batch.spec.channels == spec.channels:
            return batch
        if batch.spec.channels == 1:
            return batch.map(lambda x: x.expand(*x.shape[:-3], 3, *x.shape[-2:]).contiguous(), spec)
        return batch.map(lambda x: x[..., :3, :, :].contiguous(), spec)
