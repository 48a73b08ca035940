"""Schemas: which codec a leaf gets, what is refused, and how a schema is written down."""

from __future__ import annotations

import enum
import json
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from lmdbpipe.codecs import Schema
from lmdbpipe.errors import CorruptError, SampleError, UnsupportedLeafError
from tests.helpers import image, same


class Colour(enum.IntEnum):
    """An int that is more than an int."""

    RED = 1


class Special(np.ndarray):
    """An array that is more than an array."""


UNSUPPORTED = {
    "object": object(),
    "set": {1},
    "bytearray": bytearray(b"a"),
    "enum": Colour.RED,
    "big int": 2**63,
    "object array": np.array([None]),
    "array subclass": np.zeros(2).view(Special),
    "masked array": np.ma.masked_array([1, 2], [True, False]),
    "empty dtype": np.empty(3, "V0"),
    "sparse tensor": torch.zeros(2, 2).to_sparse(),
    "meta tensor": torch.empty(2, device="meta"),
    "bounding boxes": tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(4, 4)),
    "PIL mode": image("L", (2, 2)).convert("PA"),
    "function": len,
}


@pytest.mark.parametrize("value", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_unsupported_leaves_are_refused(value: Any) -> None:
    """What no codec keeps exactly is refused; the error names the leaf, and is a TypeError and a ValueError."""
    with pytest.raises(UnsupportedLeafError, match="leaf 1/x: ") as caught:
        Schema.of((0, {"x": value}))
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


MISMATCHED = {
    "codec": (1, "a"),
    "bool after int": (1, True),
    "int after float": (1.0, 1),
    "numpy dtype": (np.float32(1), np.float64(1)),
    "array dtype": (np.zeros(2, "i4"), np.zeros(2, "i8")),
    "byte order": (np.zeros(2, "<i4"), np.zeros(2, ">i4")),
    "dimensions": (torch.zeros(2), torch.zeros(2, 1)),
    "tensor and array": (torch.zeros(2), np.zeros(2, np.float32)),
    "tensor class": (torch.zeros(3, 2, 2), tv_tensors.Image(torch.zeros(3, 2, 2))),
    "image and tensor": (image("L", (2, 2)), torch.zeros(1, 2, 2)),
    "mode that cannot be stored": (image("L", (2, 2)), image("L", (2, 2)).convert("PA")),
    "int too big": (1, 2**64),
    "json then tensor": (None, torch.zeros(1)),
    "json then other": ([1], [torch.zeros(1)]),
    "str and bytes": ("a", b"a"),
}


@pytest.mark.parametrize(("first", "other"), MISMATCHED.values(), ids=MISMATCHED.keys())
def test_mismatching_leaves_are_refused(first: Any, other: Any) -> None:
    """A leaf of another type, dtype or number of dimensions than the first sample's is an error that names it."""
    schema = Schema.of((0, {"x": first}, first))
    with pytest.raises(SampleError, match=r"leaf (1/x|1|2): "):
        schema.flatten((0, {"x": other}, other))


def test_schema_travels_as_json() -> None:
    """A schema read back from JSON is equal, hashes alike, and names its columns as the file has them."""
    sample = {"image": image("P", (4, 4)), "boxes": [torch.zeros(2), np.zeros(1, ">f8")], "id": ("a", 1, None, b"")}
    schema = Schema.of(sample)
    described = json.loads(json.dumps(schema.to_json()))
    again = Schema.from_json(described)
    assert schema == again
    assert hash(schema) == hash(again)
    names = ["image/pixels", "image/palette", "image/palette_offsets", "boxes/0/data", "boxes/1/data", "id/0/bytes"]
    assert [column["name"] for column in described["columns"]][:6] == names
    assert [column.index for column in schema.columns] == sorted(column.index for column in schema.columns)


def test_structured_dtypes_travel_as_json() -> None:
    """A structured dtype, whose JSON has lists in place of tuples, is understood."""
    value = np.zeros(2, [("a", "<i4"), ("b", "<f4", (2, 2)), ("c", [("d", "S2")])])
    schema = Schema.of((value,))
    assert schema == Schema.from_json(json.loads(json.dumps(schema.to_json())))


@pytest.mark.parametrize("field", ["structure", "leaves", "columns"])
def test_damaged_descriptions_are_corrupt(field: str) -> None:
    """A description that is no schema, or whose parts contradict each other, is a CorruptError."""
    schema = Schema.of((image("RGB", (4, 4)), 1)).to_json()
    for damage in (None, [], {}, "leaf", 3, [{"index": 0}], {"tuple": ["leaf"]}, [{"codec": "image", "params": {}}]):
        with pytest.raises(CorruptError):
            Schema.from_json({**schema, field: damage})
    for key, value in (("dtype", "<f4"), ("shape", [1]), ("index", 7), ("name", "other")):
        columns = [{**schema["columns"][0], key: value}, *schema["columns"][1:]]
        with pytest.raises(CorruptError):
            Schema.from_json({**schema, "columns": columns})


def test_widening_does_not_move_columns() -> None:
    """A column's index in the file is the same however wide the codecs before it have become."""
    narrow = Schema.of((image("RGB", (4, 4)), 1))
    wide, _ = narrow.flatten((image("P", (3, 3)), 2))
    indices = {(column.leaf, column.column.role): column.index for column in wide.columns}
    assert all(indices[column.leaf, column.column.role] == column.index for column in narrow.columns)
    assert len(wide.columns) > len(narrow.columns)


def test_chunk_comes_back() -> None:
    """Samples encoded as one chunk come back from its columns, leaf by leaf."""
    samples = [(image("RGB", (4, 4), k), {"n": k, "s": str(k)}) for k in range(5)]
    schema = Schema.of(samples[0])
    flat = [schema.flatten(sample)[1] for sample in samples]
    columns = schema.encode(flat)
    leaves: list[dict[str, Any]] = [{} for _ in schema.codecs]
    for index, leaf, column in schema.columns:
        leaves[leaf][column.role] = columns[index]
    rows = [codec.rows(arrays, 5) for codec, arrays in zip(schema.codecs, leaves, strict=True)]
    for number, sample in enumerate(samples):
        assert same(sample, schema.structure.unflatten([row.sample(number) for row in rows]))
