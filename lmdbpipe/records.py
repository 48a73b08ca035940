"""Samples of one or several files, as they were written: one by one, or gathered into batches."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmdbpipe.codecs import Array, ImageCodec, Schema
from lmdbpipe.codecs.base import MismatchError
from lmdbpipe.config import LMDBConfig
from lmdbpipe.dense import MOST_WINDOWS, DenseLeaf, JoinedLeaf, alike
from lmdbpipe.errors import ConfigError, DatabaseMismatchError, OutOfRangeError
from lmdbpipe.images import view_images
from lmdbpipe.indices import Indices, as_list
from lmdbpipe.store import Database
from lmdbpipe.structure import Path, format_path
from lmdbpipe.transforms.raw import RawImages

__all__ = ["Indices", "Records", "as_list"]


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
        self._files = _Files(self.databases)
        self._length = int(self._files.starts[-1])
        self._tensor_images = [
            leaf for leaf, codec in enumerate(self.schema.codecs) if isinstance(codec, ImageCodec) and codec.as_tensor
        ]
        flat_paths = {(key,) for key in range(len(self.schema.codecs))}
        self._is_flat = (
            self.schema.structure.kind in ("tuple", "list") and set(self.schema.structure.paths) == flat_paths
        )
        self._dense = [self._dense_leaf(leaf) for leaf in range(len(self.schema.codecs))]
        self._gathers = [
            functools.partial(self._files.batch, leaf, codec.dense() is not None) if dense is None else dense.gather
            for leaf, (dense, codec) in enumerate(zip(self._dense, self.schema.codecs, strict=True))
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
        database, index = self._files.locate(index)
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
            is_run = isinstance(indices, range)
            first, last = (indices[0], indices[-1]) if is_run else (int(np.min(indices)), int(np.max(indices)))
            if first < 0 or last >= self._length:  # the map has no bounds of its own
                raise OutOfRangeError(f"sample {first if first < 0 else last} does not exist: there are {len(self)}")
        return self.gather(indices)

    def gather(self, indices: Indices) -> Any:
        """Read a batch as `batch` does, of samples that are known to exist."""
        leaves = [gather(indices) for gather in self._gathers]
        return leaves if self._is_flat else self.schema.structure.unflatten_batch(leaves)

    def leaf_batch(self, leaf: int, indices: Indices) -> Any:
        """Read one leaf of some samples.

        Returns:
            Where the leaf is dense, one tensor ``[n, ...]`` that the caller owns: images as uint8 N×C×H×W. Otherwise a
            list: images of varying sizes as C×H×W tensors, arrays as tensors, text as str.
        """
        return self._gathers[leaf](indices)

    def raw_images(self, leaf: int, indices: Indices) -> RawImages | None:
        """View some images, at least one, in the map, uncopied; None if that cannot be done."""
        codec, dense = self.schema.codecs[leaf], self._dense[leaf]
        if dense is None or not isinstance(codec, ImageCodec) or codec.palette:
            parts, order = self._files.split(indices)
            return view_images(leaf, [(self.databases[number], local) for number, local in parts], order)
        memory, offsets = dense.offsets(indices)
        if len(memory) * dense.row_bytes >= MOST_WINDOWS:
            return None
        return RawImages(memory, offsets, codec.size or (0, 0), codec.mode or "", codec.layout)

    def images(self, leaf: int, indices: Indices) -> list[Any]:
        """Read some images as PIL images."""
        return self._files.listed(leaf, indices, "image")

    def listed(self, leaf: int, indices: Indices) -> list[Any]:
        """Read one leaf of some samples, as the source gave it."""
        return self._files.listed(leaf, indices, "sample")

    def values(self, leaf: int) -> Array | list[Any]:
        """Read one leaf of all samples, without touching the others: an array if it is dense, else a list."""
        dense = self._dense[leaf]
        return self.listed(leaf, range(len(self))) if dense is None or not dense.is_plain else dense.whole()

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

    def steps(self, indices: Indices) -> Iterator[tuple[int, Indices]]:
        """Tell where some samples, at least one, lie: numbers of files, each with its steps as `Database` has them."""
        for number, local in self._files.split(indices)[0]:
            length = self.databases[number].manifest.chunk_length
            is_run = isinstance(local, range)
            chunks = range(local[0] // length, local[-1] // length + 1) if is_run else np.asarray(local) // length
            yield number, self.databases[number].steps(chunks)

    def close(self) -> None:
        """Let the files go; they open again on the next use."""
        for database in self.databases:
            database.close()

    def _dense_leaf(self, leaf: int) -> DenseLeaf | None:
        """A leaf over all files, if it is dense and stored in one way."""
        columns = [database.manifest.schema.codecs[leaf].dense() for database in self.databases]
        pairs = zip(self.databases, columns, strict=True)
        leaves = [DenseLeaf(database, leaf, column) for database, column in pairs if column is not None]
        if self.schema.codecs[leaf].dense() is None or not alike(leaves):
            return None
        return leaves[0] if len(leaves) == 1 else JoinedLeaf(leaves, self._files.split)


class _Files:
    """Some files, one after the other. It does not refer to the `Records` that has it, so that they go with that."""

    def __init__(self, databases: Sequence[Database]) -> None:
        self._databases = databases
        self.starts = np.cumsum([0, *(database.manifest.length for database in databases)])

    def locate(self, index: int) -> tuple[Database, int]:
        """Find the file of a sample, and its index there."""
        if len(self._databases) == 1:
            return self._databases[0], index
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self._databases[number], index - int(self.starts[number])

    def split(self, indices: Indices) -> tuple[list[tuple[int, Indices]], npt.NDArray[np.int64] | None]:
        """Deal indices to the files.

        Returns:
            Files by their numbers, each with its own indices; and which of these, laid one after the other, comes when:
            int64 ``[n]``, or None for as they are.
        """
        if len(self._databases) == 1:
            return [(0, indices)], None
        if isinstance(indices, range):
            bounds = [int(start) for start in self.starts]
            runs = [
                (number, range(max(indices.start, low) - low, min(indices.stop, high) - low))
                for number, (low, high) in enumerate(itertools.pairwise(bounds))
            ]
            return [run for run in runs if run[1]], None
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        by_file = np.argsort(numbers, kind="stable")
        files, firsts = np.unique(numbers[by_file], return_index=True)
        pieces = np.split(indices[by_file], firsts[1:])
        parts: list[tuple[int, Indices]] = [
            (number, piece - self.starts[number]) for number, piece in zip(files.tolist(), pieces, strict=True)
        ]
        order = np.empty_like(by_file)
        order[by_file] = np.arange(len(by_file))
        return parts, order

    def listed(self, leaf: int, indices: Indices, form: str) -> list[Any]:
        """Read one leaf of some samples, in a form that its rows have: ``sample``, ``image`` or ``batch_item``."""
        values = []
        for index in as_list(indices):
            database, local = self.locate(index)
            chunk, row = divmod(local, database.manifest.chunk_length)
            values.append(getattr(database.rows(chunk)[leaf], form)(row))
        return values

    def batch(self, leaf: int, stacks: bool, indices: Indices) -> Any:
        """Read one leaf of some samples in the form of a batch; whether they stack is decided by all samples."""
        listed = self.listed(leaf, indices, "batch_item")
        return torch.stack(listed) if listed and stacks else listed


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
