"""The DataPipe face: a pipeline from a dataset to batches, which DataLoaders shard and shuffle natively."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterDataPipe
from torch.utils.data.datapipes.iter import IterableWrapper
from torch.utils.data.datapipes.iter.sharding import SHARDING_PRIORITIES
from torch.utils.data.graph import traverse_dps
from torchdata.stateful_dataloader import StatefulDataLoader

from lmdbpipe import LMDBIterableDataset, LMDBReader, LMDBWriter
from lmdbpipe.errors import ConfigError

from .conftest import FileOf
from .helpers import CORES_WARNING, Numbered, equal, flat, loader, numbers, round_robin

wrapped: Any = IterableWrapper  # it takes map-style datasets too, which its annotation does not say
DISTRIBUTED, MULTIPROCESSING = SHARDING_PRIORITIES.DISTRIBUTED, SHARDING_PRIORITIES.MULTIPROCESSING


def test_one_pipeline_from_dataset_to_batches(tmp_path: Path) -> None:
    """Write and read in one expression; the second time the file is used as it is."""
    source = wrapped(Numbered(29), deepcopy=False)
    for _ in range(2):
        pipe = source.write_lmdb(tmp_path / "a.lmdb", progress=False).read_lmdb(batch_size=5, shuffle=True, seed=2)
        found = [list(pipe) for _ in range(2)]
        expected = LMDBIterableDataset(tmp_path / "a.lmdb", batch_size=5, shuffle=True, seed=2)
        assert equal([list(expected) for _ in range(2)], found)


def test_writer_gives_the_path(tmp_path: Path) -> None:
    """The writer yields the path of the complete file, once."""
    writer = LMDBWriter(wrapped(Numbered(5), deepcopy=False), tmp_path / "a.lmdb", progress=False)
    assert (len(writer), list(writer), list(writer)) == (1, [str(tmp_path / "a.lmdb")], [str(tmp_path / "a.lmdb")])


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.filterwarnings(CORES_WARNING)
def test_loaders_shard_and_shuffle_natively(file_of: FileOf, persistent: bool) -> None:
    """DataLoader(reader, shuffle=True) deals to its workers and shuffles, with nothing added to the pipe."""
    for num_workers in (0, 2, 3):
        reader = LMDBReader(file_of(60), batch_size=7)
        torch.manual_seed(0)
        batches = loader(reader, num_workers, shuffle=True, persistent_workers=persistent and num_workers > 0)
        epochs = [numbers(batches) for _ in range(3)]
        assert all(sorted(flat(epoch)) == list(range(60)) for epoch in epochs)
        assert list(map(len, epochs)) == [len(batches)] * 3
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        torch.manual_seed(0)
        again = loader(LMDBReader(file_of(60), batch_size=7), num_workers, shuffle=True)
        assert epochs[0] == numbers(again)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings(CORES_WARNING, "ignore:.*set_vital")  # torchdata calls what torch has deprecated
def test_stateful_loaders_are_refused(file_of: FileOf, num_workers: int) -> None:
    """Torchdata's loader would resume a shuffled pipe in another order, without a word; a plain one it resumes."""
    shuffled = LMDBReader(file_of(20), batch_size=4, shuffle=True)
    with pytest.raises(ConfigError, match="does not see the state of a DataPipe"):
        next(iter(StatefulDataLoader(shuffled, batch_size=None, num_workers=num_workers)))

    def plain() -> StatefulDataLoader[Any]:
        return StatefulDataLoader(LMDBReader(file_of(20), batch_size=4), batch_size=None, num_workers=num_workers)

    loader, resumed = plain(), plain()
    batches = iter(loader)
    first = [next(batches) for _ in range(2)]
    resumed.load_state_dict(loader.state_dict())
    assert numbers([*first, *resumed]) == numbers(plain())


def test_shuffle_of_the_loader_decides(file_of: FileOf) -> None:
    """shuffle=False turns a shuffling pipe off, True turns a plain one on, None leaves both."""
    plain, shuffling = LMDBReader(file_of(60), batch_size=7), LMDBReader(file_of(60), batch_size=7, shuffle=True)
    in_order = list(range(60))
    assert flat(numbers(loader(shuffling))) != in_order
    assert flat(numbers(loader(plain))) == in_order
    assert flat(numbers(loader(shuffling, shuffle=False))) == in_order
    assert flat(numbers(loader(plain, shuffle=True))) != in_order


def test_a_generator_makes_shuffles_repeat(file_of: FileOf) -> None:
    """The loader's generator alone decides the order, for any number of workers."""

    def epochs(num_workers: int) -> list[Any]:
        generator = torch.Generator().manual_seed(11)
        batches = loader(LMDBReader(file_of(60), batch_size=7), num_workers, shuffle=True, generator=generator)
        return numbers(batches)

    assert epochs(0) == epochs(1) == epochs(2)


def test_seeds_of_torch_reach_readers_as_they_reach_shufflers(file_of: FileOf) -> None:
    """With workers torch draws once more from the global generator than without: for its own Shuffler just as for us.

    So one seed gives equal first epochs with 0 and 2 workers, and different second ones. Where that matters, stream
    with an `LMDBIterableDataset`, whose seed is its own.
    """

    def epochs(pipe: IterDataPipe[Any], num_workers: int) -> list[Any]:
        torch.manual_seed(5)
        batches = loader(pipe, num_workers, shuffle=True)
        return [list(batches) for _ in range(2)]

    def shuffler() -> IterDataPipe[Any]:
        return IterableWrapper(range(60)).shuffle().sharding_filter()

    def reader() -> IterDataPipe[Any]:
        return LMDBReader(file_of(60), batch_size=7)

    for pipe in (shuffler, reader):
        (first, second), (first_of_workers, second_of_workers) = epochs(pipe(), 0), epochs(pipe(), 2)
        assert (equal(first, first_of_workers), equal(second, second_of_workers)) == (True, False)


def test_groups_of_sharding(file_of: FileOf) -> None:
    """Ranks and workers dealt by torch's groups give what explicit ranks and workers would."""
    expected = [numbers(LMDBIterableDataset(file_of(29), batch_size=3, rank=rank, world_size=2)) for rank in range(2)]
    for rank in range(2):
        pipes = []
        for worker in range(3):
            pipe = LMDBReader(file_of(29), batch_size=3)
            pipe.apply_sharding(2, rank, DISTRIBUTED)
            pipe.apply_sharding(3, worker, MULTIPROCESSING)
            assert len(pipe) == len(expected[rank])
            pipes.append(iter(pipe))
        assert expected[rank] == numbers(round_robin(pipes))
    default = LMDBReader(file_of(29), batch_size=3)
    default.apply_sharding(2, 1)
    assert expected[1] == numbers(default)
    with pytest.raises(RuntimeError, match="mix"):
        default.apply_sharding(2, 1, DISTRIBUTED)
    with pytest.raises(ConfigError, match="instance_id"):
        LMDBReader(file_of(29)).apply_sharding(2, 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_in_ranks(file_of: FileOf, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    """In a distributed process the loader's own sharding gives each rank its part, all of the same size."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "new_group", lambda **_: None)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: None)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(1)
        batches = loader(LMDBReader(file_of(29), batch_size=3), num_workers, shuffle=True)
        ranks.append(numbers(batches))
        assert len(ranks[-1]) == len(batches)
    assert set(flat(map(flat, ranks))) == set(range(29))
    assert [len(batch) for batch in ranks[0]] == [len(batch) for batch in ranks[1]]


def test_a_pipe_of_paths_is_one_sequence(file_of: FileOf) -> None:
    """Several paths, from a pipe, a list or a pattern, are one keyspace."""
    paths = [file_of(13), file_of(29, 13)]
    for source in (IterableWrapper(paths), paths):
        assert list(range(42)) == flat(numbers(LMDBReader(source, batch_size=5)))


def test_one_iterator_lives_at_a_time(file_of: FileOf) -> None:
    """As with every DataPipe, a second iterator ends the first."""
    pipe = LMDBReader(file_of(29), batch_size=3)
    first = iter(pipe)
    next(first)
    second = iter(pipe)
    next(second)
    with pytest.raises(RuntimeError, match="invalidated"):
        next(first)


def test_pipes_pickle_and_are_traversed(file_of: FileOf, tmp_path: Path) -> None:
    """A pipe pickles small, open or not; torch's graph functions see its sources; its repr costs nothing."""
    writer = LMDBWriter(wrapped(Numbered(29)), tmp_path / "a.lmdb", progress=False)
    pipe = LMDBReader(writer, batch_size=5, shuffle=True)
    assert isinstance(pipe, IterDataPipe)
    assert "LMDBReader" in repr(pipe)
    assert not (tmp_path / "a.lmdb").exists()
    ((_, (_, graph)),) = traverse_dps(pipe).items()
    assert id(writer) in graph
    before = numbers(pickle.loads(pickle.dumps(pipe)))
    assert before == numbers(pipe)
    pipe.set_epoch(0)
    assert before == numbers(pickle.loads(pickle.dumps(pipe)))


def test_pipes_follow_pipes(file_of: FileOf) -> None:
    """Torch's own pipes go on from a reader."""
    assert list(range(29)) == list(LMDBReader(file_of(29)).map(label))


def label(sample: Any) -> Any:
    """The label of a sample."""
    return sample[1]


def test_wrong_options_are_refused(file_of: FileOf) -> None:
    """Options are checked when the pipe is made, before any file is opened."""
    for wrong in ({"batch_size": 0}, {"uneven": "even"}, {"rank": 1}, {"collate_fn": list}, {"buffer_size": 0}):
        with pytest.raises(ConfigError):
            LMDBReader("/nowhere.lmdb", **wrong)


def test_the_default_loader_batches_samples(file_of: FileOf) -> None:
    """A pipe of single samples works with the loader's own batches, sharded natively too."""
    pipe = LMDBReader(file_of(60)).map(label)
    batches = DataLoader(pipe, batch_size=10, num_workers=2, multiprocessing_context="fork", shuffle=True)
    assert sorted(flat(batch.tolist() for batch in batches)) == list(range(60))
