"""A sample's structure with a codec for every leaf: all that is needed to write samples into chunks and read them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lmdbpipe.codecs.array import ArrayCodec
from lmdbpipe.codecs.base import Array, Codec, Column, MismatchError
from lmdbpipe.codecs.image import ImageCodec
from lmdbpipe.codecs.json import JsonCodec
from lmdbpipe.codecs.scalar import ScalarCodec
from lmdbpipe.codecs.text import BytesCodec, TextCodec
from lmdbpipe.errors import CorruptError, SampleError, UnsupportedLeafError
from lmdbpipe.structure import Path, Structure, format_path

CODECS: dict[str, type[Codec]] = {
    codec.name: codec for codec in (ImageCodec, ArrayCodec, ScalarCodec, TextCodec, BytesCodec, JsonCodec)
}
"""The codecs by their name on disk; the first that takes a value gets it."""

ColumnKey: TypeAlias = int
Columns: TypeAlias = dict[ColumnKey, Array]


class LeafColumn(NamedTuple):
    """A column and its place in the file."""

    index: ColumnKey  # type: ignore[assignment]  # tuple.index, which nobody calls on this
    leaf: int
    column: Column


@dataclasses.dataclass(frozen=True)
class Schema:
    """The structure of samples and the codec of each leaf.

    Attributes:
        structure: The sample tree.
        codecs: One for each leaf, in the order of ``structure.paths``.
    """

    structure: Structure
    codecs: tuple[Codec, ...]

    @classmethod
    def of(cls, sample: Any) -> Schema:
        """Describe one sample.

        Raises:
            UnsupportedLeafError: It holds a value that no codec takes.
        """
        structure = Structure.of(sample)
        leaves = structure.flatten(sample)
        return cls(structure, tuple(map(_codec_for, structure.paths, leaves)))

    def flatten(self, sample: Any) -> tuple[Schema, list[Any]]:
        """List a sample's leaves, and widen the schema to hold them.

        Raises:
            SampleError: The sample does not fit.
        """
        leaves = self.structure.flatten(sample)
        codecs = tuple(map(_join, self.structure.paths, self.codecs, leaves))
        return (self if codecs == self.codecs else dataclasses.replace(self, codecs=codecs)), leaves

    def join(self, other: Schema) -> Schema:
        """Give the narrowest schema that holds what both hold; both come from the same first sample."""
        joined = tuple(mine.join(theirs) for mine, theirs in zip(self.codecs, other.codecs, strict=True))
        return dataclasses.replace(self, codecs=joined)

    def encode(self, samples: Sequence[Sequence[Any]]) -> Columns:
        """Turn flattened samples into the columns of a chunk."""
        leaves = zip(*samples, strict=True)
        return {
            self.index(leaf, role): array
            for leaf, (codec, values) in enumerate(zip(self.codecs, leaves, strict=True))
            for role, array in codec.encode(values).items()
        }

    def widen(self, narrower: Schema, length: int) -> Columns:
        """Make the columns that a chunk of `length` samples written under a narrower schema lacks."""
        return {
            self.index(leaf, role): array
            for leaf, (codec, before) in enumerate(zip(self.codecs, narrower.codecs, strict=True))
            for role, array in codec.widen(before, length).items()
        }

    def index(self, leaf: int, role: str) -> ColumnKey:
        """Give a column's index in the file. It does not depend on how wide the codecs are."""
        return self._first_columns[leaf] + self.codecs[leaf].roles.index(role)

    @functools.cached_property
    def columns(self) -> tuple[LeafColumn, ...]:
        """All columns, in file order."""
        return tuple(
            LeafColumn(self.index(leaf, column.role), leaf, column)
            for leaf, codec in enumerate(self.codecs)
            for column in codec.columns()
        )

    @functools.cached_property
    def _first_columns(self) -> tuple[int, ...]:
        counts = [len(codec.roles) for codec in self.codecs]
        return tuple(np.cumsum([0, *counts])[: len(counts)].tolist())

    @functools.cached_property
    def leaf_names(self) -> tuple[str, ...]:
        """The leaves' paths as users write them."""
        return tuple(map(format_path, self.structure.paths))

    def to_json(self) -> dict[str, Any]:
        """Describe structure, leaves and columns for the manifest."""
        leaves = [
            {"path": name, "codec": codec.name, "params": codec.params()}
            for name, codec in zip(self.leaf_names, self.codecs, strict=True)
        ]
        columns = [
            {
                "index": index,
                "name": f"{self.leaf_names[leaf]}/{column.role}",
                "codec": self.codecs[leaf].name,
                "dtype": np.lib.format.dtype_to_descr(column.dtype),
                "shape": None if column.shape is None else list(column.shape),
            }
            for index, leaf, column in self.columns
        ]
        return {"structure": self.structure.to_json(), "leaves": leaves, "columns": columns}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """Read what `to_json` wrote.

        Raises:
            CorruptError: It is no description of a schema, or contradicts itself.
        """
        try:
            codecs = tuple(CODECS[leaf["codec"]].from_params(leaf["params"]) for leaf in data["leaves"])
            schema = cls(Structure.from_json(data["structure"]), codecs)
            consistent = len(schema.structure.paths) == len(codecs) and (
                json.dumps(schema.to_json()["columns"], sort_keys=True) == json.dumps(data["columns"], sort_keys=True)
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"the manifest describes no leaves: {error!r}") from error
        if not consistent:
            raise CorruptError("the manifest's structure, leaves and columns contradict each other")
        return schema


def _codec_for(path: Path, value: Any) -> Codec:
    where = f"leaf {format_path(path)}"
    for kind in CODECS.values():
        try:
            codec = kind.of(value)
        except MismatchError as error:
            raise UnsupportedLeafError(f"{where}: {error}") from error
        if codec is not None:
            return codec
    raise UnsupportedLeafError(
        f"{where}: no codec takes a {type(value).__module__}.{type(value).__qualname__}; "
        "a leaf is a PIL image, tensor, array, number, str, bytes, None, or plain lists and dicts of these"
    )


def _join(path: Path, codec: Codec, value: Any) -> Codec:
    where = f"leaf {format_path(path)}"
    try:
        other = type(codec).of(value)
        if other is not None:
            return codec if other == codec else codec.join(other)
    except MismatchError as error:
        raise SampleError(f"{where}: {error}") from error
    raise SampleError(f"{where}: the first sample has a value of codec {codec.name} here, this one a {type(value)}")
