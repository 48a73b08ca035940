"""Images: PIL images of any raw mode, as their pixels.

The pixels of a row are C-contiguous, height × width × channels (or channels first), in the mode's dtype; mode "1" is
one byte a pixel. Sizes and modes that vary from sample to sample are columns of their own, as are palettes. What is not
pixels (``Image.info``: EXIF, ICC profiles, text) is not kept; a palette's transparency becomes its alpha.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from lmdbpipe.codecs.base import OFFSET, Array, Arrays, Codec, Column, MismatchError, check_ends, ends, span
from lmdbpipe.modes import MODES, image_of, palette_of

_MODE = np.dtype("S5")
_BYTE = np.dtype("u1")


@dataclasses.dataclass(frozen=True)
class ImageCodec(Codec):
    """PIL images.

    Attributes:
        mode: The PIL mode of all images; None where modes vary.
        size: (height, width) in pixels of all images; None where sizes vary.
        layout: ``HWC`` or ``CHW``, the order of a row's axes.
        palette: Whether any image has a palette (mode P).
        as_tensor: Whether a sample is the uint8 C×H×W tensor that torchvision's PILToTensor makes of the image, because
            that was the last step baked in.
    """

    mode: str | None
    size: tuple[int, int] | None
    layout: str = "HWC"
    palette: bool = False
    as_tensor: bool = False

    name: ClassVar[str] = "image"
    roles: ClassVar[tuple[str, ...]] = ("pixels", "shape", "mode", "palette", "palette_offsets")

    @classmethod
    def of(cls, value: Any) -> ImageCodec | None:
        """Take any PIL image of a mode in `MODES`."""
        if not isinstance(value, Image.Image):
            return None
        if value.mode not in MODES:
            raise MismatchError(
                f"a PIL image of mode {value.mode!r} cannot be stored; the modes are {', '.join(MODES)}"
            )
        return cls(value.mode, (value.height, value.width), palette=value.mode == "P")

    def join(self, other: ImageCodec) -> ImageCodec:
        """Let mode and size vary where they differ; the rest was decided for all."""
        return dataclasses.replace(
            self,
            mode=self.mode if self.mode == other.mode else None,
            size=self.size if self.size == other.size else None,
            palette=self.palette or other.palette,
        )

    def columns(self) -> tuple[Column, ...]:
        """List pixels, and what varies."""
        dtype = MODES[self.mode].dtype if self.mode else _BYTE
        shape = self._shape(self.mode, self.size) if self.mode and self.size else None
        columns = [Column("pixels", dtype, shape)]
        if not self.size:
            columns.append(Column("shape", OFFSET, (2,)))
        if not self.mode:
            columns.append(Column("mode", _MODE, ()))
        if self.palette:
            columns += [Column("palette", _BYTE, None), Column("palette_offsets", OFFSET, ())]
        return tuple(columns)

    def encode(self, values: Sequence[Image.Image]) -> dict[str, Array]:
        """Concatenate the pixels of a chunk's images."""
        rows = [self._row(value) for value in values]
        if self.mode and self.size:
            arrays = {"pixels": np.stack(rows)}
        else:
            dtype = MODES[self.mode].dtype if self.mode else _BYTE
            arrays = {"pixels": np.concatenate([row.reshape(-1).view(dtype) for row in rows])}
        if not self.size:
            arrays["shape"] = np.array([(value.height, value.width) for value in values], OFFSET)
        if not self.mode:
            arrays["mode"] = np.array([value.mode for value in values], _MODE)
        if self.palette:
            palettes = [palette_of(value) for value in values]
            arrays["palette"] = np.frombuffer(b"".join(palettes), _BYTE)
            arrays["palette_offsets"] = ends([len(palette) for palette in palettes])
        return arrays

    def widen(self, narrower: ImageCodec, length: int) -> dict[str, Array]:
        """Repeat the one size and mode of earlier samples, which had no palette."""
        arrays: dict[str, Array] = {}
        if not self.size and narrower.size:
            arrays["shape"] = np.tile(np.array(narrower.size, OFFSET), (length, 1))
        if not self.mode and narrower.mode:
            arrays["mode"] = np.full(length, narrower.mode, _MODE)
        if self.palette and not narrower.palette:
            arrays |= {"palette": np.empty(0, _BYTE), "palette_offsets": np.zeros(length, OFFSET)}
        return arrays

    def rows(self, arrays: Arrays, length: int) -> ImageRows:
        """Read a chunk's images."""
        return ImageRows(self, arrays, length)

    def dense(self) -> Column | None:
        """Pixels stack where mode and size are the same for all."""
        return self.columns()[0] if self.mode and self.size else None

    def stack(self, rows: torch.Tensor) -> torch.Tensor:
        """Give an N×C×H×W tensor; where rows are stored H×W×C, a view in the ``channels_last`` memory format."""
        return rows if self.layout == "CHW" else rows.permute(0, 3, 1, 2)

    def check(self, arrays: Arrays, length: int) -> list[str]:
        """Check modes, sizes, palettes and the length of the pixels."""
        problems = []
        if not self.mode:
            unknown = sorted({str(mode, "ascii", "replace") for mode in arrays["mode"].tolist()} - MODES.keys())
            problems += [f"mode: {mode!r} is not a mode" for mode in unknown]
        if not self.size and (arrays["shape"] < 0).any():
            problems.append("shape: a size is negative")
        if self.palette:
            problems += check_ends(arrays["palette_offsets"], len(arrays["palette"]))
        if problems:
            return problems
        rows = self.rows(arrays, length)
        if self.dense() is None and rows.total_bytes != arrays["pixels"].nbytes:
            return [f"pixels: {arrays['pixels'].nbytes} bytes, but the sizes say {rows.total_bytes}"]
        return super().check(arrays, length) if self.palette else []

    def _row(self, value: Image.Image) -> Array:
        array = np.asarray(value)
        if array.dtype == np.bool_:
            array = array.view(_BYTE) != 0  # PIL's True is the byte 255, which is none to torch
        if array.dtype != MODES[value.mode].dtype:
            array = array.astype(MODES[value.mode].dtype)
        array = array.reshape(value.height, value.width, MODES[value.mode].channels)
        return np.ascontiguousarray(array if self.layout == "HWC" else array.transpose(2, 0, 1))

    def _shape(self, mode: str, size: tuple[int, int]) -> tuple[int, int, int]:
        channels = MODES[mode].channels
        return (*size, channels) if self.layout == "HWC" else (channels, *size)


class ImageRows:
    """The images of a chunk."""

    def __init__(self, codec: ImageCodec, arrays: Arrays, length: int) -> None:
        self._codec = codec
        self._arrays = arrays
        self._ends = None if codec.dense() else ends(self._row_bytes(length))

    @property
    def total_bytes(self) -> int:
        """The bytes that all rows take by their modes and sizes."""
        return int(self._ends[-1]) if self._ends is not None and len(self._ends) else 0

    def mode(self, row: int) -> str:
        """The PIL mode of a row's image."""
        return self._codec.mode or self._arrays["mode"].item(row).decode("ascii")

    def size(self, row: int) -> tuple[int, int]:
        """The (height, width) of a row's image."""
        return self._codec.size or tuple(self._arrays["shape"][row].tolist())

    def span(self, row: int) -> slice:
        """The bytes of the pixels column that hold a row."""
        if self._ends is None:
            step = self._arrays["pixels"][0].nbytes
            return slice(row * step, (row + 1) * step)
        return span(self._ends, row)

    def array(self, row: int) -> Array:
        """A row's pixels as stored: a view into the map, for this package's own use."""
        pixels = self._arrays["pixels"]
        if self._ends is None:
            return pixels[row]  # type: ignore[no-any-return]
        mode = self.mode(row)
        flat = pixels.view(_BYTE)[self.span(row)].view(MODES[mode].dtype)
        return flat.reshape(self._codec._shape(mode, self.size(row)))

    def image(self, row: int) -> Image.Image:
        """A row's PIL image."""
        array = self.array(row)
        if self._codec.layout == "CHW":
            array = array.transpose(1, 2, 0)
        return image_of(array, self.mode(row), self.palette(row))

    def palette(self, row: int) -> bytes:
        """A row's palette, as one byte that counts a colour's channels and then the colours; empty if it has none."""
        if not self._codec.palette:
            return b""
        return self._arrays["palette"][span(self._arrays["palette_offsets"], row)].tobytes()

    def sample(self, row: int) -> Any:
        """A row's PIL image, or its tensor where that is what was baked in."""
        return pil_to_tensor(self.image(row)) if self._codec.as_tensor else self.image(row)

    def batch_item(self, row: int) -> torch.Tensor:
        """A row's image as PILToTensor gives it: a C×H×W tensor."""
        array = self.array(row)
        return torch.from_numpy(np.array(array if self._codec.layout == "CHW" else array.transpose(2, 0, 1), order="K"))

    def _row_bytes(self, length: int) -> Array:
        """The bytes that each row takes by its mode and size."""
        modes = np.array([self._codec.mode], _MODE) if self._codec.mode else self._arrays["mode"]
        known, numbers = np.unique(modes, return_inverse=True)
        formats = [MODES[mode.decode("ascii")] for mode in known.tolist()]
        pixel = np.array([form.channels * form.dtype.itemsize for form in formats], np.int64)
        area = np.prod(self._codec.size or self._arrays["shape"], axis=-1, dtype=np.int64)
        return np.broadcast_to(area * pixel[numbers], length)
