"""From the states that loaders and ranks save to one that loads anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from lmdbpipe.errors import StateError
from lmdbpipe.order import OrderState, merge

_OURS = {"fingerprint", "order", "position", "share"}
_SNAPSHOT, _STEPS = "_snapshot", "_steps_since_snapshot"  # of torchdata's StatefulDataLoader


def merge_states(*states: Any) -> dict[str, Any]:
    """Make one state of several, to load with any number of ranks and workers.

    A ``StatefulDataLoader`` only loads its own state into as many workers as it had. To change their number, load the
    merged state into the dataset, and leave the new loader without one:

        >>> import lmdbpipe
        >>> from torchdata.stateful_dataloader import StatefulDataLoader
        >>> dataset = lmdbpipe.LMDBIterableDataset("train.lmdb", batch_size=8)  # of 40 samples
        >>> loader = StatefulDataLoader(dataset, batch_size=None)
        >>> batch = next(iter(loader))
        >>> state = loader.state_dict()  # on any rank, or on all
        >>> dataset = lmdbpipe.LMDBIterableDataset("train.lmdb", batch_size=8)
        >>> dataset.load_state_dict(lmdbpipe.merge_states(state))
        >>> loader = StatefulDataLoader(dataset, batch_size=None, num_workers=0)  # or any other number
        >>> len(list(loader))
        4

    Args:
        states: What ``state_dict`` gave: of datasets, iterators, DataPipes and nodes, and of a ``StatefulDataLoader``
            or a ``torchdata.nodes.Loader`` around one of them; of all workers of at least one rank, at one moment.
            Ranks that are missing are taken to be in step with those given.

    Returns:
        A state that speaks for all, JSON-able.

    Raises:
        StateError: There is none in what is given, they contradict each other, or a worker is missing.
    """
    found = [state for given in states for state in _states_of(given)]
    return merge(found).to_json_dict()


def _states_of(value: Any) -> list[OrderState]:
    """Find the states in what a loader saved, each once; those of a snapshot moved on to the step of saving."""
    found = list(dict.fromkeys(map(OrderState.from_json_dict, _find(value))))
    if not found:
        raise StateError(f"there is no state of lmdbpipe in {type(value).__name__} {str(value)[:80]!r}")
    steps = value.get(_STEPS, 0) if isinstance(value, Mapping) and _SNAPSHOT in value else 0
    return _moved_on(found, steps) if steps else found


def _find(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if value.keys() >= _OURS:
            yield value
            return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _find(item)


def _moved_on(states: list[OrderState], steps: int) -> list[OrderState]:
    """Move the states of one loader's workers on by some steps, which they take in turn."""
    if any(state.share is None or state.share.batch_size is None for state in states):
        raise StateError(
            f"the loader gave {steps} batches since its snapshot, which its state does not place: "
            "save with snapshot_every_n_steps=1, or load it into a loader of as many workers"
        )
    shares = [state.share for state in states if state.share is not None]
    taken = steps + sum(share.done for share in shares)
    return [
        dataclasses.replace(
            state,
            finished=False,
            share=dataclasses.replace(share, done=len(range(share.worker, taken, share.num_workers))),
        )
        for state, share in zip(states, shares, strict=True)
    ]
