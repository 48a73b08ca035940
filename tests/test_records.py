"""Records: samples of one or several files, one by one or in batches."""

from __future__ import annotations

import collections
import gc
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate
from torchvision import transforms as v1
from torchvision.transforms.functional import pil_to_tensor

import lmdbpipe
from lmdbpipe import LMDBConfig
from lmdbpipe.errors import ConfigError, DatabaseMismatchError, OutOfRangeError
from lmdbpipe.records import Records
from lmdbpipe.store import environment
from tests.helpers import Listed, image, same

Build = Callable[..., Records]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds files of given samples, in chunks of five, and gives their records."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 5)

    def make(*parts: Sequence[Any], config: LMDBConfig | None = None, **options: Any) -> Records:
        paths = []
        for part in parts:
            paths.append(tmp_path / f"{len(list(tmp_path.iterdir()))}.lmdb")
            lmdbpipe.build(Listed(part), paths[-1], progress=False, **options)
        return Records(paths, config)

    return make


class Pair(NamedTuple):
    """A named tuple."""

    x: Any
    y: Any


def fixed(k: int) -> Any:
    """A sample whose leaves all stack."""
    return {
        "image": image("RGB", (4, 6), k),
        "pair": (k, k / 2, k % 2 == 0),
        "tensor": torch.full((2, 3), k, dtype=torch.bfloat16),
        "array": Pair(np.full(3, k, np.uint16), np.float32(k)),
    }


def varying(k: int) -> Any:
    """A sample whose leaves vary."""
    return (
        image(("RGB", "L", "P")[k % 3], (4, 6 + k % 4), k),
        torch.full((k % 3, 2), k),
        np.full(k % 4, k, ">f8"),
        "s" * k,
        bytes(k),
        {"boxes": [k] * (k % 3)},
        None,
    )


def test_samples_come_back(build: Build) -> None:
    """Each sample of each file, in any order, is what the source gave."""
    for make in (fixed, varying):
        samples = [make(k) for k in range(23)]
        for parts in ([samples], [samples[:7], samples[7:8], samples[8:]]):
            records = build(*parts)
            assert len(records) == 23
            for index in (22, 0, 7, 6, 8, *range(23)):
                assert same(samples[index], records.sample(index))


@pytest.mark.parametrize("index", [-1, 23, 10**9])
def test_missing_samples(index: int, build: Build) -> None:
    """An index out of range is an IndexError, for a sample and within a batch."""
    records = build([fixed(k) for k in range(23)])
    with pytest.raises(OutOfRangeError, match=f"sample {index} does not exist: there are 23") as caught:
        records.sample(index)
    assert isinstance(caught.value, IndexError)
    for batch in (np.array([0, index]), range(index, index + 1)):
        with pytest.raises(OutOfRangeError):
            records.batch(batch)


def expected_batch(samples: Sequence[Any]) -> Any:
    """What default_collate makes of samples, with images as PILToTensor gives them."""
    return default_collate([{**sample, "image": pil_to_tensor(sample["image"])} for sample in samples])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_batches_are_default_collates(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A batch of leaves that stack is what default_collate makes of the samples, for any indices, over any files."""
    records, samples = _fixed_records(tmp_path_factory)
    which = data.draw(st.sampled_from(sorted(records)))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, 22))
        indices: Any = range(start, data.draw(st.integers(start + 1, 23)))
    else:
        indices = np.array(data.draw(st.lists(st.integers(0, 22), min_size=1, max_size=12)))
    assert same(expected_batch([samples[k] for k in indices]), records[which].batch(indices))


_CACHE: dict[str, Any] = {}


def _fixed_records(factory: pytest.TempPathFactory) -> tuple[dict[str, Records], list[Any]]:
    if not _CACHE:
        folder, samples = factory.mktemp("fixed"), [fixed(k) for k in range(23)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 5)
            for name, part in {"all": samples, "a": samples[:7], "b": samples[7:8], "c": samples[8:]}.items():
                lmdbpipe.build(Listed(part), folder / name, progress=False)
        one, several = Records([folder / "all"]), Records([folder / "a", folder / "b", folder / "c"])
        cursor = Records([folder / "all"], LMDBConfig(access="cursor"))
        _CACHE.update(records={"one": one, "several": several, "cursor": cursor}, samples=samples)
    return _CACHE["records"], _CACHE["samples"]


def test_leaves_that_vary_are_lists(build: Build) -> None:
    """A leaf whose sizes may vary is a list even where a batch happens to hold equal ones; images are C×H×W tensors."""
    samples = [varying(k) for k in range(23)]
    for records in (build(samples), build(samples[:9], samples[9:])):
        for indices in (np.array([3, 15]), np.array([22, 1, 0, 1]), np.array([5])):
            batch = records.batch(indices)
            assert [type(leaf) for leaf in batch] == [list] * 7
            for number, index in enumerate(indices.tolist()):
                sample = samples[index]
                assert same(pil_to_tensor(sample[0]), batch[0][number])
                assert all(same(sample[leaf], batch[leaf][number]) for leaf in (1, 2, 3, 4, 5, 6))


@pytest.mark.parametrize("channels_first", [True, False])
def test_batches_are_their_owners(channels_first: bool, build: Build) -> None:
    """A batch may be written to; that changes neither the file nor what is read later."""
    samples = [(image("RGB", (4, 4), k), k) for k in range(12)]
    records = build(samples, db_transform=v1.PILToTensor(), db_cfg={"db_channels_first": channels_first})
    for indices in (range(12), np.array([3, 1])):
        images, labels = records.batch(indices)
        before = images.clone(), labels.clone()
        images.zero_(), labels.zero_()
        assert all(map(same, before, records.batch(indices)))
    assert all(same(pil_to_tensor(sample[0]), records.sample(k)[0]) for k, sample in enumerate(samples))


def test_dicts_with_integer_keys_are_dicts(build: Build) -> None:
    """A dict whose keys are positions is a dict in a batch, too."""
    batch = build([{0: k, 1: k + 1} for k in range(4)]).batch(range(2))
    assert {key: value.tolist() for key, value in batch.items()} == {0: [0, 1], 1: [1, 2]}


def test_batches_keep_named_tuples_and_ordered_dicts(build: Build) -> None:
    """Containers of a batch are default_collate's: named tuples and dict classes stay, tuples become lists."""
    batch = build([collections.OrderedDict(a=Pair(k, (k, b""))) for k in range(3)]).batch(range(3))
    assert type(batch) is collections.OrderedDict
    assert type(batch["a"]) is Pair
    assert type(batch["a"].y) is list


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "bfloat16", "complex64", "bool"])
def test_any_dtype_joins_over_files(dtype: str, build: Build) -> None:
    """A batch over two files works for dtypes that few of torch's operations know."""
    samples = [torch.tensor([k % 2, 1]).to(getattr(torch, dtype)) for k in range(8)]
    batch = build(samples[:3], samples[3:]).batch(np.array([7, 0, 3, 2]))
    assert all(map(same, (samples[k] for k in (7, 0, 3, 2)), (row.clone() for row in batch)))


def test_values_are_whole_columns(build: Build) -> None:
    """One leaf of all samples: an array of their dtype where all have one shape, else a list, as the source gave it."""
    samples = [fixed(k) for k in range(23)]
    for records in (build(samples), build(samples[:9], samples[9:])):
        labels = records.values(records.leaf("pair/0"))
        assert isinstance(labels, np.ndarray)
        assert labels.dtype == np.int64
        assert labels.tolist() == list(range(23))
        labels[0] = 5
        assert records.sample(0)["pair"][0] == 0
        assert np.asarray(records.values(records.leaf(("array", "x")))).tolist() == [[k] * 3 for k in range(23)]
        floats = records.values(records.leaf("tensor"))
        assert all(same(sample["tensor"], value) for sample, value in zip(samples, floats, strict=True))
    records = build([varying(k) for k in range(23)])
    assert all(same(varying(k)[5], value) for k, value in enumerate(records.values(5)))


def test_shapes_are_read_without_data(build: Build) -> None:
    """The sizes of a leaf, whether they vary or not, of images as height and width."""
    records = build([varying(k) for k in range(12)], [varying(0)] * 2)
    assert list(records.shapes(0)) == [(6 + k % 4, 4) for k in range(12)] + [(6, 4)] * 2
    assert list(records.shapes(1)) == [(k % 3, 2) for k in range(12)] + [(0, 2)] * 2
    assert list(build([np.array(1, ">i4")] * 3).shapes(0)) == [()] * 3


@pytest.mark.parametrize("leaf", ["pair/0", ("pair", 0)])
def test_leaves_have_names(leaf: Any, build: Build) -> None:
    """A leaf is found by its path or its path's name; another name is an error that lists all."""
    records = build([fixed(0)])
    assert records.schema.leaf_names[records.leaf(leaf)] == "pair/0"
    assert build([(1, 2)]).leaf(1) == 1
    with pytest.raises(ConfigError, match="there is no leaf 'nope'; the leaves are image, pair/0, pair/1"):
        records.leaf("nope")


@pytest.mark.parametrize(
    ("one", "other", "options"),
    [
        ((1, 2), [1, 2], {}),
        ((1, 2), (1, 2.0), {}),
        ((1, "a"), (1, b"a"), {}),
        ((torch.zeros(2),), (torch.zeros(2, 1),), {}),
        ((image("RGB", (4, 4)), 1), (image("RGB", (4, 4)), 1), {"db_transform": v1.PILToTensor()}),
    ],
    ids=["structure", "type", "codec", "dimensions", "tensor or image"],
)
def test_files_must_fit_each_other(one: Any, other: Any, options: dict[str, Any], build: Build) -> None:
    """Files of other structures, types or kinds are refused by name."""
    first = build([one]).databases[0].path
    second = build([other], **options).databases[0].path
    with pytest.raises(DatabaseMismatchError, match=str(second)):
        Records([first, second])


def test_files_of_different_sizes_fit(build: Build) -> None:
    """Files with fixed images of different sizes together hold images of varying size."""
    records = build([image("RGB", (4, 4), 1)] * 3, [image("RGB", (5, 6), 2)] * 3, [image("L", (5, 6), 2)] * 3)
    batch = records.batch(np.array([8, 0, 4]))
    assert [tuple(item.shape) for item in batch] == [(1, 6, 5), (3, 4, 4), (3, 6, 5)]


def test_layouts_join(build: Build) -> None:
    """Files that store images C×H×W and H×W×C together give the same batches."""
    samples = [(image("RGB", (4, 5), k), k) for k in range(6)]
    first = build(samples[:3], db_transform=v1.PILToTensor()).databases[0].path
    second = build(samples[3:], db_transform=v1.PILToTensor(), db_cfg={"db_channels_first": False}).databases[0].path
    records = Records([first, second])
    layouts = [database.manifest.schema.codecs[0].params()["layout"] for database in records.databases]
    assert layouts == ["CHW", "HWC"]
    images, _ = records.batch(np.array([5, 0, 3, 2]))
    assert all(same(pil_to_tensor(samples[k][0]), images[n].contiguous()) for n, k in enumerate((5, 0, 3, 2)))


@pytest.mark.parametrize(
    "samples", [[()] * 3, [torch.zeros(0, 3)] * 3, [image("L", (0, 3))] * 3], ids=["leafless", "0", "image"]
)
def test_samples_without_data(samples: list[Any], build: Build) -> None:
    """Samples that hold nothing come back."""
    records = build(samples)
    assert all(same(samples[0], records.sample(k)) for k in range(3))
    records.batch(range(3))
    assert [number for number, _ in records.steps(np.array([0, 2]))] == [0]


def test_records_travel(build: Build) -> None:
    """Records pickle, and say what they are."""
    records = build([1, 2], [3])
    again = pickle.loads(pickle.dumps(records))
    assert [again.sample(k) for k in range(3)] == [1, 2, 3]
    assert repr(again).startswith("Records(['/")
    assert again.fingerprint == records.fingerprint
    assert "+" in records.fingerprint


@pytest.mark.parametrize("sample", [fixed, varying])
def test_files_are_let_go_without_the_cycle_collector(sample: Any, build: Build) -> None:
    """Records that nobody has any more have no file open, one or several."""
    gc.collect()
    gc.disable()
    try:
        before = len(environment._registry)
        records = build([sample(k) for k in range(7)], [sample(k) for k in range(3)])
        records.batch(np.array([8, 2]))
        assert len(environment._registry) == before + 2
        del records
        assert len(environment._registry) == before
    finally:
        gc.enable()


def test_there_must_be_a_file() -> None:
    """No path is a ConfigError."""
    with pytest.raises(ConfigError):
        Records([])
