"""``GaussianBlur`` of bytes with torchvision's bits, many times as fast where numba is installed (the extra ``jit``).

Which of its ways torch goes to convolve depends on the processor, the size of images and some settings. So for every
size its sums are compared with those that are computed here; where they differ in a bit, torchvision blurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import functional as v1
from torchvision.transforms._functional_tensor import _get_gaussian_kernel1d
from torchvision.transforms.v2.functional import _misc as v2

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, Step, between, held, uniform
from lmdbpipe.transforms.streams import Words

_SAMPLED = 16
"""Rows of an image, and columns, in which sums are compared."""


class GaussianBlur(Step):
    """``v1.GaussianBlur``. Its parameters are standard deviations, float64 [n]."""

    words = 1
    draws = True
    images = "lost"

    @property
    def anywhere(self) -> bool:
        """The CPU computes."""
        return False

    def accept(self, spec: Spec) -> Spec | str:
        """Bytes, of PIL images of modes L and RGB, or tensors; these come out as C x H x W in memory, too."""
        if spec.kind == "pil":
            return spec if spec.mode in ("L", "RGB") else f"mode {spec.mode} is left to torchvision"
        return Spec("tensor", "", spec.dtype, spec.channels, spec.image) if spec.dtype == torch.uint8 else "no bytes"

    def fixed(self, spec: Spec, size: Any) -> int | None:
        """One, but torch may round otherwise than we when it stretches a number to the interval."""
        return None

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give a number for each image."""
        return between(uniform(words[:, 0]), self.t.sigma), size

    def drawn(self) -> float:
        """A number, by the call that torchvision makes."""
        return float(self.t.get_params(*self.t.sigma))

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """One number."""
        return self.drawn(), size

    def stack(self, ones: Sequence[float]) -> Params:
        """Give them all."""
        return np.array(ones, np.float64)

    def prepare(self) -> None:
        """Load or compile what images are blurred with."""
        if _compiled() is not None:
            self.blur(torch.zeros((1, 3, 8, 8), dtype=torch.uint8), np.ones(1), hwc=True)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Blur every image."""
        out = self.infer(batch.spec)
        assert isinstance(out, Spec)
        hwc = batch.spec.kind == "pil" or batch.spec.hwc
        return batch.edited(out, lambda pixels, sigmas: self.blur(pixels, sigmas, hwc=hwc), params)

    def blur(self, pixels: Tensor, sigmas: NDArray[np.float64], *, hwc: bool) -> None:
        """Blur images in place.

        Args:
            pixels: uint8 [n, C, H, W], contiguous.
            sigmas: Each image's standard deviation.
            hwc: Whether torchvision would hold them as H x W x C in memory.
        """
        kernel_size, shape = tuple(self.t.kernel_size), tuple(pixels.shape[1:])
        layouts, settings = {hwc, False}, _settings()  # steps before may have changed it for some images
        if min(sigmas) > 0 and all(same_as_torch(kernel_size, shape, layout, settings) for layout in layouts):
            weights = {size: np.stack([self.weights(size, s) for s in sigmas.tolist()]) for size in set(kernel_size)}
            across, down = (weights[size] for size in kernel_size)
            _compiled().blur(pixels.numpy(), down, across)
            return
        for image, sigma in zip(pixels, sigmas.tolist(), strict=True):
            image.copy_(self.by_torchvision(held(image, hwc=hwc), list(kernel_size), [sigma, sigma]))

    def weights(self, size: int, sigma: float) -> NDArray[np.float32]:
        """The weights of a kernel's rows or columns, as torchvision computes them: float32 [size]."""
        return _numpy(_get_gaussian_kernel1d(size, sigma, torch.float32, torch.device("cpu")))

    def by_torchvision(self, image: Tensor, kernel_size: list[int], sigma: list[float]) -> Tensor:
        """Let torchvision blur an image [C, H, W]."""
        blurred: Tensor = v1.gaussian_blur(image, kernel_size, sigma)
        return blurred


class GaussianBlurV2(GaussianBlur):
    """``v2.GaussianBlur``."""

    def drawn(self) -> float:
        """A number, by ``make_params``."""
        return float(self.t.make_params([])["sigma"][0])

    def weights(self, size: int, sigma: float) -> NDArray[np.float32]:
        """By another formula."""
        return _numpy(v2._get_gaussian_kernel1d(size, sigma, torch.float32, torch.device("cpu")))

    def by_torchvision(self, image: Tensor, kernel_size: list[int], sigma: list[float]) -> Tensor:
        """By its own function."""
        blurred: Tensor = v2.gaussian_blur_image(image, kernel_size, sigma)
        return blurred


@lru_cache(maxsize=4096)
def same_as_torch(kernel_size: tuple[int, ...], shape: tuple[int, ...], hwc: bool, settings: Any) -> bool:
    """Whether torch's sums have the bits of those that are computed here: tried once a process for each size.

    Args:
        kernel_size: Columns and rows of the kernel.
        shape: (C, H, W) of an image.
        hwc: Whether it lies as H x W x C in memory.
        settings: Those of torch that may matter.

    Returns:
        False, too, for sizes that torchvision may refuse, and without numba or a processor with FMA.
    """
    (across, down), (channels, height, width) = kernel_size, shape
    fits = channels and across % 2 and down % 2 and 0 < across < 2 * width and 0 < down < 2 * height
    if not fits or _compiled() is None:
        return False
    rng = np.random.default_rng(1_733)
    pixels = rng.integers(0, 256, shape, np.uint8)
    image = held(torch.from_numpy(pixels), hwc=hwc).to(torch.float32)
    theirs = v2.gaussian_blur_image(image, [across, down], [across / 4, down / 4])
    if theirs.dtype != torch.float32 or not theirs.is_contiguous():
        return False
    columns, rows = (
        _numpy(v2._get_gaussian_kernel1d(size, size / 4, torch.float32, torch.device("cpu"))) for size in kernel_size
    )
    kernel = _compiled().multiply(rows, columns)
    padded = np.empty((height + down - 1, width + across - 1), np.float32)
    ys, xs = (np.unique(np.linspace(0, extent - 1, _SAMPLED).astype(np.int64)) for extent in (height, width))
    ours = np.empty(len(xs) + 3, np.float32)
    for plane, expected in zip(pixels, theirs.numpy(), strict=True):
        _compiled().pad(plane, padded)
        for y in ys.tolist():
            _compiled().add_up(padded[y:], kernel, xs, ours)
            if not np.array_equal(ours[: len(xs)], expected[y, xs]):
                return False
    return True


def _settings() -> tuple[Any, ...]:
    """What decides, besides sizes, how torch convolves."""
    enabled, precision = torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision()
    return torch.get_num_threads(), enabled, precision, torch.is_autocast_enabled("cpu")


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array


@cache
def _compiled() -> Any:
    try:
        from lmdbpipe.transforms import blurring  # noqa: PLC0415 it needs numba
    except ImportError:
        return None
    return blurring
