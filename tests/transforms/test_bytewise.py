"""Arithmetic on bytes: the same bits as computing pixel by pixel, wherever pixels lie, with or without numba."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import transforms as v1

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms import RawImages, bytewise
from lmdbpipe.transforms.arithmetic import Arithmetic, compute
from lmdbpipe.transforms.bytewise import _ways, compute_bytes
from lmdbpipe.transforms.gather import gather
from lmdbpipe.transforms.windows import Windows
from tests.transforms.helpers import cleared, lowered_tensor, make_images, pack, seed_all

NORMALISE = (Arithmetic("to", torch.float32), Arithmetic("div_", 255), Arithmetic("sub_", (0.4, 0.5, 0.6)))


@pytest.fixture
def fresh_kernel() -> Iterator[None]:
    """Let the kernel be compiled anew, now and after the test."""
    with cleared(bytewise._kernel, bytewise.prepare):
        yield


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.one_of(
        st.tuples(st.integers(9, 24), st.integers(9, 24)).map(lambda size: [size] * 5),
        st.lists(st.tuples(st.integers(9, 24), st.integers(9, 24)), min_size=5, max_size=5),
    ),
    layout=st.sampled_from(["HWC", "CHW", "tensor", "HWC tensor"]),
    mode=st.sampled_from(["L", "LA", "RGB", "CMYK"]),
    dtype=st.sampled_from(
        [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool]
    ),
    reach=st.integers(0, 30),
    flips=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_like_computing(
    sizes: list[tuple[int, int]], layout: str, mode: str, dtype: torch.dtype, reach: int, flips: int, seed: int
) -> None:
    """Any windows over any source give the bits of gathering and then computing."""
    rng = np.random.default_rng(seed)
    raw = pack(make_images(mode, sizes, seed), "CHW" if layout == "CHW" else "HWC")
    source: RawImages | torch.Tensor = raw
    if "tensor" in layout:
        sizes = sizes[:1] * 5
        source = pack(make_images(mode, sizes, seed)).gather().permute(0, 3, 1, 2)
        source = source if layout == "HWC tensor" else source.contiguous()
    rows = rng.integers(0, 5, 12)
    channels = raw.hwc(0).shape[2]
    top, left = rng.integers(-reach, reach + 1, 12), rng.integers(-reach, reach + 1, 12)
    height, width = int(rng.integers(6, 20)), int(rng.integers(6, 20))
    fill = tuple(rng.integers(0, 256, channels).astype(float).tolist())
    hflip, vflip = (rng.random(12) < 0.5 if flips & bit else None for bit in (1, 2))
    windows = Windows(rows, (height, width), top, left, hflip, vflip, fill, whole=False)
    operations: tuple[Arithmetic, ...] = () if dtype == torch.uint8 else (Arithmetic("to", dtype),)
    if dtype.is_floating_point:
        operations += Arithmetic("mul_", 1 / 255), Arithmetic("sub_", (0.3,)), Arithmetic("div_", (0.7,) * channels)
    expected = compute(operations, torch.cat([gather(source, windows.take(np.array([i])), None) for i in range(12)]))
    out = torch.empty_like(expected)
    assert compute_bytes(source, windows, operations, out)
    assert torch.equal(out.view(-1).view(torch.uint8), expected.view(-1).view(torch.uint8))


TO_FLOAT, OVER_255 = Arithmetic("to", torch.float32), Arithmetic("div_", 255)


@pytest.mark.parametrize(
    ("operations", "by_formula"),
    [
        ((TO_FLOAT,), True),
        ((TO_FLOAT, OVER_255), True),
        ((TO_FLOAT, Arithmetic("mul_", 1 / 255), Arithmetic("sub_", (0.5,)), Arithmetic("div_", (0.5,))), True),
        ((*NORMALISE, Arithmetic("div_", (0.2, 0.3, -0.7))), True),
        ((TO_FLOAT, Arithmetic("sub_", (3.0, 4.0, 5.0)), Arithmetic("mul_", 7.0)), True),
        ((*NORMALISE, Arithmetic("div_", (0.2, 1e-40, 0.3))), False),  # whose reciprocal is no float
        ((*NORMALISE, Arithmetic("sub_", (0.1,))), False),
        ((TO_FLOAT, OVER_255, Arithmetic("to", torch.float16)), False),
        ((Arithmetic("to", torch.float64), OVER_255), False),
    ],
)
def test_formulas(operations: tuple[Arithmetic, ...], by_formula: bool) -> None:
    """Usual steps are computed by formulas, others looked up, with the bits of torch for every byte."""
    assert bool(len(_ways(operations, 3)[1])) is by_formula
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2 * 3).view(2, 3, 16, 16)
    expected = compute(operations, pixels)
    out = torch.empty_like(expected)
    assert compute_bytes(pixels, Windows.full(2, (16, 16)), operations, out)
    assert torch.equal(out.view(-1).view(torch.uint8), expected.view(-1).view(torch.uint8))


def test_formulas_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula whose results differ in a bit is not used."""
    operations = (*NORMALISE, Arithmetic("div_", (0.2, 0.25, 0.3)))
    formulas = bytewise._formulas(operations, 3)
    formulas[2, 4:] = formulas[2, 4], 0, 0  # a product by the reciprocal
    monkeypatch.setattr(bytewise, "_formulas", lambda *_: formulas)
    with cleared(_ways):
        assert len(_ways(operations, 3)[1]) == 0


@pytest.mark.parametrize("channels", range(1, 8))
def test_any_channels(channels: int) -> None:
    """Pixels of any number of channels, in both layouts."""
    pixels = torch.randint(0, 256, (5, 16, 17, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
    for source in (pixels, pixels.contiguous()):
        expected = compute((TO_FLOAT, OVER_255), source)
        out = torch.empty(expected.shape)
        assert compute_bytes(source, Windows.full(5, (16, 17)), (TO_FLOAT, OVER_255), out)
        assert torch.equal(out, expected)


@pytest.mark.parametrize("size", [(300, 290), (1, 70_000), (70_000, 1)])
def test_large_images(size: tuple[int, int]) -> None:
    """Images of more pixels than are taken apart at once."""
    images = pack(make_images("RGB", [size] * 2, 0))
    flips = np.array([False, True])
    windows = Windows(np.array([1, 0]), size, np.array([2, -3]), np.array([-1, 4]), flips, flips, (7.0, 8.0, 9.0))
    expected = compute(NORMALISE, torch.cat([gather(images, windows.take(np.array([i])), None) for i in range(2)]))
    out = torch.empty_like(expected)
    assert compute_bytes(images, windows, NORMALISE, out)
    assert torch.equal(out, expected)


def test_left_to_torch() -> None:
    """Pixels that are no bytes, or fewer than there are bytes, are left to be computed."""
    few = pack(make_images("RGB", [(5, 51)], 0))
    wide = pack(make_images("I", [(20, 20)], 0))
    for source, size in ((few, (5, 51)), (wide, (20, 20))):
        channels = source.hwc(0).shape[2]
        assert not compute_bytes(source, Windows.full(1, size), NORMALISE, torch.empty(1, channels, *size))
    listed = [torch.zeros(3, 20, 20, dtype=torch.uint8)]
    assert not compute_bytes(listed, Windows.full(1, (20, 20)), NORMALISE, torch.empty(1, 3, 20, 20))


@pytest.mark.parametrize("offset", [-1, 1])
def test_memory_ends(offset: int) -> None:
    """Images that are not all in the memory are refused, not read."""
    images = RawImages(np.zeros(2400, np.uint8), np.array([0, 1200 + offset * 1200 + offset]), (20, 20), "RGB")
    with pytest.raises(TransformError, match="of a memory of 2400 bytes"):
        compute_bytes(images, Windows.full(2, (20, 20)), NORMALISE, torch.empty(2, 3, 20, 20))


@pytest.mark.parametrize("installed", [True, False])
def test_numba_is_optional(installed: bool, fresh_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lowered transform gives torchvision's bits whether numba is there or not, and uses it where it is."""
    if not installed:
        monkeypatch.setitem(sys.modules, "numba", None)
    images = make_images("RGB", [(32, 32)] * 8, 0)
    transform = v1.Compose([v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor()])
    seed_all(1)
    expected = torch.stack([transform(image) for image in images])
    seed_all(1)
    assert torch.equal(lowered_tensor(transform, pack(images)), expected)
    assert (bytewise._kernel() is not None) is installed


def test_prepared_is_what_is_used(fresh_kernel: None) -> None:
    """`prepare` compiles the two forms of the kernel that training transforms use: bytes to floats, and to bytes."""
    bytewise.prepare()
    kernel = bytewise._kernel()
    assert len(kernel.signatures) == 2
    transform = v1.Compose([v1.RandomCrop(16, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor()])
    for sizes in ([(16, 16)] * 4, [(16, 16), (20, 18)]):
        for layout in ("HWC", "CHW"):
            lowered_tensor(transform, pack(make_images("RGB", sizes, 0), layout))
            for last in (v1.ToTensor(), v1.PILToTensor()):
                lowered_tensor(v1.Compose([v1.CenterCrop(16), last]), pack(make_images("RGB", sizes, 0), layout))
    assert len(kernel.signatures) == 2


def test_nowhere_to_cache(fresh_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numba finds no folder for what it compiled, it compiles in every process."""
    jit: Any = numba.njit

    def njit(cache: bool = False, **options: bool) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return jit(**options)

    monkeypatch.setattr(numba, "njit", njit)
    images = pack(make_images("RGB", [(32, 32)] * 2, 0))
    assert compute_bytes(images, Windows.full(2, (32, 32)), NORMALISE, torch.empty(2, 3, 32, 32))
