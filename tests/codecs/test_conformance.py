"""The contract of a codec, held by every codec in the table."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from lmdbpipe.codecs import CODECS, Codec, ImageCodec
from lmdbpipe.codecs.array import ArrayCodec
from lmdbpipe.codecs.base import as_bytes
from lmdbpipe.modes import MODES
from tests.helpers import image, same

_STRUCTURED = np.dtype([("x", "<i4"), ("y", ">f8", (2,)), ("z", [("a", "u1"), ("b", "S3")])])
_TORCH = ("uint8", "int8", "int16", "int32", "int64", "bool", "float16", "float32", "float64", "bfloat16", "complex64")
_TORCH_ODD = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "complex128")
_NUMPY = ("|b1", "<u2", ">u2", "<i8", ">i4", "<f2", ">f8", "<c8", ">c16", "<M8[s]", ">M8[D]", "<m8[us]", "<U5", "S4")


def _tensor(dtype: str, *shape: int) -> torch.Tensor:
    count = int(np.prod(shape)) * getattr(torch, dtype).itemsize
    data = np.random.default_rng(count).integers(2 if dtype == "bool" else 256, size=count, dtype=np.uint8)
    return (
        torch.from_numpy(data).view(getattr(torch, dtype)).reshape(shape)
        if count
        else torch.empty(shape, dtype=getattr(torch, dtype))
    )


def _array(dtype: Any, *shape: int) -> np.ndarray[Any, Any]:
    dtype = np.dtype(dtype)
    data = np.random.default_rng(7).integers(2 if dtype.kind in "bU" else 100, size=shape, dtype=np.uint8)
    if dtype.kind in "USV":
        return np.frombuffer(bytes(dtype.itemsize) * data.size, dtype).reshape(shape).copy()
    return data.astype(dtype)


def _palette(mode: str, transparency: int | bytes | None = None) -> Image.Image:
    made = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4).convert("P")
    made.putpalette(bytes(range(40, 40 + 4 * len(mode))), mode)
    if transparency is not None:
        made.info["transparency"] = transparency
    return made


EXAMPLES: dict[str, list[list[Any]]] = {
    "image": [
        *([image(mode, (5, 4), k) for k in range(3)] for mode in MODES),
        [image("RGB", size) for size in [(5, 4), (4, 5), (5, 4), (1, 9)]],
        [image("I;16", size) for size in [(5, 4), (4, 5)]],
        [image(mode, (5, 4)) for mode in ["RGB", "L", "P", "F", "1", "RGB"]],
        [image(mode, size) for mode, size in [("P", (5, 4)), ("RGB", (3, 3)), ("P", (1, 1)), ("I;16", (2, 7))]],
        [image("F", (3, 1)), image("L", (1, 1)), image("F", (3, 1)), image("I", (2, 1))],  # unaligned floats
        [_palette("RGB"), _palette("RGBA"), _palette("RGB", 1), _palette("RGB", b"\x00\x80"), _palette("RGB", 200)],
        [Image.new("P", (3, 2)), Image.new("P", (2, 3))],
        [Image.new("RGB", (0, 4)), Image.new("RGB", (4, 0)), image("RGB", (2, 2)), Image.new("RGB", (0, 0))],
        [Image.new("L", (0, 4)), Image.new("L", (0, 4))],
    ],
    "array": [
        *([_tensor(dtype, 2, 3)] * 2 for dtype in (*_TORCH, *_TORCH_ODD)),
        *([_tensor(dtype, 2), _tensor(dtype, 3), _tensor(dtype, 0)] for dtype in (*_TORCH, *_TORCH_ODD)),
        *([_array(dtype, 2, 3)] * 2 for dtype in _NUMPY),
        *([_array(dtype, 2), _array(dtype, 3), _array(dtype, 0)] for dtype in _NUMPY),
        [_tensor("float32"), _tensor("float32")],
        [_tensor("bfloat16"), _tensor("bfloat16")],
        [_array("<i4"), _array("<i4")],
        [_array(">i4"), _array(">i4")],
        [_tensor("int64", 0, 3), _tensor("int64", 0, 3)],
        [_tensor("int64", 0, 3), _tensor("int64", 2, 3), _tensor("int64", 2, 0)],
        [_array(_STRUCTURED, 2), _array(_STRUCTURED, 3)],
        [_array(np.dtype([("a", "u1"), ("b", "<f8")], align=True), 2)] * 2,
        [np.array([np.nan, -0.0, np.inf]), np.array([np.nan, 0.0, -np.inf])],
        [torch.arange(6.0).reshape(2, 3).T, torch.arange(12.0).reshape(3, 4)[:, 1:3]],
        [np.arange(6).reshape(2, 3).T, np.arange(12).reshape(3, 4)[:, ::2], np.asfortranarray(np.ones((2, 2), int))],
        [torch.tensor([1 + 2j, 3 - 4j]).conj(), torch.tensor([1 + 2j]).conj()],
        [tv_tensors.Image(_tensor("uint8", 3, 4, 5)), tv_tensors.Image(_tensor("uint8", 3, 5, 4))],
        [tv_tensors.Mask(_tensor("bool", 4, 5)), tv_tensors.Mask(_tensor("bool", 4, 5))],
        [tv_tensors.Video(_tensor("float32", 2, 3, 4, 5))],
    ],
    "scalar": [
        [True, False],
        [0, -1, 2**63 - 1, -(2**63)],
        [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 5e-324],
        [1 + 2j, complex(-0.0, float("nan"))],
        *([np.dtype(dtype).type(1), np.dtype(dtype).type(0)] for dtype in ("?", "u1", "i2", "f2", "f4", "c8", "f8")),
        [np.datetime64("2020-01-01", "D"), np.datetime64("NaT", "D")],
        [np.timedelta64(5, "s")],
        [np.longdouble(1) / 3],
    ],
    "text": [["", "a", "é", "漢字", "\N{GRINNING FACE}", "\x00", "\udc80", "\ud83d\ude00"]],
    "bytes": [[b"", b"a", b"\x00\xff", bytes(1000)]],
    "json": [
        [None, [], {}, [None]],
        [{"a": [1, 2.5, "x", None, True], "b": {"c": {}}}, {"d": []}],
        [[10**40, -(10**400)], [float("nan"), float("inf"), -0.0, 5e-324], ["\udc80", "\ud83d\ude00", "é"]],
        [None, 1, "a", 1.5, True],
    ],
}
"""Values that one leaf may hold in the samples of one dataset, for each codec in the table."""


def _case_name(case: list[Any]) -> str:
    kinds = (f"{type(v).__name__}.{getattr(v, 'dtype', getattr(v, 'mode', ''))}" for v in case)
    return "+".join(dict.fromkeys(kinds))[:60]


CASES = [
    pytest.param(CODECS[name], case, id=f"{name}-{_case_name(case)}")
    for name in CODECS
    for case in EXAMPLES.get(name, [])
]
parametrize = pytest.mark.parametrize(("kind", "values"), CASES)


def describe(kind: type[Codec], values: list[Any]) -> Codec:
    """The narrowest codec that holds some values."""
    codec = kind.of(values[0])
    assert codec is not None
    for value in values[1:]:
        other = kind.of(value)
        assert other is not None
        codec = codec.join(other)
    return codec


def stored(codec: Codec, values: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """What a file gives back of encoded values: read-only arrays, shaped as the columns say, aligned to nothing."""
    encoded = codec.encode(values)
    arrays = {}
    for column in codec.columns():
        data = bytes(as_bytes(np.ascontiguousarray(encoded[column.role])))
        misaligned = np.frombuffer(b"\x00" + data, np.uint8)[1:]
        array = np.ndarray(len(data) // column.dtype.itemsize, column.dtype, misaligned.data)
        if column.shape is not None:
            array = array.reshape(len(values), *column.shape)
        array.flags.writeable = False
        arrays[column.role] = array
    return arrays


def test_every_codec_has_examples() -> None:
    """A codec cannot be added to the table without values that it is tried on, and all have its own name."""
    assert sorted(CODECS) == sorted(EXAMPLES)
    assert all(name == codec.name for name, codec in CODECS.items())


@parametrize
def test_table_gives_a_value_to_its_codec(kind: type[Codec], values: list[Any]) -> None:
    """The first codec of the table that takes an example is the one that it is an example of, but for plain JSON."""
    for value in values:
        taken = next(codec for codec in CODECS.values() if codec.of(value) is not None)
        assert taken is kind or (kind.name == "json" and value is not None)


@parametrize
def test_values_come_back_the_same(kind: type[Codec], values: list[Any]) -> None:
    """Decoding gives values of the same types that are equal to the last bit."""
    codec = describe(kind, values)
    rows = codec.rows(stored(codec, values), len(values))
    for row in reversed(range(len(values))):
        assert same(values[row], rows.sample(row))


@parametrize
def test_encoding_fills_the_columns(kind: type[Codec], values: list[Any]) -> None:
    """Encoding gives exactly the columns that the codec lists, C-contiguous, of their dtypes and shapes."""
    codec = describe(kind, values)
    arrays = codec.encode(values)
    assert list(arrays) == [column.role for column in codec.columns()]
    assert [role for role in codec.roles if role in arrays] == list(arrays)
    for column in codec.columns():
        array = arrays[column.role]
        assert array.flags.c_contiguous
        assert column.dtype == array.dtype
        assert column.dtype == column.dtype.newbyteorder("<")
        if column.shape is not None:
            assert (len(values), *column.shape) == array.shape
            assert array.nbytes == len(values) * (column.row_bytes or 0)


@parametrize
def test_samples_are_their_owners(kind: type[Codec], values: list[Any]) -> None:
    """What a user gets may be written to, and that changes neither the file nor what is read later."""
    codec = describe(kind, values)
    arrays = stored(codec, values)
    before = {role: array.tobytes() for role, array in arrays.items()}
    rows = codec.rows(arrays, len(values))
    for row, value in enumerate(values):
        for give in (rows.sample, rows.batch_item):
            given = give(row)
            if isinstance(given, Image.Image) and 0 not in given.size:
                given.putpixel((0, 0), 1 if len(given.getbands()) == 1 else (1,) * len(given.getbands()))
            elif isinstance(given, torch.Tensor):
                given.zero_()
            elif isinstance(given, np.ndarray):
                assert given.flags.writeable
                given.view(np.uint8 if given.ndim else given.dtype)[...] = 0 if given.size else given.view(np.uint8)
            elif isinstance(given, list):
                given.append("changed")
        assert same(value, rows.sample(row))
    assert before == {role: array.tobytes() for role, array in arrays.items()}


@parametrize
def test_order_of_widening_does_not_matter(kind: type[Codec], values: list[Any]) -> None:
    """Joining is commutative, associative and idempotent: any order of samples gives one codec."""
    wide = describe(kind, values)
    rng = random.Random(0)
    for _ in range(6):
        shuffled = rng.sample(values, len(values))
        assert wide == describe(kind, shuffled)
    assert wide == wide.join(wide)
    for value in values:
        narrow = kind.of(value)
        assert narrow is not None
        assert wide == wide.join(narrow) == narrow.join(wide)


@parametrize
def test_widened_chunks_equal_wide_ones(kind: type[Codec], values: list[Any]) -> None:
    """A chunk written under a narrow codec, with the columns that it lacks, has the bytes of one written wide."""
    wide = describe(kind, values)
    for count in range(1, len(values) + 1):
        part = values[:count]
        narrow = describe(kind, part)
        narrow_arrays, expected = narrow.encode(part), wide.encode(part)
        added = wide.widen(narrow, count)
        assert not narrow_arrays.keys() & added.keys()
        widened = {**narrow_arrays, **added}
        assert {role: array.tobytes() for role, array in expected.items()} == {
            role: array.tobytes() for role, array in widened.items()
        }
        assert all(expected[role].dtype == array.dtype for role, array in added.items())
        assert not wide.widen(wide, count)


@parametrize
def test_parameters_travel_as_json(kind: type[Codec], values: list[Any]) -> None:
    """A codec's parameters come back from real JSON as an equal codec, with an equal hash and the same columns."""
    codec = describe(kind, values)
    again = kind.from_params(json.loads(json.dumps(codec.params())))
    assert codec == again
    assert hash(codec) == hash(again)
    assert codec.columns() == again.columns()
    rows = again.rows(stored(codec, values), len(values))
    assert all(same(value, rows.sample(row)) for row, value in enumerate(values))


@parametrize
def test_check_accepts_what_was_encoded(kind: type[Codec], values: list[Any]) -> None:
    """Sound chunks have no problems."""
    codec = describe(kind, values)
    assert codec.check(stored(codec, values), len(values)) == []


@parametrize
def test_check_finds_tampered_structure(kind: type[Codec], values: list[Any]) -> None:
    """Columns that say where rows begin are checked: an offset, size or mode that is off is a problem, not a crash."""
    codec = describe(kind, values)
    for column in codec.columns():
        if column.role not in ("offsets", "palette_offsets", "shape", "mode"):
            continue
        arrays = stored(codec, values)
        if not arrays[column.role].size:
            continue
        for damage in (-1, 10**9, 1):
            broken = arrays[column.role].copy()
            if column.role == "mode":
                broken[-1] = b"nope"
            else:
                broken.reshape(-1)[-1] += damage
            arrays_now = {**arrays, column.role: broken}
            if _is_as_good(codec, column.role, broken):
                continue
            assert codec.check(arrays_now, len(values)), (column.role, damage)


def _is_as_good(codec: Codec, role: str, shape: np.ndarray[Any, Any]) -> bool:
    """Whether a changed shape still makes up the same data: a side of an empty image says nothing about its pixels."""
    return role == "shape" and bool((shape[-1] >= 0).all()) and 0 in shape[-1].tolist()


@parametrize
def test_dense_rows_stack_into_a_batch(kind: type[Codec], values: list[Any]) -> None:
    """Where a codec is dense, its stacked rows are the batch that the samples' tensors would make, of their dtype."""
    codec = describe(kind, values)
    column = codec.dense()
    if column is None:
        return
    arrays = stored(codec, values)
    rows = torch.from_numpy(np.array(arrays[column.role]))
    batch = codec.stack(rows)
    read = codec.rows(arrays, len(values))
    for number, row in enumerate(batch):
        item = read.batch_item(number)
        tensor = (
            item.as_subclass(torch.Tensor) if isinstance(item, torch.Tensor) else torch.tensor(item, dtype=row.dtype)
        )
        assert same(tensor, row.clone())


@pytest.mark.parametrize("codec", [ImageCodec(None, None), ArrayCodec("numpy", "<u1", 2, None)])
def test_rows_of_a_chunk_take_little_memory(codec: ImageCodec | ArrayCodec) -> None:
    """Where sizes vary, 8 bytes a row say where it lies; all else stays in the map."""
    count = 16_384
    shapes = np.stack([np.arange(count) % 4, np.full(count, 2)], axis=1)
    arrays = {"shape": shapes, "mode": np.full(count, b"L", "S5")}
    arrays["data"] = arrays["pixels"] = np.arange(shapes.prod(axis=1).sum()).astype(np.uint8)
    tracemalloc.start()
    rows = codec.rows(arrays, count)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 8 * count + 10_000
    assert rows.array(7).reshape(-1).tolist() == list(range(18, 24))
