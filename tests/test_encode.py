"""Encoding: what is baked in where, how chunks are cut, and what an image's layout is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets.vision import VisionDataset
from torchvision.transforms import v2

import lmdbpipe
from lmdbpipe.encode import TO_TENSOR, Encoder, begins_with
from lmdbpipe.errors import SampleError
from lmdbpipe.records import Records
from lmdbpipe.source import as_source
from tests.helpers import Listed, Pictures, Stream, image, same


def encoder(dataset: Any, **options: Any) -> Encoder:
    """An encoder with the build's defaults."""
    defaults = {"db_transform": None, "channels_first": True, "rounds": 1, "shuffle": False, "seed": 0}
    return Encoder.of(as_source(dataset), **{**defaults, **options})


def build(dataset: Any, folder: Path, **options: Any) -> Records:
    """Build a file, and open it."""
    path = folder / f"{len(list(folder.iterdir()))}.lmdb"
    lmdbpipe.build(dataset, path, progress=False, **options)
    return Records([path])


def layout(records: Records, leaf: int = 0) -> str:
    """In which order an image leaf's axes are stored."""
    return str(records.schema.codecs[leaf].params()["layout"])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (v1.ToTensor(), True),
        (v1.PILToTensor(), True),
        (v2.PILToTensor(), True),
        (v2.ToImage(), True),
        (v1.Compose([v1.Compose([v1.ToTensor()]), v1.Normalize(0.5, 0.5)]), True),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), True),
        (v1.Compose([v1.RandomCrop(4), v1.ToTensor()]), False),
        (v1.Compose([]), False),
        (None, False),
        (lambda picture: picture, False),
    ],
    ids=str,
)
def test_images_are_stored_as_transforms_want_them(transform: Any, expected: bool, tmp_path: Path) -> None:
    """Images lie C×H×W where the live transform begins with a to-tensor step, else H×W×C; that can be turned off."""
    assert begins_with(transform, TO_TENSOR) is expected
    dataset = Pictures(4, transform=transform)
    records = build(dataset, tmp_path)
    assert layout(records) == ("CHW" if expected else "HWC")
    assert all(same(Pictures(4)[k], records.sample(k)) for k in range(4))
    assert layout(build(dataset, tmp_path, db_cfg={"db_channels_first": False})) == "HWC"


def test_transforms_of_inner_datasets_count_for_the_layout(tmp_path: Path) -> None:
    """The live transform of a dataset inside a Subset, or the part of a joint one, decides the layout as well."""
    assert layout(build(Subset(Pictures(4, transform=v1.ToTensor()), [1, 2]), tmp_path)) == "CHW"
    assert layout(build(Joint(v1.ToTensor()), tmp_path)) == "CHW"
    assert layout(build(Joint(None), tmp_path)) == "HWC"


class Joint(VisionDataset):  # type: ignore[misc]
    """Applies a joint transform."""

    def __init__(self, transform: Any) -> None:
        super().__init__("nowhere", transform=transform)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        sample = image("RGB", (4, 4), index), index
        return self.transforms(*sample) if self.transforms is not None else sample


def test_varying_images_lie_height_first(tmp_path: Path) -> None:
    """Images of varying sizes are stored H×W×C, whatever the transform."""
    assert layout(build(Pictures(4, lambda k: ("RGB", (4 + k, 4)), v1.ToTensor()), tmp_path)) == "HWC"


def test_sizes_that_vary_late_keep_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of another size after the layout was decided is stored in it, and comes back."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 3)
    dataset = Pictures(10, lambda k: (("RGB", "P")[k > 7], (4 + k // 6, 4)), v1.ToTensor())
    records = build(dataset, tmp_path)
    assert layout(records) == "CHW"
    assert all(same(dataset.__class__(10, dataset.form)[k], records.sample(k)) for k in range(10))


class Masks(Dataset[Any]):
    """(image, mask) pairs, of which only the image goes through the transform."""

    def __init__(self, transform: Any = None) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        picture: Any = image("RGB", (8, 8), index)
        if self.transform is not None:
            picture = self.transform(picture)
        return {"mask": image("L", (8, 8), index), "picture": picture}


def test_transforms_are_baked_in_where_the_dataset_applies_its_own(tmp_path: Path) -> None:
    """db_transform acts on the part of a sample that the dataset's own transform acts on, and on no other."""
    records = build(Masks(), tmp_path, db_transform=v1.Resize(4))
    sample = records.sample(2)
    assert same(v1.Resize(4)(image("RGB", (8, 8), 2)), sample["picture"])
    assert same(image("L", (8, 8), 2), sample["mask"])


def test_tensors_are_made_of_the_transformed_image_only(tmp_path: Path) -> None:
    """A last PILToTensor makes a tensor of the image that it acts on; a mask beside it stays an image."""
    sample = build(Masks(), tmp_path, db_transform=v1.PILToTensor()).sample(1)
    assert same(v1.PILToTensor()(image("RGB", (8, 8), 1)), sample["picture"])
    assert same(image("L", (8, 8), 1), sample["mask"])


class TwoViews(Pictures):
    """Applies its transform to two images."""

    def __getitem__(self, index: int) -> Any:
        transform = self.transform if self.transform is not None else lambda picture: picture
        return transform(image("RGB", (8, 8), index)), transform(image("RGB", (8, 8), index + 100)), index


def test_transforms_are_baked_in_wherever_they_act(tmp_path: Path) -> None:
    """A dataset that applies its transform to two parts of a sample gets db_transform baked into both."""
    for baked in (v1.Resize(4), v1.Compose([v1.Resize(4), v1.PILToTensor()])):
        sample = build(TwoViews(3), tmp_path, db_transform=baked).sample(1)
        assert same(baked(image("RGB", (8, 8), 1)), sample[0])
        assert same(baked(image("RGB", (8, 8), 101)), sample[1])


@pytest.mark.parametrize("dataset", [Listed, Stream], ids=["map-style", "iterable"])
def test_transforms_are_baked_in_by_convention(dataset: Any, tmp_path: Path) -> None:
    """Where nothing shows it, db_transform acts on the first of a pair, and on the whole of anything else."""
    double: Any = lambda value: value * 2  # noqa: E731 - stands for a user's transform
    assert build(dataset([(3, 4)]), tmp_path, db_transform=double).sample(0) == (6, 4)
    assert build(dataset([3]), tmp_path, db_transform=double).sample(0) == 6
    assert build(dataset([{"a": 1}]), tmp_path, db_transform=len).sample(0) == 1


def test_transform_that_gives_tensors(tmp_path: Path) -> None:
    """Any transform may be baked in whose result a codec takes: ToTensor's floats are stored as they are."""
    records = build(Pictures(3), tmp_path, db_transform=v1.ToTensor())
    assert same(v1.ToTensor()(Pictures(3)[2][0]), records.sample(2)[0])


def test_chunks_hold_about_a_mebibyte() -> None:
    """A chunk's length is the power of two that is nearest to 1 MiB; a sample larger than that is a chunk."""
    for size, expected in (((32, 32), 256), ((100, 100), 32), ((224, 224), 8), ((1000, 1000), 1), ((2000, 2000), 1)):
        made = encoder(Listed([(image("RGB", size), 0)] * 400))
        chunk = made.first_chunk(made.samples())
        assert chunk is not None
        assert chunk.length == expected
    made = encoder(Stream([(image("RGB", (2, 2)), 0)] * 5 + [(image("RGB", (900, 900)), 0)] * 9))
    chunk = made.first_chunk(made.samples())
    assert chunk is not None
    assert chunk.length == 6
    made = encoder(Listed(list(range(20_000))))
    chunk = made.first_chunk(made.samples())
    assert chunk is not None
    assert chunk.length == 16384


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"db_transform": lambda value: value * 2}], ids=str)
def test_chunks_suit_later_samples(options: dict[str, Any]) -> None:
    """Samples that are larger than the first ones are seen, so that no chunk is many times as large as it should be."""
    made = encoder(Listed([bytes(10)] * 20_000 + [bytes(20_000)] * 20_000), **options)
    chunk = made.first_chunk(made.samples())
    assert chunk is not None
    assert 16 <= chunk.length <= 128


def test_transforms_may_work_in_place(tmp_path: Path) -> None:
    """A db_transform that changes what it is given acts once on each sample, also where some are looked at before."""
    for make in (Listed, Stream, iter):
        records = build(make([torch.ones(2) for _ in range(10)]), tmp_path, db_transform=lambda value: value.mul_(2))
        assert all(same(torch.full((2,), 2.0), records.sample(k)) for k in range(10))


def test_values_that_lmdb_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of which one column is too large for LMDB is refused, with the leaf; nothing is left behind."""
    monkeypatch.setattr("lmdbpipe.encode._VALUE_BYTES", 50_000)
    message = "leaf data: 128 samples, which make a chunk, have 51200 bytes together"
    for dataset in ([{"data": bytes(400)}] * 128, Stream([{"data": bytes(k and 400)} for k in range(128)])):
        with pytest.raises(SampleError, match=message if isinstance(dataset, list) else "leaf data: 128 samples"):
            build(dataset, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parts_are_parts_of_the_whole() -> None:
    """Samples from any position on are those of a whole pass, over rounds, shuffled or not, random draws included."""
    random_crop = v1.RandomCrop(6)
    for shuffle in (False, True):
        made = encoder(Pictures(7), rounds=3, shuffle=shuffle, db_transform=random_crop)
        whole = list(made.samples())
        assert len(whole) == made.length == 21
        for start, stop in ((0, 21), (3, 9), (6, 15), (20, 21), (14, 14)):
            assert all(map(same, whole[start:stop], made.samples(start, stop)))


def test_error_of_the_first_chunk_names_its_sample() -> None:
    """A sample that does not fit is named also while the first chunk is made."""
    made = encoder(Listed([1, 2, "x"]))
    with pytest.raises(SampleError, match=r"^sample 2, leaf sample: "):
        made.first_chunk(made.samples())
