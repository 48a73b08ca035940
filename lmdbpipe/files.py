"""The files that a user names: by path, by pattern, or as parts of an epoch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from lmdbpipe.config import LMDBConfig
from lmdbpipe.contents import Contents
from lmdbpipe.errors import ConfigError, DatabaseNotFoundError
from lmdbpipe.order import Mixture
from lmdbpipe.parts import Part, count_parts
from lmdbpipe.records import Records

PathLike: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = PathLike | Part | Iterable[PathLike | Part]


def open_files(paths: Paths, db_cfg: object, epoch_size: int | None = None) -> Contents:
    """Open files by path, pattern, part, or a list of these; parts say what an epoch is made of.

    Raises:
        ConfigError: There is no path, `epoch_size` is given without parts, or as `count_parts` raises.
        DatabaseNotFoundError: There is no such file, or none that a pattern matches.
        LMDBPipeError: As `Records` raises.
    """
    given = [paths] if isinstance(paths, str | os.PathLike | Part) else list(paths)
    if not any(isinstance(path, Part) for path in given):
        if epoch_size is not None:
            raise ConfigError("epoch_size needs parts with proportions: lmdbpipe.Part(path, proportion=...)")
        return Contents(Records(_expand([path for path in given if not isinstance(path, Part)]), LMDBConfig.of(db_cfg)))
    parts = [path if isinstance(path, Part) else Part(path, repeat=1) for path in given]
    files = [_expand([part.path]) for part in parts]
    records = Records([path for found in files for path in found], LMDBConfig.of(db_cfg))
    databases = iter(records.databases)
    lengths = tuple(sum(next(databases).manifest.length for _ in found) for found in files)
    return Contents(records, Mixture(lengths, count_parts(parts, lengths, epoch_size)))


def _expand(paths: Iterable[PathLike]) -> list[str]:
    """List the files that paths and patterns name."""
    expanded: list[str] = []
    for path in (str(Path(path).expanduser()) for path in paths):
        found = sorted(glob.glob(path)) if glob.has_magic(path) and not Path(path).exists() else [path]  # noqa: PTH207
        if not found:
            raise DatabaseNotFoundError(f"{path}: no file matches")
        expanded += found
    return expanded
