"""Samples of one or several files, as they were written: one by one, or gathered into batches."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmdbpipe.codecs import Array, Column, ImageCodec, ImageRows, Schema
from lmdbpipe.codecs.base import MismatchError
from lmdbpipe.config import LMDBConfig
from lmdbpipe.errors import ConfigError, DatabaseMismatchError, OutOfRangeError
from lmdbpipe.store import Database
from lmdbpipe.structure import Path, format_path
from lmdbpipe.transforms.raw import RawImages, gather_bytes

Indices = npt.NDArray[np.int64]


class Records:
    """The samples of files with equal structures, one after the other, as one sequence.

    Args:
        paths: The files.
        config: How to open them.

    Raises:
        ConfigError: There is no path.
        DatabaseMismatchError: The files' samples have different structures.
        LMDBPipeError: As `Database` raises.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], config: LMDBConfig | None = None) -> None:
        if not paths:
            raise ConfigError("give the path of at least one database")
        self.databases = tuple(Database(path, config) for path in paths)
        self.schema = functools.reduce(_join, self.databases, self.databases[0].manifest.schema)
        lengths = [database.manifest.length for database in self.databases]
        self._starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Records({[str(database.path) for database in self.databases]}, length={len(self)})"

    @property
    def chunk_length(self) -> int:
        """Samples in a chunk of the first file: what lies together on disk."""
        return self.databases[0].manifest.chunk_length

    @property
    def fingerprint(self) -> str:
        """Tells these files, in this order, from others."""
        return "+".join(database.manifest.fingerprint for database in self.databases)

    def leaf(self, leaf: str | int | Path) -> int:
        """Find a leaf by its path, or its path's name: ``1``, ``"1"``, ``("target", "boxes")``, ``"target/boxes"``.

        Raises:
            ConfigError: There is none.
        """
        name = format_path(leaf) if isinstance(leaf, tuple) else str(leaf)
        names = self.schema.leaf_names
        if name not in names:
            raise ConfigError(f"there is no leaf {name!r}; the leaves are {', '.join(names)}")
        return names.index(name)

    def sample(self, index: int) -> Any:
        """Read one sample, as the source gave it.

        Raises:
            OutOfRangeError: There is no such sample.
        """
        if not 0 <= index < len(self):
            raise OutOfRangeError(f"sample {index} does not exist: there are {len(self)}")
        database, index = self._locate(index)
        chunk, row = divmod(index, database.manifest.chunk_length)
        values = [rows.sample(row) for rows in database.rows(chunk)]
        return database.manifest.schema.structure.unflatten(values)

    def batch(self, indices: Indices) -> Any:
        """Read a batch in the containers of torch's ``default_collate``; each leaf as `leaf_batch` gives it."""
        leaves = [self.leaf_batch(leaf, indices) for leaf in range(len(self.schema.codecs))]
        return self.schema.structure.unflatten_batch(leaves)

    def leaf_batch(self, leaf: int, indices: Indices) -> Any:
        """Read one leaf of some samples.

        Returns:
            Where the leaf is dense, one tensor ``[n, ...]`` that the caller owns: images as uint8 N×C×H×W. Otherwise a
            list: images of varying sizes as C×H×W tensors, arrays as tensors, text as str.
        """
        codec = self.schema.codecs[leaf]
        column = codec.dense()
        if column is None:
            return self._listed(leaf, indices, "batch_item")
        parts = [
            (where, database.manifest.schema.codecs[leaf].stack(_gather(database, leaf, column, local)))
            for database, local, where in self._split(indices)
        ]
        if len(parts) == 1:
            return parts[0][1]
        whole = parts[0][1].new_empty((len(indices), *parts[0][1].shape[1:]))
        for where, part in parts:
            whole[torch.from_numpy(where)] = part
        return whole

    def raw_images(self, leaf: int, indices: Indices) -> RawImages | None:
        """View some images in the map, uncopied; None if they lie in several files."""
        ((database, local, _), *more) = self._split(indices)
        codec = database.manifest.schema.codecs[leaf]
        if more or not isinstance(codec, ImageCodec):
            return None
        return _raw_images(database, leaf, codec, local)

    def values(self, leaf: int) -> Array | list[Any]:
        """Read one leaf of all samples, without touching the others: an array if it is dense, else a list."""
        codec = self.schema.codecs[leaf]
        if codec.dense() is None:
            return self._listed(leaf, np.arange(len(self)), "sample")
        return np.concatenate([_whole_column(database, leaf) for database in self.databases])

    def shapes(self, leaf: int) -> Iterator[tuple[int, ...]]:
        """The sizes of a leaf whose sizes vary, sample by sample, without its data."""
        for database in self.databases:
            codec = database.manifest.schema.codecs[leaf]
            fixed = getattr(codec, "size", None) or getattr(codec, "shape", None)
            if fixed is not None:
                yield from itertools.repeat(fixed, database.manifest.length)
                continue
            (column,) = (column for column in codec.columns() if column.role == "shape")
            for chunk in range(database.manifest.num_chunks):
                index = database.manifest.schema.index(leaf, "shape")
                yield from map(tuple, database.column(chunk, index, column).tolist())

    def advise(self, indices: Indices, seen: dict[tuple[int, int], None]) -> None:
        """Ask the kernel to bring in the chunks of some samples, but those in `seen`, which grows."""
        for number, database in enumerate(self.databases):
            local = indices - self._starts[number]
            mine = local[(local >= 0) & (local < database.manifest.length)]
            chunks = np.unique(mine // database.manifest.chunk_length).tolist()
            new = [chunk for chunk in chunks if (number, chunk) not in seen]
            seen.update(dict.fromkeys((number, chunk) for chunk in new))
            database.advise(new)

    def close(self) -> None:
        """Let the files go; they open again on the next use."""
        for database in self.databases:
            database.close()

    def _locate(self, index: int) -> tuple[Database, int]:
        if len(self.databases) == 1:
            return self.databases[0], index
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.databases[number], index - int(self._starts[number])

    def _split(self, indices: Indices) -> list[tuple[Database, Indices, Indices]]:
        """Deal indices to the files: each file's own indices, and where in the batch they stand."""
        if len(self.databases) == 1:
            return [(self.databases[0], indices, np.arange(0))]
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        parts = ((number, np.flatnonzero(numbers == number)) for number in np.unique(numbers).tolist())
        return [(self.databases[n], indices[where] - self._starts[n], where) for n, where in parts]

    def _listed(self, leaf: int, indices: Iterable[Any], form: str) -> list[Any]:
        values = []
        for index in np.asarray(indices).tolist():
            database, local = self._locate(index)
            chunk, row = divmod(local, database.manifest.chunk_length)
            values.append(getattr(database.rows(chunk)[leaf], form)(row))
        return values


def _join(schema: Schema, database: Database) -> Schema:
    other = database.manifest.schema
    if schema.structure != other.structure:
        raise DatabaseMismatchError(
            f"{database.path}: its samples are {other.structure.to_json()}, those of the files before it "
            f"{schema.structure.to_json()}"
        )
    names = [(mine.name, theirs.name) for mine, theirs in zip(schema.codecs, other.codecs, strict=True)]
    try:
        if different := [pair for pair in names if pair[0] != pair[1]]:
            raise MismatchError(f"codec {different[0][1]} instead of {different[0][0]}")
        return schema.join(other)
    except MismatchError as error:
        raise DatabaseMismatchError(f"{database.path}: does not fit the files before it: {error}") from error


def _column_index(schema: Schema, leaf: int, column: Column) -> int:
    return schema.index(leaf, column.role)


def _gather(database: Database, leaf: int, column: Column, indices: Indices) -> torch.Tensor:
    """Copy rows of a dense column out of the map, once, into memory of the caller's own."""
    column = database.manifest.schema.codecs[leaf].dense() or column
    index = _column_index(database.manifest.schema, leaf, column)
    shape = (len(indices), *(column.shape or ()))
    out = torch.empty(shape, dtype=_torch_dtype(column))
    row_bytes = column.row_bytes or 0
    if not len(indices) or not row_bytes:
        return out
    first = int(indices[0])
    if int(indices[-1]) - first == len(indices) - 1 and bool((np.diff(indices) == 1).all()):
        _copy_run(database, index, column, first, out.numpy())
    else:
        memory, offsets = _row_offsets(database, index, column, indices)
        gather_bytes(memory, offsets, row_bytes, out.view(-1).view(torch.uint8))
    return out


def _copy_run(database: Database, index: int, column: Column, start: int, out: Array) -> None:
    """Copy consecutive rows chunk by chunk."""
    length = database.manifest.chunk_length
    done = 0
    while done < len(out):
        chunk, row = divmod(start + done, length)
        rows = database.column(chunk, index, column)[row : row + len(out) - done]
        out[done : done + len(rows)] = rows
        done += len(rows)


def _row_offsets(database: Database, index: int, column: Column, indices: Indices) -> tuple[torch.Tensor, Indices]:
    """View the part of the map that holds some rows of a dense column, and say where in it each begins."""
    chunks, rows = np.divmod(indices, database.manifest.chunk_length)
    addresses = database.addresses(chunks, index, column) + rows * (column.row_bytes or 0)
    return _window(addresses, column.row_bytes or 0)


def _window(addresses: Indices, length: int) -> tuple[torch.Tensor, Indices]:
    low = int(addresses.min())
    return torch.from_numpy(np.asarray(_Memory(low, int(addresses.max()) - low + length))), addresses - low


class _Memory:
    """An array interface over a part of the map. It claims to be writable, so that torch takes it; nobody writes."""

    def __init__(self, address: int, length: int) -> None:
        self.__array_interface__ = {"shape": (length,), "typestr": "|u1", "data": (address, False), "version": 3}


def _raw_images(database: Database, leaf: int, codec: ImageCodec, indices: Indices) -> RawImages:
    schema = database.manifest.schema
    pixels = codec.columns()[0]
    index = schema.index(leaf, "pixels")
    if codec.mode and codec.size and not codec.palette:
        memory, offsets = _row_offsets(database, index, pixels, indices)
        return RawImages(memory, offsets, codec.size, codec.mode, codec.layout)
    chunks, rows = np.divmod(indices, database.manifest.chunk_length)
    images: list[tuple[ImageRows, int]] = [
        (database.rows(chunk)[leaf], row)  # type: ignore[misc]
        for chunk, row in zip(chunks.tolist(), rows.tolist(), strict=True)
    ]
    spans = [image.span(row) for image, row in images]
    starts = database.addresses(chunks, index, pixels) + np.array([span.start for span in spans])
    low = int(starts.min())
    length = int((starts + np.array([span.stop - span.start for span in spans])).max()) - low
    return RawImages(
        torch.from_numpy(np.asarray(_Memory(low, length))),
        starts - low,
        codec.size or np.array([image.size(row) for image, row in images], np.int64),
        codec.mode or [image.mode(row) for image, row in images],
        codec.layout,
        [image.palette(row) for image, row in images] if codec.palette else None,
    )


def _whole_column(database: Database, leaf: int) -> Array:
    """Read a dense column of a whole file, shaped and typed as its samples are."""
    column = database.manifest.schema.codecs[leaf].dense()
    assert column is not None  # noqa: S101 - the caller has asked
    index = database.manifest.schema.index(leaf, column.role)
    chunks = range(database.manifest.num_chunks)
    return np.concatenate([database.column(chunk, index, column) for chunk in chunks])


def _torch_dtype(column: Column) -> torch.dtype:
    return torch.from_numpy(np.empty(0, column.dtype)).dtype


