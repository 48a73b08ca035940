"""Lowering: what is batched and what is not, mixed batches, threads, devices, and results like collated samples."""

from __future__ import annotations

import doctest
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.datasets import FakeData
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from lmdbpipe import LMDBDataset, transforms
from lmdbpipe.errors import TransformError
from lmdbpipe.transforms import CounterDraws, lower, lowering, raw
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.gather import _on_device
from lmdbpipe.transforms.running import Runner
from lmdbpipe.transforms.step import Spec
from tests.transforms.examples import MEAN, STD
from tests.transforms.helpers import assert_like_torchvision, assert_same, make_images, pack, seed_all, without_numba

CIFAR = v1.Compose([v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)])


class _Flip(v1.RandomHorizontalFlip):  # type: ignore[misc]
    """A subclass that does something else."""

    def forward(self, img: Any) -> Any:
        return img.rotate(90)


def _brighten(image: Any) -> Any:
    return image.point(lambda value: min(255, value + 20))


def test_public_names() -> None:
    """The public names are sorted, and exist."""
    assert sorted(transforms.__all__) == transforms.__all__
    assert all(hasattr(transforms, name) for name in transforms.__all__)


@pytest.mark.parametrize("module", [lowering, raw])
def test_docstring_examples(module: ModuleType) -> None:
    """The examples in docstrings run."""
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_explain() -> None:
    """The report says what is batched, what is not, and why."""
    text = lower(v1.Compose([v1.RandomHorizontalFlip(), _brighten, v1.ToTensor(), _Flip()])).explain()
    lines = text.splitlines()
    assert "batched: PIL RGB -> PIL RGB" in lines[0]
    assert "_brighten" in lines[1]
    assert "one at a time: it has no batched form" in lines[1]
    assert "batched, where it can be" in lines[2]
    assert "a subclass of RandomHorizontalFlip" in lines[3]
    assert lower(None).explain().startswith("no steps")
    assert "PIL has its own way from CMYK" in lower(v1.Grayscale()).explain("CMYK")


def test_explain_tuples() -> None:
    """What FiveCrop gives is shown as so many images; what takes no tuples is not batched after it."""
    text = lower(v2.Compose([v2.FiveCrop(4), v2.ToImage(), v2.ToPureTensor(), v2.ToDtype(torch.float32)])).explain()
    lines = text.splitlines()
    assert lines[0].endswith("batched: PIL RGB -> 5 of PIL RGB")
    assert lines[1].endswith("-> 5 of Image uint8x3")
    assert lines[3].endswith("of several plain tensors, version 2 changes the first only")
    reasons = {
        v1.RandomHorizontalFlip(): "it is given tuples",
        v2.RandomApply([v2.Grayscale()]): "it chooses for tuples",
        v2.FiveCrop(2): "tuples of tuples",
    }
    for step, reason in reasons.items():
        assert reason in lower(v2.Compose([v2.TenCrop(4), step])).explain()
    assert "it chooses among tuples" in lower(v2.RandomChoice([v2.FiveCrop(3), v2.FiveCrop(3)])).explain()


def test_tuples_are_a_sequence_of_samples() -> None:
    """What comes out of FiveCrop can be read like a list of tuples, and holds a tensor for each place."""
    images = make_images("RGB", [(8, 9)] * 4, 0)
    result: Any = lower(v2.Compose([v2.FiveCrop(4), v2.ToImage()]))(pack(images))
    assert (len(result), len(result.batches), repr(result)) == (4, 5, "Tuples(4 of 5 tensors [3, 4, 4])")
    for place, crops in enumerate(default_collate(list(result))):
        assert torch.equal(crops, result.batches[place])
    assert [type(one) for one in result[1]] == [tv_tensors.Image] * 5
    assert_same(result[1:3], [result[1], result[2]])
    assert_same(result[-1], list(result)[3])


def test_crops_in_a_loader_like_the_wrapped_dataset(tmp_path: Path) -> None:
    """A DataLoader over the wrapper gives for FiveCrop what it gives over the dataset."""
    transform = v2.Compose([v2.FiveCrop(6), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = FakeData(12, (3, 9, 8), transform=transform)
    wrapped = LMDBDataset(dataset, root=tmp_path)
    for one, other in zip(DataLoader(dataset, batch_size=5), DataLoader(wrapped, batch_size=5), strict=True):
        assert_same(other, one)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize(
    "transform",
    [
        CIFAR,
        v2.Compose([v2.ToImage(), v2.RandomCrop(30), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
        v1.Compose([v1.RandomHorizontalFlip(), v1.ColorJitter(0.3, 0.2), _brighten, v1.ToTensor(), v1.RandomErasing()]),
        v1.Compose([_Flip(), v1.RandomVerticalFlip()]),
        torch.nn.Sequential(v1.RandomHorizontalFlip(), v1.CenterCrop(20)),
        v1.Compose([v1.RandomRotation(5), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Lambda(lambda x: x * 2)]),
        v1.Compose([v1.Resize(40), v1.FiveCrop(20), v1.Lambda(lambda xs: torch.stack([v1.ToTensor()(x) for x in xs]))]),
        v2.Compose([v2.TenCrop(20), v2.ToImage()]),
        v2.Compose([v2.RandAugment(), v2.RandomHorizontalFlip(), v2.ToImage()]),
        v1.Compose([torchvision.transforms.TrivialAugmentWide(), v1.RandomResizedCrop(20), v1.ToTensor()]),
        lambda image: image.size,
        v1.Compose([]),
    ],
)
def test_pipelines(transform: Any, layout: str) -> None:
    """Whole pipelines of real batches have torchvision's bits."""
    assert assert_like_torchvision(transform, make_images("RGB", [(32, 32)] * 40, 1), layout, 5) == "equal"
    sizes = [(32 + i % 5, 50 - i % 7) for i in range(12)]
    assert assert_like_torchvision(transform, make_images("RGB", sizes, 1), layout, 5) == "equal"


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_large_images(layout: str) -> None:
    """Images that are moved one at a time, in blocks, have torchvision's bits too."""
    transform = v1.Compose([v1.RandomCrop(100, padding=9, fill=5), *CIFAR.transforms[1:], v1.RandomVerticalFlip()])
    assert_like_torchvision(transform, make_images("RGB", [(96, 110)] * 12, 1), layout, 5)
    flips = v1.Compose([v1.RandomHorizontalFlip(), v1.ToTensor()])
    assert_like_torchvision(flips, make_images("RGB", [(96, 110)] * 12, 1), layout, 5)


def test_many_small_images() -> None:
    """More images than are gathered at a time."""
    assert_like_torchvision(CIFAR, make_images("RGB", [(32, 32)] * 900, 1), "HWC", 5)


def test_mixed_modes() -> None:
    """Images of several modes in a batch are sorted, and come back in order."""
    pairs = zip(make_images("L", [(8, 8)] * 4, 0), make_images("RGB", [(8, 8)] * 4, 1), strict=True)
    images = [image for pair in pairs for image in pair]
    for transform in (
        v1.Compose([v1.RandomHorizontalFlip(), v1.RandomGrayscale(0.5)]),
        v1.Compose([v1.RandomCrop(7), v1.Grayscale(3), v1.RandomVerticalFlip(), v1.ToTensor()]),
        v1.Compose([v1.RandomHorizontalFlip(), _brighten, v1.RandomCrop(5), v1.ToTensor()]),
        v2.Compose([v2.RandomCrop(7), v2.RGB(), v2.ToImage()]),
    ):
        assert assert_like_torchvision(transform, images, "HWC", 2) == "equal"


@pytest.mark.parametrize("mode", ["1", "F", "I", "I;16", "L", "LA", "RGBA"])
def test_choices_put_every_dtype_in_order(mode: str) -> None:
    """What was chosen for some images only is put back among the others, whatever the dtype."""
    transform = v1.Compose(
        [v1.RandomChoice([v1.RandomCrop(6), v1.Compose([v1.Pad(1, padding_mode="edge"), v1.RandomCrop(6)])])]
    )
    assert assert_like_torchvision(transform, make_images(mode, [(7, 8)] * 8, 0), "HWC", 3) == "equal"


def test_hooks_and_replaced_methods_are_kept() -> None:
    """A transform with hooks or replaced methods is not lowered."""
    hooked = v1.RandomHorizontalFlip()
    hooked.register_forward_hook(lambda module, args, result: result.rotate(180))
    replaced = v1.CenterCrop(4)
    replaced.forward = lambda image: image.rotate(90)
    for transform in (hooked, replaced):
        assert "hooks or replaced methods" in lower(transform).explain()
        assert assert_like_torchvision(transform, make_images("RGB", [(8, 8)] * 3, 0), "HWC", 2) == "equal"


def test_attributes_are_live() -> None:
    """Changing an attribute of a transform takes effect without lowering again."""
    flip = v1.RandomHorizontalFlip(0.0)
    lowered = lower(v1.Compose([flip, v1.PILToTensor()]))
    raw = pack(make_images("RGB", [(8, 8)] * 3, 0))
    still: Any = lowered(raw)
    flip.p = 1.0
    assert_same(lowered(raw), still.flip(-1))


@pytest.mark.parametrize(
    "transform",
    [
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.bfloat16, scale=True), v2.RandomErasing(1.0), v2.RandomCrop(6)]),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.bfloat16, scale=True), v2.Pad(1, fill=0.3), v2.Pad(2), v2.Pad(1)]),
        v1.Compose([v1.ToTensor(), lambda x: x.bfloat16(), v1.RandomVerticalFlip(), v1.Normalize([0.5], [0.3])]),
        v1.Compose([v1.ToTensor(), lambda x: x.bfloat16(), v1.RandomHorizontalFlip(), lambda x: x * 2]),
        v1.Compose([v1.ToTensor(), lambda x: x.to(torch.complex64), v1.CenterCrop(4), v1.Pad(1)]),
        v1.Compose([v1.ToTensor(), v1.Normalize([[[0.5]]] * 3, [[[0.4]]] * 3)]),
        v1.Compose([v2.ToImage(), v1.FiveCrop(4), lambda crops: [type(crop) for crop in crops]]),
    ],
    ids=["erased", "padded", "normalised", "opaque", "complex", "nested", "crops"],
)
def test_unusual_tensors(transform: Any) -> None:
    """Dtypes that NumPy lacks, and numbers in unusual containers, are no different from others."""
    for sizes in ([(8, 9)] * 3, [(8, 9), (7, 10)]):
        assert assert_like_torchvision(transform, make_images("RGB", sizes, 0), "HWC", 0) == "equal"


def test_paletted_images_among_others() -> None:
    """Images with and without palettes go through what is done to some of them."""
    images = [image.convert("P") if n % 2 else image for n, image in enumerate(make_images("RGB", [(8, 9)] * 8, 0))]
    some = v1.RandomApply([v1.RandomRotation(10)])
    transform = v1.Compose([some, lambda image: image.convert("RGB"), v1.ToTensor()])
    assert assert_like_torchvision(transform, images, "HWC", 0) == "equal"
    result: Any = lower(transform)(pack(images), CounterDraws(0, 0, np.arange(8)))
    assert result.shape == (8, 3, 8, 9)


def test_padding_where_needed_that_changes_modes() -> None:
    """Torchvision pads only images that are too small, and only those become of another mode."""
    transform = v1.RandomCrop(4, pad_if_needed=True, padding_mode="edge")
    images = make_images("CMYK", [(6, 7), (3, 3)], 0)
    assert assert_like_torchvision(transform, images, "HWC", 0) == "equal"


@pytest.mark.parametrize("first", [[], [v1.RandomHorizontalFlip(), v1.PILToTensor()], [v1.ToTensor()]])
def test_presets(first: list[Any]) -> None:
    """What comes with a model's weights is unrolled, and follows its attributes; its hooks count."""
    preset = ImageClassification(crop_size=7, resize_size=9, interpolation=v1.InterpolationMode.BICUBIC)
    transform = v1.Compose([*first, preset])
    lowered = lower(transform)
    for resize_size in ([9], [8]):
        preset.resize_size = resize_size
        for mode, sizes in (("RGB", [(12, 15)] * 4), ("RGB", [(12, 15), (9, 8)]), ("L", [(10, 20)] * 2)):
            assert_like_torchvision(transform, make_images(mode, sizes, 0), "HWC", 0)
    assert len(lowered.steps) == len(first) + 5
    assert "one at a time" not in lowered.explain()
    preset.register_forward_hook(lambda *_: torch.zeros(3, 2, 2))
    assert lowered(pack(make_images("RGB", [(12, 15)], 0)))[0].shape == (3, 2, 2)


def test_transparent_colours() -> None:
    """A palette's transparency goes through batched steps to those that see images."""
    (paletted,) = make_images("P", [(8, 9)], 0)
    paletted.info["transparency"] = int(paletted.getpixel((3, 4)))  # type: ignore[arg-type]
    transform = v1.Compose([v1.RandomHorizontalFlip(1.0), lambda image: image.convert("RGBA"), v1.PILToTensor()])
    result: Any = lower(transform)([paletted])
    assert_same(result[0], transform(paletted))
    assert (result[0][3] == 0).any()


def _no_class(transform: Any) -> None:
    transform.transforms[1].__class__ = torch.nn.Identity


def _insert(transform: Any) -> None:
    transform.transforms.insert(0, v1.CenterCrop(6))


def _replace(transform: Any) -> None:
    transform.transforms[1].transforms[0] = v1.RandomVerticalFlip(1.0)


def _expand(transform: Any) -> None:
    transform.transforms[0].expand = True


def _refill(transform: Any) -> None:
    transform.transforms[0].fill = (1, 2, 3)


def _hook(transform: Any) -> None:
    transform.transforms[0].register_forward_hook(lambda *_: make_images("RGB", [(5, 5)], 9)[0])


def _override(transform: Any) -> None:
    transform.transforms[0].forward = lambda image: image.rotate(90)


@pytest.mark.parametrize("change", [_no_class, _insert, _replace, _expand, _refill, _hook, _override])
def test_any_change_takes_effect(change: Callable[[Any], None]) -> None:
    """Whatever is changed in a transform after a batch, the next one is as if it had always been so."""
    apply = v1.RandomApply([v1.RandomHorizontalFlip(1.0)], p=1.0)
    transform = v1.Compose([v1.RandomRotation((30, 30)), apply, v1.ToTensor()])
    images = make_images("RGB", [(8, 9)] * 3, 0)
    lowered = lower(transform)
    before = lowered(pack(images))
    change(transform)
    expected = [transform(image) for image in images]
    for one, other in zip(lowered(pack(images)), expected, strict=True):
        assert_same(one, other)
    assert any(
        one.shape != other.shape or not torch.equal(one, other) for one, other in zip(before, expected, strict=True)
    )


@pytest.mark.parametrize(
    "transform", [v2.ToImage(), v2.PILToTensor(), CIFAR, v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)])]
)
def test_like_default_collate(transform: Any) -> None:
    """A batch is what default_collate makes of the samples: the same type, values and dtype."""
    images = make_images("RGB", [(32, 32)] * 6, 0)
    seed_all(0)
    expected = default_collate([transform(image) for image in images])
    seed_all(0)
    actual = lower(transform)(pack(images))
    assert type(actual) is type(expected)
    assert_same(actual, expected)


def test_other_inputs() -> None:
    """PIL images, tensors and a batch of tensors go in as well as stored images."""
    images = make_images("RGB", [(8, 8)] * 4, 0)
    pixels = torch.stack([v1.PILToTensor()(image) for image in images])
    expected = v1.Normalize(MEAN, STD)(pixels / 255)
    assert_same(lower(v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]))(images), expected)
    tail = lower(v1.Compose([v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)]))
    before = pixels.clone()
    for given in (pixels, list(pixels)):
        assert_same(tail(given), expected)
    assert torch.equal(pixels, before)
    assert_same(tail(pixels, device="cpu"), expected)
    with pytest.raises(TransformError, match=r"\[n, C, H, W\]"):
        tail(pixels[0])
    with pytest.raises(TransformError, match="empty"):
        tail([])


def test_another_device() -> None:
    """Pixels go to the device as bytes, and arithmetic runs there (the meta device shows shapes only)."""
    raw = pack(make_images("RGB", [(32, 32)] * 4, 0))
    result = lower(CIFAR)(raw, CounterDraws(0, 0, np.arange(4)), device="meta")
    assert isinstance(result, torch.Tensor)
    assert (result.device.type, result.dtype, tuple(result.shape)) == ("meta", torch.float32, (4, 3, 32, 32))
    flips = lower(v2.Compose([v2.RandomHorizontalFlip(1.0), v2.RandomCrop(6, padding=1)]))
    flipped: Any = flips(torch.empty(3, 3, 8, 8, dtype=torch.uint8, device="meta"))
    assert flipped.shape == (3, 3, 6, 6)


def test_windows_on_a_device_like_on_the_cpu() -> None:
    """The indices that other devices use give the same pixels."""
    pixels = torch.randint(0, 256, (6, 3, 9, 8), dtype=torch.uint8)
    lowered = lower(
        v2.Compose([v2.RandomVerticalFlip(), v2.RandomHorizontalFlip(), v2.RandomCrop(9, padding=3, fill=4)])
    )
    seed_all(1)
    leaf = Runner(lowered.steps)(pixels, transforms.ReplayDraws(), None)[0].result
    assert isinstance(leaf, Batch)
    assert torch.equal(_on_device(pixels, leaf.windows), leaf.pixels())  # type: ignore[arg-type]


@pytest.mark.parametrize("last", [v1.RandomErasing(1.0), v2.RandomInvert(1.0), v1.RandomGrayscale(1.0)])
def test_what_is_given_is_not_written_to(last: Any) -> None:
    """Steps that write in place write to memory of their own; what they made is not copied once more."""
    given = torch.rand(8, 3, 20, 20)
    before = given.clone()
    lowered = lower(v1.Compose([v1.RandomHorizontalFlip(0.0), last]))
    results = [lowered(given) for _ in range(2)]
    assert torch.equal(given, before)
    assert len({tensor.data_ptr() for tensor in (given, *results)}) == 3  # type: ignore[union-attr]
    made = Batch.of_tensors(Spec("tensor", "", torch.float32, 3), given).now()
    assert made.pixels() is made.source
    assert made.take(np.arange(7)).pixels() is not made.source


def test_results_are_owned() -> None:
    """A result may be written to, and is not touched by later calls."""
    lowered = lower(CIFAR)
    raw = pack(make_images("RGB", [(32, 32)] * 64, 0))
    first = lowered(raw, CounterDraws(0, 0, np.arange(64)))
    kept = first.clone()  # type: ignore[union-attr]
    others = [lowered(raw, CounterDraws(0, epoch, np.arange(64))) for epoch in range(1, 4)]
    assert torch.equal(first, kept)  # type: ignore[arg-type]
    others[0].zero_()  # type: ignore[union-attr]
    assert torch.equal(lowered(raw, CounterDraws(0, 0, np.arange(64))), kept)  # type: ignore[arg-type]


def test_threads() -> None:
    """Several threads at once get what one gets."""
    lowered = lower(v1.Compose([*CIFAR.transforms, v1.Lambda(lambda x: x + torch.rand(1))]))
    raw = pack(make_images("RGB", [(32, 32)] * 32, 0))
    expected = [lowered(raw, CounterDraws(0, epoch, np.arange(32))) for epoch in range(6)]
    got: dict[int, Any] = {}

    def work(epoch: int) -> None:
        got[epoch] = lowered(raw, CounterDraws(0, epoch, np.arange(32)))

    threads = [threading.Thread(target=work, args=(epoch,)) for epoch in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for epoch in range(6):
        assert_same(got[epoch], expected[epoch])


def test_pickles() -> None:
    """A lowered transform travels to another process."""
    raw = pack(make_images("RGB", [(32, 32)] * 3, 0))
    again = pickle.loads(pickle.dumps(lower(CIFAR)))
    assert_same(again(raw, CounterDraws(0, 0, np.arange(3))), lower(CIFAR)(raw, CounterDraws(0, 0, np.arange(3))))
    assert repr(again) == "Lowered(4 steps, 4 of them batched)"


@pytest.mark.parametrize("sizes", [[(40, 50)] * 4, [(40, 50), (50, 40), (64, 64)]])
@pytest.mark.parametrize(
    "transform", [v1.Resize((20, 24)), v1.RandomResizedCrop(24), v2.RandomResizedCrop(24), v2.Resize(30)]
)
def test_inexact_is_close(transform: Any, sizes: list[tuple[int, int]]) -> None:
    """With exact=False resizing differs by at most two levels of 255 from PIL's where PIL would do it, else by none."""
    images = make_images("RGB", sizes, 0)
    chain = v1.Compose([transform, v1.PILToTensor()])
    seed_all(3)
    expected = [chain(image) for image in images]
    seed_all(3)
    assert_same(list(lower(chain, exact=False)(pack(images))), expected)
    seed_all(3)
    with without_numba():
        actual = lower(chain, exact=False)(pack(images))
    differences = [(one.int() - other.int()).abs().max() for one, other in zip(actual, expected, strict=True)]
    assert 0 < max(differences) <= 2
