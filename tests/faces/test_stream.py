"""The iterable face against its promises: coverage, equal shares, exact lengths, one order for all workers."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from lmdbpipe import LMDBIterableDataset
from lmdbpipe.errors import ConfigError, DatabaseMismatchError, DatabaseNotFoundError

from ..helpers import comes_true
from .conftest import FileOf
from .helpers import Numbered, as_worker, equal, flat, numbers, simulate

LENGTHS = (1, 2, 6, 13, 29, 60)


@st.composite
def options(draw: st.DrawFn, *, batched: bool) -> dict[str, Any]:
    """Draw the options of a stream."""
    return {
        "batch_size": draw(st.integers(1, 17)) if batched else None,
        "shuffle": draw(st.booleans()),
        "buffer_size": draw(st.sampled_from([1, 3, 10, 100])),
        "seed": draw(st.integers(-3, 2**64)),
        "drop_last": draw(st.booleans()) if batched else False,
    }


def rank_streams(path: str, world_size: int, **given: Any) -> list[LMDBIterableDataset]:
    """The streams of all ranks."""
    return [LMDBIterableDataset(path, rank=rank, world_size=world_size, **given) for rank in range(world_size)]


@given(
    length=st.sampled_from(LENGTHS),
    world_size=st.integers(1, 6),
    num_workers=st.integers(0, 4),
    given_options=options(batched=True),
)
def test_allow_gives_each_sample_once(
    file_of: FileOf, length: int, world_size: int, num_workers: int, given_options: dict[str, Any]
) -> None:
    """Over ranks and workers, each sample comes exactly once; drop_last takes only short batches away."""
    ranks = rank_streams(file_of(length), world_size, uneven="allow", **given_options)
    batches = [numbers(simulate(rank, num_workers)) for rank in ranks]
    assert [len(rank) for rank in ranks] == list(map(len, batches))
    seen = Counter(flat(map(flat, batches)))
    assert max(seen.values(), default=1) == 1
    missing = length - len(seen)
    if given_options["drop_last"]:
        assert missing < world_size * given_options["batch_size"]
        assert all(len(batch) == given_options["batch_size"] for rank in batches for batch in rank)
    else:
        assert missing == 0
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


@given(
    length=st.sampled_from(LENGTHS),
    world_size=st.integers(1, 6),
    num_workers=st.integers(0, 4),
    uneven=st.sampled_from(["pad", "drop"]),
    given_options=options(batched=True),
)
def test_ranks_get_equally_many(
    file_of: FileOf, length: int, world_size: int, num_workers: int, uneven: Any, given_options: dict[str, Any]
) -> None:
    """All ranks have as many batches of the same sizes; pad repeats the first samples only, drop leaves the last."""
    path = file_of(length)
    (alone,) = rank_streams(path, 1, **{**given_options, "drop_last": False})
    order = flat(numbers(alone))
    ranks = rank_streams(path, world_size, uneven=uneven, **given_options)
    batches = [numbers(simulate(rank, num_workers)) for rank in ranks]
    assert [len(rank) for rank in ranks] == list(map(len, batches))
    assert len({tuple(map(len, rank)) for rank in batches}) == 1
    dealt = [sample for step in zip(*batches, strict=True) for batch in step for sample in batch]
    if uneven == "pad" and not given_options["drop_last"]:
        repeats = -length % world_size
        assert dealt == order + (order * world_size)[:repeats]
    elif uneven == "drop" and not given_options["drop_last"]:
        assert dealt == order[: length - length % world_size]
    else:
        group = given_options["batch_size"] * world_size
        padded = order + (order * world_size)[: -length % world_size] if uneven == "pad" else order
        assert dealt == padded[: len(padded) // group * group]


@given(
    length=st.sampled_from(LENGTHS),
    world_size=st.integers(1, 5),
    num_workers=st.integers(0, 4),
    uneven=st.sampled_from(["pad", "drop", "allow"]),
    given_options=options(batched=False),
)
def test_single_samples_are_dealt_as_promised(
    file_of: FileOf, length: int, world_size: int, num_workers: int, uneven: Any, given_options: dict[str, Any]
) -> None:
    """Without a batch size too: coverage, equal counts but for allow, exact lengths."""
    path = file_of(length)
    (alone,) = rank_streams(path, 1, **given_options)
    order = [label for _, label in alone]
    ranks = rank_streams(path, world_size, uneven=uneven, **given_options)
    samples = [[label for _, label in simulate(rank, num_workers)] for rank in ranks]
    assert [len(rank) for rank in ranks] == list(map(len, samples))
    expected = Counter(order)
    if uneven == "pad":
        expected += Counter((order * world_size)[: -length % world_size])
    elif uneven == "drop":
        expected = Counter(order[: length - length % world_size])
    assert expected == Counter(flat(samples))
    counts = list(map(len, samples))
    assert max(counts) - min(counts) <= (uneven == "allow")


@settings(max_examples=60)
@given(
    length=st.sampled_from(LENGTHS),
    world_size=st.integers(1, 4),
    uneven=st.sampled_from(["pad", "drop", "allow"]),
    given_options=options(batched=True),
)
def test_order_does_not_depend_on_workers(
    file_of: FileOf, length: int, world_size: int, uneven: Any, given_options: dict[str, Any]
) -> None:
    """With a batch size, every rank's batches are the same for any number of workers, in each of three epochs."""

    def epochs(num_workers: int) -> list[Any]:
        rank = rank_streams(file_of(length), world_size, uneven=uneven, **given_options)[-1]
        return [numbers(simulate(rank, num_workers, seed)) for seed in (1000, 2000, 3000)]

    expected = epochs(0)
    assert [expected] * 4 == [epochs(num_workers) for num_workers in (1, 2, 3, 5)]


@pytest.mark.parametrize("batch_size", [None, 5])
def test_epochs_differ_and_seeds_repeat(file_of: FileOf, batch_size: int | None) -> None:
    """Shuffled, every pass is another order; an equal seed repeats them; another seed does not."""

    def epochs(seed: int) -> list[list[Any]]:
        stream = LMDBIterableDataset(file_of(60), batch_size=batch_size, shuffle=True, seed=seed)
        return [numbers(stream) if batch_size else [label for _, label in stream] for _ in range(3)]

    first, second, third = epochs(7)
    assert first != second != third != first
    assert [first, second, third] == epochs(7)
    assert first != epochs(8)[0]


def test_set_epoch_goes_anywhere(file_of: FileOf) -> None:
    """After set_epoch the next pass is that epoch, and counting goes on from there."""
    stream = LMDBIterableDataset(file_of(60), batch_size=7, shuffle=True)
    epochs = [numbers(stream) for _ in range(4)]
    stream.set_epoch(1)
    assert epochs[1:] == [numbers(stream) for _ in range(3)]
    with pytest.raises(ConfigError, match="epoch"):
        stream.set_epoch(-1)


def test_same_global_batch_on_any_world_size(file_of: FileOf) -> None:
    """For equal world_size × batch_size, all ranks together read the same samples at every step."""

    def steps(world_size: int) -> list[list[int]]:
        ranks = rank_streams(file_of(60), world_size, batch_size=12 // world_size, shuffle=True)
        return [flat(step) for step in zip(*map(numbers, ranks), strict=True)]

    assert [steps(1)] * 4 == [steps(world_size) for world_size in (2, 3, 4, 6)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_belong_to_the_caller(file_of: FileOf, shuffle: bool) -> None:
    """Batches are writable, and writing into them changes neither later epochs nor the file."""
    stream = LMDBIterableDataset(file_of(29), batch_size=8, shuffle=shuffle)
    expected = [[leaf.clone() for leaf in batch] for batch in stream]
    stream.set_epoch(0)
    for images, labels in stream:
        images.fill_(255)
        labels.fill_(-1)
    stream.set_epoch(0)
    assert equal(expected, list(stream))


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_hold_what_the_source_gave(file_of: FileOf, shuffle: bool) -> None:
    """A batch's images are N×C×H×W and equal the source's, its labels int64."""
    source = Numbered(29)
    for images, labels in LMDBIterableDataset(file_of(29), batch_size=8, shuffle=shuffle):
        assert (images.dtype, images.shape[1:], labels.dtype) == (torch.uint8, (3, 4, 6), torch.int64)
        for image, label in zip(images, labels.tolist(), strict=True):
            assert torch.equal(v2.functional.pil_to_tensor(source[label][0]), image)


@pytest.mark.parametrize("shuffle", [False, True])
def test_samples_are_exactly_what_the_source_gave(file_of: FileOf, shuffle: bool) -> None:
    """Without a batch size: a tuple of a PIL image and an int."""
    samples = list(LMDBIterableDataset(file_of(29), shuffle=shuffle))
    assert all(isinstance(image, Image.Image) and type(label) is int for image, label in samples)
    assert equal(sorted(samples, key=lambda sample: sample[1]), [Numbered(29)[i] for i in range(29)])


def test_collate_fn_gets_the_samples(file_of: FileOf) -> None:
    """A collate_fn makes the batches, of samples as the source gave them."""
    batches = list(LMDBIterableDataset(file_of(13), batch_size=5, collate_fn=list))
    assert equal(batches, [[Numbered(13)[i] for i in range(start, min(start + 5, 13))] for start in (0, 5, 10)])
    with pytest.raises(ConfigError, match="collate_fn needs a batch_size"):
        LMDBIterableDataset(file_of(13), collate_fn=list)


def test_draws_depend_on_the_sample_alone(file_of: FileOf) -> None:
    """A random transform gives a sample the same bits in an epoch, whoever reads it, and others in the next."""
    transform = v2.Compose([v2.PILToTensor(), v2.RandomCrop(3), v2.RandomHorizontalFlip()])

    def images(**given: Any) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for rank in rank_streams(file_of(60), given.pop("world_size"), transform=transform, seed=3, **given):
            for batch, labels in simulate(rank, given.get("workers", 0)):
                found |= dict(zip(labels.tolist(), batch, strict=True))
        return [found[number] for number in range(60)]

    first = images(world_size=1, batch_size=60)
    assert equal(first, images(world_size=1, batch_size=7, shuffle=True))
    assert equal(first, images(world_size=3, batch_size=4, shuffle=True))
    stream = LMDBIterableDataset(file_of(60), batch_size=60, transform=transform, seed=3)
    epochs = [next(iter(stream))[0] for _ in range(2)]
    assert equal(first, list(epochs[0]))
    assert not torch.equal(*epochs)


def test_several_files_are_one_sequence(file_of: FileOf) -> None:
    """A list or a pattern of files is one keyspace; unequal structures are refused."""
    paths = [file_of(13), file_of(29, 13)]
    assert list(range(42)) == flat(numbers(LMDBIterableDataset(paths, batch_size=5)))
    shuffled = flat(numbers(LMDBIterableDataset(paths, batch_size=5, shuffle=True, buffer_size=100)))
    assert (sorted(shuffled), shuffled[:13] == sorted(shuffled[:13])) == (list(range(42)), False)
    with pytest.raises(DatabaseNotFoundError, match="no file matches"):
        LMDBIterableDataset("/nowhere/*.lmdb")
    with pytest.raises(ConfigError, match="at least one"):
        LMDBIterableDataset([])


def test_unequal_files_are_refused(file_of: FileOf, tmp_path: Any) -> None:
    """Files of other structures do not join; the error names the file and the difference."""
    import lmdbpipe  # noqa: PLC0415

    lmdbpipe.build([(1, 2), (3, 4)], tmp_path / "pairs.lmdb", progress=False)
    with pytest.raises(DatabaseMismatchError, match=r"pairs\.lmdb.*codec"):
        LMDBIterableDataset([file_of(13), str(tmp_path / "pairs.lmdb")])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"uneven": "even"}, "uneven"),
        ({"drop_last": True}, "drop_last needs a batch_size"),
        ({"shuffle": 1}, "shuffle"),
        ({"seed": "x"}, "seed"),
        ({"rank": 0}, "go together"),
        ({"rank": 2, "world_size": 2}, "rank must be"),
        ({"rank": 0, "world_size": 0}, "world_size must be"),
        ({"transform": len, "transforms": len}, "either"),
    ],
)
def test_wrong_options_are_refused(file_of: FileOf, wrong: dict[str, Any], message: str) -> None:
    """Each wrong option is a ConfigError that names it, when the dataset is made."""
    with pytest.raises(ConfigError, match=message):
        LMDBIterableDataset(file_of(13), **wrong)


def test_an_abandoned_pass_ends(file_of: FileOf) -> None:
    """Its threads end when nobody has the iterator any more, without the cycle collector."""
    gc.collect()
    gc.disable()
    try:
        before = threading.active_count()
        iterator = iter(LMDBIterableDataset(file_of(60), batch_size=6, num_threads=2))
        next(iterator)
        assert threading.active_count() > before
        del iterator
        assert comes_true(lambda: threading.active_count() <= before)
    finally:
        gc.enable()


def test_more_workers_than_slots_are_refused(file_of: FileOf) -> None:
    """Workers beyond what can be counted are refused, not miscounted."""
    stream = LMDBIterableDataset(file_of(13), batch_size=1)
    with as_worker(2000, 2001), pytest.raises(ConfigError, match="workers"):
        iter(stream)
