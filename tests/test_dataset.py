"""The map-style wrapper: it behaves like the dataset that it wraps."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import random
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2

from lmdbpipe import LMDB_config, LMDBConfig, LMDBDataset
from lmdbpipe.errors import (
    ConfigError,
    DatabaseMismatchError,
    DatabaseNotFoundError,
    DatabasePathError,
    OutOfRangeError,
    SourceError,
    TransformError,
)
from tests.helpers import Failing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def rotated(image: Image.Image) -> Image.Image:
    """A transform that is a plain function, and returns a PIL image."""
    return image.rotate(10)


def as_floats(image: Image.Image) -> torch.Tensor:
    """A transform that is a plain function, and draws."""
    return torch.from_numpy(np.asarray(image, np.float32)).add(torch.rand(1)).mul(random.random())


TRANSFORMS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "to_tensor": v1.ToTensor(),
    "pil_to_tensor": v1.PILToTensor(),
    "v1": v1.Compose([v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "v2": v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    ),
    "function": as_floats,
    "to_pil": rotated,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wrappers of this module share."""
    return tmp_path_factory.mktemp("root")


def listed(samples: list[Any]) -> list[Any]:
    """A picklable collate function: samples as they are, images as arrays."""
    return [(np.asarray(image), label) for image, label in samples]


def batches(dataset: Any, transform: Any, count: int, **options: Any) -> list[Any]:
    """The first batches that a seeded DataLoader makes of a dataset."""
    dataset.transform = transform
    torch.manual_seed(3)
    random.seed(3)
    collate_fn = listed if transform in (None, rotated) else None
    loader = DataLoader(dataset, batch_size=100, shuffle=True, collate_fn=collate_fn, **options)
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def assert_same(expected: Any, actual: Any) -> None:
    """Compare nested batches bit for bit."""
    assert type(expected) is type(actual)
    if isinstance(expected, list | tuple):
        assert len(expected) == len(actual)
        for pair in zip(expected, actual, strict=True):
            assert_same(*pair)
    elif isinstance(expected, torch.Tensor):
        assert expected.dtype == actual.dtype
        assert torch.equal(expected, actual)
    else:
        assert np.array_equal(expected, actual)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_sample_is_the_wrapped_datasets(name: str, cifar: Path, root: Path) -> None:
    """Samples equal the ImageFolder's own under one seed, with a second wrapper open on the same file.

    Without a transform all 10,000 do; with one, so many that their draws differ.
    """
    dataset = ImageFolder(cifar)
    wrapped, other = (LMDBDataset(dataset, root=root, name="cifar") for _ in range(2))
    other.transform = v1.ToTensor()
    dataset.transform = wrapped.transform = TRANSFORMS[name]
    indices = range(0, len(dataset), {"none": 1, "v1": 3}.get(name, 7))
    results = []
    for source in (dataset, wrapped):
        torch.manual_seed(0)
        random.seed(0)
        results.append([source[index] for index in indices])
        assert other[0][0].dtype == torch.float32
    for (image, label), (expected, expected_label) in zip(results[1], results[0], strict=True):
        assert type(image) is type(expected)
        assert (label, type(label)) == (expected_label, int)
        assert np.array_equal(np.asarray(image), np.asarray(expected))


class Each(Dataset[Any]):
    """The samples of several datasets, by (dataset, index); batches are fetched from one as a DataLoader would."""

    def __init__(self, datasets: list[Any]) -> None:
        self.datasets = datasets

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        dataset = self.datasets[keys[0][0]]
        indices = [index for _, index in keys]
        return dataset.__getitems__(indices) if hasattr(dataset, "__getitems__") else [dataset[i] for i in indices]


def collated(samples: list[Any]) -> Any:
    """Collate as torch does where it can."""
    return listed(samples) if isinstance(samples[0][0], Image.Image) else torch.utils.data.default_collate(samples)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_seeded_loaders_give_the_wrapped_datasets_batches(num_workers: int, cifar: Path, root: Path) -> None:
    """Batches are bit for bit the ImageFolder's, for seven transforms, with workers of each start method and none."""
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(0)).tolist()
    keys = [[(k, i) for i in order[100 * n : 100 * n + 100]] for n in range(2) for k in range(len(TRANSFORMS))]
    folders = [ImageFolder(cifar, transform) for transform in TRANSFORMS.values()]
    wrapped = [LMDBDataset(folder, root=root, name="cifar") for folder in folders]

    def read(datasets: list[Any], method: str | None) -> list[Any]:
        torch.manual_seed(3)
        random.seed(3)
        loader = DataLoader(
            Each(datasets),
            batch_sampler=keys,
            collate_fn=collated,
            num_workers=num_workers,
            multiprocessing_context=method,
        )
        return list(loader)

    methods = ["fork", "forkserver", "spawn"] if num_workers else [None]
    expected = read(folders, methods[0])  # each worker draws by its seed, however it is started
    for method in methods:
        assert_same(expected, read(wrapped, method))


def test_lambdas_work_where_they_can_travel(cifar: Path, root: Path) -> None:
    """A lambda is a transform like any other, in this process and in forked workers."""
    wrapped = LMDBDataset(ImageFolder(cifar), root=root, name="cifar")
    transform = lambda image: np.asarray(image).mean()  # noqa: E731
    for workers in (0, 2):
        options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
        assert_same(batches(ImageFolder(cifar), transform, 2, **options), batches(wrapped, transform, 2, **options))


def test_photos_of_all_sizes_come_back_exactly(photos: Path, root: Path) -> None:
    """Every pixel of every photo is the ImageFolder's, through the wrapper and its batches."""
    dataset = ImageFolder(photos)
    wrapped = LMDBDataset(dataset, root=root, name="photos")
    for index, (image, label) in enumerate(dataset):
        assert wrapped[index][1] == label
        assert np.array_equal(np.asarray(wrapped[index][0]), np.asarray(image))
    transform = v1.Compose([v1.RandomResizedCrop(64), v1.RandomHorizontalFlip(), v1.ToTensor()])
    assert_same(batches(dataset, transform, 2), batches(wrapped, transform, 2))


def small(length: int = 24, **options: Any) -> FakeData:
    """A small dataset of noise."""
    return FakeData(length, (3, 8, 8), 10, **options)


class Pairs(Dataset[Any]):
    """A user's dataset, with torchvision's conventions."""

    def __init__(self, length: int, transform: Any = None, target_transform: Any = None) -> None:
        self.source = small(length)
        self.transform = transform
        self.target_transform = target_transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        image, label = self.source[index]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label


def equal(left: Any, right: Any) -> bool:
    """Whether two samples of an image and a number are equal."""
    return bool(np.array_equal(np.asarray(left[0]), np.asarray(right[0])) and left[1] == right[1])


def test_attributes_are_mirrored(tmp_path: Path, cifar: Path, root: Path) -> None:
    """What the wrapper lacks comes of the dataset; the documented attributes are its own."""
    dataset = ImageFolder(cifar)
    wrapped = LMDBDataset(dataset, root=root, name="cifar")
    assert wrapped.classes == dataset.classes
    assert wrapped.samples is dataset.samples
    assert wrapped.dataset is dataset
    assert wrapped.access == "get"
    assert wrapped.length == len(wrapped) == 10_000
    assert wrapped.shape == (32, 32, 3)
    assert Path(wrapped.path) == root / "ImageFolder_cifar_10000.lmdb"
    assert np.array_equal(wrapped.labels, dataset.targets)
    assert wrapped.live_transform is None
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = wrapped.no_such_thing
    assert "ImageFolder_cifar_10000" in repr(wrapped)


def test_dunders_are_not_mirrored(tmp_path: Path) -> None:
    """A batched fetch of the dataset's own does not bypass the file."""

    class Batched(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            if not 0 <= index < 4:
                raise IndexError(index)
            return index

        def __getitems__(self, indices: list[int]) -> list[int]:
            raise AssertionError("the source was asked")

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("the source was copied in place of the wrapper")

    wrapped = LMDBDataset(Batched(), root=tmp_path)
    assert torch.equal(next(iter(DataLoader(wrapped, batch_size=4))), torch.arange(4))
    with pytest.raises(AssertionError, match="copied"):
        copy.deepcopy(wrapped)  # as a part of the wrapper, it is copied by its own means
    assert copy.copy(wrapped)[3] == 3


def test_pickling_leaves_the_original_usable(tmp_path: Path) -> None:
    """Pickling, a deep copy and a worker's start change nothing; the copies read the same, even of a temporary file."""
    wrapped = LMDBDataset(small(), root=tmp_path, temporary_db=True)
    expected = wrapped[5]
    for twin in (pickle.loads(pickle.dumps(wrapped)), copy.deepcopy(wrapped)):
        assert equal(twin[5], expected)
        del twin
    gc.collect()
    assert equal(wrapped[5], expected)


def test_copies_have_transforms_of_their_own(tmp_path: Path) -> None:
    """As for a torchvision dataset, what is set in a shallow copy is not set in the original, nor the other way."""
    first = LMDBDataset(small(), root=tmp_path, temporary_db=True)
    first.transform = v1.CenterCrop(4)
    assert first[0][0].size == (4, 4)
    second = copy.copy(first)
    second.transform = v1.CenterCrop(2)
    assert (first[0][0].size, second[0][0].size) == ((4, 4), (2, 2))
    assert next(iter(second.stream(batch_size=2)))[0].shape == (2, 3, 2, 2)
    del first
    gc.collect()
    assert (second[0][0].size, Path(second.path).exists()) == ((2, 2), True)
    del second
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("around", [lambda d: d, lambda d: Subset(d, [0, 1]), lambda d: ConcatDataset([d, d])])
def test_live_transforms_are_not_baked(around: Any, tmp_path: Path) -> None:
    """A wrapper is not built from with its transforms, directly or inside another dataset; without, it is."""
    inner = LMDBDataset(small(), root=tmp_path, name="inner")
    inner.transform = v1.RandomCrop(4)
    with pytest.raises(TransformError, match="would be baked"):
        LMDBDataset(around(inner), root=tmp_path, name="outer")
    assert len(list(tmp_path.iterdir())) == 1
    inner.transform = None
    assert equal(LMDBDataset(around(inner), root=tmp_path, name="outer")[1], inner[1])


def test_a_temporary_file_goes_with_its_wrapper(tmp_path: Path) -> None:
    """It has a random name, and nothing of it is left behind."""
    first, second = (LMDBDataset(small(), root=tmp_path, name="ignored", temporary_db=True) for _ in range(2))
    assert first.path != second.path
    assert len(list(tmp_path.iterdir())) == 2
    del first, second
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_stream_outlives_the_wrapper_of_its_temporary_file(tmp_path: Path) -> None:
    """Who reads a temporary file when its wrapper goes reads on, though its name is gone."""
    wrapped = LMDBDataset(small(), root=tmp_path, temporary_db=True)
    records, expected = wrapped.records, wrapped[5]
    del wrapped
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert equal(records.sample(5), expected)


def test_a_temporary_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a temporary file's build has a name that nobody would ask for again, so it goes."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 7)
    flag = tmp_path / "flag"
    flag.touch()
    with pytest.raises(SourceError):
        LMDBDataset(Failing(40, 23, flag), root=tmp_path / "root", temporary_db=True, db_cfg={"write_frequency": 1})
    assert list((tmp_path / "root").iterdir()) == []


def test_a_childs_end_does_not_delete_a_temporary_file(tmp_path: Path) -> None:
    """Workers that inherit the wrapper and end leave the file alone."""
    wrapped = LMDBDataset(small(transform=v1.ToTensor()), root=tmp_path, temporary_db=True)
    loader = DataLoader(wrapped, batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert len(list(loader)) == 6
    assert Path(wrapped.path).exists()


def test_transforms_are_live(tmp_path: Path) -> None:
    """Assigning a transform to the wrapper works at once, and changes nothing in the dataset."""
    dataset = small()
    wrapped = LMDBDataset(dataset, root=tmp_path)
    wrapped.transform = v1.ToTensor()
    assert wrapped[0][0].dtype == torch.float32
    assert dataset.transform is None
    wrapped.transform = None
    assert isinstance(wrapped[0][0], Image.Image)


def test_random_transforms_stay_random(tmp_path: Path) -> None:
    """Two reads of one sample differ, and repeat under a seed."""
    wrapped = LMDBDataset(small(transform=as_floats), root=tmp_path)
    torch.manual_seed(0)
    random.seed(0)
    first, second = wrapped[0][0], wrapped[0][0]
    torch.manual_seed(0)
    random.seed(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, wrapped[0][0])


def test_subsets_and_concatenations_keep_their_transforms(tmp_path: Path) -> None:
    """Each part of a ConcatDataset, and what lies in a Subset, is transformed by its own transform."""
    parts = [Pairs(6, v1.ToTensor()), Pairs(6, v1.PILToTensor(), str)]
    dataset: Subset[Any] = Subset(ConcatDataset(parts), [11, 0, 7, 5])
    wrapped = LMDBDataset(dataset, root=tmp_path)
    for index in range(4):
        expected, actual = dataset[index], wrapped[index]
        assert expected[1] == actual[1]
        assert torch.equal(expected[0], actual[0])
    fetched = wrapped.__getitems__([0, 1, 2, 3])
    assert [sample[0].dtype for sample in fetched] == [torch.uint8, torch.float32, torch.uint8, torch.float32]


def test_batches_go_without_the_cycle_collector(tmp_path: Path) -> None:
    """What nobody holds is gone at once, so that its memory is used again."""
    wrapped = LMDBDataset(small(transform=v1.ToTensor()), root=tmp_path)
    gc.collect()
    gc.disable()
    try:
        images = [weakref.ref(batch[0]) for batch in DataLoader(wrapped, batch_size=8)]
        rows = wrapped.__getitems__(range(8))
        whole = weakref.ref(rows[0].batch)
        del rows
    finally:
        gc.enable()
    assert [image() for image in images] == [None] * 3
    assert whole() is None


def test_batches_fetched_at_once_are_lists_of_samples(tmp_path: Path) -> None:
    """A collate function of the user's own sees tuples as `wrapped[i]` gives them, in any order and number."""
    wrapped = LMDBDataset(small(transform=v1.ToTensor()), root=tmp_path)
    fetched = wrapped.__getitems__([3, 1, 2])
    assert isinstance(fetched, list)
    for index, (image, label) in zip([3, 1, 2], fetched, strict=True):
        assert torch.equal(image, wrapped[index][0])
        assert (label, type(label)) == (wrapped[index][1], int)
    whole = torch.utils.data.default_collate(fetched)
    turned = torch.utils.data.default_collate(list(reversed(fetched)))
    part = torch.utils.data.default_collate(fetched[:2])
    assert torch.equal(whole[0], turned[0].flip(0))
    assert torch.equal(whole[1], turned[1].flip(0))
    assert torch.equal(whole[0][:2], part[0])
    assert type(whole) is type(part) is list


@pytest.mark.parametrize("lower", [True, False])
def test_lowering_changes_no_bit(lower: bool, tmp_path: Path) -> None:
    """`lower=False` gives the same batches, and leaves the generator in the same state."""
    dataset = FakeData(64, (3, 32, 32), 10)
    wrapped = LMDBDataset(dataset, root=tmp_path, lower=lower)
    expected = batches(dataset, TRANSFORMS["v1"], 1)
    state = torch.get_rng_state()
    assert_same(expected, batches(wrapped, TRANSFORMS["v1"], 1))
    assert torch.equal(state, torch.get_rng_state())


def test_indices(tmp_path: Path) -> None:
    """Negative and NumPy indices work in either access; others raise IndexError, so that iteration ends."""
    for access in ("get", "cursor"):
        wrapped = LMDBDataset(small(), root=tmp_path, db_cfg={"access": access})
        assert equal(wrapped[-1], wrapped[23])
        assert equal(wrapped[np.int64(4)], wrapped[4])
        assert len(list(wrapped)) == 24
        for index in (24, -25):
            with pytest.raises(OutOfRangeError, match="24 samples"):
                wrapped[index]
            with pytest.raises(OutOfRangeError, match=f"index {index} is out of range: the dataset has 24 samples"):
                wrapped.__getitems__([0, index, 1])


def test_shuffled_writing_keeps_indices(tmp_path: Path) -> None:
    """Physical order is random and `wrapped[i]` is still sample i, labels included; streams see the physical order."""
    dataset = small(100)
    wrapped = LMDBDataset(dataset, root=tmp_path, db_cfg=LMDBConfig(shuffle_while_writing=True, rounds=2))
    labels = [dataset[index][1] for index in range(100)]
    assert [int(label) for label in wrapped.labels] == labels * 2
    assert all(equal(wrapped[index], dataset[index % 100]) for index in range(200))
    streamed = [label for _, label in wrapped.stream()]
    assert streamed[:100] != labels
    assert sorted(streamed[:100]) == sorted(streamed[100:]) == sorted(labels)


def test_rounds_draw_the_baked_transform_anew(tmp_path: Path) -> None:
    """The length is rounds times the dataset's; random transforms baked in differ from round to round."""
    transform = v1.RandomCrop(4)
    wrapped = LMDBDataset(small(), root=tmp_path, db_transform=transform, db_cfg=LMDBConfig(rounds=3))
    assert len(wrapped) == 72
    crops = [[np.asarray(wrapped[24 * k + i][0]) for i in range(24)] for k in range(3)]
    assert not np.array_equal(crops[0], crops[1])
    assert wrapped[0][0].size == (4, 4)


def test_baked_transforms_of_the_readme(tmp_path: Path) -> None:
    """A Resize, a PILToTensor and a ToTensor can be baked in; live transforms act on what a PIL transform would get."""
    resized = LMDBDataset(small(), root=tmp_path, name="a", db_transform=v1.Resize(4))
    assert resized[0][0].size == (4, 4)
    tensors = LMDBDataset(small(), root=tmp_path, name="b", db_transform=v1.PILToTensor())
    assert torch.equal(tensors[0][0], v1.PILToTensor()(small()[0][0]))
    tensors.transform = v1.Compose([v1.CenterCrop(4), v1.ToTensor()])
    assert torch.equal(tensors[0][0], tensors.transform(small()[0][0]))
    floats = LMDBDataset(small(), root=tmp_path, name="c", db_transform=v1.ToTensor())
    assert torch.equal(floats[0][0], v1.ToTensor()(small()[0][0]))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "I;16"])
def test_other_modes_with_pil_transforms(mode: str, tmp_path: Path) -> None:
    """Greyscale and other modes go through PIL transforms as the source's images do."""
    images = [Image.new(mode, (8, 8), 1) for _ in range(3)]
    images[1].putpixel((2, 3), 0)
    wrapped = LMDBDataset([(image, 0) for image in images], root=tmp_path)
    wrapped.transform = rotated  # the list has no transform of its own: torchvision's convention says where it acts
    assert wrapped[1][0].mode == mode
    assert np.array_equal(np.asarray(wrapped[1][0]), np.asarray(rotated(images[1])))


def test_channels_first_is_a_matter_of_storage(tmp_path: Path) -> None:
    """Images lie C×H×W where the live transform begins with a to-tensor step, unless told otherwise."""
    dataset = small(transform=v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]))
    first = LMDBDataset(dataset, root=tmp_path, name="chw")
    last = LMDBDataset(dataset, root=tmp_path, name="hwc", db_cfg={"db_channels_first": False})
    assert (first.shape, last.shape) == ((3, 8, 8), (8, 8, 3))
    assert torch.equal(first[3][0], last[3][0])
    first.transform = last.transform = rotated
    assert equal(first[3], last[3])


def test_options_by_any_means(tmp_path: Path) -> None:
    """`db_cfg` is a config, the class, a mapping, or an object with such attributes; unknown ones are named."""

    class Options:
        rounds = 2

    assert LMDB_config is LMDBConfig
    for number, options in enumerate((LMDB_config, LMDBConfig(rounds=2), {"rounds": 2}, Options, Options(), None)):
        wrapped = LMDBDataset(small(4), root=tmp_path, name=str(number), db_cfg=options)
        assert len(wrapped) == (4 if options in (LMDB_config, None) else 8)
    with pytest.raises(ConfigError, match=r"roundz.*map_size"):
        LMDBDataset(small(4), root=tmp_path, db_cfg={"roundz": 2})


def test_an_unforbidden_reuse_builds_nothing(tmp_path: Path) -> None:
    """A second wrapper uses the file of the first; `force_db_rebuild` makes another."""
    path = Path(LMDBDataset(small(), root=tmp_path).path)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    LMDBDataset(small(), root=tmp_path)
    LMDBDataset(small(), root=tmp_path, can_create=False)
    assert before == (path.stat().st_ino, path.stat().st_mtime_ns)
    LMDBDataset(small(), root=tmp_path, force_db_rebuild=True)
    assert before != (path.stat().st_ino, path.stat().st_mtime_ns)


def test_another_datasets_file_is_refused(tmp_path: Path) -> None:
    """The error says what differs, and what to do; whether the file may be built or not."""
    LMDBDataset(small(), root=tmp_path)
    for can_create in (True, False):
        with pytest.raises(DatabaseMismatchError, match=r"raw samples.*force_db_rebuild"):
            LMDBDataset(small(random_offset=9), root=tmp_path, can_create=can_create)
        with pytest.raises(DatabaseMismatchError, match="Resize"):
            LMDBDataset(small(), root=tmp_path, can_create=can_create, db_transform=v1.Resize(4))


def test_a_rank_that_may_not_build_waits(tmp_path: Path) -> None:
    """Without a file it looks as often as told, then raises; if the file appears meanwhile, it reads it."""
    options = {"num_db_attempts": 3, "db_attempt_interval": 0.01}
    with pytest.raises(DatabaseNotFoundError, match="3 attempts"):
        LMDBDataset(small(), root=tmp_path, can_create=False, db_cfg=options)
    builder = threading.Timer(0.1, LMDBDataset, [small()], {"root": tmp_path})
    builder.start()
    patient = {"num_db_attempts": 10_000, "db_attempt_interval": 0.01}
    assert len(LMDBDataset(small(), root=tmp_path, can_create=False, db_cfg=patient)) == 24
    builder.join()


def test_contradicting_options(tmp_path: Path) -> None:
    """What needs to build cannot be asked of a wrapper that may not, nor a folder that is a file."""
    for option in ("temporary_db", "force_db_rebuild"):
        with pytest.raises(ConfigError, match="can_create=False"):
            LMDBDataset(small(), root=tmp_path, can_create=False, **{option: True})  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(DatabasePathError, match="file"):
        LMDBDataset(small(), root=tmp_path / "file")


def _wrap_at_once(root: Path, barrier: Any, results: Any) -> None:
    dataset = FakeData(300, (3, 8, 8), 10)
    barrier.wait(60)  # seconds; where one of them failed, the others would wait forever
    wrapped = LMDBDataset(dataset, root=root)
    date = wrapped.records.databases[0].manifest.provenance["date"]
    results.put((len(wrapped), wrapped.records.fingerprint, date, wrapped.path))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_several_processes_end_with_one_build(tmp_path: Path) -> None:
    """Processes that build the same file at once all read it, and it is built once."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.SimpleQueue()
    processes = [context.Process(target=_wrap_at_once, args=(tmp_path, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    ((length, *_),) = {results.get() for _ in processes}
    assert length == 300
    assert [path.suffix for path in tmp_path.iterdir()] == [".lmdb"]


def test_columns(tmp_path: Path) -> None:
    """One leaf of all samples is read without the others, by position, name or path."""
    samples = [{"x": np.full(2, k), "target": (k, str(k))} for k in range(5)]
    wrapped = LMDBDataset(samples, root=tmp_path)
    assert np.array_equal(wrapped.column("x"), [[k, k] for k in range(5)])
    assert wrapped.column(("target", 1)) == wrapped.column("target/1") == list("01234")
    with pytest.raises(ConfigError, match=r"'y'.*target/0"):
        wrapped.column("y")


def test_from_path_needs_no_source(tmp_path: Path) -> None:
    """A file is read alone, with transforms where its source applied them."""
    path = LMDBDataset(small(), root=tmp_path).path
    alone = LMDBDataset.from_path(path, transform=v1.ToTensor(), target_transform=str)
    assert (alone[2][0].dtype, alone[2][1]) == (torch.float32, str(small()[2][1]))
    assert equal(LMDBDataset.from_path(path)[2], small()[2])
    alone.transform = None
    assert isinstance(alone[0][0], Image.Image)
    joint = LMDBDataset.from_path(path, transforms=lambda image, label: (label, image))
    assert joint[2][0] == small()[2][1]
    with pytest.raises(ConfigError, match="either"):
        LMDBDataset.from_path(path, transform=str, transforms=str)
    with pytest.raises(AttributeError):
        _ = alone.classes
    twin = pickle.loads(pickle.dumps(LMDBDataset.from_path(path, transform=rotated)))
    assert equal(twin[1], (rotated(small()[1][0]), small()[1][1]))


def test_streams_have_the_live_transforms(tmp_path: Path) -> None:
    """`stream` applies what the wrapper would, now and after a change."""
    wrapped = LMDBDataset(small(transform=v1.ToTensor()), root=tmp_path)
    stream = wrapped.stream(batch_size=24)
    assert next(iter(stream))[0].dtype == torch.float32
    wrapped.transform = v1.PILToTensor()
    images, labels = next(iter(stream))
    assert torch.equal(images, torch.stack([wrapped[k][0] for k in range(24)]))
    assert labels.tolist() == [wrapped[k][1] for k in range(24)]


def test_a_fork_reads_on(tmp_path: Path) -> None:
    """A forked child and its parent both read, whichever opened the file."""
    wrapped = LMDBDataset(small(), root=tmp_path)
    expected = wrapped[7]
    if (child := os.fork()) == 0:
        os._exit(0 if equal(wrapped[7], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert equal(wrapped[7], expected)


class Broken(Pairs):
    """A dataset whose first sample cannot be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            raise OSError("truncated file")
        return super().__getitem__(index)


def test_a_broken_first_sample_is_named(tmp_path: Path) -> None:
    """Even the sample that is looked at first fails with the index and its cause, and nothing is left behind."""
    with pytest.raises(SourceError, match=r"sample 0.*truncated file") as caught:
        LMDBDataset(Broken(4), root=tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


class Named(Dataset[Any]):
    """Images with names."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Any, str, bytes, int]:
        image = Image.fromarray(np.full((4, 4, 3), index, np.uint8))
        return self.transform(image), f"image {index}", b"%d" % index, index


def test_strings_come_as_torch_gives_them(tmp_path: Path) -> None:
    """A DataLoader's batch has the same containers as that of the wrapped dataset."""
    plain = Named(v1.ToTensor())
    (expected,) = DataLoader(plain, batch_size=6)
    (found,) = DataLoader(LMDBDataset(plain, root=tmp_path), batch_size=6)
    assert [type(column) for column in found] == [type(column) for column in expected]
    assert found[1:3] == expected[1:3]
    assert torch.equal(found[0], expected[0])
