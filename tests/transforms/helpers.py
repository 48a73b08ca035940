"""Images in every form, and the comparison with torchvision that all exactness tests make."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lmdbpipe.modes import MODES, image_of, pixels_of
from lmdbpipe.transforms import RawImages, ReplayDraws, blur, bytewise, color, edits, lower, resample, tone

MODE_NAMES = ("1", "CMYK", "F", "HSV", "I", "I;16", "L", "LA", "LAB", "P", "RGB", "RGBA", "YCbCr")


def make_images(mode: str, sizes: Sequence[tuple[int, int]], seed: int) -> list[Image.Image]:
    """PIL images of a mode, of (height, width) sizes, with random pixels."""
    rng = np.random.default_rng(seed)
    form = MODES[mode]
    images = []
    for height, width in sizes:
        shape = (height, width, form.channels)
        if mode == "F":
            pixels = rng.normal(size=shape).astype(np.float32)
        elif mode == "I":
            pixels = rng.integers(-(2**31), 2**31 - 1, shape, np.int32)
        else:
            pixels = rng.integers(0, 2 if mode == "1" else 2 ** (8 * form.dtype.itemsize), shape).astype(form.dtype)
        palette = b"\x03" + rng.bytes(768) if mode == "P" else b""
        images.append(image_of(pixels, mode, palette))
    return images


def pack(images: Sequence[Image.Image], layout: str = "HWC", lead: int = 3) -> RawImages:
    """Put images into read-only memory, unaligned, last image first, with rubbish between."""
    memory, offsets = bytes(lead), []
    for image in reversed(images):
        pixels = pixels_of(image)
        offsets.append(len(memory))
        memory += (pixels if layout == "HWC" else pixels.transpose(2, 0, 1)).tobytes() + b"\xaa"
    sizes = [(image.height, image.width) for image in images]
    modes = [image.mode for image in images]
    palettes = [b"\x03" + bytes(i.getpalette("RGB") or ()) if i.mode == "P" else b"" for i in images]
    return RawImages(
        np.frombuffer(memory, np.uint8),
        np.array(offsets[::-1], np.int64),
        sizes[0] if len(set(sizes)) == 1 else np.array(sizes),
        modes[0] if len(set(modes)) == 1 else modes,
        layout,
        palettes if "P" in modes else None,
    )


def seed_all(seed: int) -> None:
    """Seed the global generators, of torch the CPU's only: the others note down the whole stack at every call."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def states() -> tuple[Any, ...]:
    """The states of the global generators, comparable."""
    numpy = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes(), numpy[2]  # type: ignore[index]


@contextmanager
def without_numba() -> Iterator[None]:
    """Compute as where numba is not installed."""
    absent: Any = lambda: None  # noqa: E731
    with ExitStack() as stack:
        for module, name in ((bytewise, "_kernel"), (resample, "_kernel"), (edits, "known"), (color, "known")):
            stack.enter_context(mock.patch.object(module, name, frozenset if name == "known" else absent))
        for other in (blur, tone):
            stack.enter_context(mock.patch.object(other, "same_as_torch", lambda *_: False))
        yield


@contextmanager
def cleared(*caches: Any) -> Iterator[None]:
    """Have cached functions called anew, now and afterwards."""
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def outcome(run: Callable[[], Any]) -> Any:
    """What a call returns, or the exception it raises; warnings are not looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run()
        except Exception as error:
            return error


def lowered_tensor(transform: Any, images: Any, draws: Any = None, **options: Any) -> Tensor:
    """Lower, apply, and expect one tensor."""
    result = lower(transform)(images, draws, **options)
    assert type(result) is Tensor
    return result


def assert_same(actual: Any, expected: Any) -> None:
    """Compare two samples to the last bit."""
    if isinstance(expected, Image.Image):
        assert isinstance(actual, Image.Image)
        assert (actual.mode, actual.size) == (expected.mode, expected.size)
        np.testing.assert_array_equal(pixels_of(actual), pixels_of(expected))
        if expected.mode == "P":
            assert actual.getpalette("RGB") == expected.getpalette("RGB")
    elif isinstance(expected, Tensor):
        assert isinstance(actual, Tensor)
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        pair = [tensor.as_subclass(Tensor).contiguous() for tensor in (actual, expected)]
        if expected.is_floating_point():  # a NaN equals itself here, and zeros have signs
            pair = [tensor.view(-1).view(torch.uint8) for tensor in pair]
        same = torch.equal(*pair)
        assert same, f"{(actual.double() - expected.double()).abs().max()} apart"
    elif isinstance(expected, (tuple, list)):
        assert type(actual) is type(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


def assert_like_torchvision(
    transform: Any, images: Sequence[Image.Image], layout: str, seed: int, *, jit: bool = True, **options: Any
) -> str:
    """Run a transform a sample at a time, and lowered with the draws replayed; compare results and generators.

    With ``jit`` as where numba is installed, else as where it is not. Options are those of a call of the lowered
    transform.

    Returns:
        ``"raised"`` if torchvision raises, in which case the lowered transform must raise too; else ``"equal"``.
    """
    seed_all(seed)
    expected = outcome(lambda: [transform(image.copy()) for image in images])
    after = states()
    lowered = lower(transform)
    seed_all(seed)
    with nullcontext() if jit else without_numba():
        actual = outcome(lambda: lowered(pack(images, layout), ReplayDraws(), **options))
    if isinstance(expected, Exception):
        assert isinstance(actual, Exception), f"torchvision raises {expected!r}"
        return "raised"
    if isinstance(actual, Exception):
        raise actual
    assert states() == after
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other)
    first = expected[0]
    if isinstance(first, Tensor) and all(x.shape == first.shape and x.dtype == first.dtype for x in expected):
        assert type(actual) is Tensor
        assert actual.is_contiguous()
    else:
        assert [type(one) for one in actual] == [type(one) for one in expected]
    return "equal"
