"""What the streaming faces share: records, transforms, options, the count of epochs, and states."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash
from torch.utils.data import get_worker_info

from lmdbpipe.checks import whole
from lmdbpipe.config import LMDBConfig
from lmdbpipe.epochs import EpochCounter
from lmdbpipe.errors import ConfigError, DatabaseNotFoundError, OutOfRangeError, StateError
from lmdbpipe.order import Mixture, OrderState, Repeated, Selection, Whole, choose, draw, merge, resume
from lmdbpipe.parts import Part, count_parts
from lmdbpipe.pipeline import Pipeline, ReadOptions, Steps, StepsFor
from lmdbpipe.records import Records
from lmdbpipe.stream import Pass, Plan, Progress, StreamOptions
from lmdbpipe.structure import Path as LeafPath
from lmdbpipe.world import Ranks, Workers
from lmdbpipe.wrapped import Step, Transform, standard_paths

PathLike: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = PathLike | Part | Iterable[PathLike | Part]


@dataclasses.dataclass(frozen=True)
class FixedSteps:
    """The same transforms for every sample."""

    steps: Steps

    @property
    def uniform(self) -> bool:
        """Whether all samples have the same."""
        return True

    def __call__(self, index: int) -> Steps:
        """Give them."""
        return self.steps


def fixed_steps(
    records: Records, transform: Transform | None, target_transform: Transform | None, transforms: Transform | None
) -> FixedSteps:
    """Put transforms where the source applied its own, which its file remembers, or where torchvision would.

    Raises:
        ConfigError: Both a joint transform and one for a part are given.
    """
    if transforms is not None and (transform is not None or target_transform is not None):
        raise ConfigError("give either transforms, or transform and target_transform")
    recorded = records.databases[0].manifest.provenance.get("transforms", {})
    paths = standard_paths(records.schema.structure)
    paths |= {name: tuple(tuple(path) for path in found) for name, found in recorded.items() if name != "transforms"}
    given = {"transform": transform, "target_transform": target_transform, "transforms": transforms}
    steps = []
    for name, function in given.items():
        if function is not None:  # a joint transform takes all its parts together, others act on each place by itself
            calls = [paths[name]] if name == "transforms" else [(path,) for path in paths[name]]
            steps += [Step(function, call) for call in calls]
    return FixedSteps(tuple(steps))


def expand(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """List the files that a path, a pattern, or several of them name.

    Raises:
        ConfigError: There is none.
        DatabaseNotFoundError: A pattern matches no file.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    expanded: list[str] = []
    for path in (str(Path(path).expanduser()) for path in given):
        found = sorted(glob.glob(path)) if glob.has_magic(path) and not Path(path).exists() else [path]  # noqa: PTH207
        if not found:
            raise DatabaseNotFoundError(f"{path}: no file matches")
        expanded += found
    if not expanded:
        raise ConfigError("give the path of at least one database")
    return expanded


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
        records: What is read.
        steps_for: The transforms that act on a sample.
        options: How it is ordered and dealt.
        collate_fn: Makes a batch of a list of samples.
        read_options: How batches are read and transformed.
        selection: What an epoch is made of; None for all samples, once each.
    """

    def __init__(
        self,
        records: Records,
        steps_for: StepsFor,
        options: StreamOptions,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        read_options: ReadOptions | None = None,
        selection: Selection | None = None,
    ) -> None:
        check_batched(options, collate_fn, read_options)
        self.records = records
        self.options = options
        self.pipeline = Pipeline(records, steps_for, collate_fn, read_options)
        self.epochs = EpochCounter()
        self.selection = selection
        self._own: OrderState | None = None
        self._latest: tuple[int, Progress] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_latest": None}

    @property
    def fingerprint(self) -> str:
        """Tells the files from others, in few bytes."""
        fingerprint = self.records.fingerprint
        if len(self.records.databases) > 1:
            fingerprint = xxhash.xxh3_128_hexdigest(fingerprint.encode())
        if self.selection is None:
            return fingerprint
        return f"{fingerprint}/{self.selection.name}"

    @property
    def length(self) -> int:
        """Samples in an epoch, over all ranks."""
        return len(self.records) if self.selection is None else self.selection.length

    @property
    def block(self) -> int:
        """Samples that lie together on disk, of those that are read."""
        if self.selection is None:
            return max(self.records.chunk_length, 1)
        return max(self.records.chunk_length * self.length // max(self.selection.span, 1), 1)

    def select(self, indices: Iterable[int]) -> StreamReader:
        """Make a reader of some samples, which counts epochs by itself.

        Raises:
            ConfigError: Indices are not integers, or samples are drawn anew in every epoch.
            OutOfRangeError: There is no such sample.
        """
        fixed = self._fixed()
        given = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ConfigError(f"indices must be integers in a row, got {given.dtype} of shape {given.shape}")
        given = given.astype(np.int64)
        outside = given[(given < 0) | (given >= self.length)]
        if outside.size:
            raise OutOfRangeError(f"sample {int(outside[0])} does not exist: there are {self.length}")
        return self._of(choose(fixed, given))

    def repeat(self, times: int) -> StreamReader:
        """Make a reader whose epochs hold each sample several times.

        Raises:
            ConfigError: It is not an integer of at least 1, or samples are drawn anew in every epoch.
        """
        return self._of(Repeated(self._fixed(), times))

    def weighted(self, weights: npt.ArrayLike, num_samples: int | None = None) -> StreamReader:
        """Make a reader that draws samples with replacement.

        Raises:
            ConfigError: As `lmdbpipe.order.draw` raises, or samples are drawn anew in every epoch already.
        """
        return self._of(draw(self._fixed(), weights, self.length if num_samples is None else num_samples))

    def values(self, leaf: str | int | LeafPath) -> npt.NDArray[Any] | list[Any]:
        """Read one leaf of all samples of an epoch, as they lie in its files: an array if it is dense, else a list.

        Raises:
            ConfigError: There is no such leaf, or samples are drawn anew in every epoch.
        """
        fixed = self._fixed()
        values = self.records.values(self.records.leaf(leaf))
        if self.selection is None:
            return values
        order = self.options.order(self.length, self.block, 0)
        indices, _ = fixed.at(np.arange(self.length, dtype=np.int64), order)
        return [values[index] for index in indices.tolist()] if isinstance(values, list) else values[indices]

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

    def _fixed(self) -> Selection:
        if self.selection is None:
            return Whole(len(self.records))
        if not self.selection.is_fixed:
            raise ConfigError(
                "what is weighted or mixed is drawn anew in every epoch, so that nothing can be selected from it: "
                "select before weighting, and say how many samples are drawn by num_samples, choose or epoch_size"
            )
        return self.selection

    def _of(self, selection: Selection) -> StreamReader:
        pipeline = self.pipeline
        reader = StreamReader(self.records, pipeline.steps_for, self.options, pipeline.collate_fn, selection=selection)
        reader.pipeline = pipeline
        return reader

    def _start(self, epoch: int, seed: int | None = None) -> OrderState:
        """The beginning of an epoch; with a seed of its own it is number 0."""
        epoch = epoch if seed is None else 0
        order = self.options.order(self.length, self.block, epoch)
        state = OrderState.start(order, fingerprint=self.fingerprint)
        seed = self.epochs.seed if seed is None else seed
        return state if seed is None else dataclasses.replace(state, seed=seed)

    def _check(self, data: Mapping[str, Any]) -> OrderState:
        state = OrderState.from_json_dict(data)
        state.restore(self.options.order(self.length, self.block, 0), fingerprint=self.fingerprint)
        return state

    def _resumed(self, state: OrderState, ranks: Ranks, workers: Workers) -> Plan:
        whole = self.options.dealing(self.length, ranks, workers)
        dealing, first = resume(state, whole)
        order = self.options.order(self.length, self.block, 0)
        order = state.restore(order, fingerprint=self.fingerprint)
        if state.finished:
            first = len(dealing)
        return Plan(
            state=state,
            order=order,
            dealing=dealing,
            selection=self.selection,
            first=first,
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


def open_records(paths: Paths, db_cfg: object, epoch_size: int | None = None) -> tuple[Records, Selection | None]:
    """Open files by path, pattern, part, or a list of these, and say what an epoch is made of, if there are parts.

    Raises:
        ConfigError: As `count_parts` raises, or `epoch_size` is given without parts.
    """
    given = [paths] if isinstance(paths, str | os.PathLike | Part) else list(paths)
    if not any(isinstance(path, Part) for path in given):
        if epoch_size is not None:
            raise ConfigError("epoch_size needs parts with proportions: lmdbpipe.Part(path, proportion=...)")
        return Records(expand([path for path in given if not isinstance(path, Part)]), LMDBConfig.of(db_cfg)), None
    parts = [path if isinstance(path, Part) else Part(path, repeat=1) for path in given]
    files = [expand(part.path) for part in parts]
    records = Records([path for found in files for path in found], LMDBConfig.of(db_cfg))
    databases = iter(records.databases)
    lengths = tuple(sum(next(databases).manifest.length for _ in found) for found in files)
    return records, Mixture(lengths, count_parts(parts, lengths, epoch_size))
