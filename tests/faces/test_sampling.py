"""Repeated, weighted, balanced and mixed streams, on every face: exact, augmented anew, dealt and resumed."""

from __future__ import annotations

import collections
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.transforms import v2

import lmdbpipe
from lmdbpipe import LMDBDataset, LMDBIterableDataset, LMDBReader, Part, merge_states
from lmdbpipe.errors import ConfigError, DatabaseMismatchError, DatabaseNotFoundError, StateError
from lmdbpipe.nodes import LMDBNode, loader

from .conftest import FileOf
from .helpers import as_worker, equal, flat, numbers, round_robin, simulate
from .helpers import loader as data_loader

AUGMENT = v2.Compose([v2.PILToTensor(), v2.RandomCrop(3), v2.RandomHorizontalFlip()])
OPAQUE = v2.Compose([v2.PILToTensor(), v2.Lambda(lambda image: image + torch.randint(9, (1,)).to(torch.uint8))])
NOISE = v2.Lambda(lambda image: torch.randint(2**40, (1,)))
KINDS = ("repeated", "chosen", "weighted", "balanced", "mixed", "mixed in turn")
Make = Callable[..., LMDBIterableDataset]


@pytest.fixture
def make(file_of: FileOf) -> Make:
    """Makes a stream of one of the kinds, of five batches, the last one short."""

    def make(kind: str, **options: Any) -> LMDBIterableDataset:
        given = {"batch_size": 6, "shuffle": True, "buffer_size": 10, "seed": 3, "transform": AUGMENT, **options}
        if kind.startswith("mixed"):
            given["shuffle"] = kind == "mixed"
            shares = {file_of(13): 3, file_of(7, 100): 2, file_of(29, 200): 0.5}
            parts = [Part(path, proportion=share) for path, share in shares.items()]
            return LMDBIterableDataset(parts, epoch_size=29, **given)
        if kind == "repeated":
            return LMDBIterableDataset(file_of(29), **given).take(10).repeat(3).take(29)
        stream = LMDBIterableDataset(file_of(13), **given)
        if kind == "chosen":
            return stream.subset([*range(13), *range(13), 2, 2, 9])
        if kind == "weighted":
            return stream.weighted(np.arange(13) ** 2, 29)
        return stream.balanced(1, 29)

    return make


def through_json(state: Any) -> Any:
    """The state as it comes back from a checkpoint."""
    return json.loads(json.dumps(state))


def passes(iterable: Any, count: int) -> list[Any]:
    """The items of several passes, each a list."""
    return [list(iterable) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [6, None])
@pytest.mark.parametrize("kind", KINDS)
def test_iterators_resume_at_every_item(make: Make, kind: str, batch_size: int | None) -> None:
    """Stopped at any item of the second epoch: the rest, then whole epochs, augmentations bit for bit."""
    expected = passes(make(kind, batch_size=batch_size), 4)
    assert not equal(expected[0], expected[1])
    for stop in range(0, len(expected[0]) + 1, 1 if batch_size else 7):
        before = make(kind, batch_size=batch_size)
        list(before)
        seen = list(itertools.islice(before, stop))
        state = through_json(before.state_dict())
        after = make(kind, batch_size=batch_size, seed=99)  # the state's own seed holds
        after.load_state_dict(state)
        assert equal(expected[1:], [seen + list(after), *passes(after, 2)])


@pytest.mark.filterwarnings("ignore:.*set_vital")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_stateful_loaders_resume_at_every_batch(make: Make, kind: str, num_workers: int) -> None:
    """StatefulDataLoader goes on after each batch of the second epoch, and other numbers of workers after a merge."""
    options: dict[str, Any] = {"multiprocessing_context": "fork"} if num_workers else {}
    expected = passes(make(kind), 3)
    for stop in range(0, 6, 1 if num_workers == 0 else 2):
        before = StatefulDataLoader(make(kind), batch_size=None, num_workers=num_workers, **options)
        list(before)
        iterator = iter(before)
        seen = list(itertools.islice(iterator, stop))
        state = pickle.loads(pickle.dumps(before.state_dict()))
        del iterator, before
        after = StatefulDataLoader(make(kind), batch_size=None, num_workers=num_workers, **options)
        after.load_state_dict(state)
        assert equal(expected[1:], [seen + list(after), list(after)])
        if stop:
            other = make(kind)
            other.load_state_dict(merge_states(state))
            assert equal(expected[1:], [seen + simulate(other, 3), list(other)])


@pytest.mark.parametrize("kind", KINDS)
def test_plain_loaders_resume_by_counting(make: Make, kind: str) -> None:
    """state_dict(batches=n) and skip(n) resume a plain DataLoader with workers at every batch."""
    expected = passes(make(kind), 2)
    for stop in range(1, 6, 2):
        before = make(kind)
        seen = list(itertools.islice(data_loader(before, 2), stop))
        after, skipped = make(kind), make(kind)
        after.load_state_dict(through_json(before.state_dict(batches=stop)))
        skipped.skip(stop)
        assert equal(expected, [seen + list(data_loader(after, 1)), list(after)])
        assert equal(expected, [seen + list(skipped), list(skipped)])


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_resume(make: Make, kind: str) -> None:
    """LMDBNode gives what the iterable face gives, in threads; stopped after a batch, it goes on."""
    expected = passes(make(kind), 2)
    for stop in (0, 1, 4):
        before = loader(make(kind), num_threads=2)
        seen = list(itertools.islice(before, stop))
        after = loader(make(kind), num_threads=1)
        after.load_state_dict(through_json(before.state_dict()))
        assert equal(expected, [seen + list(after), list(after)])
    samples = make(kind, batch_size=None)
    assert equal(list(samples), list(LMDBNode(make(kind, batch_size=None))))


@pytest.mark.parametrize("kind", KINDS)
def test_elastic(make: Make, kind: str) -> None:
    """Two ranks with two workers each stop; one, three and four ranks go on: every occurrence once, bits unchanged."""
    (expected,) = passes(make(kind, batch_size=1), 1)
    for stop in (1, 2):
        ranks = [make(kind, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
        seen, states = [], []
        for rank in ranks:
            iterators = []
            for worker in range(2):
                with as_worker(worker, 2):
                    iterators.append(iter(rank))
            seen += [next(iterators[step % 2]) for step in range(stop)]
            states += [through_json(iterator.state_dict()) for iterator in iterators]
        for world_size, num_workers in ((1, 0), (3, 2), (4, 1)):
            rest: list[Any] = []
            for rank_number in range(world_size):
                after = make(kind, batch_size=2, rank=rank_number, world_size=world_size, uneven="allow")
                after.load_state_dict(merge_states(*states))
                rest += simulate(after, num_workers)
            found = [rows(item) for item in seen + rest]
            assert collections.Counter(itertools.chain(*found)) == collections.Counter(
                itertools.chain(*map(rows, expected))
            )


def rows(batch: Any) -> list[Any]:
    """The samples of a batch, so that they can be counted."""
    images, labels = batch
    return [(label, image.numpy().tobytes()) for image, label in zip(images, labels.tolist(), strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_exact_over_ranks_and_workers(make: Make, kind: str) -> None:
    """All ranks and workers together read just the epoch's samples, as many batches as len says; batches or not."""
    expected = sorted(flat(numbers(make(kind))))
    assert len(expected) == 29
    for batch_size in (4, None):
        found: list[int] = []
        for rank in range(3):
            stream = make(kind, batch_size=batch_size, rank=rank, world_size=3, uneven="allow")
            items = simulate(stream, 2)
            assert len(items) == len(stream)
            found += flat(numbers(items)) if batch_size else [label for _, label in items]
        assert sorted(found) == expected
    assert flat(numbers(simulate(make(kind), 3))) == flat(numbers(make(kind)))


@pytest.mark.parametrize("transform", [AUGMENT, OPAQUE])
@pytest.mark.parametrize("lower", [True, False])
def test_copies_are_augmented_anew(file_of: FileOf, transform: Any, lower: bool) -> None:
    """Copies of one sample differ, the first is what the sample is without copies, batches or not, lowered or not."""
    stream = LMDBIterableDataset(file_of(29), batch_size=64, seed=2, transform=transform, lower=lower)
    ((plain, _),) = list(stream.take(1))
    for copies in (stream.subset([0] * 60), stream.take(1).repeat(60), stream.take(1).repeat(6).repeat(10)):
        ((images, labels),) = list(copies)
        assert labels.tolist() == [0] * 60
        assert len({image.numpy().tobytes() for image in images}) > 5
        assert torch.equal(images[0], plain[0])
        singles = LMDBIterableDataset(file_of(29), seed=2, transform=transform, lower=lower).subset([0] * 60)
        assert len({image.numpy().tobytes() for image, _ in singles}) > 5


def test_every_draw_is_augmented_by_itself(file_of: FileOf) -> None:
    """Repeated, weighted and mixed samples never share what their transforms draw, nor do epochs."""
    stream = LMDBIterableDataset(file_of(29), batch_size=50, transform=NOISE)
    parts = [Part(file_of(29), repeat=2.5), Part(file_of(29), choose=40)]  # one file twice is two parts
    mixed = LMDBIterableDataset(parts, batch_size=50, transform=NOISE)
    shuffled = LMDBIterableDataset(parts, batch_size=50, transform=NOISE, shuffle=True)
    for made in (stream.repeat(3), stream.weighted([1] * 29, 200), stream.balanced(1, 200), mixed, shuffled):
        noise = torch.cat([images.reshape(-1) for _ in range(2) for images, _ in made]).tolist()
        assert len(set(noise)) == len(noise)


def test_collate_functions_and_targets_get_copies_too(file_of: FileOf) -> None:
    """What is done one sample at a time, to images or labels, is drawn anew as well."""
    add = v2.Lambda(lambda label: label + torch.randint(2**40, (1,)).item())
    options: dict[str, Any] = {"batch_size": 30, "target_transform": add}
    for given in (options, {**options, "collate_fn": list}, {**options, "transform": AUGMENT}):
        stream = LMDBIterableDataset(file_of(29), **given).subset([5] * 30)
        (batch,) = list(stream)
        labels = [label for _, label in batch] if isinstance(batch, list) and len(batch) == 30 else batch[1].tolist()
        assert len(set(labels)) == 30


@pytest.mark.parametrize("shuffle", [False, True])
def test_repeat(file_of: FileOf, shuffle: bool) -> None:
    """Every sample several times; unshuffled one pass after the other, shuffled all mixed, filtered and chosen too."""
    stream = LMDBIterableDataset(file_of(13), batch_size=5, shuffle=shuffle)
    repeated = stream.repeat(3)
    found = [flat(numbers(repeated)) for _ in range(2)]
    assert len(repeated) == 8
    for epoch in found:
        assert collections.Counter(epoch) == dict.fromkeys(range(13), 3)
        assert shuffle == (epoch != list(range(13)) * 3)
        assert shuffle == (len(set(epoch[:13])) < 13)
    assert shuffle == (found[0] != found[1])
    assert sorted(flat(numbers(repeated.filter(1, lambda label: label < 2)))) == [0, 0, 0, 1, 1, 1]
    assert sorted(flat(numbers(stream.subset([3, 12]).repeat(2)))) == [3, 3, 12, 12]
    assert sorted(flat(numbers(repeated.take(14)))) == sorted([*range(13), 0])


def test_weights(file_of: FileOf) -> None:
    """Samples come as often as their weights say, those of weight 0 never; an epoch is as long as asked for."""
    stream = LMDBIterableDataset(file_of(13), batch_size=100, shuffle=True)
    for weights in ([0] * 10 + [1, 2, 1], np.array([0] * 10 + [1, 2, 1]), torch.tensor([0] * 10 + [1.0, 2.0, 1.0])):
        drawn = stream.weighted(weights, 4_000)
        assert len(drawn) == 40
        found = collections.Counter(flat(numbers(drawn)))
        assert set(found) == {10, 11, 12}
        assert abs(found[11] - 2_000) < 5 * 1_000**0.5
    assert len(flat(numbers(stream.weighted([1] * 13)))) == 13
    by_column = collections.Counter(flat(numbers(stream.weighted("1", 7_800))))  # the label is its weight
    assert all(abs(by_column[label] - 100 * label) < 5 * 10 * max(label, 1) ** 0.5 for label in range(13))
    assert set(flat(numbers(stream.filter(1, lambda label: label > 5).weighted([1] * 7, 500)))) == set(range(6, 13))


@pytest.mark.parametrize("kind", ["int", "str", "json"])
def test_balanced(tmp_path: Path, kind: str) -> None:
    """Every class is as likely, however many samples it has, whatever its values are stored as."""
    classes: list[Any] = [0] * 90 + [1] * 8 + [2] * 2
    names = {"int": lambda number: number, "str": "ab\N{BLACK STAR}".__getitem__, "json": [None, "b", 3].__getitem__}
    samples = [{"x": np.full(3, k), "name": names[kind](number)} for k, number in enumerate(classes)]
    lmdbpipe.build(samples, tmp_path / "a.lmdb", progress=False)
    stream = LMDBIterableDataset(tmp_path / "a.lmdb", batch_size=100, seed=1)
    found = collections.Counter(
        classes[k] for batch in stream.balanced("name", 6_000) for k in batch["x"][:, 0].tolist()
    )
    assert all(abs(found[number] - 2_000) < 5 * (6_000 * 2 / 9) ** 0.5 for number in range(3))
    with pytest.raises(ConfigError, match=r"leaf 'x' are no classes, but arrays of shape \(3,\)"):
        stream.balanced("x")
    with pytest.raises(ConfigError, match="no leaf 'y'"):
        stream.balanced("y")


def test_values_that_cannot_be_classes(tmp_path: Path) -> None:
    """Dicts are no classes."""
    lmdbpipe.build([{"x": 1, "y": [1] * (k % 3)} for k in range(9)], tmp_path / "a.lmdb", progress=False)
    stream = LMDBIterableDataset(tmp_path / "a.lmdb", batch_size=3)
    with pytest.raises(ConfigError, match="leaf 'sample' are no classes: unhashable"):
        stream.balanced("sample")


@pytest.mark.parametrize("shuffle", [False, True])
def test_mixed_files_have_exact_counts(file_of: FileOf, shuffle: bool) -> None:
    """Proportions, repeats and chosen numbers, in every epoch; what is chosen changes; plain paths are whole."""
    small, large = file_of(13), file_of(60, 100)
    cases: list[tuple[Any, dict[str, Any], int, int]] = [
        ([Part(small, proportion=1), Part(large, proportion=3)], {}, 18, 55),
        ([Part(small, proportion=1), Part(large, proportion=3)], {"epoch_size": 20}, 5, 15),
        ([Part(small, repeat=2.5), large], {}, 33, 60),
        ([Part(small, choose=1), Part(Path(large), repeat=0.25)], {}, 1, 15),
        (Part(small, choose=5), {}, 5, 0),
    ]
    for paths, options, of_small, of_large in cases:
        stream = LMDBIterableDataset(paths, batch_size=4, shuffle=shuffle, **options)
        epochs = [flat(numbers(stream)) for _ in range(2)]
        for epoch in epochs:
            assert (sum(label < 100 for label in epoch), sum(label >= 100 for label in epoch)) == (of_small, of_large)
        assert len(stream) == -(-(of_small + of_large) // 4)
        assert epochs[0] != epochs[1]
        whole, rest = divmod(of_small, 13)
        times = collections.Counter(collections.Counter(label for label in epochs[0] if label < 100).values())
        assert (times[whole + 1], times[whole]) == (rest, 13 - rest if whole else 0)


def test_unshuffled_parts_come_in_turn(file_of: FileOf) -> None:
    """Every stretch of the epoch has its proportion of both files, each in file order."""
    parts = [Part(file_of(60), proportion=3), Part(file_of(29, 100), proportion=1)]
    epoch = flat(numbers(LMDBIterableDataset(parts, batch_size=8, epoch_size=80)))
    for start in range(0, 80, 4):
        assert sum(label >= 100 for label in epoch[start : start + 4]) == 1
    common = [label for label in epoch if label < 100]
    assert common == list(range(60))


def test_patterns_and_pipes(tmp_path: Path, file_of: FileOf) -> None:
    """A pattern's files are one part; a DataPipe and a node mix as the iterable face does."""
    for first in (0, 100):
        (tmp_path / f"{first}.lmdb").write_bytes(Path(file_of(13, first)).read_bytes())
    parts = [Part(tmp_path / "*.lmdb", proportion=2), Part(file_of(29, 200), proportion=1)]
    options: dict[str, Any] = {"epoch_size": 30, "batch_size": 4, "shuffle": True, "transform": AUGMENT}
    expected = passes(LMDBIterableDataset(parts, **options), 2)
    assert sum(label < 200 for label in flat(numbers(expected[0]))) == 20
    pipe = LMDBReader(parts, **options)
    assert len(pipe) == len(expected[0]) == 8
    assert equal(expected, passes(pipe, 2))
    for stop in (1, 5):
        before, after = LMDBReader(parts, **options), LMDBReader(parts, **options)
        seen = list(itertools.islice(before, stop))
        after.load_state_dict(through_json(before.state_dict()))
        assert equal(expected, [seen + list(after), list(after)])
    found = list(data_loader(LMDBReader(parts, **options), 2, shuffle=True))
    assert len(flat(numbers(found))) == 30
    assert equal(expected, passes(loader(parts, **options), 2))


@pytest.mark.parametrize("kind", KINDS)
def test_streams_travel_to_processes(make: Make, kind: str) -> None:
    """A pickled stream gives the same, and so does one in workers that get it through a pickle."""
    expected = passes(make(kind), 2)
    assert equal(expected, passes(pickle.loads(pickle.dumps(make(kind))), 2))
    if kind in ("weighted", "mixed"):
        assert equal(expected[0], list(data_loader(make(kind), 1, multiprocessing_context="forkserver")))


def test_states_tell_streams_apart(make: Make, file_of: FileOf) -> None:
    """A state of other weights, proportions or copies is refused, also where the length is the same."""
    first = file_of(13)
    stream = LMDBIterableDataset(first, batch_size=4, shuffle=True)
    made = [make(kind, shuffle=True) for kind in KINDS]
    made += [
        stream.weighted([1] * 13, 29),
        stream.weighted([1] * 12 + [2], 29),
        stream.subset([*range(13)] * 2 + [1] * 3),
        LMDBIterableDataset([Part(first, choose=16), Part(file_of(7, 100), choose=13)], batch_size=4, shuffle=True),
    ]
    states = [item.state_dict() for item in made]
    for number, state in enumerate(states):
        assert len(json.dumps(state)) < 1024
        for other, item in enumerate(made):
            if number == other:
                item.load_state_dict(state)
                continue
            with pytest.raises(StateError, match="another"):
                item.load_state_dict(state)


@pytest.mark.parametrize("kind", ["weighted", "balanced", "mixed"])
def test_what_is_drawn_anew_comes_last(make: Make, kind: str) -> None:
    """Nothing can be selected from a stream that draws in every epoch; the error says what to do."""
    stream = make(kind)
    wrong: list[Callable[[], Any]] = [
        lambda: stream.take(3),
        lambda: stream.subset([1]),
        lambda: stream.repeat(2),
        lambda: stream.filter(1, bool),
        lambda: stream.balanced(1),
        lambda: stream.weighted([1] * 29),
    ]
    for call in wrong:
        with pytest.raises(ConfigError, match="select before weighting"):
            call()


def test_wrong_options_are_refused(file_of: FileOf) -> None:
    """Each with a typed error that says what is wrong, and which file it is about."""
    path = file_of(13)
    stream = LMDBIterableDataset(path, batch_size=4)
    for times in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="number of times must be"):
            stream.repeat(times)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a number for each of 13 samples"):
        stream.weighted([1, 2])
    with pytest.raises(ConfigError, match="no leaf 'weight'"):
        stream.weighted("weight")
    with pytest.raises(ConfigError, match="num_samples must be"):
        stream.balanced(1, 0)
    faces: list[Any] = [LMDBIterableDataset, LMDBReader, LMDBNode]
    for face in faces:
        with pytest.raises(ConfigError, match="epoch_size needs parts"):
            list(face(path, epoch_size=5))
        with pytest.raises(ConfigError, match="epoch_size must be"):
            list(face(Part(path, proportion=1), epoch_size=0))
        with pytest.raises(ConfigError, match=r"13-0\.lmdb: has no proportion, but other"):
            list(face([path, Part(file_of(7, 100), proportion=1)]))
    with pytest.raises(DatabaseNotFoundError, match="missing"):
        LMDBIterableDataset([Part("missing-*.lmdb", repeat=2)])
    with pytest.raises(ConfigError, match="not an LMDBDataset"):
        LMDBDataset.from_path(path).stream(epoch_size=5)


def test_parts_need_one_structure(tmp_path: Path, file_of: FileOf) -> None:
    """Files of another structure cannot be mixed in."""
    lmdbpipe.build([{"x": k} for k in range(3)], tmp_path / "other.lmdb", progress=False)
    with pytest.raises(DatabaseMismatchError, match=r"other\.lmdb"):
        LMDBIterableDataset([Part(file_of(13), repeat=2), Part(tmp_path / "other.lmdb", repeat=2)])


def test_an_lmdb_dataset_streams_with_copies(file_of: FileOf) -> None:
    """The map-style face's streams are weighted and repeated alike, with its live transforms."""
    dataset = LMDBDataset.from_path(file_of(13), transform=AUGMENT)
    expected = LMDBIterableDataset(file_of(13), batch_size=4, transform=AUGMENT)
    assert equal(list(expected.repeat(2)), list(dataset.stream(batch_size=4).repeat(2)))
    assert equal(list(expected.balanced(1)), list(dataset.stream(batch_size=4).balanced(1)))


def test_round_robin_gives_the_order(make: Make) -> None:
    """With any number of workers, the draws of an epoch come in one sequence."""
    expected = numbers(make("weighted"))
    for num_workers in (1, 2, 3):
        iterators = []
        stream = make("weighted")
        for worker in range(num_workers):
            with as_worker(worker, num_workers):
                iterators.append(iter(stream))
        assert expected == numbers(round_robin(iterators))
