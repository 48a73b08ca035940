"""To tensors, between dtypes, and normalising: elementwise, so it waits until pixels move (`Batch.compute`).

The operations are torchvision's own, on a batch instead of a sample: ``to(float32).div(255)`` in version 1,
``to(float32).mul(1 / 255)`` in version 2, ``sub(mean).div(std)``. Their results are the same bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

from lmdbpipe.transforms.arithmetic import Arithmetic
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.bytewise import prepare
from lmdbpipe.transforms.step import Params, Spec, Step

_LARGEST = {torch.bool: 1, torch.uint8: 255, torch.int8: 127, torch.int16: 32767, torch.uint16: 65535}
_LARGEST |= {torch.int32: 2147483647, torch.int64: 9223372036854775807}
_NOT_PIL = "torchvision takes no PIL image here"


def _tensor(spec: Spec) -> Spec:
    if spec.kind != "pil":
        return spec
    return replace(spec, kind="tensor", mode="", hwc=spec.channels > 1)


class _Computing(Step):
    """A step that leaves elementwise operations to be done when pixels move."""

    def prepare(self) -> None:
        """Load or compile what bytes become floats with."""
        prepare()


class ToTensor(_Computing):
    """``v1.ToTensor``: bytes become floats in [0, 1]; wider pixels keep their values."""

    def accept(self, spec: Spec) -> Spec | str:
        """PIL images."""
        if spec.kind != "pil":
            return "torchvision takes only PIL images and arrays here"
        dtype = {"I": torch.int32, "I;16": torch.int16, "F": torch.float32}.get(spec.mode, torch.get_default_dtype())
        return Spec("tensor", "", dtype, spec.channels)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Convert, and scale bytes."""
        spec = self.infer(batch.spec)
        assert isinstance(spec, Spec)
        if batch.palettes is not None:
            batch = replace(batch, palettes=None)
        if batch.spec.dtype == spec.dtype:
            return replace(batch, spec=spec)
        operations = [Arithmetic("to", spec.dtype)]
        if batch.spec.dtype == torch.uint8:
            operations.append(Arithmetic("div_", 255))
        return batch.compute(spec, *operations)


class ToTensorV2(ToTensor):
    """``v2.ToTensor``, which lets tensors pass."""

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return super().accept(spec) if spec.kind == "pil" else spec

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Convert PIL images."""
        return super().apply(batch, params) if batch.spec.kind == "pil" else batch


class PILToTensor(Step):
    """``v1.PILToTensor``: the pixels as they are."""

    def accept(self, spec: Spec) -> Spec | str:
        """PIL images."""
        return _tensor(spec) if spec.kind == "pil" else "torchvision takes only PIL images here"

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Only the name changes."""
        spec = self.infer(batch.spec)
        assert isinstance(spec, Spec)
        return replace(batch, spec=spec, palettes=None if spec.kind == "tensor" else batch.palettes)


class PILToTensorV2(PILToTensor):
    """``v2.PILToTensor``, which lets tensors pass."""

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return _tensor(spec)


class ToImage(PILToTensor):
    """``v2.ToImage``: the pixels as they are, as `torchvision.tv_tensors.Image`."""

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return replace(_tensor(spec), image=True)


class ToPureTensor(PILToTensor):
    """``v2.ToPureTensor``."""

    def accept(self, spec: Spec) -> Spec | str:
        """Any image; PIL images pass."""
        return replace(spec, image=False)


class Identity(PILToTensor):
    """``v2.Identity`` and `torch.nn.Identity`."""

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        return spec


class ConvertImageDtype(_Computing):
    """``v1.ConvertImageDtype``."""

    def accept(self, spec: Spec) -> Spec | str:
        """Tensors."""
        if spec.kind == "pil":
            return _NOT_PIL
        return self._converted(spec, self.t.dtype)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Convert and scale."""
        dtype, spec = self.t.dtype, self.infer(batch.spec)
        assert isinstance(spec, Spec)
        if batch.spec.dtype == dtype:
            return batch
        if not dtype.is_floating_point:
            return batch.map(lambda x: v1.convert_image_dtype(x, dtype), spec)
        operations = [Arithmetic("to", dtype)]
        if not batch.spec.dtype.is_floating_point:
            operations.append(Arithmetic("div_", float(_LARGEST[batch.spec.dtype])))
        return batch.compute(spec, *operations)

    def _converted(self, spec: Spec, dtype: torch.dtype) -> Spec | str:
        known = all(each.is_floating_point or each in _LARGEST for each in (spec.dtype, dtype))
        return replace(spec, dtype=dtype) if known else f"{spec.dtype} to {dtype} is left to torchvision"


class ConvertImageDtypeV2(ConvertImageDtype):
    """``v2.ConvertImageDtype``: `ToDtype` with scale; PIL images pass."""

    scale = True

    def dtype(self, spec: Spec) -> Any:
        """The dtype to convert to; None for none."""
        return self.t.dtype

    def accept(self, spec: Spec) -> Spec | str:
        """Any image."""
        dtype = self.dtype(spec)
        if isinstance(dtype, str):
            return dtype
        return spec if spec.kind == "pil" or dtype is None else self._converted(spec, dtype)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Convert and scale."""
        dtype, spec = self.dtype(batch.spec), self.infer(batch.spec)
        assert isinstance(spec, Spec)
        if spec == batch.spec:
            return batch
        if not self.scale or (dtype.is_floating_point and batch.spec.dtype.is_floating_point):
            return batch.compute(spec, Arithmetic("to", dtype))
        if not dtype.is_floating_point:
            return batch.map(lambda x: v2.to_dtype_image(x, dtype, scale=True), spec)
        return batch.compute(spec, Arithmetic("to", dtype), Arithmetic("mul_", 1.0 / _LARGEST[batch.spec.dtype]))


class ToDtype(ConvertImageDtypeV2):
    """``v2.ToDtype``, of one dtype or of one for each type of sample."""

    @property
    def scale(self) -> bool:  # type: ignore[override]
        """Whether values are scaled."""
        return bool(self.t.scale)

    def dtype(self, spec: Spec) -> Any:
        """The dtype to convert to; None for none; words where torchvision warns or raises."""
        if isinstance(self.t.dtype, torch.dtype):
            return self.t.dtype
        if spec.kind == "pil":
            return None
        if spec.tensor_type not in self.t.dtype and "others" not in self.t.dtype:
            return f"no dtype is given for {spec.tensor_type.__name__}"
        dtype = self.t.dtype.get(spec.tensor_type, self.t.dtype.get("others"))
        return "scale is set but no dtype is given" if dtype is None and self.scale else dtype


class Normalize(_Computing):
    """``Normalize`` of both generations, in place in the output buffer."""

    images = "lost"

    def accept(self, spec: Spec) -> Spec | str:
        """Tensors of floats, with a mean and std for each channel or one for all."""
        if spec.kind == "pil":
            return _NOT_PIL
        if not spec.dtype.is_floating_point:
            return f"torchvision does not normalise {spec.dtype}"
        for name, values in (("mean", self.t.mean), ("std", self.t.std)):
            operand = torch.as_tensor(values, device="cpu")
            if operand.ndim not in (1, 3) or operand.numel() != len(operand) or len(operand) not in (1, spec.channels):
                return f"{name} does not fit {spec.channels} channels"
            if name == "std" and bool((operand.to(spec.dtype) == 0).any()):
                return "std is zero"
        return spec

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Subtract and divide."""
        operations = (Arithmetic("sub_", _numbers(self.t.mean)), Arithmetic("div_", _numbers(self.t.std)))
        return batch.compute(self.kept(batch.spec), *operations)


def _numbers(values: Any) -> tuple[float, ...]:
    """Give a sequence, an array or a tensor as numbers."""
    is_flat = isinstance(values, list | tuple) and not any(isinstance(value, list | tuple) for value in values)
    return tuple(map(float, values if is_flat else torch.as_tensor(values).flatten().tolist()))
