"""What the streaming faces share: it begins passes over the contents of an epoch, and knows where they stand."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import get_worker_info

from lmdbpipe.checks import whole
from lmdbpipe.contents import Contents
from lmdbpipe.epochs import EpochCounter
from lmdbpipe.errors import ConfigError, StateError
from lmdbpipe.order import BaseOrder, Dealing, OrderState, merge, resume
from lmdbpipe.pipeline import Pipeline, ReadOptions, StepsFor
from lmdbpipe.stream import Pass, Plan, Progress, StreamOptions
from lmdbpipe.world import Ranks, Workers


def check_batched(
    options: StreamOptions, collate_fn: Callable[[list[Any]], Any] | None, read_options: ReadOptions | None
) -> None:
    """Check that there are batches, where an option is about them.

    Raises:
        ConfigError: There are none.
    """
    if options.batch_size is not None:
        return
    if collate_fn is not None:
        raise ConfigError("collate_fn needs a batch_size: without one there are no batches to make")
    if read_options is not None and read_options.device is not None:
        raise ConfigError(
            f"device={str(read_options.device)!r} needs a batch_size: single samples come as the source gave them"
        )


class StreamReader:
    """Starts passes over records, and knows where they stand.

    Args:
        contents: What an epoch is made of.
        steps_for: The transforms that act on a sample.
        options: How it is ordered and dealt.
        collate_fn: Makes a batch of a list of samples.
        read_options: How batches are read and transformed.
    """

    def __init__(
        self,
        contents: Contents,
        steps_for: StepsFor,
        options: StreamOptions,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        read_options: ReadOptions | None = None,
    ) -> None:
        check_batched(options, collate_fn, read_options)
        self.contents = contents
        self.options = options
        self.pipeline = Pipeline(contents.records, steps_for, collate_fn, read_options)
        self.epochs = EpochCounter()
        self._own: OrderState | None = None
        self._latest: tuple[int, Progress] | None = None
        self._ordered: tuple[Any, BaseOrder] | None = None
        self._dealt: tuple[Any, Dealing] | None = None
        """The order and the dealing that were made last, and what for: made again, they would be the same."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_latest": None}

    def over(self, contents: Contents) -> StreamReader:
        """Make a reader of other contents of the same records, which counts epochs by itself."""
        reader = copy.copy(self)
        reader.contents = contents
        reader.epochs = EpochCounter()
        reader._own = None
        return reader

    def plan(self, ranks: Ranks, workers: Workers, *, seed: int | None = None) -> Plan:
        """Begin a pass: go on from a loaded state if there is one for it, else read a whole epoch.

        Args:
            ranks: Which rank this is.
            workers: Which worker.
            seed: Of this pass alone; then its epoch is 0.

        Raises:
            StateError: A loaded state does not fit these workers, or the epoch that was set.
        """
        state, self._own = self._own, None
        if state is not None:
            self.epochs.check_told(state.epoch)
            number = state.epoch
            self.epochs.join(number, state.seed)
        else:
            number = self.epochs.begin(seed)
            state = self._loaded(number)
        if state is None:
            state = self._start(number, seed)
        plan = self._resumed(state, ranks, workers)
        self._latest = number, Progress(plan, plan.first, plan.ended)
        return plan

    def start(self, ranks: Ranks, workers: Workers, *, seed: int | None = None) -> Pass:
        """Begin one worker's pass, as `plan` says."""

        def load(state: Mapping[str, Any], progress: Progress) -> Plan:
            plan = self.load_plan(state, ranks, workers)
            self._latest = plan.state.epoch, progress
            return plan

        plan = self.plan(ranks, workers, seed=seed)
        started = Pass(self.pipeline, plan, with_mask=self.options.with_mask, load=load)
        self.follow(started.progress)
        return started

    def follow(self, progress: Progress) -> None:
        """Take this as the progress of the pass that was begun last."""
        if self._latest is not None:
            self._latest = self._latest[0], progress

    def load_plan(self, data: Mapping[str, Any], ranks: Ranks, workers: Workers) -> Plan:
        """Find out how a pass goes on from a state, and count it as begun.

        Raises:
            StateError: As `load` raises.
        """
        state = self._check(data)
        plan = self._resumed(state, ranks, workers)
        self.epochs.join(state.epoch, state.seed)
        return plan

    def load(self, data: Mapping[str, Any], ranks: Ranks) -> None:
        """Go on from a state with the next pass, in this process or in workers; a finished one's next epoch begins.

        Raises:
            StateError: The state is damaged, of another file or order, or of one of several workers; or another epoch
                was set.
        """
        state = self._check(data)
        if state.finished:
            state = state.next_epoch()
        if get_worker_info() is not None:  # StatefulDataLoader gives every worker its own
            self._own = state
            return
        if state.share is not None:
            state = merge([state])
        self._resumed(state, ranks, Workers(0, 1))
        self._keep(state)

    def skip(self, batches: int, ranks: Ranks) -> None:
        """Leave out the first batches of the next pass, or of what remains of it.

        Raises:
            ConfigError: There is no batch size.
            StateError: There are fewer.
        """
        epoch = self.epochs.peek()
        self._keep(self._after(self._pending() or self._start(epoch), batches, ranks))

    def state(self, ranks: Ranks, batches: int | None = None) -> OrderState:
        """Where the pass stands that was begun last: after what its iterator gave, or after some batches.

        Args:
            ranks: Which rank this is.
            batches: How many batches the caller has got of the pass, where workers read it.

        Raises:
            ConfigError: `batches` is given, but there is no batch size.
            StateError: Workers read the pass, so that only the caller can count; or there are not so many batches; or
                the count is 0 and does not say of which pass.
        """
        if get_worker_info() is not None and self._latest is not None:
            return self._latest[1].state()
        number = self.epochs.latest()
        if number is None:
            state = self._pending() or self._start(self.epochs.peek())
            return state if batches is None else self._after(state, batches, ranks)
        is_own = self._latest is not None and self._latest[0] == number
        progress = self._latest[1] if is_own and self._latest is not None else None
        if batches is not None:
            if batches == 0 and (progress is None or progress.finished or progress.done > progress.plan.first):
                raise StateError(
                    "batches=0 may be the end of the last pass or the beginning of the next one: "
                    "count all batches of the last one, or at least one of the next"
                )
            begun = progress.plan.state if progress else self._loaded(number)
            return self._after(begun or self._start(number, self.epochs.pass_seed), batches, ranks)
        if progress is None:
            raise StateError(
                "the pass is read by workers, which are ahead of the loop: say how many batches the loop has got with "
                "state_dict(batches=n), or use torchdata's StatefulDataLoader"
            )
        return progress.state()

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one.

        Raises:
            ConfigError: It is not an integer of at least 0.
            StateError: A state of another epoch was loaded, and not used yet.
        """
        self.epochs.set(epoch)

    def _order(self, epoch: int) -> BaseOrder:
        key = self.options, self.contents.length, self.contents.block, epoch
        if self._ordered is None or self._ordered[0] != key:
            self._ordered = key, self.options.order(*key[1:])
        return self._ordered[1]

    def _start(self, epoch: int, seed: int | None = None) -> OrderState:
        """The beginning of an epoch; with a seed of its own it is number 0."""
        epoch = epoch if seed is None else 0
        state = OrderState.start(self._order(epoch), fingerprint=self.contents.fingerprint)
        seed = self.epochs.seed if seed is None else seed
        return state if seed is None else dataclasses.replace(state, seed=seed)

    def _check(self, data: Mapping[str, Any]) -> OrderState:
        state = OrderState.from_json_dict(data)
        state.restore(self._order(0), fingerprint=self.contents.fingerprint)
        return state

    def _dealing(self, ranks: Ranks, workers: Workers) -> Dealing:
        key = self.options, self.contents.length, ranks, workers
        if self._dealt is None or self._dealt[0] != key:
            self._dealt = key, self.options.dealing(*key[1:])
        return self._dealt[1]

    def _resumed(self, state: OrderState, ranks: Ranks, workers: Workers) -> Plan:
        dealing, first = resume(state, self._dealing(ranks, workers))
        return Plan(
            state=state,
            order=state.restore(self._order(state.epoch), fingerprint=self.contents.fingerprint),
            dealing=dealing,
            selection=self.contents.selection,
            first=len(dealing) if state.finished else first,
            ended=state.finished,
        )

    def _after(self, state: OrderState, batches: int, ranks: Ranks) -> OrderState:
        if self.options.batch_size is None:
            raise ConfigError("batches cannot be counted without a batch_size; use torchdata's StatefulDataLoader")
        plan = self._resumed(state, ranks, Workers(0, 1))
        return plan.state.after(plan.dealing, plan.first + whole("batches", batches))

    def _keep(self, state: OrderState) -> None:
        self.epochs.load(state.epoch, state.seed, json.dumps(state.to_json_dict()).encode())

    def _loaded(self, number: int) -> OrderState | None:
        data = self.epochs.loaded(number)
        return None if data is None else OrderState.from_json_dict(json.loads(data))

    def _pending(self) -> OrderState | None:
        return self._loaded(self.epochs.peek()) if self._own is None else self._own
