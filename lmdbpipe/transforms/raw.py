"""A batch of stored images, still in the memory map.

Nothing is copied until pixels are asked for, and then only those that a transform needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lmdbpipe.errors import TransformError
from lmdbpipe.mapped import view
from lmdbpipe.modes import TORCH_DTYPES, image_of, mode_of

Size = tuple[int, int] | NDArray[np.int64]
"""(height, width) in pixels of all images, or an [n, 2] array of them."""


@dataclass(frozen=True)
class RawImages:
    """Images as the reader hands them out: views into its map.

    The memory is never written to and never kept after the call that it was given to.

    Attributes:
        memory: One-dimensional uint8 bytes, tensor or array; may be read-only.
        offsets: int64 [n], the byte at which each image begins; need not be aligned, sorted or distinct.
        sizes: (height, width) of all images, or an int array [n, 2].
        mode: The PIL mode of all images, or a list of n. It fixes dtype and channels.
        layout: ``"HWC"`` or ``"CHW"``, the order of an image's axes in memory.
        palettes: For mode P, a palette for each image: one byte that counts a colour's channels (3 or 4), then the
            colours; empty for none.

    Example:
        >>> import numpy as np
        >>> memory = np.arange(2 * 2 * 2 * 3, dtype=np.uint8)
        >>> images = RawImages(memory, np.array([12, 0]), (2, 2), "RGB")
        >>> images.gather().shape
        torch.Size([2, 2, 2, 3])
        >>> images.pil(1).getpixel((0, 0))
        (0, 1, 2)
    """

    memory: Tensor | NDArray[np.uint8]
    offsets: NDArray[np.int64]
    sizes: Size
    mode: str | Sequence[str]
    layout: str = "HWC"
    palettes: Sequence[bytes] | None = None

    def __post_init__(self) -> None:
        if self.layout not in ("HWC", "CHW"):
            raise TransformError(f"layout is {self.layout!r}; it must be 'HWC' or 'CHW'")

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        size = f"{self.sizes[0]}x{self.sizes[1]}" if isinstance(self.sizes, tuple) else "varying sizes"
        mode = self.mode if isinstance(self.mode, str) else "varying modes"
        return f"RawImages({len(self)} images, {mode}, {size}, {self.layout})"

    @cached_property
    def array(self) -> NDArray[np.uint8]:
        """The memory as an array; not to be written to."""
        return self.memory.numpy() if isinstance(self.memory, Tensor) else self.memory

    @cached_property
    def tensor(self) -> Tensor:
        """The memory as a tensor; not to be written to."""
        if isinstance(self.memory, Tensor):
            return self.memory
        if self.memory.flags.writeable:
            return torch.from_numpy(self.memory)
        return view(self.memory, self.memory.__array_interface__["data"][0], len(self.memory))

    def mode_at(self, i: int) -> str:
        """The PIL mode of image i."""
        return self.mode if isinstance(self.mode, str) else self.mode[i]

    def size_at(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""
        if isinstance(self.sizes, tuple):
            return self.sizes
        height, width = self.sizes[i]
        return int(height), int(width)

    def image(self, i: int) -> NDArray[Any]:
        """View image i in the map: HxWxC or CxHxW as ``layout`` says, in the mode's dtype, perhaps unaligned."""
        mode = mode_of(self.mode_at(i))
        height, width = self.size_at(i)
        shape = (height, width, mode.channels) if self.layout == "HWC" else (mode.channels, height, width)
        return np.ndarray(shape, mode.dtype, self.array, int(self.offsets[i]))

    def hwc(self, i: int) -> NDArray[Any]:
        """View image i in the map as HxWxC, whatever the layout."""
        image = self.image(i)
        return image if self.layout == "HWC" else image.transpose(1, 2, 0)

    def pil(self, i: int) -> Image.Image:
        """Give image i as the PIL image that was stored; its pixels are copied."""
        return image_of(self.hwc(i), self.mode_at(i), self.palette(i))

    def palette(self, i: int) -> bytes:
        """The palette of image i; empty if it has none."""
        return self.palettes[i] if self.palettes is not None else b""

    def take(self, rows: NDArray[np.int64]) -> RawImages:
        """Give the images at some rows, in that order; nothing is copied."""
        listed = rows.tolist()
        return RawImages(
            self.memory,
            self.offsets[rows],
            self.sizes if isinstance(self.sizes, tuple) else self.sizes[rows],
            self.mode if isinstance(self.mode, str) else [self.mode[i] for i in listed],
            self.layout,
            None if self.palettes is None else [self.palettes[i] for i in listed],
        )

    def gather(self, out: Tensor | None = None) -> Tensor:
        """Copy images of one size and mode out of the map in one pass.

        Neighbours in the map are copied as one; otherwise rows are selected by byte offset.

        Args:
            out: Where to; made if not given. C-contiguous, of the result's shape and dtype.

        Returns:
            [n, H, W, C] or [n, C, H, W] as ``layout`` says, owned by the caller.
        """
        if not isinstance(self.mode, str) or not isinstance(self.sizes, tuple):
            raise TransformError("images of different sizes or modes do not stack; take them one at a time")
        mode = mode_of(self.mode)
        height, width = self.sizes
        shape = (height, width, mode.channels) if self.layout == "HWC" else (mode.channels, height, width)
        if out is None:
            out = torch.empty((len(self), *shape), dtype=TORCH_DTYPES[mode.dtype])
        stride = height * width * mode.channels * mode.dtype.itemsize
        if len(self) and stride:
            gather_bytes(self.tensor, self.offsets, stride, out.view(-1).view(torch.uint8))
        return out


def gather_bytes(memory: Tensor, starts: NDArray[np.int64], length: int, out: Tensor) -> None:
    """Copy ``length`` bytes from each start into ``out``, one after the other.

    Args:
        memory: One-dimensional uint8.
        starts: int64 [n], each in [0, len(memory) - length].
        length: Bytes, at least 1.
        out: uint8 [n * length].
    """
    count, first = len(starts), int(starts[0])
    low, high = int(starts.min()), int(starts.max())
    if low < 0 or high + length > len(memory):
        raise outside_error(memory, low, high - low + length)
    if high - first == (count - 1) * length and (count == 1 or bool((np.diff(starts) == length).all())):
        out.copy_(memory[first : first + count * length])
        return
    windows = memory.as_strided((len(memory) - length + 1, length), (1, 1), memory.storage_offset())
    torch.index_select(windows, 0, torch.from_numpy(starts), out=out.view(count, length))


def outside_error(memory: Tensor, begin: int, length: int) -> TransformError:
    """Say that some bytes are not all in a memory."""
    return TransformError(f"images lie at bytes {begin} to {begin + length} of a memory of {len(memory)} bytes")
