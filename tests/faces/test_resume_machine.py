"""A state machine drives readers of every face through steps, saves, loads and epoch ends, against a small model."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from lmdbpipe import LMDBIterableDataset, LMDBReader, Part, merge_states
from lmdbpipe.errors import StateError
from lmdbpipe.nodes import LMDBNode
from lmdbpipe.order import BaseOrder, Mixture, Repeated, Selection, Whole, choose, draw

from .conftest import FileOf
from .helpers import as_worker

LENGTH, CHUNK, BUFFER, SEED = 29, 7, 10, 5
FACES = ("iterable", "workers", "pipe", "node", "pickled")
Step = list[list[int]]
SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target],  # shrinking would take minutes
)


AGAIN = [*range(20), *range(5), 3, 3, 3, 8]
SHARES = (9, 20)
"""How many samples an epoch has of the file, and of the file again."""
ORDERS: dict[str, tuple[Selection, int]] = {
    "whole": (Whole(LENGTH), CHUNK),
    "chosen": (choose(Whole(LENGTH), np.array(AGAIN)), CHUNK),
    "repeated": (choose(Repeated(Whole(LENGTH), 2), np.arange(20, 49)), CHUNK // 2),
    "weighted": (draw(Whole(LENGTH), range(LENGTH), LENGTH), CHUNK),
    "mixed": (Mixture((LENGTH, LENGTH), SHARES), CHUNK // 2),
}
"""What epochs are made of, and how many samples of it lie together."""


@functools.cache
def order_of(kind: str, epoch: int) -> list[int]:
    """The samples of an epoch, in order."""
    selection, block = ORDERS[kind]
    order = BaseOrder(length=LENGTH, shuffle=True, seed=SEED, epoch=epoch, block=block, buffer_size=BUFFER)
    return (selection.at(order.indices(0, LENGTH), order)[0] % LENGTH).tolist()  # type: ignore[no-any-return]


def stream(path: str, kind: str, **options: Any) -> LMDBIterableDataset:
    """A stream whose epochs are made so."""
    if kind == "mixed":
        return LMDBIterableDataset([Part(path, choose=share) for share in SHARES], **options)
    made = LMDBIterableDataset(path, **options)
    if kind == "chosen":
        return made.subset(AGAIN)
    if kind == "repeated":
        return made.repeat(2).subset(range(20, 49))
    return made.weighted(range(LENGTH)) if kind == "weighted" else made


class Model:
    """What readers must do: a position in an epoch's order, from which all ranks together take steps."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.epoch = 0
        self.position = 0
        self.begun = False

    def step(self, world_size: int, batch_size: int) -> Step:
        """The batches of all ranks, nothing at the end of the epoch."""
        left = LENGTH - self.position
        size = min(batch_size, -(-left // world_size))
        stop = min(self.position + size * world_size, LENGTH)
        order = order_of(self.kind, self.epoch)
        taken = order[self.position : stop]
        self.position = stop
        taken += (order * world_size)[: size * world_size - len(taken)]
        return [taken[rank * size : (rank + 1) * size] for rank in range(world_size)] if size else []


def make(path: str, kind: str, face: str, **options: Any) -> Any:
    """A reader of one rank; a pipe takes files and parts, and the iterable face stands in where more is chosen."""
    if face == "pipe" and kind in ("whole", "mixed"):
        parts = path if kind == "whole" else [Part(path, choose=share) for share in SHARES]
        return LMDBReader(parts, **options)
    made = stream(path, kind, **options)
    return LMDBNode(made) if face == "node" else made


class Readers:
    """All ranks of one face, and how they are stepped, saved and loaded."""

    def __init__(self, path: str, kind: str, face: str, world_size: int, batch_size: int, num_workers: int) -> None:
        self.face = face
        self.world_size = world_size
        self.batch_size = batch_size
        self.num_workers = num_workers if face == "workers" else 0
        self.ranks = [
            make(path, kind, face, batch_size=batch_size, shuffle=True, buffer_size=BUFFER, seed=SEED, rank=rank,
                 world_size=world_size) for rank in range(world_size)
        ]  # fmt: skip
        self.iterators: list[list[Iterator[Any]]] = []
        self.seed = 0
        self.taken = 0
        self.resumed: Any = None

    def begin(self) -> None:
        """Begin the next pass on all ranks."""
        if self.face == "node":
            for node in self.ranks:
                node.reset(self.resumed)
            self.iterators = [[node] for node in self.ranks]
        else:
            self.seed += 1000
            self.iterators = []
            for rank in self.ranks:
                workers = []
                for worker in range(max(self.num_workers, 1)):
                    with as_worker(worker, self.num_workers, self.seed):
                        workers.append(iter(rank))
                self.iterators.append(workers)
        self.resumed = None
        self.taken = 0

    def step(self) -> Step:
        """The batches of all ranks, nothing at the end of the epoch."""
        batches = [next(workers[self.taken % len(workers)], None) for workers in self.iterators]
        self.taken += 1
        if batches[0] is None:  # a loader asks every worker until it has no more
            assert not any(next(worker, None) for workers in self.iterators for worker in workers)
        return [batch[1].tolist() for batch in batches if batch is not None]

    def save(self, rank: int) -> Any:
        """The state of one rank."""
        if self.face == "workers" and self.iterators:
            return merge_states([worker.state_dict() for worker in self.iterators[rank]])  # type: ignore[attr-defined]
        return self.ranks[rank].state_dict()

    def load(self, state: Any) -> None:
        """Load a state into all ranks, for the next pass."""
        self.iterators = []
        if self.face == "node":
            self.resumed = state
            return
        for rank in self.ranks:
            rank.load_state_dict(state)
        if self.face == "pickled":
            self.ranks = pickle.loads(pickle.dumps(self.ranks))

    def set_epoch(self, epoch: int) -> None:
        """Tell all ranks the next epoch."""
        for rank in self.ranks:
            rank.set_epoch(epoch)
        self.iterators = []


class Machine(RuleBasedStateMachine):
    """Readers and model take every step together."""

    path = ""

    layouts = st.tuples(st.sampled_from(FACES), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))

    @initialize(layout=layouts, kind=st.sampled_from(list(ORDERS)))
    def start(self, layout: tuple[str, int, int, int], kind: str) -> None:
        """Make readers that have not begun."""
        self.model = Model(kind)
        self.readers = Readers(self.path, kind, *layout)

    @rule(steps=st.integers(1, 4))
    def read(self, steps: int) -> None:
        """Begin a pass if there is none, and take some steps; at the end, the next epoch comes."""
        if not self.model.begun:
            self.readers.begin()
            self.model.begun = True
        for _ in range(steps):
            expected = self.model.step(self.readers.world_size, self.readers.batch_size)
            assert expected == self.readers.step()
            if not expected:
                self.model.epoch, self.model.position, self.model.begun = self.model.epoch + 1, 0, False
                break

    @precondition(lambda self: self.model.begun)
    @rule()
    def read_to_the_end(self) -> None:
        """Finish the epoch; whole epochs over and over would only take time."""
        self.read(LENGTH + 2)

    @precondition(lambda self: self.model.begun or self.readers.face != "node")
    @rule(layout=layouts, rank=st.integers(0, 3))
    def save_and_load(self, layout: tuple[str, int, int, int], rank: int) -> None:
        """Save any one rank, and go on with other readers; a pass that has not begun begins where it would."""
        state = json.loads(json.dumps(self.readers.save(rank % self.readers.world_size)))
        if not state["finished"]:
            assert (state["epoch"], state["position"]) == (self.model.epoch, self.model.position)
        self.readers = Readers(self.path, self.model.kind, *layout)
        if state["finished"] and self.readers.face == "node":
            self.readers.set_epoch(self.model.epoch)  # a node would stand at the end, as its Loader wants it
        else:
            self.readers.load(state)
        self.model.begun = False

    @precondition(lambda self: not self.readers.resumed)
    @rule(epoch=st.integers(0, 5))
    def tell_epoch(self, epoch: int) -> None:
        """set_epoch moves the next pass; a loaded state that is not used yet allows its own epoch only."""
        try:
            self.readers.set_epoch(epoch)
        except StateError:
            assert not self.model.begun
            assert epoch != self.model.epoch
            return
        if self.model.begun or epoch != self.model.epoch:
            self.model.epoch, self.model.position = epoch, 0
        self.model.begun = False


def test_readers_follow_the_model(file_of: FileOf) -> None:
    """Thousands of steps over faces, ranks, workers, saves and loads: none differs from the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "path", file_of(LENGTH))
        run_state_machine_as_test(Machine, settings=SETTINGS)
