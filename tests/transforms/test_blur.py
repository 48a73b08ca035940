"""Gaussian blurs: torch's bits, whatever the size, kernel and image; what is declined is left to torchvision."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import gaussian_blur_image

from lmdbpipe.transforms import blur, blurring, lower
from lmdbpipe.transforms.blur import GaussianBlur, GaussianBlurV2, same_as_torch
from lmdbpipe.transforms.step import held
from tests.transforms.helpers import assert_like_torchvision, cleared, make_images, pack

STEPS = (GaussianBlur, GaussianBlurV2)
EXTENTS = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 64, 65]))
SIGMAS = st.one_of(st.floats(0.05, 30), st.sampled_from([1e-3, 0.1, 1.0, 1e4]))


def kernels(extent: int) -> st.SearchStrategy[int]:
    """Sizes that fit an extent."""
    return st.integers(0, min(extent - 1, 12)).map(lambda half: 2 * half + 1)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let torch be tried, and numba be looked for, anew: now and after the test."""
    with cleared(blur._compiled, same_as_torch):
        yield


def is_known(kernel_size: tuple[int, int], shape: tuple[int, int, int], *, hwc: bool = False) -> bool:
    """Whether torch's bits are computed here."""
    return same_as_torch(kernel_size, shape, hwc, blur._settings())


@given(
    step=st.sampled_from(STEPS),
    hwc=st.booleans(),
    channels=st.sampled_from([1, 3, 3, 4]),
    size=st.tuples(EXTENTS, EXTENTS),
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=4),
    sigmas=st.lists(SIGMAS, min_size=1, max_size=3),
    data=st.data(),
)
def test_any_blur(
    step: Any,
    hwc: bool,
    channels: int,
    size: tuple[int, int],
    levels: list[int],
    sigmas: list[float],
    data: st.DataObject,
) -> None:
    """Images of any levels, each with a deviation of its own, have torchvision's bits."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = (len(sigmas), channels, *size)
    pixels = rng.choice(np.array(levels, np.uint8), shape) if levels[0] % 2 else rng.integers(0, 256, shape, np.uint8)
    kernel_size = [data.draw(kernels(extent)) for extent in size[::-1]]
    blurred = step(SimpleNamespace(kernel_size=kernel_size))
    images = torch.from_numpy(pixels.copy())
    blurred.blur(images, np.array(sigmas), hwc=hwc)
    for before, after, sigma in zip(pixels, images, sigmas, strict=True):
        theirs = blurred.by_torchvision(held(torch.from_numpy(before), hwc=hwc), kernel_size, [sigma, sigma])
        np.testing.assert_array_equal(after.numpy(), theirs.numpy())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0, 9.0])
def test_many_pixels(step: Any, sigma: float) -> None:
    """The few sums in a million that lie between two bytes are rounded as torch rounds them, on smooth images, too."""
    rng = np.random.default_rng(int(sigma * 10))
    noise = rng.integers(0, 256, (2, 3, 200, 210), np.uint8)
    noise[1] = noise[1] // 64 + np.arange(210, dtype=np.uint8)
    images = torch.from_numpy(noise.copy())
    blurred = step(SimpleNamespace(kernel_size=[23, 21]))
    blurred.blur(images, np.full(2, sigma), hwc=True)
    for before, after in zip(noise, images, strict=True):
        theirs = blurred.by_torchvision(held(torch.from_numpy(before), hwc=True), [23, 21], [sigma, sigma])
        np.testing.assert_array_equal(after.numpy(), theirs.numpy())


@pytest.mark.skipif(
    not torch.backends.mkldnn.enabled or platform.machine() != "x86_64", reason="torch convolves in another way"
)
def test_torch_is_known() -> None:
    """The installed torch gives the bits that are computed, so it is compiled code that the other tests are about."""
    assert all(is_known((23, 23), shape, hwc=True) for shape in ((3, 224, 224), (3, 32, 40), (1, 50, 51)))


@pytest.mark.parametrize("number", range(3))
def test_another_torch(number: int, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch's sums differ in a bit of one place, lie otherwise, or are no floats, torchvision blurs."""
    theirs, looked = gaussian_blur_image, []

    def other(image: torch.Tensor, *arguments: Any) -> torch.Tensor:
        blurred: torch.Tensor = theirs(image, *arguments)
        if image.dtype == torch.uint8:
            looked.append(blurred)
            return blurred
        if number == 0:
            blurred[1, -1, -1] = torch.nextafter(blurred[1, -1, -1], torch.tensor(999.0))
        return (blurred, blurred.permute(1, 2, 0).contiguous().permute(2, 0, 1), blurred.double())[number]

    monkeypatch.setattr("torchvision.transforms.v2.functional._misc.gaussian_blur_image", other)
    assert not is_known((5, 5), (3, 20, 30))
    (image,) = make_images("RGB", [(20, 30)], 0)
    lower(v2.GaussianBlur(5))(pack([image]))
    assert len(looked) == 1


@pytest.mark.parametrize(
    ("kernel_size", "size"), [((9, 3), (20, 5)), ((3, 9), (5, 20)), ((9, 9), (4, 4)), ((9, 9), (5, 5))]
)
@pytest.mark.parametrize("module", [v1, v2])
def test_kernels_that_do_not_fit(module: Any, kernel_size: tuple[int, int], size: tuple[int, int]) -> None:
    """A kernel that reaches beyond an image and its mirror image is refused as torchvision refuses it."""
    fits = min(size) == 5
    outcome = assert_like_torchvision(module.GaussianBlur(kernel_size), make_images("RGB", [size] * 2, 0), "HWC", 0)
    assert outcome == ("equal" if fits else "raised")


@pytest.mark.parametrize("module", [v1, v2])
def test_changes_take_effect(module: Any) -> None:
    """Attributes of a transform are read when it is used; impossible ones are refused as torchvision refuses them."""
    images = make_images("RGB", [(20, 20)] * 4, 0)
    transform = module.GaussianBlur(3)
    for kernel_size, sigma in (((3, 5), (1.0, 2.0)), ((4, 4), (1.0, 1.0)), ((3, 3), (-1.0, -1.0))):
        transform.kernel_size, transform.sigma = kernel_size, sigma
        outcome = assert_like_torchvision(transform, images, "HWC", 3)
        assert outcome == ("equal" if kernel_size == (3, 5) else "raised")


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("module", [v1, v2])
def test_in_a_pipeline(module: Any, jit: bool) -> None:
    """Steps before and after meet as they do in torchvision, whether images are of one size or not."""
    maybe = module.RandomApply([module.GaussianBlur(9)], p=0.6)
    steps = [module.RandomCrop(30), module.RandomGrayscale(), maybe, module.RandomHorizontalFlip(), v1.ToTensor()]
    for mode in ("RGB", "L", "RGBA"):
        for sizes in ([(40, 50)] * 6, [(40, 50), (31, 90), (64, 31), (30, 30)]):
            assert_like_torchvision(v1.Compose(steps), make_images(mode, sizes, 0), "HWC", 1, jit=jit)
            assert_like_torchvision(v1.Compose(steps[1:]), make_images(mode, sizes, 0), "CHW", 1, jit=jit)


def test_tuples() -> None:
    """All images of a tuple are blurred alike."""
    images = make_images("RGB", [(20, 22)] * 4, 1)
    assert assert_like_torchvision(v2.Compose([v2.FiveCrop(10), v2.GaussianBlur(5)]), images, "HWC", 3) == "equal"


def test_numba_is_optional(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba it is torchvision that blurs, and there is nothing to prepare."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "lmdbpipe.transforms.blurring", raising=False)
    monkeypatch.delattr("lmdbpipe.transforms.blurring", raising=False)
    transform = v2.GaussianBlur(5)
    lower(transform).prepare()
    assert blur._compiled() is None
    assert assert_like_torchvision(transform, make_images("RGB", [(20, 30)] * 9, 0), "HWC", 0) == "equal"


def test_prepared_is_what_is_used() -> None:
    """`prepare` compiles the one form of the kernel that transforms use."""
    lower(v1.RandomApply([v1.GaussianBlur(3)])).prepare()
    kernel: Any = blurring.blur
    assert len(kernel.signatures) == 1
    test_in_a_pipeline(v2, True)
    assert len(kernel.signatures) == 1
