"""Pillow's operations: its bits, whatever is done to which image; what is declined is left to Pillow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.modes import image_of, pixels_of
from lmdbpipe.transforms import editing, edits, lower, tone
from lmdbpipe.transforms.edits import colour, edit
from lmdbpipe.transforms.operations import MAPS, Edit, Maps, Operation, by_pil, make_edit
from lmdbpipe.transforms.step import Spec
from tests.transforms.helpers import assert_like_torchvision, cleared, make_images, pack, without_numba

FACTORS = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS)
ANY = st.one_of(
    st.builds(make_edit, st.sampled_from(FACTORS), st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1.0, 50.0]))),
    st.builds(make_edit, st.just(Operation.HUE), st.integers(0, 255)),
    st.builds(make_edit, st.just(Operation.POSTERIZE), st.integers(1, 8)),
    st.builds(make_edit, st.just(Operation.SOLARIZE), st.floats(-1, 257)),
    st.builds(make_edit, st.sampled_from([Operation.AUTOCONTRAST, Operation.EQUALIZE, Operation.INVERT])),
    st.builds(make_edit, st.sampled_from(list(MAPS)), *[st.floats(-3, 3)] * 6),
    st.builds(
        lambda operation, x, y: make_edit(operation, 1, 0, x, 0, 1, y),
        st.sampled_from(list(MAPS)),
        *[st.one_of(st.integers(-9, 9), st.floats(-20, 20))] * 2,
    ),
    st.builds(lambda x: make_edit(Operation.BILINEAR, 0.8, 0.6, x, -0.6, 0.8, x), st.floats(-20, 60)),
    st.just(make_edit(Operation.IDENTITY)),
)
EXTENTS = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 3, 64, 65]))


@pytest.fixture
def fresh_kernel() -> Iterator[None]:
    """Let Pillow be tried, and numba be looked for, anew: now and after the test."""
    with cleared(edits._kernel, edits.known, tone._compiled):
        yield


def assert_like_pillow(pixels: np.ndarray[Any, Any], mode: str, own: list[list[Edit]], fill: tuple[int, ...]) -> None:
    """Edit images [n, H, W, C] here and by Pillow."""
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy(order="C"))
    edit(images, Spec.pil(mode), np.array(own, np.float64).reshape(len(own), -1, 7), fill)
    for before, after, steps in zip(pixels, images, own, strict=True):
        image = image_of(before, mode)
        for step in steps:
            image = by_pil(image, step, fill)
        np.testing.assert_array_equal(after.permute(1, 2, 0).numpy(), pixels_of(image), str(steps))


@given(
    mode=st.sampled_from(["L", "RGB"]),
    size=st.tuples(EXTENTS, EXTENTS),
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    own=st.integers(1, 3).flatmap(lambda k: st.lists(st.lists(ANY, min_size=k, max_size=k), min_size=1, max_size=4)),
    jit=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_edits(
    mode: str, size: tuple[int, int], levels: list[int], own: list[list[Edit]], jit: bool, seed: int
) -> None:
    """Images of any level, each with operations of its own, have Pillow's bits."""
    rng = np.random.default_rng(seed)
    shape = (len(own), *size, len(mode))
    pixels = rng.integers(0, 256, shape, np.uint8) if seed % 2 else rng.choice(np.array(levels, np.uint8), shape)
    with nullcontext() if jit else without_numba():
        assert_like_pillow(pixels, mode, own, (9, 255, 0)[: len(mode)])


def test_pillow_is_known() -> None:
    """The installed Pillow gives the bits that are computed, so it is compiled code that the other tests are about."""
    assert edits.known() == frozenset(Operation)


@pytest.mark.parametrize("shift", [0, 1, 60, 128, 255])
def test_every_hue(shift: int) -> None:
    """Colours from all over the cube, its edges and its diagonal, turn as Pillow turns them."""
    levels = np.unique([*range(0, 256, 5), 1, 254])
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, len(levels), -1, 3).astype(np.uint8)
    assert_like_pillow(cube, "RGB", [[make_edit(Operation.HUE, shift)]], (0, 0, 0))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 0.999, 1.0, 1.001, 1.5, 4.0])
def test_every_level(factor: float) -> None:
    """Every level blends with every other one as Pillow blends them: colour with its grey, levels with a mean."""
    ramp = np.arange(256, dtype=np.uint8)
    reds, greens = np.meshgrid(ramp, ramp)
    pixels = np.stack([reds, greens, greens[::-1]], axis=-1)[None]
    for operation in FACTORS:
        assert_like_pillow(pixels, "RGB", [[make_edit(operation, factor)]], (0, 0, 0))
        assert_like_pillow(pixels[..., :1], "L", [[make_edit(operation, factor)]], (0,))


@pytest.mark.parametrize("size", [(30, 30), (20, 41)])
def test_rotations_and_maps(size: tuple[int, int]) -> None:
    """Maps made here are those of Pillow's ``rotate`` and of torchvision's ``affine``; quarter turns included."""
    (image,) = make_images("RGB", [size], 0)
    for by, kind in MAPS.items():
        maps = Maps(size, by)
        for angle in (0, 33.3, 90, 180, 270, -90, 359.9, 720):
            assert_like(image.rotate(angle, kind), image, maps.rotation(angle))
            assert_like(image.rotate(angle, kind, center=(3, 4)), image, maps.rotation(angle, (3, 4)))
            theirs = v1.functional.affine(image, angle, [3, -2], 0.7, [10.0, 5.0], v1.InterpolationMode[kind.name])
            assert_like(theirs, image, maps.affine(angle, (3, -2), 0.7, (10.0, 5.0)))


@pytest.mark.parametrize("module", [v1, v2])
@pytest.mark.parametrize("angle", [45, 90, 135, 180])
def test_maps_on_whole_numbers(module: Any, angle: int) -> None:
    """Where a map meets pixels' middles, the last bit of a coefficient is a level: each generation has its own."""
    y, x = np.mgrid[:32, :32]
    gradient = Image.fromarray(np.stack([x * 3, y * 2, x + y], axis=2).astype(np.uint8))
    transform = module.RandomAffine((angle, angle), interpolation=v1.InterpolationMode.BILINEAR)
    assert assert_like_torchvision(transform, [gradient], "HWC", 0) == "equal"


def assert_like(theirs: Image.Image, image: Image.Image, own: Edit) -> None:
    """Edit an image, and compare."""
    pixels = torch.from_numpy(pixels_of(image)).permute(2, 0, 1)[None].contiguous()
    edit(pixels, Spec.pil(image.mode), np.array([[own]]), (0, 0, 0))
    np.testing.assert_array_equal(pixels[0].permute(1, 2, 0).numpy(), pixels_of(theirs))


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> list[Operation]:
    """The operations that Pillow does from now on; identities apart."""
    edits.known()
    done: list[Operation] = []

    def noted(image: Image.Image, own: Edit, fill: tuple[int, ...]) -> Image.Image:
        done.extend([Operation(int(own[0]))] if own[0] else [])
        return by_pil(image, own, fill)

    monkeypatch.setattr(edits, "by_pil", noted)
    return done


def test_maps_from_afar(by_pillow: list[Operation]) -> None:
    """Images that Pillow maps without fixed-point arithmetic are left to it, and no others."""
    pixels = np.stack([pixels_of(image) for image in make_images("L", [(40, 50)] * 3, 0)])
    maps = Maps((40, 50))
    near, far = maps.affine(10.0), maps.affine(10.0, scale=1e-4)
    invert = make_edit(Operation.INVERT)
    assert_like_pillow(pixels, "L", [[near, invert], [invert, far], [invert, near]], (3,))
    assert by_pillow == [Operation.INVERT, Operation.AFFINE]


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("module", [v1, v2])
def test_in_a_pipeline(module: Any, jit: bool) -> None:
    """Steps before and after meet as they do in torchvision, whether images are of one size or not."""
    jitter = module.RandomApply([module.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    steps = [module.RandomCrop(30), jitter, module.RandomHorizontalFlip(), module.RandAugment(), module.PILToTensor()]
    for mode in ("RGB", "L", "RGBA"):
        for sizes in ([(40, 50)] * 6, [(40, 50), (31, 90), (64, 31), (30, 30)]):
            assert_like_torchvision(v1.Compose(steps), make_images(mode, sizes, 0), "HWC", 1, jit=jit)
            assert_like_torchvision(v1.Compose(steps[1:]), make_images(mode, sizes, 0), "CHW", 1, jit=jit)


@pytest.mark.parametrize(
    ("transform", "outcome"),
    [
        (v2.ColorJitter(0.4, 0.4, 0.4, 0.2), "equal"),
        (v2.RandomAffine(20, (0.1, 0.1)), "equal"),
        (v2.RandomRotation(20), "equal"),
        (v2.RandomAdjustSharpness(2), "equal"),
        (v2.RandAugment(), "raised"),
        (v2.TrivialAugmentWide(), "raised"),
        (v2.AutoAugment(), "raised"),
    ],
)
def test_tuples(transform: Any, outcome: str) -> None:
    """All images of a tuple get the same, where torchvision takes tuples."""
    images = make_images("RGB", [(20, 22)] * 4, 1)
    assert assert_like_torchvision(v2.Compose([v2.FiveCrop(10), transform]), images, "HWC", 3) == outcome


def test_changes_take_effect() -> None:
    """Attributes of a transform are read when it is used."""
    images = make_images("RGB", [(20, 20)] * 4, 0)
    transform = v1.RandAugment(1)
    lowered = lower(transform)
    for transform.num_ops, transform.fill in ((1, None), (5, 200)):
        torch.manual_seed(3)
        expected = [pixels_of(transform(image)) for image in images]
        torch.manual_seed(3)
        np.testing.assert_array_equal([pixels_of(image) for image in lowered(pack(images))], expected)


def test_another_pillow(fresh_kernel: None, by_pillow: list[Operation], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the installed Pillow does with other bits than ours is left to it, image by image."""

    def other(image: Image.Image, own: Edit, fill: tuple[int, ...]) -> Image.Image:
        flipped = by_pil(image, own, fill)
        return flipped.point(lambda level: level ^ 1) if own[0] in (Operation.HUE, Operation.COLOR) else flipped

    edits.known.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(edits, "by_pil", other)
        assert frozenset(Operation) - edits.known() == {Operation.HUE, Operation.COLOR}
    pixels = np.stack([pixels_of(image) for image in make_images("RGB", [(20, 30)] * 3, 0)])
    hue, invert = make_edit(Operation.HUE, 9), make_edit(Operation.INVERT)
    assert_like_pillow(pixels, "RGB", [[invert, invert], [invert, hue], [hue, hue]], (0, 0, 0))
    assert by_pillow == [Operation.INVERT, Operation.HUE, Operation.HUE, Operation.HUE]
    transform = v1.Compose([v1.Grayscale(3), v1.ColorJitter(0.5, 0.5, 0.5, 0.5)])
    assert assert_like_torchvision(transform, make_images("RGB", [(20, 30)] * 4, 0), "HWC", 0) == "equal"


def test_numba_is_optional(fresh_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba it is Pillow that edits, and there is nothing to prepare."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "lmdbpipe.transforms.editing", raising=False)
    monkeypatch.delattr("lmdbpipe.transforms.editing", raising=False)
    transform = v2.TrivialAugmentWide()
    lower(transform).prepare()
    assert edits._kernel() is None
    assert assert_like_torchvision(transform, make_images("RGB", [(20, 30)] * 9, 0), "HWC", 0) == "equal"


def test_prepared_is_what_is_used(fresh_kernel: None) -> None:
    """`prepare` compiles the one form of the kernel that transforms use."""
    lower(v1.RandomApply([v1.RandomEqualize()])).prepare()
    kernel: Any = editing.edit
    assert len(kernel.signatures) == 1
    test_in_a_pipeline(v2, True)
    for transform in (v1.Grayscale(), v1.RandomAutocontrast(1.0), v1.RandomAdjustSharpness(2, p=1.0)):
        lower(transform)(pack(make_images("RGB", [(20, 30)] * 4, 0)))
    assert len(kernel.signatures) == 1


def test_colours() -> None:
    """A colour is what Pillow makes of it; what is none is refused."""
    assert [colour(fill, "RGB") for fill in (None, 7, 0.9, [300, 2, -1])] == [(0,) * 3, (7,) * 3, (0,) * 3, (255, 2, 0)]
    assert [colour(fill, "L") for fill in ([8], 9)] == [(8,), (9,)]
    with pytest.raises(ValueError, match="2 values"):
        colour([1, 2], "RGB")
