"""Resampling: the bits of Pillow or torch, wherever pixels lie and whatever becomes of them; else they do it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import transforms as v1
from torchvision.transforms.functional import pil_modes_mapping

from lmdbpipe.errors import TransformError
from lmdbpipe.modes import image_of, pixels_of
from lmdbpipe.transforms import RawImages, lower, passes, resample, resize
from lmdbpipe.transforms.arithmetic import LEVELS
from lmdbpipe.transforms.gather import one
from lmdbpipe.transforms.windows import Windows, join
from tests.transforms.helpers import assert_like_torchvision, cleared, make_images, pack

BILINEAR = Image.Resampling.BILINEAR
EXTENTS = st.one_of(st.integers(1, 70), st.sampled_from([1, 2, 63, 64, 65, 128, 129, 300]))
SIZES = st.tuples(EXTENTS, EXTENTS)


@pytest.fixture
def fresh_kernel() -> Iterator[None]:
    """Let Pillow be tried, and numba be looked for, anew: now and after the test."""
    with cleared(resample._kernel, resample.vertical_first, resample.by_torch):
        yield


def some_windows(rng: np.random.Generator, sizes: list[tuple[int, int]], flips: int) -> Windows:
    """Four rectangles within some of the images, of three; flips say by bits whether there are mirrored ones."""
    rows = rng.integers(0, 3, 4)
    full = np.array(sizes)[rows]
    size = rng.integers(1, full + 1)
    top, left = rng.integers(0, full - size + 1).T
    hflip, vflip = (rng.random(4) < 0.5 if flips & bit else None for bit in (1, 2))
    return Windows(rows, join(*size.T), top, left, hflip, vflip, whole=False)


@given(
    sizes=st.one_of(SIZES.map(lambda size: [size] * 3), st.lists(SIZES, min_size=3, max_size=3)),
    wanted=st.one_of(SIZES, st.lists(SIZES, min_size=4, max_size=4).map(np.array)),
    source=st.sampled_from(["HWC", "CHW", "tensor", "HWC tensor", "list", "HWC list"]),
    mode=st.sampled_from(["L", "RGB", "YCbCr", "HSV", "CMYK"]),
    kind=st.sampled_from(resample.FILTERS),
    flips=st.integers(0, 3),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_like_pillow(
    sizes: list[tuple[int, int]],
    wanted: Any,
    source: str,
    mode: str,
    kind: int,
    flips: int,
    extreme: bool,
    seed: int,
) -> None:
    """Any rectangles of any images come out as Pillow gives them, to the last bit, and what lies around is not seen."""
    rng = np.random.default_rng(seed)
    if source.endswith("tensor"):
        sizes = sizes[:1] * 3
    images = make_images(mode, sizes, seed)
    if extreme:  # where cubic and sinc filters have to be clipped
        images = [image_of(pixels_of(image) // 128 * 255, mode) for image in images]
    pixels: Any = pack(images, "CHW" if source == "CHW" else "HWC")
    if source not in ("HWC", "CHW"):
        pixels = [torch.from_numpy(pixels_of(image)).permute(2, 0, 1) for image in images]
        pixels = pixels if source.startswith("HWC") else [tensor.contiguous() for tensor in pixels]
        pixels = pixels if source.endswith("list") else torch.stack(pixels)
    windows = some_windows(rng, sizes, flips)

    results = resample.resample(pixels, windows, mode, wanted, kind)

    hw = np.broadcast_to(wanted, (4, 2)).tolist()
    if results is None:
        assert sum(height * width for height, width in hw) < LEVELS
        return
    assert isinstance(results, torch.Tensor) is isinstance(wanted, tuple)
    for i, (height, width) in enumerate(hw):
        theirs = pixels_of(image_of(one(pixels, windows, i), mode).resize((width, height), kind))
        np.testing.assert_array_equal(results[i].permute(1, 2, 0).numpy(), theirs)


@given(
    sizes=st.one_of(SIZES.map(lambda size: [size] * 3), st.lists(SIZES, min_size=3, max_size=3)),
    wanted=st.one_of(SIZES, st.lists(SIZES, min_size=4, max_size=4).map(np.array)),
    channels=st.integers(1, 5),
    hwc=st.booleans(),
    interpolation=st.sampled_from([InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]),
    flips=st.integers(0, 3),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_like_torch(
    sizes: list[tuple[int, int]],
    wanted: Any,
    channels: int,
    hwc: bool,
    interpolation: InterpolationMode,
    flips: int,
    extreme: bool,
    seed: int,
) -> None:
    """Any rectangles of tensors come out as torch's antialiased kernel for bytes gives them, in every layout."""
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(0, 256, (*size, channels), dtype=np.uint8) for size in sizes]
    arrays = [array // 128 * 255 for array in arrays] if extreme else arrays
    pixels: Any = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    pixels = pixels if hwc else [tensor.contiguous() for tensor in pixels]
    windows = some_windows(rng, sizes, flips)

    results = resample.resample(pixels, windows, channels, wanted, pil_modes_mapping[interpolation])

    hw = np.broadcast_to(wanted, (4, 2)).tolist()
    if results is None:
        assert sum(height * width for height, width in hw) < LEVELS
        return
    for i, height_width in enumerate(hw):
        rectangle = torch.from_numpy(one(pixels, windows, i).copy()).permute(2, 0, 1)
        theirs = v2.functional.resize_image(rectangle, height_width, interpolation=interpolation)
        assert torch.equal(results[i], theirs)


def test_layouts_may_differ() -> None:
    """A list may hold tensors of both layouts, as it does where one of HxWxC has a single pixel."""
    images = make_images("RGB", [(1, 1), (9, 8), (7, 9)], 0)
    pixels: Any = [torch.from_numpy(pixels_of(image)).permute(2, 0, 1) for image in images]
    pixels[2] = pixels[2].contiguous()
    sizes = np.array([(1, 1), (9, 8), (7, 9)])
    results = resample.resample(pixels, Windows.full(3, sizes), "RGB", (20, 30), BILINEAR)
    assert results is not None
    for result, image in zip(results, images, strict=True):
        theirs = pixels_of(image.resize((30, 20), BILINEAR))
        np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("vertical_first", [False, True])
@pytest.mark.parametrize("kind", resample.FILTERS)
@pytest.mark.parametrize("wanted", [(20, 40), (21, 40), (20, 61), (70, 30), (19, 18)])
def test_order_of_passes(
    vertical_first: bool, kind: int, wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both orders in which versions of Pillow make their passes; one pass alone has no order."""
    monkeypatch.setattr(resample, "vertical_first", lambda: vertical_first)
    (image,) = make_images("RGB", [(60, 60)], 0)
    (height, width), (tall, wide) = wanted, (60, 60)
    lower_first = vertical_first and tall - height > max(0, 2 * (wide - width))
    between = (wide, height) if lower_first else (width, tall)
    result = resample.resample(pack([image]), Windows.full(1, (60, 60)), "RGB", wanted, kind)
    assert isinstance(result, torch.Tensor)
    theirs = image.resize(between, kind).resize((width, height), kind)
    np.testing.assert_array_equal(result[0].permute(1, 2, 0).numpy(), pixels_of(theirs))


def test_declined() -> None:
    """What Pillow does in other ways, what reaches over an edge and what is empty or small is left to it."""
    whole = Windows.full(1, (20, 30))

    def is_declined(mode: str, windows: Windows = whole, size: Any = (16, 16), kind: int = BILINEAR) -> bool:
        raw = pack(make_images(mode, [(20, 30)], 0))
        return resample.resample(raw, windows, mode, size, kind) is None

    assert not is_declined("RGB")
    assert all(is_declined(mode) for mode in ("RGBA", "LA", "I", "F", "I;16"))
    assert is_declined("RGB", kind=Image.Resampling.NEAREST)
    assert is_declined("RGB", size=(15, 17))
    assert is_declined("RGB", size=np.array([[0, 300]]))
    assert is_declined("RGB", whole.crop(0, 0, (0, 30)))
    for top, left in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        assert is_declined("RGB", whole.crop(top, left, (20, 30)))


@pytest.mark.parametrize("offset", [-1, 1])
def test_memory_ends(offset: int) -> None:
    """Images that are not all in the memory are refused, not read."""
    images = RawImages(np.zeros(2400, np.uint8), np.array([0, 1200 + offset * 1200 + offset]), (20, 20), "RGB")
    with pytest.raises(TransformError, match="of a memory of 2400 bytes"):
        resample.resample(images, Windows.full(2, (20, 20)), "RGB", (30, 30), BILINEAR)


@pytest.mark.parametrize("module", [v1, v2])
@pytest.mark.parametrize("jit", [True, False])
def test_in_a_pipeline(module: Any, jit: bool) -> None:
    """After flips, borders and colours, of all modes, with and without numba, resizing has torchvision's bits."""
    crop = module.RandomResizedCrop(20, interpolation=InterpolationMode.BICUBIC)
    for before in (module.RandomHorizontalFlip(), module.Pad(3, fill=9), module.RandomInvert(), module.Grayscale(3)):
        transform = v1.Compose([before, module.Resize(30), module.RandomVerticalFlip(), crop, module.PILToTensor()])
        for mode in ("RGB", "L", "RGBA"):
            for sizes in ([(40, 50)] * 4, [(40, 50), (31, 90), (64, 20), (30, 30)]):
                assert_like_torchvision(transform, make_images(mode, sizes, 0), "HWC", 1, jit=jit)


@pytest.mark.parametrize("step", [v1.Resize(40), v1.RandomResizedCrop(24)])
def test_borders_are_made_first(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crop reaches over an edge for does not keep images from being resampled here."""
    monkeypatch.setattr(resize, "_by_pil", None)
    transform = v1.Compose([v1.RandomCrop(32, padding=4, fill=9), v1.RandomHorizontalFlip(), step, v1.PILToTensor()])
    for sizes in ([(32, 32)] * 6, [(32, 34), (40, 33), (32, 32)]):
        assert assert_like_torchvision(transform, make_images("RGB", sizes, 0), "HWC", 2) == "equal"


def test_another_pillow(fresh_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the installed Pillow gives other bits than ours, it is Pillow that resizes."""

    def other(pixels: Any, mode: str) -> Image.Image:
        return image_of(pixels ^ 1, mode)

    with monkeypatch.context() as patch:
        patch.setattr(resample, "image_of", other)
        assert resample.vertical_first() is None
    images = make_images("RGB", [(40, 50)] * 4, 0)
    assert resample.resample(pack(images), Windows.full(4, (40, 50)), "RGB", (20, 20), BILINEAR) is None
    transform = v1.Compose([v1.Resize((20, 20)), v1.PILToTensor()])
    assert assert_like_torchvision(transform, images, "HWC", 0) == "equal"


def test_another_torch(fresh_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the installed torch gives other bits than ours, it is torch that resizes tensors."""
    resize_image = v2.functional.resize_image
    with monkeypatch.context() as patch:
        patch.setattr(v2.functional, "resize_image", lambda *args, **kwargs: resize_image(*args, **kwargs) ^ 1)
        assert not resample.by_torch()
    images = make_images("RGB", [(40, 50)] * 4, 0)
    assert resample.resample(pack(images), Windows.full(4, (40, 50)), 3, (20, 20), BILINEAR) is None
    transform = v2.Compose([v2.ToImage(), v2.Resize((20, 20))])
    assert assert_like_torchvision(transform, images, "HWC", 0) == "equal"


def test_tensors_resized_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch resizes by way of floats, or without antialiasing, is left to it."""
    asked: list[Any] = []
    monkeypatch.setattr(resize, "resample", lambda *arguments: asked.append(arguments))
    images = make_images("RGB", [(40, 50)] * 4, 0)
    for steps in (
        [v1.PILToTensor(), v1.Resize((20, 20))],
        [v2.ToImage(), v2.Resize((20, 20), antialias=False)],
        [v2.ToImage(), v2.Resize((40, 50))],
    ):
        assert assert_like_torchvision(v1.Compose(steps), images, "HWC", 0) == "equal"
    assert not asked


def test_numba_is_optional(fresh_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba it is Pillow that resizes, and there is nothing to prepare."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "lmdbpipe.transforms.passes", raising=False)
    monkeypatch.delattr("lmdbpipe.transforms.passes", raising=False)
    resample.prepare()
    assert resample._kernel() is None
    transform = v1.Compose([v1.RandomResizedCrop(20), v1.PILToTensor()])
    assert assert_like_torchvision(transform, make_images("RGB", [(40, 50)] * 4, 0), "HWC", 0) == "equal"


def test_prepared_is_what_is_used(fresh_kernel: None) -> None:
    """`prepare` compiles the one form of the kernel that transforms use."""
    resample.prepare()
    kernel: Any = passes.resample
    assert len(kernel.signatures) == 1
    test_in_a_pipeline(v2, True)
    for layout in ("HWC", "CHW"):
        lower(v1.RandomResizedCrop(20))(pack(make_images("RGB", [(40, 50), (50, 40)], 0), layout))
    assert len(kernel.signatures) == 1


def test_what_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that resizes prepares it; others do not."""
    prepared: list[bool] = []
    monkeypatch.setattr(resize, "prepare", lambda: prepared.append(True))
    nearest = v1.Resize(8, interpolation=InterpolationMode.NEAREST)
    for transform in (v1.RandomHorizontalFlip(), nearest):
        lower(transform).prepare()
    assert not prepared
    for transform in (v1.Resize(8), v2.RandomResizedCrop(8), v1.RandomApply([v1.Resize(8)])):
        lower(transform).prepare()
        lower(transform, exact=False).prepare()
    assert len(prepared) == 6
