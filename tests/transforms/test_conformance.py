"""Every row of the table against torchvision itself, with the draws replayed: the same bits, the same generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.transforms.table import TABLE
from tests.transforms.examples import EXAMPLES, MEAN, STD
from tests.transforms.helpers import MODE_NAMES, assert_like_torchvision, make_images

Wrap = Callable[[Any], Any]


def _opaque(value: Any) -> Any:
    """A user's own step, which draws."""
    torch.rand(2)
    return value


WRAPS: dict[str, Wrap] = {
    "alone": lambda t: t,
    "v1, then to tensor": lambda t: v1.Compose([t, v1.ToTensor()]),
    "v1, to bytes first": lambda t: v1.Compose([v1.PILToTensor(), t]),
    "v1, to floats first": lambda t: v1.Compose([v1.ToTensor(), t, v1.RandomVerticalFlip()]),
    "v2, to image first": lambda t: v2.Compose([v2.ToImage(), t, v2.ToDtype(torch.float32, scale=True)]),
    "v2, to floats first": lambda t: v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), t]),
    "v2, pure": lambda t: v2.Compose([torch.nn.Sequential(v2.ToImage(), v2.ToPureTensor()), t]),
    "after flips and crops": lambda t: v1.Compose(
        [v1.RandomHorizontalFlip(), v1.RandomVerticalFlip(), v1.RandomCrop(9, padding=1), t, v1.RandomHorizontalFlip()]
    ),
    "opaque between": lambda t: v1.Compose([v1.RandomHorizontalFlip(), _opaque, t, v1.RandomHorizontalFlip()]),
    "opaque after": lambda t: v1.Compose([v1.CenterCrop(10), t, _opaque, v1.RandomVerticalFlip()]),
    "v2, to normalised images": lambda t: v2.Compose(
        [t, v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    ),
    "before normalising": lambda t: v1.Compose([t, v1.ToTensor(), v1.Normalize(MEAN, STD)]),
}
CASES = [
    pytest.param(make, id=f"{cls.__module__.split('.')[2]}.{cls.__name__}-{number}")
    for cls in TABLE
    for number, make in enumerate(EXAMPLES.get(cls, ()))
]
NUMBERS = {make: number for examples in EXAMPLES.values() for number, make in enumerate(examples)}
"""Of each example, the how manyth of its row it is."""
SIZES = st.one_of(
    st.tuples(st.integers(5, 14), st.integers(5, 14)).flatmap(
        lambda size: st.lists(st.just(size), min_size=1, max_size=5)
    ),
    st.lists(st.tuples(st.integers(5, 14), st.integers(5, 14)), min_size=1, max_size=4),
)


def is_turn(make: Callable[[], Any], number: int, form: int) -> bool:
    """Whether an example is tried in one of two forms: the first of its row always, each other one by turns."""
    return not NUMBERS[make] or (NUMBERS[make] + number) % 2 == form


def test_every_row_has_examples() -> None:
    """A row of the table cannot be without examples."""
    assert sorted(cls.__qualname__ for cls in TABLE if not EXAMPLES.get(cls)) == []


@pytest.mark.parametrize("make", CASES)
def test_rgb_everywhere(make: Callable[[], Any]) -> None:
    """An RGB batch, dense and ragged, in both layouts, in every surrounding, jitted or not, has torchvision's bits.

    A row's first example is dense and ragged in every surrounding; each other one takes turns.
    """
    dense = make_images("RGB", [(11, 12)] * 6, 1)
    ragged = make_images("RGB", [(11, 12), (10, 14), (16, 11), (11, 12)], 2)
    for number, wrap in enumerate(WRAPS.values()):
        transform = wrap(make())
        jit = number // 4 % 2 == 0
        if is_turn(make, number // 2, 0):
            assert_like_torchvision(transform, dense, "HWC" if number % 2 else "CHW", 3, jit=jit)
        if is_turn(make, number // 2, 1):
            assert_like_torchvision(transform, ragged, "CHW" if number % 2 else "HWC", 4, jit=not jit)


@pytest.mark.parametrize("module", [v1, v2])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_contrast_of_every_range(module: Any, mode: str) -> None:
    """Every darkest and lightest level has PIL's bits, and a flat channel stays as it is."""
    ranges = [(low, high) for low in range(0, 256, 3) for high in range(low, 256, 7)]
    images = []
    for low, high in ranges:
        pixels = np.linspace(low, high, 20 * 13).round().astype(np.uint8).reshape(20, 13)
        image = Image.fromarray(pixels)
        flat = Image.new("L", image.size, 9)
        images.append(image if mode == "L" else Image.merge("RGB", [image, flat, image.rotate(180)]))
    assert_like_torchvision(module.RandomAutocontrast(1.0), images, "HWC", 0)


@pytest.mark.parametrize("make", CASES)
@settings(deadline=None, max_examples=5, suppress_health_check=list(HealthCheck))
@given(
    mode=st.sampled_from(MODE_NAMES),
    sizes=SIZES,
    layout=st.sampled_from(["HWC", "CHW"]),
    name=st.sampled_from(sorted(WRAPS)),
    seed=st.integers(0, 2**32 - 1),
)
@example(mode="L", sizes=[(7, 9)] * 3, layout="HWC", name="alone", seed=0)
def test_any_image(
    make: Callable[[], Any], mode: str, sizes: list[tuple[int, int]], layout: str, name: str, seed: int
) -> None:
    """Images of any mode and size have torchvision's bits, or raise where torchvision raises."""
    assert_like_torchvision(WRAPS[name](make()), make_images(mode, sizes, seed), layout, seed)
