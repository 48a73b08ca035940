"""``Resize`` and ``RandomResizedCrop``.

Exact means the bits of PIL, and of torch for tensors: `lmdbpipe.transforms.resample` gives them where it can, elsewhere
PIL or torch, an image at a time. Only the pixels of a crop are ever read, and the results land in one buffer. With
``exact=False`` torchvision's antialiased uint8 kernel takes PIL's place (many images at once where their sizes are
equal), which is quicker than PIL itself; see `lmdbpipe.transforms.lower` for how far results then are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as v1
from torchvision.transforms.functional import _compute_resized_output_size, pil_modes_mapping
from torchvision.transforms.v2 import functional as v2
from torchvision.transforms.v2.functional._geometry import _check_interpolation

from lmdbpipe.modes import pixels_of
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.pool import POOL
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.resample import FILTERS, prepare, resample
from lmdbpipe.transforms.step import Params, Spec, Step, uniform
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import axes, join

_MODES = ("CMYK", "F", "HSV", "I", "I;16", "L", "LA", "RGB", "RGBA", "YCbCr")
_KERNELS = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.NEAREST)
ATTEMPTS = 10
"""How often torchvision tries to find a crop that fits."""


class Resize(Step):
    """``v1.Resize``."""

    version = 1

    def prepare(self) -> None:
        """For all filters but the one that takes the nearest pixel."""
        if pil_modes_mapping[_check_interpolation(self.t.interpolation)] in FILTERS:
            prepare()

    @property
    def anywhere(self) -> bool:
        """Not even with ``exact=False``: kernels of other devices differ, by nobody knows how much."""
        return False

    def accept(self, spec: Spec) -> Spec | str:
        """PIL images of modes that PIL resizes, and tensors."""
        if spec.kind == "pil" and spec.mode not in _MODES:
            return f"PIL resizes mode {spec.mode} in its own way"
        if spec.kind == "pil" and self.t.antialias is False:
            return "torchvision warns that antialias has no effect on PIL images"
        return spec

    def resized(self, spec: Spec, size: Any) -> Any:
        """By torchvision's rule for the shorter or longer edge."""
        wanted = [self.t.size] if isinstance(self.t.size, int) else self.t.size
        more = {"allow_size_none": True} if self.version == 2 else {}
        if isinstance(size, tuple):
            height, width = _compute_resized_output_size(size, wanted, self.t.max_size, **more)
            return int(height), int(width)
        rows = [_compute_resized_output_size(tuple(row), wanted, self.t.max_size, **more) for row in size.tolist()]
        resized = np.array(rows, np.int64)
        return join(resized[:, 0], resized[:, 1])

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Resize every image."""
        return resize(batch, self.resized(batch.spec, batch.size), self.t, version=self.version, exact=self.exact)


class ResizeV2(Resize):
    """``v2.Resize``."""

    version = 2


class RandomResizedCrop(Resize):
    """``v1.RandomResizedCrop``.

    Its parameters are four int64 arrays [n]: top, left, height and width.
    """

    words = 4 * ATTEMPTS
    draws = True

    def resized(self, spec: Spec, size: Any) -> Any:
        """Always the size given."""
        return int(self.t.size[0]), int(self.t.size[1])

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """It varies."""
        return None

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give the boxes; the first of ten that fits, else a central crop of the nearest aspect ratio."""
        count = len(words)
        height, width = (np.broadcast_to(np.asarray(extent), count)[:, None] for extent in axes(size))
        tries = words.reshape(count, ATTEMPTS, 4)
        low, high = self.t.scale
        area = height * width * (low + uniform(tries[..., 0]) * (high - low))
        low, high = np.log(self.t.ratio)
        ratio = np.exp(low + uniform(tries[..., 1]) * (high - low))
        w, h = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.argmax(axis=1)[:, None]
        w, h, j, i = (np.take_along_axis(a, first, 1)[:, 0] for a in (w, h, tries[..., 3], tries[..., 2]))
        height, width = height[:, 0], width[:, 0]
        found = fits.any(axis=1)
        tall, wide = _central(height, width, self.t.ratio)
        h, w = np.where(found, h, tall), np.where(found, w, wide)
        top = np.where(found, i.astype(np.int64) % (height - h + 1), (height - h) // 2)
        left = np.where(found, j.astype(np.int64) % (width - w + 1), (width - w) // 2)
        return (top, left, h, w), self.resized(spec, size)

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One box."""
        blank = torch.empty((spec.channels, *size), device="meta")
        return self.t.get_params(blank, self.t.scale, self.t.ratio), self.resized(spec, size)

    def stack(self, ones: Sequence[Any]) -> Params:
        """Give boxes."""
        boxes = np.array(ones, np.int64).reshape(-1, 4)
        return tuple(boxes.T)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Crop, and resize the crops."""
        top, left, height, width = params
        batch = _with_border(batch)
        batch = batch.moved(batch.windows.crop(top, left, join(height, width)))
        return resize(batch, self.resized(batch.spec, None), self.t, version=self.version, exact=self.exact)


class RandomResizedCropV2(RandomResizedCrop):
    """``v2.RandomResizedCrop``."""

    version = 2

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One box."""
        drawn = self.t.make_params([torch.empty((spec.channels, *size), device="meta")])
        return tuple(drawn[name] for name in ("top", "left", "height", "width")), self.resized(spec, size)


def resize(batch: Batch, size: Size, t: Any, *, version: int, exact: bool) -> Batch:
    """Resize every image to its size, as ``t`` says how."""
    mode = _check_interpolation(t.interpolation)
    if batch.dense and batch.size == size:
        return batch
    is_pil = batch.spec.kind == "pil"
    batch, filter_ = _with_border(batch.now() if batch.pending else batch), pil_modes_mapping[mode]
    if is_pil or (version == 2 and t.antialias):  # elsewhere torchvision resizes by way of floats
        done = resample(batch.source, batch.windows, batch.spec.mode or batch.spec.channels, size, filter_)
        if done is not None:
            return Batch.of_tensors(batch.spec, done, owned=True)
    if is_pil and not exact and batch.spec.dtype == torch.uint8 and batch.spec.mode != "HSV" and mode in _KERNELS:
        return _by_kernel(batch, size, mode)
    if is_pil:
        return _by_pil(batch, size, filter_)
    kernel = _tensor_kernel(t, mode, version)
    if not exact and batch.dense and isinstance(size, tuple):
        return batch.map(lambda x: kernel(x, size).contiguous(), batch.spec)
    return _each(batch, size, kernel)


def _with_border(batch: Batch) -> Batch:
    """Give what can be resampled where it lies: a border has to be made first."""
    return batch if batch.windows.fill is None else batch.now()


def _by_pil(batch: Batch, size: Size, filter_: int) -> Batch:
    """Resize by PIL, one image at a time; it is what torchvision does, crops included."""
    if isinstance(size, tuple):
        height, width = size
        out = POOL.empty((len(batch), height, width, batch.spec.channels), batch.spec.dtype)
        array = out.numpy()
        for i in range(len(batch)):
            array[i] = _resized_pixels(batch, i, height, width, filter_)
        return Batch.of_tensors(batch.spec, out.permute(0, 3, 1, 2))
    arrays = [_resized_pixels(batch, i, int(size[i][0]), int(size[i][1]), filter_) for i in range(len(batch))]
    return Batch.of_tensors(batch.spec, [torch.from_numpy(array).permute(2, 0, 1) for array in arrays])


def _resized_pixels(batch: Batch, i: int, height: int, width: int, filter_: int) -> NDArray[Any]:
    image = batch.pil(i)
    if image.size != (width, height):
        image = image.resize((width, height), filter_)
    return pixels_of(image)


def _by_kernel(batch: Batch, size: Size, mode: InterpolationMode) -> Batch:
    """Resize bytes by torch's antialiased kernel; as many at once as are of one size."""

    def kernel(x: Tensor, wanted: tuple[int, int]) -> Tensor:
        result: Tensor = v2.resize_image(x, list(wanted), interpolation=mode, antialias=True)
        return result

    if batch.dense and isinstance(size, tuple):
        return batch.map(lambda x: kernel(x, size), batch.spec)
    return _each(replace(batch, spec=replace(batch.spec, kind="tensor", mode="", hwc=True)), size, kernel, batch.spec)


def _each(
    batch: Batch, size: Size, kernel: Callable[[Tensor, tuple[int, int]], Tensor], spec: Spec | None = None
) -> Batch:
    """Resize tensors one at a time."""
    spec = batch.spec if spec is None else spec
    if not isinstance(size, tuple):
        return Batch.of_tensors(
            spec, [kernel(batch.sample(i), (int(size[i][0]), int(size[i][1]))) for i in range(len(batch))]
        )
    out = POOL.empty((len(batch), batch.spec.channels, *size), batch.spec.dtype)
    for i in range(len(batch)):
        out[i] = kernel(batch.sample(i), size)
    return Batch.of_tensors(spec, out)


def _tensor_kernel(t: Any, mode: InterpolationMode, version: int) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    if version == 1:
        return lambda x, size: v1.resize(x, list(size), mode, None, t.antialias)
    return lambda x, size: v2.resize_image(x, list(size), interpolation=mode, antialias=t.antialias)


def _central(height: NDArray[np.int64], width: NDArray[np.int64], ratio: Sequence[float]) -> tuple[Any, Any]:
    """The largest crop within the bounds of aspect ratio, as torchvision falls back on."""
    boxes = []
    for h, w in zip(height.tolist(), width.tolist(), strict=True):
        if w / h < min(ratio):
            boxes.append((round(w / min(ratio)), w))
        elif w / h > max(ratio):
            boxes.append((h, round(h * max(ratio))))
        else:
            boxes.append((h, w))
    result = np.array(boxes, np.int64)
    return result[:, 0], result[:, 1]
