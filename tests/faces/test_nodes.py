"""The torchdata node face: its contract, its state, threads, and mixing."""

from __future__ import annotations

import gc
import itertools
import json
import threading
from typing import Any

import pytest
import torch
from torchdata.nodes import Batcher, Loader, MultiNodeWeightedSampler, Prefetcher
from torchvision.transforms import v2

from lmdbpipe import LMDBIterableDataset
from lmdbpipe.errors import ConfigError, StateError
from lmdbpipe.nodes import LMDBNode, loader
from lmdbpipe.store import environment

from .conftest import FileOf
from .helpers import equal, flat, numbers

AUGMENT = v2.Compose([v2.PILToTensor(), v2.RandomCrop(3), v2.RandomHorizontalFlip()])
OPAQUE = v2.Compose([v2.PILToTensor(), v2.Lambda(lambda image: image + torch.randint(9, (1,)).to(torch.uint8))])
OPTIONS: dict[str, Any] = {"batch_size": 6, "shuffle": True, "buffer_size": 10}


@pytest.mark.filterwarnings("ignore:no threads read ahead")
@pytest.mark.parametrize("transform", [None, AUGMENT, OPAQUE])
@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (3, 0), (2, 2)])
def test_loaders_resume_at_every_batch(file_of: FileOf, transform: Any, num_threads: int, prefetch: int) -> None:
    """Threads give what the iterable face gives; stopped after any batch, a loader goes on with the same bits."""
    stream = LMDBIterableDataset(file_of(29), transform=transform, **OPTIONS)
    expected = [list(stream) for _ in range(3)]
    options = {**OPTIONS, "transform": transform, "num_threads": num_threads, "prefetch": prefetch}
    for stop in range(0, 6, 1 if num_threads == 0 else 2):
        before = loader(file_of(29), **options)
        list(before)
        seen = list(itertools.islice(before, stop))
        state = json.loads(json.dumps(before.state_dict()))
        after = loader(file_of(29), **options)
        after.load_state_dict(state)
        assert equal(expected[1], seen + list(after) if stop < 5 else seen)
        assert equal(expected[2], list(after))


def test_the_contract_of_nodes(file_of: FileOf) -> None:
    """Reset begins the next epoch, or goes on from a state; the state is that after the last item; reset may repeat."""
    expected = [numbers(stream) for stream in [LMDBIterableDataset(file_of(29), **OPTIONS)] for _ in range(3)]
    node = LMDBNode(file_of(29), num_threads=1, **OPTIONS)
    assert len(node) == 5
    assert numbers(node) == expected[0]
    node.reset()
    first = next(node)
    state = node.state_dict()
    rest = numbers(node)
    assert [first[1].tolist(), *rest] == expected[1]
    for _ in range(2):
        node.reset(state)
        assert rest == numbers(node)
    node.reset()
    assert numbers(node) == expected[2]
    node.set_epoch(1)
    node.reset()
    assert numbers(node) == expected[1]
    assert node.state_dict()["finished"]
    node.reset(node.state_dict())
    assert numbers(node) == []


def test_samples_without_a_batch_size(file_of: FileOf) -> None:
    """A node of single samples goes into torchdata's own Batcher."""
    batches = Loader(Batcher(LMDBNode(file_of(29), shuffle=True), 10, drop_last=False))
    assert sorted(label for batch in batches for _, label in batch) == list(range(29))


def test_states_travel_between_faces(file_of: FileOf) -> None:
    """A node's state loads into the iterable face, and the other way."""
    expected = [numbers(stream) for stream in [LMDBIterableDataset(file_of(29), **OPTIONS)] for _ in range(2)]
    node = LMDBNode(file_of(29), num_threads=2, prefetch=2, **OPTIONS)
    seen = [next(node)[1].tolist(), next(node)[1].tolist()]
    stream = LMDBIterableDataset(file_of(29), **OPTIONS)
    stream.load_state_dict(node.state_dict())
    iterator = iter(stream)
    seen.append(next(iterator)[1].tolist())
    node.reset(iterator.state_dict())
    assert [seen + numbers(node), numbers(stream.__class__(file_of(29), **OPTIONS))] == [expected[0], expected[0]]
    node.reset()
    assert numbers(node) == expected[1]
    with pytest.raises(StateError, match="another file"):
        LMDBNode(file_of(13), **OPTIONS).reset(node.state_dict())


def mixed(paths: dict[str, str], **options: Any) -> Loader[Any]:
    """Two files mixed three to one, batch by batch, read in threads."""
    nodes = {name: LMDBNode(path, num_threads=1, **OPTIONS, **options) for name, path in paths.items()}
    mixture = MultiNodeWeightedSampler(nodes, {"common": 3.0, "rare": 1.0}, seed=1, rank=0, world_size=1)
    return Loader(Prefetcher(mixture, 2))


def test_mixing_with_weights(file_of: FileOf) -> None:
    """Through MultiNodeWeightedSampler: all of every file, again where the others last longer, resumed anywhere."""
    paths = {"common": file_of(60), "rare": file_of(29, 100)}
    expected = numbers(mixed(paths))
    assert set(flat(expected)) == {*range(60), *range(100, 129)}
    for stop in (1, 4, 9):
        before = mixed(paths)
        seen = numbers(itertools.islice(before, stop))
        after = mixed(paths)
        after.load_state_dict(before.state_dict())
        assert expected == seen + numbers(after)


@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (3, 0), (2, 2)])
def test_an_error_is_no_end(file_of: FileOf, num_threads: int, prefetch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised until a reset, and the state is that of what was given."""
    monkeypatch.setattr("lmdbpipe.pipeline.Pipeline._takes_generators", lambda *_: False)  # a step that draws nothing
    calls = itertools.count()

    def broken(image: Any) -> Any:
        if next(calls) == 15:
            raise KeyError("broken")
        return image

    expected = numbers(LMDBIterableDataset(file_of(29), **OPTIONS))
    node = LMDBNode(file_of(29), transform=broken, num_threads=num_threads, prefetch=prefetch, **OPTIONS)
    seen: list[Any] = []
    for _ in range(3):
        with pytest.raises(KeyError, match="broken"):
            seen.extend(item[1].tolist() for item in node)
    node.reset(node.state_dict())
    assert expected == seen + numbers(node)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_abandoned_node_ends_at_once(file_of: FileOf, num_threads: int) -> None:
    """Its threads and its file go when nobody has the node any more, without the cycle collector."""
    gc.collect()
    gc.disable()
    try:
        before = threading.active_count(), len(environment._registry)
        node = LMDBNode(file_of(30), num_threads=num_threads, prefetch=num_threads, **OPTIONS)
        next(node)
        assert len(environment._registry) == before[1] + 1
        del node
        assert (threading.active_count(), len(environment._registry)) == before
    finally:
        gc.enable()


def test_masks_and_ranks(file_of: FileOf) -> None:
    """A node deals to ranks and tells repeated samples, as the iterable face does."""
    options = {**OPTIONS, "rank": 1, "world_size": 3, "with_mask": True}
    expected = list(LMDBIterableDataset(file_of(29), **options))
    assert equal(expected, list(LMDBNode(file_of(29), num_threads=2, **options)))


def test_wrong_options_are_refused(file_of: FileOf) -> None:
    """Options are checked when the node is made; those of a dataset are its own."""
    for wrong in ({"num_threads": -1}, {"prefetch": 0.5}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            LMDBNode(file_of(29), **wrong)
    stream = LMDBIterableDataset(file_of(29), **OPTIONS)
    with pytest.raises(ConfigError, match="own options: set shuffle there"):
        LMDBNode(stream, shuffle=True)
    assert numbers(LMDBNode(stream)) == numbers(LMDBIterableDataset(file_of(29), **OPTIONS))
    assert "LMDBNode" in repr(LMDBNode(stream))
