"""Colours of bytes in tensors: torch's bits, whatever is done; what is declined is left to torchvision."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from lmdbpipe.transforms import edits, lower, tone, toning
from lmdbpipe.transforms.operations import Operation
from lmdbpipe.transforms.step import held
from lmdbpipe.transforms.tone import by_torchvision, same_as_torch
from tests.transforms.helpers import assert_like_torchvision, cleared, make_images, pack

FACTORS = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1.0, 50.0]))
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from([Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR]), FACTORS),
    st.tuples(st.just(Operation.HUE), st.one_of(st.floats(-0.5, 0.5), st.sampled_from([-0.5, 0.0, 0.5]))),
    st.just((Operation.IDENTITY, 0.0)),
)
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 64]))
FLOATS = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let torch be tried, and numba be looked for, anew: now and after the test."""
    with cleared(tone._compiled, same_as_torch):
        yield


def assert_like(pixels: np.ndarray[Any, Any], own: list[list[tuple[int, float]]], *, hwc: bool) -> None:
    """Change images [n, C, H, W] here and by torchvision."""
    images = torch.from_numpy(pixels.copy())
    tone.tone(images, np.array(own, np.float64).reshape(len(own), -1, 2), hwc=hwc)
    for before, after, steps in zip(pixels, images, own, strict=True):
        theirs = by_torchvision(held(torch.from_numpy(before.copy()), hwc=hwc), steps)
        np.testing.assert_array_equal(after.numpy(), theirs.numpy(), str(steps))


@given(
    hwc=st.booleans(),
    channels=st.sampled_from([1, 3, 3]),
    size=st.tuples(SIDES, SIDES),
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    own=st.integers(1, 4).flatmap(
        lambda k: st.lists(st.lists(OPERATIONS, min_size=k, max_size=k), min_size=1, max_size=3)
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_tones(
    hwc: bool, channels: int, size: tuple[int, int], levels: list[int], own: list[list[tuple[int, float]]], seed: int
) -> None:
    """Images of any levels, each with operations of its own, have torchvision's bits."""
    rng = np.random.default_rng(seed)
    shape = (len(own), channels, *size)
    pixels = rng.integers(0, 256, shape, np.uint8) if seed % 2 else rng.choice(np.array(levels, np.uint8), shape)
    assert_like(pixels, own, hwc=hwc)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch rounds in another way")
def test_torch_is_known() -> None:
    """The installed torch gives the bits that are computed, so it is compiled code that the other tests are about."""
    shapes = [(3, 224, 224), (3, 32, 32), (1, 64, 64)]
    assert all(same_as_torch(shape, hwc, tone._settings()) for shape in shapes for hwc in (False, True))


@pytest.mark.parametrize("part", [-0.5, -0.31, 0.0, 1 / 3, 0.5])
def test_every_hue(part: float) -> None:
    """Colours from all over the cube, its edges and its diagonal, turn as torchvision turns them."""
    levels = np.unique([*range(0, 256, 5), 1, 2, 3, 251, 252, 253, 254])[-56:]
    cube = np.stack(np.meshgrid(levels, levels, levels)).reshape(1, 3, 7 * 56, -1).astype(np.uint8)
    for some in np.array_split(cube, 8, axis=2):  # 7 * 7 * 56 * 56 values
        assert_like(some, [[(Operation.HUE, part)]], hwc=False)


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 0.999, 1.0, 1.001, 1.5, 4.0])
def test_every_level(factor: float) -> None:
    """Every level blends with every other one: colour with its grey, levels with a mean."""
    ramp = np.arange(256, dtype=np.uint8)
    reds, greens = np.meshgrid(ramp, ramp)
    pixels = np.stack([reds, greens, greens[::-1]])[None]
    for operation in (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR):
        assert_like(pixels, [[(operation, factor)]], hwc=True)
        assert_like(pixels[:, :1], [[(operation, factor)]], hwc=False)


@pytest.mark.parametrize("name", ["add_", "mul"])
def test_another_torch(name: str, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of torch's floats differs in its last bit, torchvision does it."""
    theirs = getattr(torch.Tensor, name)

    def other(self: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        result: torch.Tensor = theirs(self, *arguments, **named)
        if result.ndim == 3:
            result[-1, -1, -1] = torch.nextafter(result[-1, -1, -1], torch.tensor(999.0))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, name, other)
        assert not same_as_torch((3, 16, 16), False, tone._settings())
    looked: list[Any] = []

    def noted(image: torch.Tensor, _: float) -> torch.Tensor:
        looked.append(image)
        return image

    monkeypatch.setitem(tone._FUNCTIONS, Operation.BRIGHTNESS, noted)
    images = torch.zeros((2, 3, 16, 16), dtype=torch.uint8)
    tone.tone(images, np.array([[[Operation.BRIGHTNESS, 0.5]]] * 2), hwc=False)
    assert len(looked) == 2


def test_large_images() -> None:
    """Sums of so many levels depend on torch's order."""
    assert not same_as_torch((3, 257, 257), False, tone._settings())
    rng = np.random.default_rng(0)
    assert_like(rng.integers(0, 256, (1, 3, 260, 300), np.uint8), [[(Operation.CONTRAST, 0.4)]], hwc=True)


def test_other_settings() -> None:
    """A default dtype of 64 bits, and autocasting, change what torchvision computes."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    own: list[list[tuple[int, float]]] = [[(Operation.COLOR, 0.3), (Operation.CONTRAST, 1.4)]] * 2
    torch.set_default_dtype(torch.float64)
    try:
        assert_like(pixels, own, hwc=False)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu"):
        assert_like(pixels, own, hwc=False)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("hue", [0.0, 0.2])
def test_in_a_pipeline(hue: float, jit: bool) -> None:
    """Steps before and after meet as they do in torchvision, whether images are of one size or not."""
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, hue)], p=0.8)
    steps = [v2.ToImage(), v2.RandomCrop(32), jitter, v2.RandomHorizontalFlip(), v2.GaussianBlur(5), *FLOATS]
    for mode in ("RGB", "L", "RGBA"):
        for sizes in ([(40, 50)] * 6, [(40, 50), (32, 90), (64, 33), (32, 32)]):
            assert_like_torchvision(v2.Compose(steps), make_images(mode, sizes, 0), "HWC", 1, jit=jit)
            ragged = v2.Compose([step for step in steps if not isinstance(step, v2.RandomCrop)])
            assert_like_torchvision(ragged, make_images(mode, sizes, 0), "CHW", 1, jit=jit)


def test_tuples() -> None:
    """All images of a tuple get the same."""
    images = make_images("RGB", [(40, 42)] * 4, 1)
    transform = v2.Compose([v2.ToImage(), v2.FiveCrop(16), v2.ColorJitter(0.4, 0.4, 0.4, 0.2)])
    assert assert_like_torchvision(transform, images, "HWC", 3) == "equal"


def test_numba_is_optional(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba it is torchvision that changes colours, and there is nothing to prepare."""
    edits.known()  # what PIL images need is not missing here
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("toning", "fma"):
        monkeypatch.delitem(sys.modules, f"lmdbpipe.transforms.{name}", raising=False)
        monkeypatch.delattr(f"lmdbpipe.transforms.{name}", raising=False)
    transform = v2.Compose([v2.ToImage(), v2.ColorJitter(0.4, 0.4, 0.4, 0.2)])
    lower(transform).prepare()
    assert tone._compiled() is None
    assert assert_like_torchvision(transform, make_images("RGB", [(16, 32)] * 9, 0), "HWC", 0) == "equal"


def test_prepared_is_what_is_used() -> None:
    """`prepare` compiles the one form of the kernel that transforms use."""
    lower(v2.RandomApply([v2.ColorJitter(0.4)])).prepare()
    kernel: Any = toning.tone
    assert len(kernel.signatures) == 1
    transform = v2.Compose([v2.ToImage(), v2.ColorJitter(0.4, 0.4, 0.4, 0.2)])
    for sizes in ([(32, 32)] * 3, [(32, 32), (16, 32)]):
        lower(transform)(pack(make_images("RGB", sizes, 0)))
    assert len(kernel.signatures) == 1
