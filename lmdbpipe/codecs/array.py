"""Arrays: torch tensors and NumPy arrays of any plain dtype, bit for bit.

A torch dtype that NumPy lacks (bfloat16, the float8s) is stored as unsigned integers of its width. Big-endian arrays
are stored little-endian, structured ones without padding, and come back as they were. A zero-dimensional or empty array
is an array like any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.lib.recfunctions import repack_fields
from torchvision import tv_tensors

from lmdbpipe.codecs.base import OFFSET, Array, Arrays, Codec, Column, MismatchError, as_tuples, ends, span

_TENSORS: dict[str, type[torch.Tensor]] = {
    "torch": torch.Tensor,
    "tv_tensors.Image": tv_tensors.Image,
    "tv_tensors.Mask": tv_tensors.Mask,
    "tv_tensors.Video": tv_tensors.Video,
}
_KINDS = {cls: kind for kind, cls in _TENSORS.items()} | {torch.nn.Parameter: "torch"}
_UNSIGNED = {1: (torch.uint8, "<u1"), 2: (torch.int16, "<u2"), 4: (torch.int32, "<u4")}


@dataclasses.dataclass(frozen=True)
class ArrayCodec(Codec):
    """Tensors and arrays of one dtype and number of dimensions.

    Attributes:
        kind: ``numpy``, or the tensor class: ``torch``, ``tv_tensors.Image``, ``tv_tensors.Mask`` or
            ``tv_tensors.Video``.
        dtype: The torch dtype's name, or NumPy's description of the dtype (as in the .npy format).
        ndim: Number of dimensions.
        shape: The shape of all arrays; None where shapes vary.
    """

    kind: str
    dtype: Any
    ndim: int
    shape: tuple[int, ...] | None

    name: ClassVar[str] = "array"
    roles: ClassVar[tuple[str, ...]] = ("data", "shape")

    @classmethod
    def of(cls, value: Any) -> ArrayCodec | None:
        """Take a dense CPU tensor, or a NumPy array without Python objects."""
        if isinstance(value, torch.Tensor):
            return cls(_tensor_kind(value), str(value.dtype).removeprefix("torch."), value.ndim, tuple(value.shape))
        if not isinstance(value, np.ndarray):
            return None
        if type(value) is not np.ndarray:
            raise MismatchError(f"a {type(value).__name__} cannot be stored exactly; convert it to a plain NumPy array")
        if value.dtype.hasobject:
            raise MismatchError("a NumPy array of Python objects cannot be stored; convert it to a plain dtype")
        codec = cls("numpy", as_tuples(np.lib.format.dtype_to_descr(value.dtype)), value.ndim, value.shape)
        if not value.dtype.itemsize or codec._numpy_dtype() != value.dtype:
            raise MismatchError(f"a NumPy array of dtype {value.dtype} cannot be stored exactly; convert it")
        return codec

    def join(self, other: ArrayCodec) -> ArrayCodec:
        """Let the shape vary where it differs."""
        if (self.kind, self.dtype, self.ndim) != (other.kind, other.dtype, other.ndim):
            raise MismatchError(f"the samples before have {self._describe()}, this one {other._describe()}")
        return self if self.shape == other.shape else dataclasses.replace(self, shape=None)

    def columns(self) -> tuple[Column, ...]:
        """List the data, and the shape if it varies."""
        data = Column("data", self._stored_dtype(), self.shape)
        return (data,) if self.shape is not None else (data, Column("shape", OFFSET, (self.ndim,)))

    def encode(self, values: Sequence[Any]) -> dict[str, Array]:
        """Stack, or concatenate, a chunk's arrays."""
        rows = [self._stored(value) for value in values]
        if self.shape is not None:
            return {"data": np.stack(rows)}
        shapes = np.array([row.shape for row in rows], OFFSET).reshape(len(rows), self.ndim)
        return {"data": np.concatenate([row.reshape(-1) for row in rows]), "shape": shapes}

    def widen(self, narrower: ArrayCodec, length: int) -> dict[str, Array]:
        """Repeat the one shape of earlier samples."""
        if self.shape is not None or narrower.shape is None:
            return {}
        return {"shape": np.tile(np.array(narrower.shape, OFFSET), (length, 1))}

    def rows(self, arrays: Arrays, length: int) -> ArrayRows:
        """Read a chunk's arrays."""
        return ArrayRows(self, arrays)

    def dense(self) -> Column | None:
        """Arrays of one shape stack, where torch has their dtype."""
        return self.columns()[0] if self.shape is not None and self._torch_dtype() is not None else None

    def stack(self, rows: torch.Tensor) -> torch.Tensor:
        """Give a tensor of the source's dtype."""
        dtype = self._torch_dtype()
        return rows.view(dtype) if self.kind != "numpy" and dtype is not None else rows

    def check(self, arrays: Arrays, length: int) -> list[str]:
        """Check that shapes are possible and make up the data."""
        if self.shape is not None:
            return []
        if (arrays["shape"] < 0).any():
            return ["shape: a dimension is negative"]
        total = sum(math.prod(shape) for shape in arrays["shape"].tolist())
        return [] if total == len(arrays["data"]) else [f"data: {len(arrays['data'])} items, but shapes say {total}"]

    def restore(self, row: Array) -> Any:
        """Give a stored row back as the source's kind, in memory of its own."""
        if self.kind == "numpy":
            return np.array(row, self._numpy_dtype())
        tensor = torch.from_numpy(np.array(row)).view(getattr(torch, self.dtype))
        return tensor if self.kind == "torch" else tensor.as_subclass(_TENSORS[self.kind])

    def _stored(self, value: Any) -> Array:
        if self.kind == "numpy":
            return np.ascontiguousarray(value, self._stored_dtype()).reshape(value.shape)
        plain: torch.Tensor = value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().contiguous()
        unsigned = self._stored_unsigned()
        return (plain.view(unsigned[0]) if unsigned else plain).numpy().astype(self._stored_dtype(), copy=False)

    def _stored_unsigned(self) -> tuple[torch.dtype, str] | None:
        """How a torch dtype that NumPy lacks is stored; None for those it has."""
        dtype = getattr(torch, self.dtype)
        try:
            torch.empty(0, dtype=dtype).numpy()
        except (TypeError, RuntimeError):
            return _UNSIGNED[dtype.itemsize]
        return None

    def _stored_dtype(self) -> np.dtype[Any]:
        if self.kind == "numpy":
            return repack_fields(self._numpy_dtype().newbyteorder("<"), recurse=True)
        unsigned = self._stored_unsigned()
        dtype = np.dtype(unsigned[1]) if unsigned else torch.empty(0, dtype=getattr(torch, self.dtype)).numpy().dtype
        return dtype.newbyteorder("<")

    def _numpy_dtype(self) -> np.dtype[Any]:
        return np.lib.format.descr_to_dtype(_descr(self.dtype))

    def _torch_dtype(self) -> torch.dtype | None:
        """The dtype that torch gives a batch; None if it has none."""
        if self.kind != "numpy":
            return getattr(torch, self.dtype)  # type: ignore[no-any-return]
        try:
            return torch.from_numpy(np.empty(0, self._numpy_dtype())).dtype
        except (TypeError, ValueError):
            return None

    def _describe(self) -> str:
        kind = "a NumPy array" if self.kind == "numpy" else f"a {self.kind} tensor"
        return f"{kind} of dtype {self.dtype} with {self.ndim} dimensions"


class ArrayRows:
    """The arrays of a chunk."""

    def __init__(self, codec: ArrayCodec, arrays: Arrays) -> None:
        self._codec = codec
        self._data = arrays["data"]
        self._shapes = None if codec.shape is not None else arrays["shape"]
        self._ends = None if self._shapes is None else ends(self._shapes.prod(axis=1))

    def array(self, row: int) -> Array:
        """A row as stored: a view into the map, for this package's own use."""
        if self._shapes is None or self._ends is None:
            return self._data[row, ...]
        return self._data[span(self._ends, row)].reshape(self._shapes[row])

    def sample(self, row: int) -> Any:
        """A row as the source gave it."""
        return self._codec.restore(self.array(row))

    def batch_item(self, row: int) -> Any:
        """A row as a tensor where torch has its dtype, else as the source gave it."""
        value = self.sample(row)
        if self._codec.kind == "numpy" and self._codec._torch_dtype() is not None:
            return torch.from_numpy(value)
        return value


def _tensor_kind(value: torch.Tensor) -> str:
    kind = _KINDS.get(type(value))
    if kind is None:
        raise MismatchError(f"a {type(value).__name__} cannot be stored exactly; convert it to a plain tensor")
    if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
        raise MismatchError(
            f"a tensor must be dense and on the CPU, got {value.layout} on {value.device}; call .cpu() or .to_dense()"
        )
    return kind


def _descr(description: Any) -> Any:
    """Give a dtype's description the form that NumPy reads: a structured one is a list of its fields."""
    if isinstance(description, str):
        return description
    return [(name, _descr(field), *shape) for name, field, *shape in description]
