"""Moving pixels: the rectangles of `Windows`, out of wherever they lie, into one C-contiguous NxCxHxW tensor.

The ways differ by what is cheapest. In the map, lines of pixels are selected by byte offset, so that gather, crop and
vertical flip are one copy; horizontal flips are read backwards while HxWxC becomes CxHxW. Large images go one at a time
(a copy of one is long against a Python step), small ones all at once.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmdbpipe.modes import TORCH_DTYPES, mode_of
from lmdbpipe.transforms.raw import RawImages, Size, gather_bytes
from lmdbpipe.transforms.windows import Windows

Source = RawImages | Tensor | list[Tensor]

LARGE = 12 << 10
"""Bytes. Images at least this large are moved one at a time."""


class _Scratch(threading.local):
    """Buffers that never leave a call, one set for each thread."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._frames: tuple[Any, NDArray[Any]] = (None, np.empty(0, np.uint8))

    def take(self, name: str, size: int) -> NDArray[np.uint8]:
        """Uninitialised bytes, valid until the next call with the same name."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size]

    def frames(self, count: int, shape: tuple[int, ...], fill: NDArray[Any], inside: Any) -> NDArray[Any]:
        """Frames [count, *shape] whose border holds ``fill``: only the same ``inside`` is written while they last."""
        dtype = fill.dtype
        key = (shape, dtype, fill.tobytes(), inside)
        if self._frames[0] != key or len(self._frames[1]) < count:
            frames = np.empty((count, *shape), dtype)
            frames[:] = fill
            self._frames = (key, frames)
        return self._frames[1][:count]


_SCRATCH = _Scratch()


class Store(NamedTuple):
    """Images somewhere in memory: uint8 bytes, where each begins, (height, width) of all or of each, and the layout."""

    memory: Tensor
    offsets: NDArray[np.int64]
    size: Size
    hwc: bool


def store_of(source: Source) -> Store | None:
    """See a source as plain memory, if it is."""
    if isinstance(source, RawImages):
        return Store(source.tensor, source.offsets, source.sizes, source.layout == "HWC")
    if not isinstance(source, Tensor) or not source.numel():
        return None
    hwc = not source.is_contiguous()
    flat = source.permute(0, 2, 3, 1) if hwc else source
    if not flat.is_contiguous():
        return None
    offsets = np.arange(len(source), dtype=np.int64) * source[0].nbytes
    return Store(flat.reshape(-1).view(torch.uint8), offsets, (source.shape[2], source.shape[3]), hwc)


def source_dtype(source: Source) -> torch.dtype:
    """The dtype of a source's pixels."""
    if isinstance(source, RawImages):
        return TORCH_DTYPES[mode_of(source.mode_at(0)).dtype]
    return source[0].dtype


def near(device: torch.device) -> bool:
    """Whether NumPy sees a device's memory."""
    return device.type == "cpu"


def is_far(source: Source) -> bool:
    """Whether pixels lie where NumPy does not see them."""
    if isinstance(source, list):
        return bool(source) and not near(source[0].device)
    return isinstance(source, Tensor) and not near(source.device)


def one(source: Source, windows: Windows, i: int, *, mirror: bool = True) -> NDArray[Any]:
    """Give the pixels of one output as HxWxC: a view where nothing reaches over an edge, else a copy."""
    row = int(windows.rows[i])
    pixels = source.hwc(row) if isinstance(source, RawImages) else source[row].permute(1, 2, 0).numpy()
    height, width = windows.size if isinstance(windows.size, tuple) else windows.size[i].tolist()
    top, left = int(windows.top[i]), int(windows.left[i])
    full_height, full_width = pixels.shape[:2]
    bottom, right = top + height, left + width
    inside = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if top < 0 or left < 0 or bottom > full_height or right > full_width:
        canvas = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        canvas[:] = windows.fill or 0
        y, x = max(-top, 0), max(-left, 0)
        canvas[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        inside = canvas
    if mirror and windows.hflip is not None and windows.hflip[i]:
        inside = inside[:, ::-1]
    if windows.vflip is not None and windows.vflip[i]:
        inside = inside[::-1]
    return inside


def gather(source: Source, windows: Windows, out: Tensor | None) -> Tensor:
    """Move the pixels of outputs of one size.

    Args:
        source: Where they lie.
        windows: Which rectangles; all of one size, or a single one.
        out: [n, C, H, W], C-contiguous, of the source's dtype; made if not given.

    Returns:
        ``out``.
    """
    if is_far(source):
        return _on_device(source, windows)
    height, width = windows.size if isinstance(windows.size, tuple) else windows.size[0].tolist()
    if isinstance(source, RawImages):
        mode = mode_of(source.mode_at(0))
        channels, dtype = mode.channels, TORCH_DTYPES[mode.dtype]
    else:
        channels, dtype = source[0].shape[0], source[0].dtype
    if out is None:
        out = torch.empty((len(windows), channels, height, width), dtype=dtype)
    if not out.numel():
        return out
    store = store_of(source) if out[0].nbytes < LARGE else None
    if store is not None and isinstance(store.size, tuple):
        _small(store, windows, out)
        return out
    gather_large(source, windows, 0, out)
    return out


def gather_large(source: Source, windows: Windows, begin: int, out: Tensor) -> None:
    """Move images one at a time: from number ``begin`` on, as many as ``out`` [k, C, H, W] holds."""
    array = out.numpy()
    planar = isinstance(source, Tensor) or (isinstance(source, RawImages) and source.layout == "CHW")
    for k in range(len(out)):
        pixels = one(source, windows, begin + k, mirror=not planar)
        np.copyto(array[k], pixels.transpose(2, 0, 1))
        if planar and windows.hflip is not None and windows.hflip[begin + k]:  # torch mirrors lines faster than NumPy
            out[k] = out[k].flip(-1)


def _small(store: Store, windows: Windows, out: Tensor) -> None:
    """Move many small rectangles of images of one size at once."""
    if windows.fill is not None:
        _framed(store, windows, out)
        return
    top, left, offsets = windows.top, windows.left, store.offsets[windows.rows]
    order = None if windows.hflip is None else np.argsort(windows.hflip, kind="stable")
    vflip = windows.vflip
    if order is not None:  # those to be mirrored last
        offsets, top, left = offsets[order], top[order], left[order]
        vflip = None if vflip is None else vflip[order]
    channels = out.shape[1]
    plain = channels == 1 or not store.hwc
    starts, length = _lines(store, (offsets, top, left), vflip, out)
    flat = out.view(-1).view(torch.uint8)
    if plain and order is None:
        gather_bytes(store.memory, starts, length, flat)
        return
    lined = _SCRATCH.take("lines", len(flat))
    gather_bytes(store.memory, starts, length, torch.from_numpy(lined))
    array = out.numpy()
    pixels = lined.view(array.dtype)
    count, _, height, width = out.shape
    images = (
        pixels.reshape(out.shape) if plain else pixels.reshape(count, height, width, channels).transpose(0, 3, 1, 2)
    )
    if order is None or windows.hflip is None:
        np.copyto(array, images)
        return
    ahead = count - int(windows.hflip.sum())
    if plain:
        upright = images
    else:
        upright = _SCRATCH.take("upright", len(flat)).view(array.dtype).reshape(out.shape)
        np.copyto(upright[:ahead], images[:ahead])
    if ahead < count:
        mirrored = torch.from_numpy(images[ahead:]).flip(3).numpy() if plain else images[ahead:, ..., ::-1]
        np.copyto(upright[ahead:], mirrored)
    places = np.empty_like(order)
    places[order] = np.arange(count)
    rows = torch.from_numpy(upright.view(np.uint8).reshape(count, -1))
    torch.index_select(rows, 0, torch.from_numpy(places), out=flat.view(count, -1))


def _lines(store: Store, corners: tuple[Any, Any, Any], vflip: Any, out: Tensor) -> tuple[NDArray[np.int64], int]:
    """Give the bytes where lines of rectangles at (offset, top, left) begin, and their common length."""
    offsets, top, left = corners
    _, channels, height, width = out.shape
    full_height, full_width = store.size
    planes = 1 if store.hwc else channels
    pixel = out.element_size() * (channels // planes)
    length = width * pixel
    begin = offsets + (top * full_width + left) * pixel
    if vflip is None and width == full_width:  # lines follow each other: fewer, longer copies
        length *= height
        if planes > 1 and height == full_height:
            return begin, length * planes
        within = np.zeros((planes, 1), np.int64)
    else:
        within = np.broadcast_to(np.arange(height), (planes, height)) * (full_width * pixel)
    within = within + (np.arange(planes) * (full_height * full_width * pixel))[:, None]
    starts = begin[:, None, None] + within
    if vflip is not None:
        starts = np.where(vflip[:, None, None], begin[:, None, None] + within[:, ::-1], starts)
    return starts.reshape(-1), length


def _framed(store: Store, windows: Windows, out: Tensor) -> None:
    """As `_small` where rectangles reach over an edge: by way of frames, CxHxW and mirrored already, with a border."""
    count, channels, height, width = out.shape
    (tall, wide), array = store.size, out.numpy()
    offsets, left, ahead, places = store.offsets[windows.rows], windows.left, count, np.arange(count)
    if windows.hflip is not None:
        order = np.argsort(windows.hflip, kind="stable")
        places[order] = np.arange(count)
        offsets, ahead = offsets[order], count - int(windows.hflip.sum())
        left = np.where(windows.hflip, wide - width - left, left)
    # rounded up, so that the frames of the next batch most likely are the same
    reaches = (-windows.top.min(), -left.min(), windows.top.max() + height - tall, left.max() + width - wide)
    above, before, below, after = (-(-max(0, int(reach)) // 4) * 4 for reach in reaches)
    fill = np.array(windows.fill, array.dtype)[:, None, None]
    shape = channels, tall + above + below, wide + before + after
    frames = _SCRATCH.frames(count, shape, fill, (above, before, tall, wide))
    whole = _SCRATCH.take("whole", count * channels * tall * wide * array.itemsize)
    if len(whole):
        gather_bytes(store.memory, offsets, len(whole) // count, torch.from_numpy(whole))
        images = whole.view(array.dtype)
        if store.hwc:
            images = images.reshape(count, tall, wide, channels).transpose(0, 3, 1, 2)
        else:
            images = images.reshape(count, channels, tall, wide)
        inner = frames[:, :, above : above + tall, before : before + wide]
        np.copyto(inner[:ahead], images[:ahead])
        if ahead < count:
            backwards = images[ahead:, ..., ::-1] if store.hwc else torch.from_numpy(images[ahead:]).flip(3).numpy()
            np.copyto(inner[ahead:], backwards)
    memory = torch.from_numpy(frames.view(np.uint8).reshape(-1))
    framed = Store(memory, places * (len(memory) // count), (tall + above + below, wide + before + after), hwc=False)
    starts, length = _lines(framed, (framed.offsets, windows.top + above, left + before), windows.vflip, out)
    gather_bytes(memory, starts, length, out.view(-1).view(torch.uint8))


def _on_device(source: Source, windows: Windows) -> Tensor:
    """Move rectangles by indices, on whatever device the source is."""
    if isinstance(source, list):
        singles = [replace(windows.take(np.array([i])), rows=np.zeros(1, np.int64)) for i in range(len(windows))]
        tensors = [source[row][None] for row in windows.rows.tolist()]
        return torch.cat([_on_device(*pair) for pair in zip(tensors, singles, strict=True)])
    assert isinstance(source, Tensor)
    if windows.is_identity and len(windows) == len(source):
        return source.clone(memory_format=torch.contiguous_format)
    device = source.device
    height, width = windows.size if isinstance(windows.size, tuple) else windows.size[0].tolist()

    def on(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    y, x = np.arange(height), np.arange(width)
    ys, xs = windows.top[:, None] + y, windows.left[:, None] + x
    if windows.vflip is not None:
        ys = np.where(windows.vflip[:, None], windows.top[:, None] + y[::-1], ys)
    if windows.hflip is not None:
        xs = np.where(windows.hflip[:, None], windows.left[:, None] + x[::-1], xs)
    full_height, full_width = source.shape[2:]
    inside_y, inside_x = (ys >= 0) & (ys < full_height), (xs >= 0) & (xs < full_width)
    channel = torch.arange(source.shape[1], device=device)[None, :, None, None]
    rows = on(windows.rows)[:, None, None, None]
    at_y = on(ys.clip(0, full_height - 1))[:, None, :, None]
    at_x = on(xs.clip(0, full_width - 1))[:, None, None, :]
    result = source[rows, channel, at_y, at_x]
    if windows.fill is not None and not (inside_y.all() and inside_x.all()):
        inside = on(inside_y)[:, None, :, None] & on(inside_x)[:, None, None, :]
        fill = torch.tensor(windows.fill, dtype=source.dtype, device=device)[None, :, None, None]
        result = torch.where(inside, result, fill)
    return result
