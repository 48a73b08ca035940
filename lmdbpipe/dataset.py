"""The map-style face: a drop-in wrapper that behaves like the dataset it wraps, and reads from LMDB."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import operator
import os
import secrets
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from lmdbpipe.build import build, check_reuse
from lmdbpipe.codecs import Array
from lmdbpipe.config import LMDB_config, LMDBConfig
from lmdbpipe.errors import ConfigError, DatabaseNotFoundError, DatabasePathError, OutOfRangeError
from lmdbpipe.fetched import fetch
from lmdbpipe.files import PathLike
from lmdbpipe.iterable import LMDBIterableDataset
from lmdbpipe.physical import Physical
from lmdbpipe.pipeline import Pipeline, Steps
from lmdbpipe.records import Records
from lmdbpipe.steps import FixedSteps, fixed_steps
from lmdbpipe.store import partial_path
from lmdbpipe.structure import Path as LeafPath
from lmdbpipe.wrapped import ATTRIBUTES, Transform, WrappedDataset, apply, touched

logger = logging.getLogger(__name__)


class LMDBDataset(Dataset[Any]):
    """Behaves like the dataset it wraps, but reads from an LMDB file that it builds once.

    ``wrapped[i]`` is what ``dataset[i]`` would be: raw samples come from the file, and the dataset's transforms act on
    them, live: random ones stay random, and assigning ``wrapped.transform`` works. Every other attribute is the wrapped
    dataset's. Instances pickle, travel to workers under every start method, and several may be open on one file.

    Args:
        dataset: Any map-style dataset.
        root: Folder of the file, made if it is missing.
        name: Part of the file's name, ``{Class}_{name}_{length}.lmdb``; tells apart datasets of one class and length.
        can_create: Whether a missing file is built. If not, it is waited for: ``db_cfg.num_db_attempts`` times,
            ``db_cfg.db_attempt_interval`` seconds apart.
        temporary_db: Build a file of a random name, and delete it with this object.
        db_transform: A transform baked into the file, such as a Resize.
        force_db_rebuild: Build anew even if there is a file; on one rank only, as `lmdbpipe.build` says.
        db_cfg: An `LMDBConfig`, a mapping, or any object with such attributes.
        lower: Whether a DataLoader's batches go through the transform at once, with the same bits.

    Raises:
        ConfigError: Options are unknown, wrong, or contradict each other.
        DatabaseNotFoundError: There is no file, and none may be built, or none came.
        DatabaseMismatchError: There is a file, of another source or with other transforms baked in.
        LMDBPipeError: As `lmdbpipe.build` raises.
    """

    dataset: Any
    records: Records
    db_cfg: LMDBConfig
    lower: bool
    _wrapped: WrappedDataset | None
    _overrides: dict[str, Transform | None]

    def __init__(
        self,
        dataset: Any,
        root: PathLike = "~/data",
        name: str = "",
        can_create: bool = True,
        temporary_db: bool = False,
        db_transform: Transform | None = None,
        force_db_rebuild: bool = False,
        db_cfg: object = LMDB_config,
        *,
        lower: bool = True,
    ) -> None:
        config = LMDBConfig.of(db_cfg)
        if not can_create and (temporary_db or force_db_rebuild):
            raise ConfigError("temporary_db and force_db_rebuild build a file, which can_create=False forbids")
        folder = Path(root).expanduser().absolute()
        stem = f"{type(dataset).__name__}_{secrets.token_hex(8) if temporary_db else name}_{len(dataset)}"
        path = folder / f"{stem}.lmdb"
        if can_create:
            _make_folder(folder)
            try:
                build(dataset, path, db_transform=db_transform, overwrite=force_db_rebuild, db_cfg=config)
            except BaseException:
                if temporary_db:  # nobody would go on with a file of this name
                    partial_path(path).unlink(missing_ok=True)
                raise
        else:
            _wait_for(path, config)
            check_reuse(dataset, path, db_transform=db_transform, db_cfg=config)
        self._set_up(dataset, Records([path], config), config, WrappedDataset(dataset), {}, lower=lower)
        if temporary_db:
            self._finalizer = weakref.finalize(self, _delete, self.records, os.getpid())

    @classmethod
    def from_path(
        cls,
        path: PathLike,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        transforms: Transform | None = None,
        *,
        db_cfg: object = None,
        lower: bool = True,
    ) -> LMDBDataset:
        """Read a file without the dataset that it was built from.

        Args:
            path: The file.
            transform: Applied to the input of each sample.
            target_transform: Applied to the target.
            transforms: Applied to both together, instead.
            db_cfg: How the file is opened.
            lower: Whether a DataLoader's batches go through the transform at once, with the same bits.

        Raises:
            ConfigError: Both kinds of transforms are given.
            FormatError: The file is not a finished database.
        """
        config = LMDBConfig.of(db_cfg)
        records = Records([path], config)
        fixed_steps(records, transform, target_transform, transforms)
        self = cls.__new__(cls)
        given = {"transform": transform, "target_transform": target_transform, "transforms": transforms}
        self._set_up(None, records, config, None, given, lower=lower)
        return self

    def _set_up(
        self,
        dataset: Any,
        records: Records,
        config: LMDBConfig,
        wrapped: WrappedDataset | None,
        overrides: dict[str, Transform | None],
        *,
        lower: bool,
    ) -> None:
        self.dataset, self.records, self.db_cfg, self.lower = dataset, records, config, lower
        self._wrapped, self._overrides = wrapped, overrides
        if lower and len(records):
            self._pipeline(self._steps(0))  # before workers are forked

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_finalizer", "_known_pipeline")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"LMDBDataset({self.dataset!r}, path={self.path!r}, length={len(self)})"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: SupportsIndex) -> Any:
        position = self._position(index)
        steps = self._steps(position)
        return apply(steps, self.records.sample(position, touched(steps)))

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> Sequence[Any]:
        """Fetch the samples of a batch; what torch's DataLoader calls.

        The transform of images is applied to all at once, if there is no other. It draws from the global generators
        what it would have drawn sample by sample, so a seed gives the same batches as the wrapped dataset.
        """
        batch = None
        if self.lower and len(indices) > 1 and _StepsAt(self).uniform:
            positions = self._positions(indices)
            steps = self._steps(int(positions[0]))
            batch = fetch(self._pipeline(steps), steps, positions) if len(steps) == 1 else None
        return [self[index] for index in indices] if batch is None else batch

    def _pipeline(self, steps: Steps) -> Pipeline:
        """What applies transforms to batches; made anew when they change."""
        known: tuple[Steps, Pipeline] | None = vars(self).get("_known_pipeline")
        if known is None or known[0] != steps:
            known = vars(self)["_known_pipeline"] = (steps, Pipeline(self.records, FixedSteps(steps)))
        return known[1]

    def __copy__(self) -> LMDBDataset:
        """Make another on the same file, whose transforms may be changed without changing these."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self), _overrides=dict(self._overrides), _finalizer=self)  # a temporary file lives on
        for made in ("_known_pipeline", "_fixed_steps"):
            vars(copied).pop(made, None)
        return copied

    def __getattr__(self, name: str) -> Any:
        dunder = name.startswith("__") and name.endswith("__")
        if dunder or vars(self).get("dataset") is None:
            if name in ATTRIBUTES and "_overrides" in vars(self):
                return self._overrides.get(name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in self._overrides:
            return self._overrides[name]
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ATTRIBUTES:
            self._overrides[name] = value
            vars(self).pop("_fixed_steps", None)
        else:
            super().__setattr__(name, value)

    @property
    def path(self) -> str:
        """The file."""
        return str(self.records.databases[0].path)

    @property
    def access(self) -> str:
        """How chunks are looked up: ``get`` or ``cursor``."""
        return self.db_cfg.access

    @property
    def length(self) -> int:
        """Samples, rounds included."""
        return len(self)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape in which images, or what else is first in a sample, are stored; None where it varies."""
        column = self.records.schema.codecs[0].dense()
        return None if column is None else column.shape

    @property
    def labels(self) -> Array | list[Any]:
        """The second leaf of every sample, read without touching images."""
        return self.column(1)

    @property
    def live_transform(self) -> Transform | None:
        """The transform that now acts on the input of a sample."""
        return getattr(self, "transform", None)

    def column(self, leaf: str | int | LeafPath) -> Array | list[Any]:
        """Read one leaf of all samples, without touching the others and without transforms.

        Args:
            leaf: Its path in a sample: ``1``, ``"label"``, ``"target/boxes"``, ``("target", "boxes")``.

        Returns:
            In the order of indices: an array ``[len(self), ...]`` where all have one shape, else a list.

        Raises:
            ConfigError: There is no such leaf.
        """
        values = self.records.values(self.records.leaf(leaf))
        if self._physical.shuffle_seed is None:
            return values
        positions = self._positions(range(len(self)))
        return [values[k] for k in positions.tolist()] if isinstance(values, list) else values[positions]

    def stream(self, **options: Any) -> LMDBIterableDataset:
        """Stream the file with this dataset's live transforms; takes `LMDBIterableDataset`'s options."""
        return LMDBIterableDataset(self, **options)

    def stream_steps(self) -> _StepsAt:
        """The live transforms, by the physical position of a sample."""
        return _StepsAt(self)

    def _steps(self, position: int) -> Steps:
        """The transforms that now act on the sample at a physical position."""
        if self._wrapped is None:
            return self._fixed_steps
        index = self._physical.index(position)
        steps: Steps = self._wrapped.steps(index, self._overrides)
        own = {site.name for site in self._wrapped.sites(index)}
        if own or not any(self._overrides.values()):
            return steps
        return self._fixed_steps

    @functools.cached_property
    def _fixed_steps(self) -> Steps:
        """The transforms that were set, where the dataset applies none of its own."""
        return fixed_steps(self.records, **{name: self._overrides.get(name) for name in ATTRIBUTES}).steps

    @functools.cached_property
    def _physical(self) -> Physical:
        return Physical.of(self.records.databases[0].manifest)

    def _position(self, index: SupportsIndex) -> int:
        """The physical position of a sample.

        Raises:
            OutOfRangeError: There is no such sample.
        """
        length, number = len(self), operator.index(index)
        if not -length <= number < length:
            raise OutOfRangeError(f"index {number} is out of range: the dataset has {length} samples")
        return self._physical.position(number % length)

    def _positions(self, indices: Sequence[SupportsIndex]) -> npt.NDArray[np.int64]:
        """The physical positions of some samples, int64 ``[n]``."""
        length, numbers = len(self), np.fromiter(map(operator.index, indices), np.int64, len(indices))
        outside = (numbers < -length) | (numbers >= length)
        if outside.any():
            self._position(numbers[outside][0])
        return self._physical.positions(numbers % length)


@dataclasses.dataclass(frozen=True)
class _StepsAt:
    """A dataset's live transforms, as a callable that pickles."""

    dataset: LMDBDataset

    @property
    def uniform(self) -> bool:
        """Whether all samples have the same: not so in a ConcatDataset."""
        return self.dataset._wrapped is None or not self.dataset._wrapped.routed

    def __call__(self, position: int) -> Steps:
        return self.dataset._steps(position)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabasePathError(f"{folder}: cannot be made a folder for databases: {error.strerror}") from error


def _wait_for(path: Path, config: LMDBConfig) -> None:
    """Wait until another process has built a file.

    Raises:
        DatabaseNotFoundError: It did not come.
    """
    for attempt in range(config.num_db_attempts):
        if attempt:
            time.sleep(config.db_attempt_interval)
        if path.exists():
            return
        logger.info("%s: not there yet (attempt %d of %d)", path, attempt + 1, config.num_db_attempts)
    raise DatabaseNotFoundError(
        f"{path}: did not appear in {config.num_db_attempts} attempts, {config.db_attempt_interval} s apart; "
        "build it first, or allow it with can_create=True"
    )


def _delete(records: Records, owner: int) -> None:
    """Delete a temporary file, in the process that made it."""
    if os.getpid() == owner:
        if os.name == "nt":  # where no open file can be deleted; elsewhere who reads it, reads on
            records.close()
        with contextlib.suppress(OSError):
            records.databases[0].path.unlink()
