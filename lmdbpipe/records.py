"""Samples of one or several files, as they were written: one by one, or gathered into batches."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lmdbpipe.codecs import Array, Column, ImageCodec, ImageRows, Schema
from lmdbpipe.codecs.base import MismatchError
from lmdbpipe.config import LMDBConfig
from lmdbpipe.copying import COPIER
from lmdbpipe.errors import ConfigError, DatabaseMismatchError, OutOfRangeError
from lmdbpipe.store import Database
from lmdbpipe.structure import Path, format_path
from lmdbpipe.transforms.pool import DEAR, POOL
from lmdbpipe.transforms.raw import RawImages, gather_bytes

Indices: TypeAlias = npt.NDArray[np.int64] | range
"""Samples: any, as int64 ``[n]``; or consecutive ones, which are copied as one."""
_EVERYWHERE = np.empty(0, np.int64)


def as_list(indices: Indices) -> Iterable[int]:
    """Iterate over indices as plain integers."""
    return indices if isinstance(indices, range) else indices.tolist()


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
        self._length = sum(lengths)
        self._tensor_images = [
            leaf for leaf, codec in enumerate(self.schema.codecs) if isinstance(codec, ImageCodec) and codec.as_tensor
        ]
        flat_paths = {(key,) for key in range(len(self.schema.codecs))}
        self._is_flat = (
            self.schema.structure.kind in ("tuple", "list") and set(self.schema.structure.paths) == flat_paths
        )
        self._dense = [self._dense_leaf(leaf) for leaf in range(len(self.schema.codecs))]
        self._raw: dict[tuple[int, int], _DenseLeaf] = {}
        self._gathers = [
            dense[0].gather if dense is not None and len(dense) == 1 else functools.partial(self.leaf_batch, leaf)
            for leaf, dense in enumerate(self._dense)
        ]

    def __len__(self) -> int:
        return self._length

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

    def sample(self, index: int, touched: frozenset[Path] = frozenset()) -> Any:
        """Read one sample, as the source gave it.

        Args:
            index: Which one.
            touched: Leaves that transforms will act on: an image is then a PIL image, as the source's transform would
                have got it, even where a PILToTensor was baked in.

        Raises:
            OutOfRangeError: There is no such sample.
        """
        if not 0 <= index < len(self):
            raise OutOfRangeError(f"sample {index} does not exist: there are {len(self)}")
        database, index = self._locate(index)
        chunk, row = divmod(index, database.manifest.chunk_length)
        values = [rows.sample(row) for rows in database.rows(chunk)]
        for leaf in self._tensor_images:
            if self.schema.structure.paths[leaf] in touched:
                values[leaf] = database.rows(chunk)[leaf].image(row)  # type: ignore[attr-defined]
        return database.manifest.schema.structure.unflatten(values)

    def batch(self, indices: Indices) -> Any:
        """Read a batch in the containers of torch's ``default_collate``; each leaf as `leaf_batch` gives it.

        Raises:
            OutOfRangeError: There is no such sample.
        """
        if len(indices):
            run = (indices[0], indices[-1]) if isinstance(indices, range) else None
            first, last = run or (int(np.min(indices)), int(np.max(indices)))
            if first < 0 or last >= self._length:  # the map has no bounds of its own
                raise OutOfRangeError(f"sample {first if first < 0 else last} does not exist: there are {len(self)}")
        leaves = [gather(indices) for gather in self._gathers]
        return leaves if self._is_flat else self.schema.structure.unflatten_batch(leaves)

    def leaf_batch(self, leaf: int, indices: Indices) -> Any:
        """Read one leaf of some samples.

        Returns:
            Where the leaf is dense, one tensor ``[n, ...]`` that the caller owns: images as uint8 N×C×H×W. Otherwise a
            list: images of varying sizes as C×H×W tensors, arrays as tensors, text as str.
        """
        dense = self._dense[leaf]
        if dense is None:
            return self._listed(leaf, indices, "batch_item")
        if len(dense) == 1:
            return dense[0].gather(indices)
        parts = [(where, dense[number].gather(local)) for number, local, where in self._split(indices)]
        if len(parts) == 1:
            return parts[0][1]
        order = np.argsort(np.concatenate([where for where, _ in parts]))
        return torch.cat([part for _, part in parts])[torch.from_numpy(order)]

    def raw_images(self, leaf: int, indices: Indices) -> RawImages | None:
        """View some images in the map, uncopied; None if they lie in several files."""
        ((number, local, _), *more) = self._split(indices)
        database = self.databases[number]
        codec = database.manifest.schema.codecs[leaf]
        if more or not isinstance(codec, ImageCodec):
            return None
        column = codec.dense()
        if column is None or codec.palette:
            return _ragged_images(database, leaf, codec, local)
        dense = self._raw.get((number, leaf))
        if dense is None:
            dense = self._raw[number, leaf] = _DenseLeaf(database, leaf, column)
        memory, offsets = dense.offsets(local)
        return RawImages(memory, offsets, codec.size or (0, 0), codec.mode or "", codec.layout)

    def images(self, leaf: int, indices: Indices) -> list[Any]:
        """Read some images as PIL images."""
        return self._listed(leaf, indices, "image")

    def listed(self, leaf: int, indices: Indices) -> list[Any]:
        """Read one leaf of some samples, as the source gave it."""
        return self._listed(leaf, indices, "sample")

    def values(self, leaf: int) -> Array | list[Any]:
        """Read one leaf of all samples, without touching the others: an array if it is dense, else a list."""
        dense = self._dense[leaf]
        if dense is None or not dense[0].is_plain:
            return self.listed(leaf, range(len(self)))
        return np.concatenate([part.whole() for part in dense])

    def shapes(self, leaf: int) -> Iterator[tuple[int, ...]]:
        """The sizes of a leaf whose sizes vary, sample by sample, without its data."""
        for database in self.databases:
            codec = database.manifest.schema.codecs[leaf]
            fixed = codec.size if isinstance(codec, ImageCodec) else getattr(codec, "shape", None)
            if fixed is not None:
                yield from itertools.repeat(fixed, database.manifest.length)
                continue
            (column,) = (column for column in codec.columns() if column.role == "shape")
            for chunk in range(database.manifest.num_chunks):
                index = database.manifest.schema.index(leaf, "shape")
                yield from map(tuple, database.column(chunk, index, column).tolist())

    def advise(self, indices: Indices, seen: dict[tuple[int, int], None]) -> None:
        """Ask the kernel to bring in some samples, but the steps of files that are in `seen`, which grows."""
        for number, local, _ in self._split(indices):
            database = self.databases[number]
            length = database.manifest.chunk_length
            is_run = isinstance(local, range)
            chunks = range(local[0] // length, local[-1] // length + 1) if is_run else np.asarray(local) // length
            new = [step for step in database.steps(chunks) if (number, step) not in seen]
            if new:
                seen.update(dict.fromkeys((number, step) for step in new))
                database.advise(new)

    def close(self) -> None:
        """Let the files go; they open again on the next use."""
        for database in self.databases:
            database.close()

    def _dense_leaf(self, leaf: int) -> list[_DenseLeaf] | None:
        """A leaf in each file, if it is dense over all of them."""
        if self.schema.codecs[leaf].dense() is None:
            return None
        columns = [database.manifest.schema.codecs[leaf].dense() for database in self.databases]
        pairs = zip(self.databases, columns, strict=True)
        return [_DenseLeaf(database, leaf, column) for database, column in pairs if column is not None]

    def _locate(self, index: int) -> tuple[Database, int]:
        if len(self.databases) == 1:
            return self.databases[0], index
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.databases[number], index - int(self._starts[number])

    def _split(self, indices: Indices) -> list[tuple[int, Indices, Indices]]:
        """Deal indices to the files: a file's number, its own indices, and where in the batch they stand."""
        if len(self.databases) == 1:
            return [(0, indices, _EVERYWHERE)]
        indices = np.asarray(indices)
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        parts = ((number, np.flatnonzero(numbers == number)) for number in np.unique(numbers).tolist())
        return [(number, indices[where] - self._starts[number], where) for number, where in parts]

    def _listed(self, leaf: int, indices: Indices, form: str) -> list[Any]:
        values = []
        for index in as_list(indices):
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
        for mine, theirs in zip(schema.codecs, other.codecs, strict=True):
            if isinstance(mine, ImageCodec) and mine.as_tensor != theirs.params()["as_tensor"]:
                raise MismatchError("images are tensors in one of them, PIL images in the other")
        return schema.join(other)
    except MismatchError as error:
        raise DatabaseMismatchError(f"{database.path}: does not fit the files before it: {error}") from error


class _DenseLeaf:
    """One dense leaf of one file, ready to be copied out of the map."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_windows": (None, np.empty(0, np.uint8))}

    def __init__(self, database: Database, leaf: int, column: Column) -> None:
        self.database = database
        self.codec = database.manifest.schema.codecs[leaf]
        self.column = column
        self.index = database.manifest.schema.index(leaf, column.role)
        self.dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
        self.row_bytes = column.row_bytes or 0
        self._chunk_length = database.manifest.chunk_length
        self._windows: tuple[Array | None, npt.NDArray[np.uint8]] = (None, np.empty(0, np.uint8))
        self.shape = column.shape or ()
        sizes = range(1, len(self.shape) + 2)
        batch = self.codec.stack(torch.empty(tuple(sizes), dtype=self.dtype))
        # The order in which a batch names the axes of rows; None if it is more than an order that changes.
        self._axes = tuple(sizes.index(size) for size in batch.shape) if batch.dtype == self.dtype else None

    @property
    def is_plain(self) -> bool:
        """Whether the stored numbers are the samples' own, not those of a dtype that NumPy lacks."""
        return self._axes is not None

    def gather(self, indices: Indices) -> torch.Tensor:
        """Copy rows, once, into memory of the caller's own."""
        size = len(indices) * self.row_bytes
        if self._axes is None:
            return self.codec.stack(self._fill(POOL.empty((len(indices), *self.shape), self.dtype), indices))
        if size >= DEAR:
            return self._fill(POOL.empty((len(indices), *self.shape), self.dtype), indices).permute(self._axes)
        if not size:
            rows = np.empty(0, np.uint8)
        elif isinstance(indices, range):
            rows = COPIER.join(self._runs(indices))
        else:
            rows = self._pick(indices)
        rows = rows.view(self.column.dtype).reshape(len(indices), *self.shape)
        return torch.from_numpy(rows.transpose(self._axes))

    def _pick(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy rows from anywhere, as bytes ``[n, row_bytes]``: NumPy indexes all places where one could begin."""
        chunks, rows = np.divmod(indices, self._chunk_length)
        addresses = self.database.addresses(chunks, self.index, self.column)
        base, memory = self.database.memory()
        if self._windows[0] is not memory:
            places = (len(memory) - self.row_bytes + 1, self.row_bytes)
            self._windows = memory, np.lib.stride_tricks.as_strided(memory, places, (1, 1))
        picked: npt.NDArray[np.uint8] = self._windows[1][addresses - base + rows * self.row_bytes]
        return picked

    def _fill(self, out: torch.Tensor, indices: Indices) -> torch.Tensor:
        """Copy rows into memory of their shape; torch shares such work among its threads."""
        flat = out.view(-1).view(torch.uint8)
        if isinstance(indices, range) and len(flat):
            torch.cat(list(map(torch.from_numpy, self._runs(indices))), out=flat)
        elif len(flat):
            memory, offsets = self.offsets(indices)
            gather_bytes(memory, offsets, self.row_bytes, flat)
        return out

    def _runs(self, indices: range) -> list[npt.NDArray[np.uint8]]:
        """View consecutive rows in the map as bytes, chunk by chunk."""
        runs, start, length = [], indices.start, self._chunk_length
        while start < indices.stop:
            chunk, row = divmod(start, length)
            stop = min(indices.stop, start - row + length)
            address = self.database.address(chunk, self.index, self.column) + row * self.row_bytes
            base, memory = self.database.memory()
            runs.append(memory[address - base : address - base + (stop - start) * self.row_bytes])
            start = stop
        return runs

    def offsets(self, indices: npt.ArrayLike) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        """View the part of the map that holds some rows, and say where in it each begins."""
        chunks, rows = np.divmod(indices, self._chunk_length)
        addresses = self.database.addresses(chunks, self.index, self.column) + rows * self.row_bytes
        low = int(addresses.min())
        return _memory(self.database, low, int(addresses.max()) - low + self.row_bytes), addresses - low

    def whole(self) -> Array:
        """Read the column of the whole file."""
        chunks = range(self.database.manifest.num_chunks)
        return np.concatenate([self.database.column(chunk, self.index, self.column) for chunk in chunks])


class _Memory:
    """An array interface over a part of the map. It claims to be writable, so that torch takes it; nobody writes."""

    def __init__(self, database: Database, address: int, length: int) -> None:
        self._database = database  # its file stays open as long as this is looked at
        self.__array_interface__ = {"shape": (length,), "typestr": "|u1", "data": (address, False), "version": 3}


def _memory(database: Database, address: int, length: int) -> torch.Tensor:
    return torch.from_numpy(np.asarray(_Memory(database, address, length)))


def _ragged_images(database: Database, leaf: int, codec: ImageCodec, indices: Indices) -> RawImages:
    pixels = codec.columns()[0]
    chunks, rows = np.divmod(indices, database.manifest.chunk_length)
    images: list[tuple[ImageRows, int]] = [
        (database.rows(chunk)[leaf], row)  # type: ignore[misc]
        for chunk, row in zip(chunks.tolist(), rows.tolist(), strict=True)
    ]
    spans = np.array([(span.start, span.stop) for span in (image.span(row) for image, row in images)], np.int64)
    index = database.manifest.schema.index(leaf, pixels.role)
    starts = database.addresses(chunks, index, pixels)
    starts = np.where(starts == 0, starts.max(), starts)  # where all images are empty
    addresses = starts[:, None] + spans
    low = int(addresses.min())
    return RawImages(
        _memory(database, low, int(addresses.max()) - low),
        addresses[:, 0] - low,
        codec.size or np.array([image.size(row) for image, row in images], np.int64),
        codec.mode or [image.mode(row) for image, row in images],
        codec.layout,
        [image.palette(row) for image, row in images] if codec.palette else None,
    )
