"""Batches with transforms: what is drawn depends on the sample alone, and forms are decided by structure."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from lmdbpipe.build import build
from lmdbpipe.dataset import LMDBDataset
from lmdbpipe.errors import TransformError
from lmdbpipe.pipeline import Pipeline, ReadOptions
from lmdbpipe.records import Records
from lmdbpipe.steps import FixedSteps, fixed_steps


def noise(*sizes: tuple[int, int]) -> list[tuple[Image.Image, int]]:
    """Images of noise of some (width, height), numbered."""
    generator = np.random.default_rng(0)
    return [
        (Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)), number)
        for number, (width, height) in enumerate(sizes)
    ]


def jitter(image: Image.Image) -> torch.Tensor:
    """A function that draws from all three generators."""
    tensor: torch.Tensor = v1.ToTensor()(image)
    return tensor + torch.rand(1) + random.random() + np.random.rand()


def noisy_label(label: int) -> float:
    """A target transform that draws."""
    return label + random.random()


@pytest.fixture
def equal_sizes(tmp_path: Path) -> Records:
    """Forty images of one size."""
    build(noise(*[(12, 12)] * 40), tmp_path / "equal.lmdb", progress=False)
    return Records([tmp_path / "equal.lmdb"])


@pytest.fixture
def varying_sizes(tmp_path: Path) -> Records:
    """Twelve images, all but three of one size."""
    build(noise(*[(20, 20)] * 9, (30, 20), (20, 30), (60, 60)), tmp_path / "varying.lmdb", progress=False)
    return Records([tmp_path / "varying.lmdb"])


def pipeline(records: Records, transform: Any, target: Any = None, **options: Any) -> Pipeline:
    """A pipeline with a transform at the input, and one at the target."""
    collate_fn = options.pop("collate_fn", None)
    return Pipeline(records, fixed_steps(records, transform, target, None), collate_fn, ReadOptions(**options))


def generator_words() -> list[int]:
    """The state of NumPy's global generator."""
    state: Any = np.random.get_state()
    return list(state[1])


AUGMENT = v1.Compose([v1.RandomCrop(8), v1.RandomHorizontalFlip(), v1.ToTensor()])


@pytest.mark.parametrize("transform", [AUGMENT, jitter, v1.Compose([v1.RandomCrop(8), jitter, v1.RandomErasing(1)])])
@pytest.mark.parametrize("lower", [True, False])
def test_draws_depend_on_the_sample_alone(transform: Any, lower: bool, equal_sizes: Records) -> None:
    """Neither the batch nor its order matter, nor the state of the global generators, which is left as it was."""
    records = equal_sizes
    read = pipeline(records, transform, noisy_label, lower=lower).batch
    images, labels = read(range(40), 7, 2)
    state = torch.get_rng_state(), random.getstate(), generator_words()
    order = np.random.default_rng(1).permutation(40)
    parts = [read(order[start : start + 16], 7, 2) for start in range(0, 40, 16)]
    assert torch.equal(torch.cat([part[0] for part in parts]), images[torch.from_numpy(order)])
    assert torch.equal(torch.cat([part[1] for part in parts]), labels[torch.from_numpy(order)])
    assert (torch.equal(state[0], torch.get_rng_state()), random.getstate()) == (True, state[1])
    assert state[2] == generator_words()


@pytest.mark.parametrize("lower", [True, False])
def test_seed_and_epoch_change_the_draws(lower: bool, equal_sizes: Records) -> None:
    """(1, 0) and (0, 1) have nothing in common, and a sample's draw is not its neighbour's."""
    read = pipeline(equal_sizes, AUGMENT, lower=lower).batch
    batches = [read(range(40), *key)[0] for key in ((1, 0), (0, 1), (1, 1), (-1, 0))]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(batches))


def test_lowered_and_single_samples_agree_where_nothing_is_drawn(equal_sizes: Records) -> None:
    """A deterministic transform gives the same bits with and without lowering, and with a collate function."""
    transform = v1.Compose([v1.CenterCrop(8), v1.ToTensor(), v1.Normalize((0.5,) * 3, (0.2,) * 3)])
    lowered, plain = (pipeline(equal_sizes, transform, lower=lower).batch(range(40), 0, 0) for lower in (True, False))
    collate = torch.utils.data.default_collate
    collated = pipeline(equal_sizes, transform, collate_fn=collate).batch(range(40), 0, 0)
    assert torch.equal(lowered[0], plain[0])
    assert torch.equal(lowered[0], collated[0])
    assert torch.equal(lowered[1], collated[1])


@pytest.mark.parametrize("lower", [True, False])
def test_a_leaf_whose_sizes_vary_is_a_list(lower: bool, varying_sizes: Records) -> None:
    """Even a batch of equal images, if their sizes differ elsewhere; with a transform that keeps sizes or without."""
    for transform in (None, v1.ToTensor()):
        images, labels = pipeline(varying_sizes, transform, lower=lower).batch(range(4), 0, 0)
        assert isinstance(images, list)
        assert [tuple(image.shape) for image in images] == [(3, 20, 20)] * 4
        assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    "transform",
    [
        v1.RandomResizedCrop(8),
        v1.Compose([v1.RandomCrop(8), v1.ToTensor()]),
        lambda image: jitter(image.resize((8, 8))),
    ],
)
def test_a_leaf_made_equal_by_its_transform_is_a_tensor(lower: bool, transform: Any, varying_sizes: Records) -> None:
    """Whatever the transform is: PIL images that it gives count as the tensors that PILToTensor makes of them."""
    images, _ = pipeline(varying_sizes, transform, lower=lower).batch(np.array([11, 0, 9, 10]), 0, 0)
    assert isinstance(images, torch.Tensor)
    assert images.shape == (4, 3, 8, 8)


def stack_crops(crops: tuple[Image.Image, ...]) -> torch.Tensor:
    """What torchvision's documentation does with the crops of FiveCrop."""
    assert isinstance(crops, tuple)
    assert all(isinstance(crop, Image.Image) for crop in crops)
    return torch.stack([v1.ToTensor()(crop) for crop in crops])


@dataclasses.dataclass
class Scale:
    """A transform that has no hash, as one with fields that can be set."""

    by: float

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize and scale an image."""
        tensor: torch.Tensor = v1.functional.to_tensor(image.resize((8, 8)))
        return tensor * self.by


def test_transforms_need_no_hash(varying_sizes: Records) -> None:
    """A plain dataclass is a transform like any other, for all samples or in a part of a ConcatDataset."""
    halves = [fixed_steps(varying_sizes, Scale(by), None, None).steps for by in (1, 2)]
    routed = Pipeline(varying_sizes, lambda index: halves[index % 2])
    ones, twos = (pipeline(varying_sizes, Scale(by)).batch(range(12), 0, 0)[0] for by in (1, 2))
    assert torch.equal(routed.batch(np.arange(0, 12, 2), 0, 0)[0], ones[::2])
    mixed = routed.batch(range(12), 0, 0)[0]
    assert torch.equal(mixed[::2], ones[::2])
    assert torch.equal(mixed[1::2], twos[1::2])


def test_probes_are_made_once(varying_sizes: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever transforms take turns, in however many threads, each is tried out once, or as often as threads meet."""
    routes = [fixed_steps(varying_sizes, v1.RandomCrop(size), None, None).steps for size in range(6, 14)]
    routed = Pipeline(varying_sizes, lambda index: ())
    tried: list[bool] = []

    def extremes() -> list[int]:
        tried.append(True)
        return [9, 10, 11]

    monkeypatch.setattr(routed, "_extremes", extremes)
    with ThreadPoolExecutor(4) as pool:
        probes = list(pool.map(routed._probes, routes * 20))
    sizes = [[probe[0].size for probe in found] for found in probes]
    assert sizes == [[(size, size)] * 3 for size in range(6, 14)] * 20
    assert len(tried) < 16


CROPS = [
    (v1.FiveCrop(8), 5, torch.uint8),
    (v1.Compose([v1.ToTensor(), v1.TenCrop(8)]), 10, torch.float32),
    (v2.Compose([v2.TenCrop((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]), 10, torch.float32),
    (v2.Compose([v2.PILToTensor(), v2.FiveCrop(8), v2.ToDtype(torch.float64)]), 5, torch.float64),
]


@pytest.mark.parametrize(("transform", "count", "dtype"), CROPS)
@pytest.mark.parametrize("sizes", ["equal_sizes", "varying_sizes"])
def test_tuples_of_crops(
    transform: Any, count: int, dtype: torch.dtype, sizes: str, request: pytest.FixtureRequest
) -> None:
    """A batch of tuples is a list of tensors, one for each place, with and without lowering: the same bits."""
    records = request.getfixturevalue(sizes)
    lowered, plain = (pipeline(records, transform, lower=lower).batch(range(9), 0, 0) for lower in (True, False))
    assert [type(images) for images, _ in (lowered, plain)] == [list, list]
    assert lowered[0][0].dtype == dtype
    assert [list(crops.shape) for crops in lowered[0]] == [[9, 3, 8, 8]] * count
    for one, other in zip(lowered[0], plain[0], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_a_function_of_crops_is_given_what_torchvision_gives(varying_sizes: Records) -> None:
    """The usual lambda after FiveCrop gets tuples of PIL images, and its stacks are a batch."""
    transform = v1.Compose([v1.FiveCrop(8), stack_crops])
    lowered, plain = (
        pipeline(varying_sizes, transform, lower=lower).batch(range(9), 0, 0)[0] for lower in (True, False)
    )
    assert lowered.shape == (9, 5, 3, 8, 8)
    assert torch.equal(lowered, plain)


def test_draws_after_crops_are_the_same_for_all_of_a_sample(equal_sizes: Records) -> None:
    """As torchvision draws once for a tuple: either all crops of a sample are mirrored, or none is."""
    still, mirrored = (
        pipeline(equal_sizes, v2.Compose([v2.FiveCrop(6), v2.ToImage(), *steps])).batch(range(40), 0, 0)[0]
        for steps in ((), (v2.RandomHorizontalFlip(),))
    )
    flips = torch.stack([(one != other).flatten(1).any(1) for one, other in zip(still, mirrored, strict=True)])
    assert 0 < flips[0].sum() < 40
    assert (flips == flips[0]).all()
    assert all(
        torch.equal(torch.where(flips[0][:, None, None, None], one.flip(-1), one), other)
        for one, other in zip(still, mirrored, strict=True)
    )


def test_a_transform_that_seemed_to_make_sizes_equal(equal_sizes: Records) -> None:
    """If sizes differ where they cannot be expected to, the error says so and what to do."""
    sizes = iter(range(1, 100))
    with pytest.raises(TransformError, match="collate_fn"):
        pipeline(equal_sizes, lambda image: torch.zeros(next(sizes))).batch(range(2), 0, 0)


def test_several_files_make_one_batch(tmp_path: Path) -> None:
    """A batch may span files, of different layouts and sizes of chunks."""
    for number, options in enumerate(({}, {"rounds": 2})):
        build(noise(*[(12, 12)] * 10), tmp_path / f"{number}.lmdb", progress=False, **options)  # type: ignore[arg-type]
    records = Records([tmp_path / "0.lmdb", tmp_path / "1.lmdb"])
    images, labels = pipeline(records, AUGMENT).batch(np.array([29, 3, 10, 12]), 0, 0)
    assert labels.tolist() == [9, 3, 0, 2]
    alone = [pipeline(records, AUGMENT).batch(np.array([index]), 0, 0)[0] for index in (29, 3, 10, 12)]
    assert torch.equal(images, torch.cat(alone))


def test_pipelines_pickle(equal_sizes: Records) -> None:
    """A copy in another process draws the same."""
    original = pipeline(equal_sizes, AUGMENT)
    expected = original.batch(range(5), 1, 2)[0]
    assert torch.equal(pickle.loads(pickle.dumps(original)).batch(range(5), 1, 2)[0], expected)


def test_a_changed_transform_is_lowered_anew(equal_sizes: Records) -> None:
    """Replacing the transform acts on the next batch."""
    read = pipeline(equal_sizes, v1.ToTensor())
    assert read.batch(range(2), 0, 0)[0].dtype == torch.float32
    read.steps_for = FixedSteps(fixed_steps(equal_sizes, v1.PILToTensor(), None, None).steps)
    assert read.batch(range(2), 0, 0)[0].dtype == torch.uint8


def test_what_workers_would_begin_with_is_done_before(equal_sizes: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """What numba compiles is compiled where a pipeline is made, if it will be used; also for the map-style dataset."""
    prepared: list[bool] = []
    monkeypatch.setattr("lmdbpipe.transforms.convert.prepare", lambda: prepared.append(True))
    for transform in (v1.RandomHorizontalFlip(), jitter, None):
        pipeline(equal_sizes, transform)
    pipeline(equal_sizes, None, v1.ToTensor())  # no image
    pipeline(equal_sizes, v1.ToTensor(), lower=False)
    pipeline(equal_sizes, v1.ToTensor(), device="cpu")
    pipeline(equal_sizes, v1.ToTensor(), collate_fn=list)
    assert not prepared
    path = equal_sizes.databases[0].path
    pipeline(equal_sizes, v1.Compose([v1.RandomHorizontalFlip(), v1.ToTensor()]))
    pipeline(equal_sizes, v1.RandomApply([v1.RandomGrayscale(), v1.ToTensor()]))
    LMDBDataset.from_path(path, v2.ToDtype(torch.float32))
    LMDBDataset.from_path(path, v2.ToDtype(torch.float32), lower=False)
    assert len(prepared) == 3


class Views(Dataset[Any]):
    """Two images of each sample, by one transform, as for contrastive learning."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.images = [image for image, _ in noise(*[(12, 12)] * 40)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        return self.transform(self.images[index]), self.transform(self.images[index]), index


class Outer(Dataset[Any]):
    """A dataset around one that has a transform of its own."""

    def __init__(self, dataset: Any, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, number = self.dataset[index]
        return self.transform(image), number


class Inner(Dataset[Any]):
    """Some images, with a transform."""

    def __init__(self, transform: Any, first: int = 0, stop: int = 40) -> None:
        self.transform = transform
        self.samples = noise(*[(12, 12)] * 40)[first:stop]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, number = self.samples[index]
        return self.transform(image), number


def streamed(dataset: Any, root: Path, **options: Any) -> Any:
    """One batch of all samples, in order."""
    (batch,) = LMDBDataset(dataset, root=root).stream(**{"batch_size": 40, **options})
    return batch


def test_two_views_of_a_sample_differ(tmp_path: Path) -> None:
    """One transform of two images of a sample draws for each by itself, as torchvision would."""
    first, second, _ = streamed(Views(AUGMENT), tmp_path)
    assert sum(torch.equal(*pair) for pair in zip(first, second, strict=True)) < 10
    again = streamed(Views(AUGMENT), tmp_path)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_transforms_after_each_other_draw_for_themselves(tmp_path: Path) -> None:
    """A flip after a flip undoes it half of the time."""
    flips = v1.RandomHorizontalFlip()
    images, _ = streamed(Outer(Inner(flips), v1.Compose([v1.RandomHorizontalFlip(), v1.PILToTensor()])), tmp_path)
    plain = torch.stack([v1.PILToTensor()(image) for image, _ in noise(*[(12, 12)] * 40)])
    assert 5 < sum(torch.equal(*pair) for pair in zip(images, plain, strict=True)) < 35


def test_transforms_after_each_other_give_on_what_they_make(tmp_path: Path) -> None:
    """The second gets just what the first one made: an `Image`, or a tensor of any shape."""
    floats = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    assert streamed(Outer(Inner(v2.ToImage()), floats), tmp_path)[0].dtype == torch.float32
    flat = v1.Compose([v1.ToTensor(), torch.flatten])
    assert streamed(Outer(Inner(flat), torch.neg), tmp_path)[0].shape == (40, 3 * 12 * 12)


@pytest.mark.parametrize("batch_size", [3, 8, 40])
def test_neighbours_with_other_transforms_change_nothing(batch_size: int, tmp_path: Path) -> None:
    """What a sample draws does not depend on whether its batch has samples with other transforms."""
    other = v1.Compose([v1.RandomVerticalFlip(), v1.RandomCrop(8), v1.ToTensor()])

    def both() -> Any:
        return ConcatDataset([Inner(AUGMENT, 0, 10), Inner(other, 10)])

    expected = torch.cat([images for images, _ in LMDBDataset(both(), root=tmp_path).stream(batch_size=1)])
    found = list(LMDBDataset(both(), root=tmp_path).stream(batch_size=batch_size))
    assert torch.equal(torch.cat([images for images, _ in found]), expected)
    assert torch.cat([numbers for _, numbers in found]).tolist() == list(range(40))


@pytest.mark.parametrize(
    ("transform", "target", "draws"),
    [
        (AUGMENT, None, False),
        (v1.Compose([v1.RandomCrop(8), v1.ToTensor(), torch.neg]), None, True),
        (v1.Compose([v1.ToTensor(), v1.RandomCrop(8, padding=-1)]), None, True),
        (v1.Compose([v1.ToTensor(), v1.Pad(-1)]), None, False),
        (jitter, None, True),
        (v1.Compose([v1.RandomPerspective(), v1.ToTensor()]), None, True),
        (v1.ToTensor(), noisy_label, True),
        (v1.ToTensor(), abs, True),
        (v1.RandomCrop(99), None, False),
    ],
)
def test_threads_do_not_share_generators(transform: Any, target: Any, draws: bool, equal_sizes: Records) -> None:
    """No threads read where they would seed the caller's generators; what is batched, or never draws, does not."""
    read, before = pipeline(equal_sizes, transform, target), generator_words()
    with pytest.warns(UserWarning, match="no threads read") if draws else nullcontext():
        assert read.threads(3) == (0 if draws else 3)
    assert generator_words() == before
    assert read.threads(0) == 0


def test_threads_of_workers(equal_sizes: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker process, nobody else draws."""
    monkeypatch.setattr("lmdbpipe.pipeline.travels", lambda: True)
    assert pipeline(equal_sizes, jitter).threads(2) == 2


def test_threads_without_lowering(equal_sizes: Records) -> None:
    """What is applied a sample at a time is given the global generators, whatever it is."""
    for transform in (AUGMENT, v1.ToTensor()):
        with pytest.warns(UserWarning, match="no threads read"):
            assert pipeline(equal_sizes, transform, lower=False).threads(2) == 0
    assert pipeline(equal_sizes, None).threads(2) == 2


def test_what_is_not_transformed_takes_no_generators(equal_sizes: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that only read and collate leave the caller's generators alone."""
    read = pipeline(equal_sizes, None, collate_fn=len)
    assert read.threads(2) == 2
    monkeypatch.setattr("lmdbpipe.pipeline.preserved", None)
    assert read.batch(range(5), 0, 0) == 5


def test_draws_of_the_caller_stay_its_own(tmp_path: Path) -> None:
    """A loop that draws gets what it would get without a stream, with threads or not; so does the stream."""
    wrapped = LMDBDataset(Inner(v1.Compose([v1.RandomPerspective(), v1.ToTensor()])), root=tmp_path)
    results = []
    for num_threads in (0, 2):
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="no threads") if num_threads else nullcontext():
            images = [
                (torch.rand(1).item(), batch) for batch, _ in wrapped.stream(batch_size=4, num_threads=num_threads)
            ]
        results.append(([number for number, _ in images], torch.cat([batch for _, batch in images])))
    torch.manual_seed(0)
    assert results[0][0] == results[1][0] == [torch.rand(1).item() for _ in range(10)]
    assert torch.equal(results[0][1], results[1][1])
