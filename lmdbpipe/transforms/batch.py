"""A batch on its way through lowered steps: pixels somewhere, and what is still to be done to them.

Geometry waits as `Windows`, arithmetic as a list of elementwise operations on a float buffer. Both are done when
something needs pixels, in blocks of images that stay in the cache: gather, crop, flip, lay out as CxHxW, convert, scale
and normalise are one trip through memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from lmdbpipe.modes import image_of, palette_of, pixels_of
from lmdbpipe.transforms.arithmetic import Arithmetic, compute, compute_into
from lmdbpipe.transforms.bytewise import compute_bytes
from lmdbpipe.transforms.gather import LARGE, Source, gather, gather_large, is_far, near, one, source_dtype
from lmdbpipe.transforms.pool import POOL
from lmdbpipe.transforms.raw import RawImages
from lmdbpipe.transforms.step import Spec
from lmdbpipe.transforms.windows import Bools, Ints, Windows, concatenate, join

BLOCK = 768 << 10
"""Bytes of output that arithmetic works on at a time, so that they stay in a core's own cache."""
GATHERED = 2 << 20
"""Pixels of small images that are gathered at a time."""


@dataclass(frozen=True)
class Batch:
    """n images of one `Spec`.

    Attributes:
        spec: What the images are after everything that is pending.
        source: Where pixels are: `RawImages`, a tensor [m, C, H, W], or a list of CxHxW tensors.
        windows: Which rectangle of which source image each output is.
        pending: Elementwise operations still to be done, the first of which converts the dtype.
        palettes: For mode P, a palette for each source image.
        device: Where pixels go as soon as they move; None leaves them where they are. Only for batches whose samples
            will not be asked for as PIL images.
        owned: Whether the source was made on the way, so that whoever gets this batch may keep it and write to it.
    """

    spec: Spec
    source: Source
    windows: Windows
    pending: tuple[Arithmetic, ...] = ()
    palettes: tuple[bytes, ...] | None = None
    device: torch.device | None = None
    owned: bool = False

    def __len__(self) -> int:
        return len(self.windows)

    @classmethod
    def of_raw(cls, images: RawImages) -> Batch:
        """Images of one mode in the map."""
        palettes = tuple(images.palettes) if images.palettes is not None and images.mode_at(0) == "P" else None
        if not isinstance(images.sizes, tuple):
            images = replace(images, sizes=join(images.sizes[:, 0], images.sizes[:, 1]))
        return cls(Spec.pil(images.mode_at(0)), images, Windows.full(len(images), images.sizes), palettes=palettes)

    @classmethod
    def of_samples(cls, spec: Spec, samples: Sequence[Any]) -> Batch:
        """PIL images or tensors of one spec."""
        palettes = None
        if spec.kind == "pil":
            tensors = [torch.from_numpy(pixels_of(sample)).permute(2, 0, 1) for sample in samples]
            if spec.mode == "P":
                palettes = tuple(palette_of(sample) for sample in samples)
        else:
            tensors = [sample.as_subclass(Tensor) for sample in samples]
        return cls.of_tensors(spec, tensors, palettes)

    @classmethod
    def of_tensors(
        cls,
        spec: Spec,
        pixels: Tensor | list[Tensor],
        palettes: tuple[bytes, ...] | None = None,
        *,
        owned: bool = False,
    ) -> Batch:
        """Pixels [n, C, H, W], or a list of [C, H, W]."""
        if isinstance(pixels, Tensor):
            size: Any = (pixels.shape[2], pixels.shape[3])
        else:
            sizes = np.array([tensor.shape[1:] for tensor in pixels], np.int64).reshape(-1, 2)
            size = join(sizes[:, 0], sizes[:, 1])
        return cls(spec, pixels, Windows.full(len(pixels), size), palettes=palettes, owned=owned)

    @property
    def size(self) -> Any:
        """(height, width) of all outputs, or an array [n, 2]."""
        return self.windows.size

    @property
    def dense(self) -> bool:
        """Whether all outputs are of one size."""
        return isinstance(self.windows.size, tuple)

    def take(self, picks: Ints) -> Batch:
        """Some of the images; nothing is copied."""
        return self.moved(self.windows.take(picks))

    def compute(self, spec: Spec, *operations: Arithmetic) -> Batch:
        """Do elementwise operations later."""
        pending = (*self.pending, *operations)
        return Batch(spec, self.source, self.windows, pending, self.palettes, self.device, self.owned)

    def moved(self, windows: Windows) -> Batch:
        """Take other rectangles of the same pixels."""
        return Batch(self.spec, self.source, windows, self.pending, self.palettes, self.device, self.owned)

    def pixels(self, *, pinned: bool = False) -> Tensor | list[Tensor]:
        """Do what is pending.

        Args:
            pinned: Whether the CPU's memory is to be pinned, from which copies to a GPU need not be waited for.

        Returns:
            A C-contiguous tensor [n, C, H, W] that nobody else holds; a list of [C, H, W] where sizes differ.
        """
        finished = None if pinned else self._finished
        if finished is not None:
            return finished
        if not isinstance(self.windows.size, tuple):
            return [self.take(np.array([i])).stacked(pinned=pinned)[0] for i in range(len(self))]
        return self.stacked(pinned=pinned)

    def stacked(self, *, pinned: bool = False) -> Tensor:
        """As `pixels`, for images of one size."""
        if self.device is not None and not is_far(self.source):
            return self.to(self.device).stacked()  # which is far, or waits for no device
        size = self.windows.size
        height, width = size if isinstance(size, tuple) else size[0].tolist()
        shape = (len(self), self.spec.channels, height, width)
        if is_far(self.source):
            return compute(self.pending, gather(self.source, self.windows, None))
        if source_dtype(self.source) == torch.bfloat16:
            return compute(self.pending, self._widened().stacked().to(torch.bfloat16))
        dtype = self.spec.dtype
        out = torch.empty(shape, dtype=dtype, pin_memory=True) if pinned else POOL.empty(shape, dtype)
        is_copy = not self.pending and isinstance(self.source, Tensor) and self.windows.is_identity
        if not out.numel() or (not is_copy and compute_bytes(self.source, self.windows, self.pending, out)):
            return out
        if not self.pending:
            gather(self.source, self.windows, out)
            return out
        image = self.spec.channels * height * width
        block = max(1, BLOCK // (image * out.element_size()))
        small = image * source_dtype(self.source).itemsize < LARGE
        stride = max(1, GATHERED // image) if small else block
        scratch = torch.empty((min(stride, len(self)), *shape[1:]), dtype=source_dtype(self.source))
        for begin in range(0, len(self), stride):
            end = min(begin + stride, len(self))
            some = scratch[: end - begin]
            if small:
                windows = self.windows.take(np.arange(begin, end)) if stride < len(self) else self.windows
                gather(self.source, windows, some)
            else:
                gather_large(self.source, self.windows, begin, some)
            for first in range(begin, end, block):
                last = min(first + block, end)
                compute_into(self.pending, some[first - begin : last - begin], out[first:last])
        return out

    def _widened(self) -> Batch:
        """The source as float32, which has all numbers of a dtype that NumPy lacks, with nothing pending."""
        source: Any = self.source
        wide = source.float() if isinstance(source, Tensor) else [tensor.float() for tensor in source]
        return replace(self, source=wide, pending=(), spec=replace(self.spec, dtype=torch.float32), owned=False)

    @property
    def _finished(self) -> Tensor | None:
        """The source, where that is what comes out, and nobody else's."""
        source = self.source
        if not self.owned or self.pending or self.device is not None or not isinstance(source, Tensor):
            return None
        whole = source.is_contiguous() and len(self) == len(source) and self.windows.is_identity
        return source if whole else None

    def map(self, function: Callable[[Tensor], Tensor], spec: Spec) -> Batch:
        """Apply a function of [..., C, H, W] to all images, at once where they are of one size."""
        done = self.now()
        if isinstance(done.source, Tensor):
            return Batch.of_tensors(spec, function(done.source), done.palettes, owned=True)
        assert isinstance(done.source, list)
        return Batch.of_tensors(spec, [function(tensor) for tensor in done.source], done.palettes)

    def map_where(self, mask: Bools, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function of [..., C, H, W], which keeps shape and dtype, to the images that a mask bool [n] picks."""
        if not mask.any():
            return self
        if mask.all():
            return self.map(function, self.spec)
        done = self.now()
        if isinstance(done.source, Tensor):
            rows = torch.from_numpy(np.flatnonzero(mask)).to(done.source.device, non_blocking=True)
            _put(done.source, rows, function(done.source.index_select(0, rows)))
            return done
        assert isinstance(done.source, list)
        pairs = zip(done.source, mask.tolist(), strict=True)
        return replace(done, source=[function(tensor) if on else tensor for tensor, on in pairs])

    def edited(self, spec: Spec, edit: Callable[[Tensor, Any], None], own: NDArray[Any]) -> Batch:
        """Let a function change images [k, C, H, W] in place, all of one size together; it gets what is their own."""
        source: Any = self.now().source
        if isinstance(source, Tensor):
            edit(source, own)
        else:
            for image, one_own in zip(source, own, strict=True):
                edit(image[None], one_own[None])
        return Batch.of_tensors(spec, source, owned=True)

    def to(self, device: torch.device) -> Batch:
        """Move pixels to a device as they are in the source's dtype, and go on there."""
        if near(device) and not is_far(self.source):
            return self
        raw = replace(self, pending=(), device=None, spec=replace(self.spec, dtype=source_dtype(self.source)))
        pinned = device.type == "cuda" and not is_far(self.source)
        pixels = raw.pixels(pinned=pinned)
        listed = pixels if isinstance(pixels, list) else [pixels]
        moved = [tensor.to(device, non_blocking=pinned) for tensor in listed]
        return replace(
            Batch.of_tensors(self.spec, moved if isinstance(pixels, list) else moved[0]), pending=self.pending
        )

    def bound_for(self, device: torch.device) -> Batch:
        """Let pixels go to a device once they move; what waits until then costs nothing here."""
        return self if near(device) else replace(self, device=device)

    def now(self) -> Batch:
        """Do what is pending, and go on from the result."""
        palettes = self.palettes and tuple(self.palettes[i] for i in self.windows.rows.tolist())
        return Batch.of_tensors(self.spec, self.pixels(), palettes, owned=True)

    def results(self) -> Tensor | list[Any]:
        """Give what a caller gets: one tensor where that is possible, else what `samples` gives."""
        if self.spec.kind == "pil":
            return self.samples()
        pixels = self.pixels()
        if isinstance(pixels, Tensor) or not self.spec.image:
            return pixels
        return [tv_tensors.Image(tensor) for tensor in pixels]

    def samples(self) -> list[Any]:
        """Give each image as torchvision would hold it: a PIL image, a tensor or an `Image`."""
        return [self.sample(i) for i in range(len(self))]

    def sample(self, i: int) -> Any:
        """Give one image as torchvision would hold it; only its own pixels are read."""
        if self.spec.kind == "pil":
            return self.pil(i)
        if self.pending or is_far(self.source) or self.spec.dtype == torch.bfloat16:
            tensor = self.take(np.array([i])).stacked()[0]
            if self.spec.hwc:
                tensor = tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        else:
            pixels = one(self.source, self.windows, i)
            pixels = np.array(pixels if self.spec.hwc else pixels.transpose(2, 0, 1), order="C")
            tensor = torch.from_numpy(pixels)
            tensor = tensor.permute(2, 0, 1) if self.spec.hwc else tensor
        return tv_tensors.Image(tensor) if self.spec.image else tensor

    def pil(self, i: int) -> Image.Image:
        """Give one image as a PIL image; only its own pixels are read."""
        palette = self.palettes[int(self.windows.rows[i])] if self.palettes else b""
        if self.pending:
            return self.take(np.array([i])).now().pil(0)
        return image_of(one(self.source, self.windows, i), self.spec.mode, palette)


def merge(parts: Sequence[tuple[Ints, Batch]]) -> Batch:
    """Put batches of one spec together.

    Args:
        parts: Batches, each with the places of its images in the result; together 0 to n - 1.
    """
    parts = [part for part in parts if len(part[0])]
    if len(parts) == 1:
        return parts[0][1]
    places = np.concatenate([places for places, _ in parts])
    first = parts[0][1]
    fills = {batch.windows.fill for _, batch in parts} - {None}
    if len(fills) <= 1 and all(b.source is first.source and b.pending == first.pending for _, b in parts):
        return first.moved(concatenate([b.windows for _, b in parts]).take(np.argsort(places)))
    done = [(places, batch.now()) for places, batch in parts]
    palettes = None
    if first.palettes is not None:
        by_place = {int(p): b.palettes[i] for ps, b in done for i, p in enumerate(ps) if b.palettes}
        palettes = tuple(by_place[i] for i in range(len(places)))
    sizes = {batch.size if batch.dense else None for _, batch in done}
    if len(sizes) == 1 and None not in sizes and isinstance(done[0][1].source, Tensor):
        example = done[0][1].source
        out = torch.empty((len(places), *example.shape[1:]), dtype=example.dtype, device=example.device)
        for where, batch in done:
            rows = torch.from_numpy(where).to(out.device, non_blocking=True)
            _put(out, rows, batch.source)  # type: ignore[arg-type]
        return Batch.of_tensors(first.spec, out, palettes)
    listed: list[Any] = [None] * len(places)
    for where, batch in done:
        tensors: Any = batch.source
        for place, tensor in zip(where.tolist(), tensors, strict=True):
            listed[place] = tensor
    return Batch.of_tensors(first.spec, listed, palettes)


def _put(target: Tensor, rows: Tensor, values: Tensor) -> None:
    """Copy values to some rows; as int16 where torch cannot with uint16."""
    if target.dtype == torch.uint16:
        target, values = target.view(torch.int16), values.view(torch.int16)
    target.index_copy_(0, rows, values)
