"""Streaming: one worker's pass over one epoch, in the order that it is dealt, with read-ahead."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lmdbpipe.checks import flag
from lmdbpipe.device import Transfer
from lmdbpipe.errors import ConfigError
from lmdbpipe.order import BaseOrder, Batch, Dealing, OrderState, Segments, Selection, Uneven, padding_mask
from lmdbpipe.pipeline import Keys, Pipeline
from lmdbpipe.prefetch import map_ahead
from lmdbpipe.readahead import ReadAhead
from lmdbpipe.records import Indices
from lmdbpipe.ring import share, travels
from lmdbpipe.world import Ranks, Workers

_AHEAD_BYTES = 256 * 1024**2
"""How far ahead of the reading the kernel is asked to read, by the workers of a rank together: with a quarter of it,
the disk stood still at times."""
_AHEAD_BATCHES = 128
"""At most so many: what is known of each, shuffled, is an index a sample."""
_PIECES = 8
"""Into how many pieces what lies ahead is cut: to ask for each batch by itself costs as much as to find its samples."""
_RUN = 256
"""Samples that are read ahead together where there is no batch size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream is ordered and dealt; checked when made.

    Attributes:
        batch_size: Samples in a batch; None gives single samples.
        shuffle: Whether the order is shuffled.
        buffer_size: Positions that are mixed with each other, in samples.
        seed: Seeds the order and the draws of transforms; kept modulo 2**64.
        drop_last: Leave out a last, smaller batch.
        uneven: What happens to the last samples that do not divide by the ranks: ``pad``, ``drop`` or ``allow``.
        with_mask: Give pairs of an item and its mask, which is False for samples that were read again to pad.
    """

    batch_size: int | None = None
    shuffle: bool = False
    buffer_size: int = 10_000
    seed: int = 0
    drop_last: bool = False
    uneven: Uneven = "pad"
    with_mask: bool = False

    def __post_init__(self) -> None:
        flag("with_mask", self.with_mask)
        order = self.order(1, 1, 0)
        self.dealing(1, Ranks(0, 1), Workers(0, 1))
        object.__setattr__(self, "seed", order.seed % 2**64)

    def order(self, length: int, block: int, epoch: int) -> BaseOrder:
        """The order of an epoch."""
        return BaseOrder(
            length=length,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            block=block,
            buffer_size=self.buffer_size,
        )

    def dealing(self, length: int, ranks: Ranks, workers: Workers, remaining: Segments | None = None) -> Dealing:
        """What one worker of one rank gets."""
        return Dealing(
            length=length,
            batch_size=self.batch_size,
            world_size=ranks.world_size,
            rank=ranks.rank,
            num_workers=workers.num_workers,
            worker=workers.worker,
            uneven=self.uneven,
            drop_last=self.drop_last,
            remaining=remaining,
        )

    def items(self, length: int, ranks: Ranks) -> int:
        """How many batches, or samples without a batch size, a rank gets in an epoch with all its workers."""
        dealing = self.dealing(length, ranks, Workers(0, 1))
        return dealing.num_samples if self.batch_size is None else dealing.num_batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one worker reads in a pass.

    Attributes:
        state: Where the epoch stood when it was dealt.
        order: The epoch's order.
        dealing: The part of it that this worker reads.
        selection: Which samples stand at the places that the order is over; None for all, once each.
        first: How many of its own items it has read before.
        ended: Whether it has read all, and been told so.
    """

    state: OrderState
    order: BaseOrder
    dealing: Dealing
    selection: Selection | None = None
    first: int = 0
    ended: bool = False


@dataclasses.dataclass
class Progress:
    """How far a pass is: what outlives its iterator."""

    plan: Plan
    done: int
    finished: bool

    def state(self) -> OrderState:
        """Where the worker stands, after what it has given out."""
        return self.plan.state.after(self.plan.dealing, self.done, finished=self.finished)


Request = tuple[Indices, int, Keys]
"""Samples to read together, how many at their end are padding, and what their draws are a function of."""


class Pass(Iterator[Any]):
    """One worker's pass: gives batches, or samples without a batch size. What raised an error is tried again next.

    Args:
        pipeline: Reads them.
        plan: What it reads.
        with_mask: Give pairs of an item and its mask.
        load: Finds the plan for a state, and takes the given progress for the current one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: Plan,
        *,
        with_mask: bool = False,
        load: Callable[[Mapping[str, Any], Progress], Plan] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.progress = Progress(plan, plan.first, plan.ended)
        self._with_mask = with_mask
        self._load = load
        self._items = _items(pipeline, plan, with_mask)

    def __next__(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            self.progress.finished = True
            raise
        except BaseException:  # an error of a transform, or an interrupt: the generator that it came through has ended
            rest = dataclasses.replace(self.progress.plan, first=self.progress.done)
            self._items = _items(self.pipeline, rest, self._with_mask)
            raise
        self.progress.done += 1
        return item

    def state_dict(self) -> dict[str, Any]:
        """Where this iterator stands: a few integers, JSON-able, after the items that it has given."""
        return self.progress.state().to_json_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; at the end of its epoch if it says so.

        Raises:
            ConfigError: This iterator belongs to no reader.
            StateError: The state is damaged, of another file or order, or of one of several workers whose numbers
                have changed.
        """
        if self._load is None:
            raise ConfigError("this iterator belongs to no reader that could load a state")
        plan = self._load(state, self.progress)
        self.progress.plan, self.progress.done, self.progress.finished = plan, plan.first, plan.ended
        self._items = _items(self.pipeline, plan, self._with_mask)


def _items(pipeline: Pipeline, plan: Plan, with_mask: bool) -> Iterator[Any]:
    """Give what a plan says; it does not refer to the pass, so that one that is abandoned ends at once."""
    if plan.dealing.batch_size is None:
        yield from _samples(pipeline, plan, with_mask)
        return
    options = pipeline.options
    if pipeline.is_plain and options.num_threads == 0 and options.device is None and not with_mask and not travels():
        gather = pipeline.records.gather  # in as little time as Python takes
        for indices, _, _ in requests(pipeline, plan):
            yield gather(indices)
        return
    seed, epoch = plan.order.seed, plan.order.epoch

    def read(request: Request) -> Any:
        indices, repeats, keys = request
        item = pipeline.batch(indices, seed, epoch, keys)
        return (item, torch.from_numpy(padding_mask(len(indices), repeats))) if with_mask else item

    transfer = Transfer(options.torch_device)
    read_ahead = map_ahead(transfer.over(read), requests(pipeline, plan), pipeline.threads(options.num_threads))
    with contextlib.closing(read_ahead):
        batches = transfer.arrivals(read_ahead)
        yield from map(share, batches) if travels() else batches


def _samples(pipeline: Pipeline, plan: Plan, with_mask: bool) -> Iterator[Any]:
    for indices, repeats, keys in requests(pipeline, plan):
        mask = padding_mask(len(indices), repeats)
        for row in range(len(indices)):
            one = slice(row, row + 1)
            (sample,) = pipeline.seeded_samples(
                indices[one], plan.order.seed, plan.order.epoch, keys if keys is None else keys[one]
            )
            yield (sample, bool(mask[row])) if with_mask else sample


def requests(pipeline: Pipeline, plan: Plan) -> Iterator[Request]:
    """Give what is to be read together, after asking the kernel for what comes later."""
    dealing, records = plan.dealing, pipeline.records
    if plan.ended:
        return
    sample_bytes = sum(d.manifest.totals["payload_bytes"] for d in records.databases) // max(len(records), 1)
    size = dealing.batch_size or _RUN
    most = max(1, min(_AHEAD_BATCHES, _AHEAD_BYTES // (size * max(sample_bytes, 1) * dealing.num_workers)))
    count = max(1, most // _PIECES)
    sizes = itertools.chain([most], itertools.repeat(count))
    run = dealing.consecutive(plan.first) if plan.selection is None and not plan.order.shuffle else None
    given: Iterator[Request]
    pieces: Iterator[Indices]
    if run is None:
        items = dealing.runs(plan.first, _RUN) if dealing.batch_size is None else dealing.batches(plan.first)
        given, coming = itertools.tee(_request(plan, item, len(records)) for item in items)
        pieces = map(_together, iter(lambda: list(itertools.islice(coming, next(sizes))), []))
    else:  # in as little time as Python takes
        given = ((run[low : low + size], 0, None) for low in range(0, len(run), size))
        bounds = itertools.chain([0], range(most * size, len(run), count * size), [len(run)])
        pieces = (run[low:high] for low, high in itertools.pairwise(bounds) if low < high)
    with contextlib.closing(ReadAhead(records)) as read_ahead:
        for number, piece in enumerate(pieces):
            read_ahead.ask(piece)
            if number:  # the first one is all that lies ahead
                yield from itertools.islice(given, count)
        yield from given


def _together(group: list[Request]) -> Indices:
    """Join what some requests read; as a range where it is one."""
    parts = [indices for indices, _, _ in group]
    if len(parts) == 1:
        return parts[0]
    runs = [part for part in parts if isinstance(part, range)]
    if len(runs) == len(parts) and all(before.stop == after.start for before, after in itertools.pairwise(runs)):
        return range(runs[0].start, runs[-1].stop)
    return np.concatenate(parts)


def _request(plan: Plan, item: Batch, length: int) -> Request:
    """What is to be read for an item, of some length of all; as a range where samples are consecutive."""
    if plan.selection is not None:
        indices, numbers = plan.selection.at(item.indices(plan.order), plan.order)
        return indices, item.repeats, numbers if numbers is None else numbers * length + indices
    if plan.order.shuffle or len(item.ranges) != 1:
        return item.indices(plan.order), item.repeats, None
    return range(*item.ranges[0]), item.repeats, None
