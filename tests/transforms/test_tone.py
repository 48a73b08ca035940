"""Operations on bytes in tensors: torch's bits, whatever is done; what is declined is left to torchvision."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.transforms import edits, lower, tone, toning
from lmdbpipe.transforms.operations import Edit, Maps, Operation, make_edit
from lmdbpipe.transforms.step import held
from lmdbpipe.transforms.tone import by_torchvision, same_as_torch
from tests.transforms.helpers import assert_like_torchvision, cleared, make_images, pack

MAPS = Maps((32, 32), is_v2=True, of_tensors=True)
FACTORS = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1.0, 50.0]))
BLENDS = [Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS]
OPERATIONS = st.one_of(
    st.builds(make_edit, st.sampled_from(BLENDS), FACTORS),
    st.builds(make_edit, st.just(Operation.HUE), st.one_of(st.floats(-0.5, 0.5), st.sampled_from([-0.5, 0.0, 0.5]))),
    st.builds(make_edit, st.just(Operation.POSTERIZE), st.integers(0, 8)),
    st.builds(make_edit, st.just(Operation.SOLARIZE), st.one_of(st.floats(-1, 255), st.floats(99.9999, 100.0001))),
    st.builds(make_edit, st.sampled_from([Operation.AUTOCONTRAST, Operation.EQUALIZE, Operation.INVERT])),
    st.builds(make_edit, st.just(Operation.AFFINE), *[st.floats(-3, 3)] * 6),
    st.builds(MAPS.affine, st.floats(-360, 360), st.tuples(*[st.integers(-40, 40)] * 2), st.floats(1e-3, 9)),
    st.builds(MAPS.affine, shear=st.tuples(*[st.floats(-60, 60)] * 2), center=st.just((0, 0))),
    st.builds(MAPS.rotation, st.one_of(st.sampled_from([0, 180, 45, 30.0]), st.floats(-360, 360))),
    st.just(make_edit(Operation.IDENTITY)),
)
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 64]))
FLOATS = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let torch be tried, and numba be looked for, anew: now and after the test."""
    with cleared(tone._compiled, tone._tried, tone._moved_alike, tone._sharpened_alike, tone._blended_alike):
        yield


def assert_like(pixels: np.ndarray[Any, Any], own: list[list[Edit]], *, hwc: bool) -> None:
    """Edit images [n, C, H, W] here and by torchvision."""
    images, fill = torch.from_numpy(pixels.copy()), (9, 255, 0)[: pixels.shape[1]]
    tone.tone(images, np.array(own, np.float64).reshape(len(own), -1, 7), fill, hwc=hwc)
    for before, after, steps in zip(pixels, images, own, strict=True):
        theirs = by_torchvision(held(torch.from_numpy(before.copy()), hwc=hwc), steps, fill)
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
def test_any_edits(
    hwc: bool, channels: int, size: tuple[int, int], levels: list[int], own: list[list[Edit]], seed: int
) -> None:
    """Images of any levels, each with operations of its own, have torchvision's bits."""
    rng = np.random.default_rng(seed)
    shape = (len(own), channels, *size)
    pixels = rng.integers(0, 256, shape, np.uint8) if seed % 2 else rng.choice(np.array(levels, np.uint8), shape)
    assert_like(pixels, own, hwc=hwc)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: with many, each has a part of a large image, and what is left of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch rounds in another way")
def test_torch_is_known() -> None:
    """The installed torch gives the bits that are computed, so it is compiled code that the other tests are about."""
    for operation in set(Operation) - {Operation.IDENTITY, Operation.BILINEAR}:
        for shape in [(3, 224, 224), (3, 32, 32), (1, 64, 64)]:
            assert all(same_as_torch(operation, shape, hwc, tone._settings()) for hwc in (False, True)), operation


def test_every_rounding_is_seen() -> None:
    """A size is tried with a colour for which all sums differ if they are rounded twice, wherever a pixel lies."""
    f, (red, green, blue), level = np.float32, tone._COLOUR, tone._LEVEL
    ratio, rest = f(tone._RATIO), f(1 - tone._RATIO)

    def once(a: Any, b: Any, c: Any) -> Any:
        return f(np.float64(a) * np.float64(b) + np.float64(c))

    def twice(a: Any, b: Any, c: Any) -> Any:
        return f(a) * f(b) + f(c)

    def grey(first: Any, second: Any) -> Any:
        return second(blue, f(0.114), first(green, f(0.587), f(red) * f(0.2989)))

    assert grey(once, once) not in (grey(once, twice), grey(twice, once), grey(twice, twice))
    for value in tone._COLOUR:
        for other in (level, grey(once, once)):
            assert once(other, rest, f(value) * ratio) != twice(other, rest, f(value) * ratio)
        assert once(f(level) - f(value), rest, value) != twice(f(level) - f(value), rest, value)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 8, 9), (1, 37, 15), (3, 40, 29)])
def test_sizes_that_do_not_fill_vectors(shape: tuple[int, ...]) -> None:
    """Where torch rounds the last pixels in another way, many images have torchvision's bits all the same."""
    pixels = np.random.default_rng(1128).integers(0, 256, (2000, *shape), np.uint8)
    edits = [make_edit(operation, 1.8) for operation in (Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS)]
    for own in edits:
        assert_like(pixels, [[own]] * len(pixels), hwc=False)


def test_only_sums_are_tried_for_every_size(fresh: None) -> None:
    """Operations without sums cost nothing for another size, and others are tried only where they are asked for."""
    for operation in (Operation.EQUALIZE, Operation.COLOR):
        for size in range(20, 30):
            edits = np.array([[make_edit(operation, 1)]])
            tone.tone(torch.zeros((1, 3, size, size), dtype=torch.uint8), edits, (0, 0, 0), hwc=False)
    assert tone._tried.cache_info().currsize == 2
    assert tone._blended_alike.cache_info().currsize == 10
    assert tone._moved_alike.cache_info().currsize == tone._sharpened_alike.cache_info().currsize == 0


@pytest.mark.parametrize(
    "own",
    [
        make_edit(Operation.SHARPNESS, -1),
        make_edit(Operation.CONTRAST, -0.1),
        make_edit(Operation.HUE, 0.6),
        make_edit(Operation.POSTERIZE, 9),
        make_edit(Operation.SOLARIZE, 256),
    ],
)
def test_values_that_torchvision_refuses(own: Edit) -> None:
    """Its errors are what comes."""
    with pytest.raises((TypeError, ValueError)):
        tone.tone(torch.zeros((1, 3, 9, 9), dtype=torch.uint8), np.array([[own]]), (0, 0, 0), hwc=False)


def test_default_dtype_after_use() -> None:
    """Magnitudes are made with the default dtype of the moment, as torchvision makes them."""
    images, transform = make_images("RGB", [(32, 40)] * 16, 0), v2.Compose([v2.ToImage(), v2.RandAugment(3)])
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            for seed in range(4):
                assert assert_like_torchvision(transform, images, "HWC", seed) == "equal"
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("part", [-0.5, -0.31, 0.0, 1 / 3, 0.5])
def test_every_hue(part: float) -> None:
    """Colours from all over the cube, its edges and its diagonal, turn as torchvision turns them."""
    levels = np.unique([*range(0, 256, 5), 1, 2, 3, 251, 252, 253, 254])[-56:]
    cube = np.stack(np.meshgrid(levels, levels, levels)).reshape(1, 3, 7 * 56, -1).astype(np.uint8)
    for some in np.array_split(cube, 8, axis=2):  # 7 * 7 * 56 * 56 values
        assert_like(some, [[make_edit(Operation.HUE, part)]], hwc=False)


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 0.999, 1.0, 1.001, 1.5, 4.0])
def test_every_level(factor: float) -> None:
    """Every level blends with every other one: colour with its grey, levels with a mean."""
    ramp = np.arange(256, dtype=np.uint8)
    reds, greens = np.meshgrid(ramp, ramp)
    pixels = np.stack([reds, greens, greens[::-1]])[None]
    for operation in BLENDS:
        assert_like(pixels, [[make_edit(operation, factor)]], hwc=True)
        assert_like(pixels[:, :1], [[make_edit(operation, factor)]], hwc=False)


@pytest.mark.parametrize("size", [(30, 30), (20, 41), (33, 32), (1, 7)])
@pytest.mark.parametrize("center", [None, (3, 4)])
def test_rotations_and_maps(size: tuple[int, int], center: tuple[int, int] | None) -> None:
    """Maps made here are those of torchvision's ``rotate`` and ``affine``; quarter turns included."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, *size), np.uint8)
    image, maps = torch.from_numpy(pixels[0]), Maps(size, is_v2=True, of_tensors=True)
    middle = None if center is None else list(map(float, center))
    for angle in (0, 33.3, 90, 180, 270, -90, 359.9, 720, -1e-20):
        shear = [10.0, 5.0]
        for theirs, own in (
            (v2.functional.rotate(image, angle, center=middle), maps.rotation(angle, center)),
            (
                v2.functional.affine(image, angle, [3, -2], 0.7, shear, center=middle),
                maps.affine(angle, (3, -2), 0.7, shear, center),
            ),
        ):
            ours = torch.from_numpy(pixels.copy())
            tone.tone(ours, np.array([[own]]), (0, 0, 0), hwc=False)
            assert torch.equal(ours[0], theirs), (angle, own)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("add_", {Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS}),
        ("bmm", {Operation.AFFINE}),
    ],
)
def test_another_torch(name: str, lost: set[Operation], fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of torch's floats differs in its last bit, torchvision does what needs it."""
    theirs = getattr(torch.Tensor, name)

    def other(self: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        result: torch.Tensor = theirs(self, *arguments, **named)
        if result.ndim == 3:
            result[-1, -1, -1] = torch.nextafter(result[-1, -1, -1], torch.tensor(999.0))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, name, other)
        for operation in lost:
            assert not same_as_torch(operation, (3, 16, 16), False, tone._settings())
    same_as_torch(Operation.INVERT, (3, 16, 16), False, tone._settings())
    looked: list[Any] = []

    def noted(image: torch.Tensor, own: Any, fill: Any) -> torch.Tensor:
        looked.append(own)
        return by_torchvision(image, own, fill)

    monkeypatch.setattr(tone, "by_torchvision", noted)
    images = torch.zeros((3, 3, 16, 16), dtype=torch.uint8)
    own = [make_edit(sorted(lost)[0], 1), make_edit(Operation.INVERT), make_edit(sorted(lost)[-1], 1)]
    tone.tone(images, np.array(own)[:, None], (0, 0, 0), hwc=False)
    assert looked == [[list(own[0])], [list(own[2])]]
    assert images.amax(dim=(1, 2, 3)).tolist() == [0, 255, 0]


def test_large_images() -> None:
    """Sums of so many levels depend on torch's order."""
    assert not same_as_torch(Operation.CONTRAST, (3, 257, 257), False, tone._settings())
    rng = np.random.default_rng(0)
    assert_like(rng.integers(0, 256, (1, 3, 260, 300), np.uint8), [[make_edit(Operation.CONTRAST, 0.4)]], hwc=True)


def test_other_settings() -> None:
    """A default dtype of 64 bits, and autocasting, change what torchvision computes."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    edits = make_edit(Operation.COLOR, 0.3), make_edit(Operation.CONTRAST, 1.4), MAPS.affine(33.0), MAPS.rotation(10)
    own = [list(edits)] * 2
    torch.set_default_dtype(torch.float64)
    try:
        assert_like(pixels, own, hwc=False)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu"):
        assert_like(pixels, own, hwc=False)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_like(pixels, own, hwc=False)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("hue", [0.0, 0.2])
def test_in_a_pipeline(hue: float, jit: bool) -> None:
    """Steps before and after meet as they do in torchvision, whether images are of one size or not."""
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, hue)], p=0.8)
    steps = [v2.ToImage(), v2.RandomCrop(32), jitter, v2.RandomHorizontalFlip(), v2.RandAugment(), v2.GaussianBlur(5)]
    steps += [v2.RandomRotation(30, fill=7), v2.RandomAdjustSharpness(2), v2.TrivialAugmentWide(fill=[3]), *FLOATS]
    for mode in ("RGB", "L", "RGBA"):
        for sizes in ([(40, 50)] * 6, [(40, 50), (32, 90), (64, 33), (32, 32)]):
            assert_like_torchvision(v2.Compose(steps), make_images(mode, sizes, 0), "HWC", 1, jit=jit)
            ragged = v2.Compose([step for step in steps if not isinstance(step, v2.RandomCrop)])
            assert_like_torchvision(ragged, make_images(mode, sizes, 0), "CHW", 1, jit=jit)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (
            v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR),
            "of tensors, what lies between pixels is left to torchvision",
        ),
        (v2.RandAugment(fill=[1, 2]), r"fill: \[1.0, 2.0\] is no colour of 3 bytes"),
        (v2.RandomRotation(9, fill=300), "fill: .* is no colour of 3 bytes"),
        (v1.RandAugment(), "version 1 is batched for PIL images only"),
        (v1.RandomRotation(9), "version 1 is batched for PIL images only"),
    ],
)
def test_declined(transform: Any, reason: str) -> None:
    """`explain` says why tensors are given to torchvision one at a time."""
    lowered = lower(v1.Compose([v1.PILToTensor(), transform]))
    assert re.search(f"one at a time: {reason}", lowered.explain())


def test_floats_are_declined() -> None:
    """It is bytes that are edited."""
    lowered = lower(v2.Compose([v2.ToImage(), *FLOATS, v2.RandAugment()]))
    assert "one at a time: it is batched for PIL images and for bytes" in lowered.explain()


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
