"""The contract of a lowered step, and what a step may know about the images that reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from lmdbpipe.modes import MODES, TORCH_DTYPES
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.streams import Words

if TYPE_CHECKING:
    from lmdbpipe.transforms.batch import Batch

Params = Any
"""What a step drew for a batch: None, arrays [n, ...], or a structure of them; only the step that made it reads it."""


@dataclass(frozen=True)
class Spec:
    """What is the same for all images of a batch, and decides whether and how a step can be batched.

    Attributes:
        kind: ``"pil"`` for what torchvision holds as PIL images, ``"tensor"``, or ``"object"`` for anything else.
        mode: The PIL mode; empty for other kinds.
        dtype: Of the pixels.
        channels: Of the pixels.
        image: Whether tensors are `torchvision.tv_tensors.Image`.
        hwc: Whether torchvision would hold a tensor as CxHxW strides over HxWxC memory, as it does after
            ``PILToTensor``. Kernels may choose their way by it.
        crops: How many such images a sample is a tuple of; 0 where it is one image.
    """

    kind: str
    mode: str = ""
    dtype: torch.dtype = torch.uint8
    channels: int = 0
    image: bool = False
    hwc: bool = False
    crops: int = 0

    @classmethod
    def pil(cls, mode: str) -> Spec:
        """Images of a PIL mode."""
        return cls("pil", mode, TORCH_DTYPES[MODES[mode].dtype], MODES[mode].channels)

    @property
    def tensor_type(self) -> type:
        """The Python type of one sample."""
        if self.kind == "pil":
            return Image.Image
        return tv_tensors.Image if self.image else Tensor

    def __str__(self) -> str:
        if self.crops:
            return f"{self.crops} of {replace(self, crops=0)}"
        if self.kind == "pil":
            return f"PIL {self.mode}"
        if self.kind == "object":
            return "an object"
        return f"{'Image' if self.image else 'tensor'} {str(self.dtype)[6:]}x{self.channels}"


def spec_of(value: Any) -> Spec:
    """Describe one sample."""
    if isinstance(value, Image.Image):
        return Spec.pil(value.mode) if value.mode in MODES else Spec("object")
    if type(value) in (Tensor, tv_tensors.Image) and value.ndim == 3 and not value.requires_grad:
        if value.device.type != "cpu" or value.layout != torch.strided:
            return Spec("object")
        hwc = value.shape[0] > 1 and not value.is_contiguous() and value.permute(1, 2, 0).is_contiguous()
        return Spec("tensor", "", value.dtype, value.shape[0], isinstance(value, tv_tensors.Image), hwc)
    return Spec("object")


class Step:
    """One torchvision transform in batched form.

    A subclass overrides `accept` and `apply`; and where it draws, `words`, `decode` and `draw`. Attributes of the
    transform are read when they are needed, so that changing one (``crop.padding = 2``) takes effect.

    Args:
        transform: The user's own object, of exactly the class that the table names.
    """

    words: int = 0
    """Words of a sample's stream that `decode` needs."""
    draws = False
    """Whether torchvision's own class takes random numbers."""

    images = "sometimes lost"
    """What becomes of an `Image` where this is a class of version 1: ``"kept"``, ``"lost"`` or ``"sometimes lost"``."""
    exact = True
    """Whether resizing must be PIL's; set by `lower`."""

    @property
    def anywhere(self) -> bool:
        """Whether pixels may be on any device; if not, NumPy or PIL must see them."""
        return True

    def __init__(self, transform: Any) -> None:
        self.t = transform

    @property
    def is_v2(self) -> bool:
        """Whether torchvision's class is of version 2."""
        return type(self.t).__module__.startswith("torchvision.transforms.v2.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.t).__name__})"

    def prepare(self) -> None:
        """Load or compile what the first batch would wait for; see `Lowered.prepare`."""

    def infer(self, spec: Spec) -> Spec | str:
        """Say what comes out for what comes in, or in words why it is not batched."""
        if spec.crops:
            return self._infer_tuple(spec)
        kept = self.kept(spec)
        if kept is not spec and self.images == "sometimes lost":
            return "version 1 makes plain tensors of some of v2's Images here, and others not"
        return self.accept(kept)

    def _infer_tuple(self, spec: Spec) -> Spec | str:
        """As `infer` for tuples of images, which torchvision's version 2 takes apart."""
        if not self.is_v2:
            return "it is given tuples, which only version 2 takes apart"
        if spec.kind == "tensor" and not spec.image:
            return "of several plain tensors, version 2 changes the first only"
        out = self.infer(replace(spec, crops=0))
        if isinstance(out, str):
            return out
        return "it would make tuples of tuples" if out.crops else replace(out, crops=spec.crops)

    def kept(self, spec: Spec) -> Spec:
        """The spec, less that tensors are `Image` where this is a class of version 1 that does not know them."""
        unknown = spec.image and self.images != "kept"
        if unknown and type(self.t).__module__ == "torchvision.transforms.transforms":
            return replace(spec, image=False)
        return spec

    def accept(self, spec: Spec) -> Spec | str:
        """As `infer`, without regard to what version 1 makes of `torchvision.tv_tensors.Image`."""
        raise NotImplementedError

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """How many 32-bit words torchvision's class takes from torch's generator for each sample; None if it varies."""
        return self.words

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Turn random words into what the step needs for n samples.

        Args:
            words: uint32 [n, `words`] or [n, `fixed`].
            spec: Of what comes in.
            size: (height, width) of what comes in.

        Returns:
            The parameters, and the sizes of what comes out.
        """
        return None, self.resized(spec, size)

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """Draw for one sample from the global generators by the calls that torchvision makes.

        Returns:
            One sample's parameters, and its size after the step.
        """
        return None, self.resized(spec, size)

    def stack(self, ones: Sequence[Any]) -> Params:
        """Make the parameters of n samples, as `decode` does, from those that `draw` gave for each."""
        return None

    def resized(self, spec: Spec, size: Any) -> Any:
        """The size that comes out of a step that draws nothing."""
        return size

    def extent(self, spec: Spec, size: Size) -> Size:
        """The size that comes out, where it does not depend on what is drawn."""
        extent: Size = self.resized(spec, size)
        return extent

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Apply the step to a batch."""
        raise NotImplementedError


def held(image: Tensor, *, hwc: bool) -> Tensor:
    """Give an image [C, H, W] the strides that torchvision would see, by `Spec.hwc`."""
    if not hwc:
        return image
    return torch.from_numpy(image.numpy().transpose(1, 2, 0).copy(order="C")).permute(2, 0, 1)


def uniform(words: Words) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The numbers that ``torch.rand`` makes of words: multiples of 2**-24 in [0, 1)."""
    return (words & np.uint32(0xFFFFFF)) * np.float64(2**-24)


def between(numbers: Any, limits: Sequence[float]) -> Any:
    """Stretch numbers in [0, 1) to an interval."""
    return limits[0] + numbers * (limits[1] - limits[0])


def below(words: Words, p: float, *, as_tensor: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether ``torch.rand(1) < p``; comparing as a tensor rounds p to float32 first, comparing an item does not."""
    return uniform(words) < (float(np.float32(p)) if as_tensor else p)
