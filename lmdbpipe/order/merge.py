"""From the states of ranks and workers to what remains of an epoch, on as many ranks and workers as there are now.

The rules of `merge`:

- All states are of the same file, order, seed and epoch, and of the same dealing; otherwise it is an error.
- Of a rank, the states of all workers are needed, since each knows only its own progress.
- A rank that is not among them has taken as much as those that are, as data-parallel training does.
  So any one rank's states give the same as all of them.
- What remains is what none of them has taken, so that what was seen and what is to come is exactly the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lmdbpipe.errors import StateError
from lmdbpipe.order.dealing import Dealing
from lmdbpipe.order.segments import Segments, leave
from lmdbpipe.order.state import OrderState

Done = dict[int, list[int]]  # for each rank, how much each of its workers has taken


def resume(state: OrderState, dealing: Dealing) -> tuple[Dealing, int]:
    """Return how to go on from a state with the ranks and workers of ``dealing``.

    Args:
        state: One worker's own state, or one for all.
        dealing: How the reader would deal a whole epoch.

    Returns:
        The dealing to read, and the number of its own items that the worker has already taken: the ``first`` of
        `Dealing.batches` or `Dealing.runs`. A worker goes on in its share where the dealing is the same (of any rank,
        by the third rule of `merge`), or has as many workers and the same global batch size; otherwise what remains
        is dealt again.

    Raises:
        StateError: It is the state of one of several workers, whose numbers or batch size have changed: merge the
            states of all of them.
    """
    if state.length != dealing.length:
        raise StateError(f"the state is of {state.length} samples, the reader has {dealing.length}")
    if state.share is not None:
        then = state.share.dealing(state.length, state.remaining)
        now = replace(dealing, remaining=state.remaining)
        if replace(then, rank=now.rank % then.world_size) == now or _same_steps(then, now):
            return now, min(state.share.done, len(now))
        state = merge([state])
    return dealing if state.remaining == dealing.segments else replace(dealing, remaining=state.remaining), 0


def merge(states: Iterable[OrderState]) -> OrderState:
    """Return one state for the states of several ranks or workers in one epoch, by the rules above.

    Raises:
        StateError: There is none, they contradict each other, or a rank's worker is missing.

    Cost: O(world_size * num_workers) without a ``batch_size``, otherwise O(number of states).
    """
    states = list(states)
    if not states:
        raise StateError("there are no states to merge")
    _require_same(states, ("fingerprint", "order", "length", "seed", "epoch"))
    finished = all(state.finished for state in states)
    # A rank that has finished while others have not knows nothing of them, unless its share tells.
    states = [state for state in states if finished or state.share is not None or not state.finished]
    _require_same(states, ("remaining",))
    shares = [state.share for state in states if state.share is not None]
    if not shares:
        return states[0]
    if len(shares) < len(states):
        raise StateError("some states speak for one worker and some for all: give states of one moment and one run")
    layouts = [replace(share, rank=0, worker=0, done=0) for share in shares]
    for layout in layouts:
        if layout != layouts[0]:
            raise StateError(f"the states are of different dealings: {layouts[0]} and {layout}")
    dealing = layouts[0].dealing(states[0].length, states[0].remaining)
    done = _by_rank({(share.rank, share.worker): share.done for share in shares}, dealing.num_workers)
    for share in shares:
        if done[share.rank][share.worker] != share.done:
            raise StateError(
                f"two states of rank {share.rank}, worker {share.worker} differ: give states of one moment"
            )
    remaining = _ranges_left(dealing, done) if dealing.batch_size is None else _steps_left(dealing, done)
    return replace(states[0], remaining=() if finished else remaining, share=None, finished=finished)


def _same_steps(then: Dealing, now: Dealing) -> bool:
    """Say whether a worker's batches are the same steps in both."""
    if then.batch_size is None or now.batch_size is None:
        return False
    same_group = then.batch_size * then.world_size == now.batch_size * now.world_size
    return same_group and (then.num_workers, then.worker) == (now.num_workers, now.worker)


def _require_same(states: list[OrderState], names: tuple[str, ...]) -> None:
    for name in names:
        values = [getattr(state, name) for state in states]
        for value in values:
            if value != values[0]:
                raise StateError(f"the states contradict each other: {name} is {values[0]!r} and {value!r}")


def _by_rank(done: dict[tuple[int, int], int], num_workers: int) -> Done:
    result: Done = {}
    for rank in sorted({rank for rank, _ in done}):
        missing = [worker for worker in range(num_workers) if (rank, worker) not in done]
        if missing:
            raise StateError(
                f"rank {rank} has {num_workers} workers, but the states of workers {missing} are missing"
                " (merge the states of all workers of a rank)"
            )
        result[rank] = [done[rank, worker] for worker in range(num_workers)]
    return result


def _steps_left(dealing: Dealing, done: Done) -> Segments:
    """Return what remains of batches: ranks that have not ended must be at the same step, the others not past it."""
    taken = {rank: sum(counts) for rank, counts in done.items()}
    for rank, counts in done.items():
        in_turn = [len(range(worker, taken[rank], dealing.num_workers)) for worker in range(dealing.num_workers)]
        if counts != in_turn:
            raise StateError(
                f"the workers of rank {rank} have given {counts} batches, not {in_turn}: they do not take turns"
                " (take their states at one moment, with in_order=True and snapshot_every_n_steps=1)"
            )
    steps = max(taken.values())
    for rank, own in taken.items():
        if own < min(steps, replace(dealing, rank=rank).num_batches):
            raise StateError(f"the ranks are at different steps, {own} and {steps}: give states of one moment")
    return dealing.remaining_after(steps)


def _ranges_left(dealing: Dealing, done: Done) -> Segments:
    """Return what remains of ranges: each worker's own, those of absent ranks taken to be as far as the others."""
    ahead = [max(counts) for counts in zip(*done.values(), strict=True)]
    taken = []
    for rank in range(dealing.world_size):
        ranges = [replace(dealing, rank=rank, worker=worker).own_range() for worker in range(dealing.num_workers)]
        in_step = [min(count, stop - start) for count, (start, stop) in zip(ahead, ranges, strict=True)]
        if rank in done and len(done) < dealing.world_size and done[rank] != in_step:
            raise StateError(
                f"the ranks are not in step, {done[rank]} and {in_step} samples: give the states of all"
                f" {dealing.world_size} ranks"
            )
        taken += [(start, start + own) for own, (start, _) in zip(done.get(rank, in_step), ranges, strict=True)]
    return leave(dealing.segments, taken)
