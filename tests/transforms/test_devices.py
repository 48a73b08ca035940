"""Lowered steps on other devices: every row of the table, as far as can be seen without such a device, and on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.transforms import CounterDraws, Tuples, batch, gather, lower
from tests.transforms.examples import MEAN, STD
from tests.transforms.helpers import assert_like_torchvision, assert_same, make_images, outcome, pack
from tests.transforms.test_conformance import CASES, WRAPS, is_turn

NAMES = ("alone", "v1, then to tensor", "v2, to image first", "v2, to floats first", "after flips and crops")
SIZES = {"dense": [(11, 12)] * 6, "ragged": [(11, 12), (10, 14), (16, 11), (11, 12)]}
GPUS = [f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
ALL_ON_THE_DEVICE = [
    v1.Compose([v1.RandomCrop(10, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    v2.Compose([v2.ToImage(), v2.RandomInvert(), v2.RandomCrop(8), v2.ToDtype(torch.float32, scale=True)]),
    v2.Compose([v2.TenCrop(7), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
    v1.Compose([v1.CenterCrop(9), v1.ToTensor(), v1.RandomErasing(1.0, value="random")]),
]


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU's tensors as those of another device."""
    for module in (gather, batch):
        monkeypatch.setattr(module, "near", lambda device: False)


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("make", CASES)
def test_the_way_over_a_device_gives_the_same_bits(make: Callable[[], Any]) -> None:
    """What is done to pixels on a device has torchvision's bits, where it is done by the CPU's kernels."""
    for number, name in enumerate(NAMES):
        for form, sizes in enumerate(SIZES.values()):
            images, layout = make_images("RGB", sizes, number), "HWC" if number % 2 else "CHW"
            if is_turn(make, number, form):
                assert_like_torchvision(WRAPS[name](make()), images, layout, 3 + form, device="cpu")


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("form", SIZES)
def test_devices_have_the_same_draws_and_hold_the_results(
    make: Callable[[], Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted draws give the same bits by way of a device, and every tensor of a result is there.

    Of what is there, the shapes and dtypes are compared: the meta device has those only.
    """
    raw = pack(make_images("RGB", SIZES[form], 1))
    draws = CounterDraws(3, 1, np.arange(len(raw)))
    for name in NAMES:
        lowered = lower(WRAPS[name](make()))
        expected: Any = outcome(lambda: lowered(raw, draws))  # noqa: B023
        with monkeypatch.context() as patch:
            for module in (gather, batch):
                patch.setattr(module, "near", lambda device: False)
            by_way: Any = outcome(lambda: lowered(raw, draws, device="cpu"))  # noqa: B023
        if isinstance(expected, Exception):
            continue
        assert_same(list(by_way), list(expected))
        there: Any = lowered(raw, draws, device="meta")
        pairs = zip(_tensors(there), _tensors(expected), strict=True)
        assert all((t.device.type, t.shape, t.dtype) == ("meta", e.shape, e.dtype) for t, e in pairs), name


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Tuples):
        return list(result.batches)
    return [one for one in result if isinstance(one, Tensor)]


def test_bytes_go_over_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are moved as they are stored, and only once; conversion, inversion and erasing are done there."""
    moved: list[Tensor] = []
    to = Tensor.to

    def noting(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved.append(self)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", noting)
    steps = [v2.ToImage(), v2.RandomInvert(1.0), v2.ToDtype(torch.float32, scale=True), v2.RandomErasing(1.0)]
    lower(v2.Compose(steps))(pack(make_images("RGB", [(9, 9)] * 4, 0)), CounterDraws(0, 0, np.arange(4)), device="meta")
    there = [tensor for tensor in moved if tensor.device.type == "cpu" and tensor.ndim == 4]
    assert [(tensor.dtype, tuple(tensor.shape)) for tensor in there] == [(torch.uint8, (4, 3, 9, 9))]


@pytest.mark.parametrize("device", ["cpu", *GPUS])
@pytest.mark.parametrize("transform", ALL_ON_THE_DEVICE)
@pytest.mark.parametrize("form", SIZES)
def test_available_devices_agree(device: str, transform: Any, form: str) -> None:
    """Crops, flips, conversion and normalising give the same bits on every device that this machine has."""
    raw = pack(make_images("RGB", SIZES[form], 1))
    draws = CounterDraws(3, 1, np.arange(len(raw)))
    expected, actual = lower(transform)(raw, draws), lower(transform)(raw, draws, device=device)
    assert {str(tensor.device) for tensor in _tensors(actual)} == {device}
    assert_same([tensor.cpu() for tensor in _tensors(actual)], _tensors(expected))


@pytest.mark.parametrize(
    "step", [v2.RandomRotation(30), v2.Resize(16), v2.RandomAdjustSharpness(2, p=1.0), v2.ColorJitter(0.3)]
)
def test_steps_for_the_cpu_on_batches_elsewhere(step: Any) -> None:
    """What must see pixels is left to torchvision, where they are."""
    batch = torch.empty((4, 3, 32, 32), dtype=torch.uint8, device="meta")
    result = lower(v2.Compose([v2.RandomHorizontalFlip(), step]))(batch)
    assert isinstance(result, Tensor)
    assert result.device.type == "meta"
    assert result.shape == (4, 3, *step(batch[0]).shape[1:])
