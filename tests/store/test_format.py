"""The file: read without this package, its order, its checksums, its size, and what lies beside it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
import xxhash
from PIL import Image
from torchvision.datasets import ImageFolder

import lmdbpipe
from lmdbpipe.store import Database, verify
from tests.helpers import OPTIONS, Listed, Pictures, content, dump, files, image


def read_by_the_page(path: Path) -> tuple[dict[str, Any], list[list[dict[str, np.ndarray[Any, Any]]]]]:
    """Read a file with lmdb, NumPy and json alone, as the design's page describes it.

    Returns:
        The manifest, and for each chunk and leaf its columns by role, fixed ones shaped ``[n, *shape]``.
    """
    env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=3, **_version_0())
    with env, env.begin() as txn:
        meta, data = env.open_db(b"meta", txn, create=False), env.open_db(b"data", txn, create=False)
        manifest = json.loads(txn.get(b"manifest", db=meta) or b"")
        length, chunk_length = manifest["length"], manifest["chunk_length"]
        chunks = []
        for chunk in range(-(-length // chunk_length)):
            rows = min(chunk_length, length - chunk * chunk_length)
            leaves: list[dict[str, np.ndarray[Any, Any]]] = [{} for _ in manifest["leaves"]]
            for column in manifest["columns"]:
                value = txn.get(struct.pack(">QH", chunk, column["index"]), db=data) or b""
                array = np.frombuffer(value, np.lib.format.descr_to_dtype(column["dtype"]))
                if column["shape"] is not None:
                    array = array.reshape(rows, *column["shape"])
                leaf, role = column["name"].rsplit("/", 1)
                (number,) = [n for n, found in enumerate(manifest["leaves"]) if found["path"] == leaf]
                leaves[number][role] = array
            chunks.append(leaves)
    return manifest, chunks


def _version_0() -> dict[str, Any]:
    return {"lib_version": 0} if int(lmdb.__version__.split(".")[0]) >= 3 else {}


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three samples, so that small files have several."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 3)


@pytest.mark.usefixtures("short_chunks")
def test_anyone_can_read_a_file(tmp_path: Path) -> None:
    """A file of every codec, fixed and varying, is read from the page alone, without this package."""
    sizes = [(4, 3), (4, 3), (4, 3), (2, 5), (4, 3), (1, 1), (3, 3), (2, 2)]
    samples: list[dict[str, Any]] = [
        {
            "image": image("RGB", size, k),
            "fixed": torch.arange(6).reshape(2, 3) + k,
            "ragged": np.arange(k, dtype=np.float32),
            "label": k,
            "text": "x" * k,
            "raw": bytes([k]) * k,
            "boxes": [[k]] * (k % 3),
        }
        for k, size in enumerate(sizes)
    ]
    lmdbpipe.build(Listed(samples), tmp_path / "a.lmdb", progress=False)
    manifest, chunks = read_by_the_page(tmp_path / "a.lmdb")
    assert (manifest["length"], manifest["chunk_length"]) == (8, 3)
    for k, sample in enumerate(samples):
        chunk, row = divmod(k, manifest["chunk_length"])
        pixels, fixed, ragged, label, text, raw, boxes = chunks[chunk]
        ends = np.cumsum(pixels["shape"].prod(axis=1) * 3)
        flat = pixels["pixels"][ends[row] - pixels["shape"][row].prod() * 3 : ends[row]]
        assert np.array_equal(flat.reshape(*pixels["shape"][row], 3), np.asarray(sample["image"]))
        assert np.array_equal(fixed["data"][row], sample["fixed"].numpy())
        ends = np.cumsum(ragged["shape"][:, 0])
        assert np.array_equal(ragged["data"][ends[row] - k : ends[row]], sample["ragged"])
        assert label["data"][row] == k
        for leaf, value in ((text, sample["text"].encode()), (raw, sample["raw"])):
            start = leaf["offsets"][row - 1] if row else 0
            assert leaf["bytes"][start : leaf["offsets"][row]].tobytes() == value
        start = boxes["offsets"][row - 1] if row else 0
        assert json.loads(boxes["bytes"][start : boxes["offsets"][row]].tobytes()) == sample["boxes"]


def test_manifest_has_what_the_page_says(tmp_path: Path) -> None:
    """The manifest names format, version, lengths, structure, leaves, columns, provenance and totals; plain JSON."""
    path = tmp_path / "a.lmdb"
    returned = lmdbpipe.build(Pictures(5), path, progress=False)
    raw = dump(path, b"meta")
    assert list(raw) == [b"manifest"]
    manifest = json.loads(raw[b"manifest"].decode("utf-8"))
    assert list(manifest) == [
        *("format", "version", "length", "chunk_length", "structure", "leaves", "columns", "provenance", "totals")
    ]
    assert (manifest["format"], manifest["version"]) == ("lmdbpipe", 1)
    assert manifest["structure"] == {"tuple": ["leaf", "leaf"]}
    assert [(leaf["path"], leaf["codec"]) for leaf in manifest["leaves"]] == [("0", "image"), ("1", "scalar")]
    assert manifest["columns"][0]["name"] == "0/pixels"
    assert (manifest["columns"][0]["dtype"], manifest["columns"][0]["shape"]) == ("|u1", [8, 8, 3])
    assert (manifest["columns"][1]["dtype"], manifest["columns"][1]["shape"]) == ("<i8", [])
    provenance = manifest["provenance"]
    assert provenance["source"] == "tests.helpers.Pictures"
    assert provenance["source_length"] == 5
    assert provenance["rounds"] == 1
    assert provenance["shuffle_seed"] is None
    assert {"lmdbpipe", "torch", "torchvision", "numpy", "Pillow", "lmdb"} == set(provenance["versions"])
    assert {"fingerprint", "source_repr", "db_transform", "samples", "date", "transforms"} <= set(provenance)
    assert manifest["totals"] == {
        "payload_bytes": sum(map(len, content(path).values())),
        "file_bytes": path.stat().st_size,
    }
    assert dict(returned.totals) == manifest["totals"]
    assert returned == Database(path).manifest


@pytest.mark.usefixtures("short_chunks")
def test_key_order_is_file_order(tmp_path: Path) -> None:
    """Keys are big-endian, chunk before column; larger values lie in the file in the order of their keys."""
    path = tmp_path / "a.lmdb"
    samples = [(image("RGB", (40, 50), k), torch.full((3000,), k), k) for k in range(30)]
    lmdbpipe.build(Listed(samples), path, progress=False)
    columns = [column["index"] for column in json.loads(dump(path, b"meta")[b"manifest"])["columns"]]
    keys = [struct.pack(">QH", chunk, column) for chunk in range(10) for column in columns]
    assert list(dump(path, b"data")) == list(dump(path, b"sums")) == keys
    whole = path.read_bytes()
    places = [whole.index(value) for value in content(path).values() if len(value) > 4096]
    assert len(places) == 20
    assert sorted(places) == places


def test_checksums_are_xxh3_big_endian(tmp_path: Path) -> None:
    """Each value's sum is the xxh3-64 of its bytes, 8 bytes big-endian."""
    path = tmp_path / "a.lmdb"
    lmdbpipe.build(Listed([("a", 1), ("", 2)]), path, progress=False)
    values, sums = content(path), dump(path, b"sums")
    assert values
    assert {key: struct.pack(">Q", xxhash.xxh3_64_intdigest(value)) for key, value in values.items()} == sums


def test_files_are_of_lmdbs_old_format(tmp_path: Path) -> None:
    """The file has the data version that every LMDB 0.9 reads, whatever library wrote it."""
    path = tmp_path / "a.lmdb"
    lmdbpipe.build(Pictures(2), path, progress=False)
    magic, version = struct.unpack_from("<II", path.read_bytes(), 16)
    assert (magic, version & 0xFFFF) == (0xBEEFC0DE, 1)


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    """A build leaves the file alone: no lock, no partial file, no folder; reading it leaves nothing either."""
    path = tmp_path / "a.lmdb"
    lmdbpipe.build(Pictures(5), path, progress=False)
    database = Database(path)
    assert list(verify(database)) == []
    database.close()
    assert files(tmp_path) == ["a.lmdb"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    """No value begins as a pickle, and building and reading never unpickle."""
    path = tmp_path / "a.lmdb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled"))
        patch.setattr("pickle.dumps", lambda *_, **__: pytest.fail("pickled"))
        lmdbpipe.build(Listed([(None, {"a": [1]}, "x", np.zeros(2, "M8[s]"))] * 3), path, progress=False)
        assert list(verify(Database(path))) == []


def test_small_images_take_little_more_than_their_pixels(cifar: Path, tmp_path: Path) -> None:
    """32×32 images: the file is at most 1.10 times its payload, in apparent size and on disk."""
    path = tmp_path / "a.lmdb"
    manifest = lmdbpipe.build(ImageFolder(cifar), path, progress=False)
    assert manifest.totals["payload_bytes"] == 10_000 * (32 * 32 * 3 + 8)
    assert path.stat().st_size <= 1.10 * manifest.totals["payload_bytes"]
    assert path.stat().st_blocks * 512 <= 1.10 * manifest.totals["payload_bytes"]


def test_large_images_take_hardly_more_than_their_pixels(tmp_path: Path) -> None:
    """Photographs of many sizes: the file is at most 1.02 times its payload."""
    path = tmp_path / "a.lmdb"
    photographs = Listed([(Image.new("RGB", (500 + k % 7, 375 + k % 5)), k) for k in range(60)])
    manifest = lmdbpipe.build(photographs, path, progress=False)
    assert path.stat().st_size <= 1.02 * manifest.totals["payload_bytes"]


def test_photographs_come_back(photos: Path, tmp_path: Path) -> None:
    """Every pixel of real photographs comes back, in a file at most 1.02 times its payload, and every sum is right."""
    path = tmp_path / "a.lmdb"
    source = ImageFolder(photos)
    manifest = lmdbpipe.build(source, path, progress=False)
    assert path.stat().st_size <= 1.02 * manifest.totals["payload_bytes"]
    database = Database(path)
    assert list(verify(database)) == []
    for index in range(0, len(source), 7):
        chunk, row = divmod(index, manifest.chunk_length)
        picture, label = (rows.sample(row) for rows in database.rows(chunk))
        expected, expected_label = source[index]
        assert (picture.mode, picture.size, label) == (expected.mode, expected.size, expected_label)
        assert picture.tobytes() == expected.tobytes()


def test_options_are_those_of_the_helpers() -> None:
    """The options that tests open files with do without a lock and a folder."""
    assert OPTIONS["lock"] is OPTIONS["subdir"] is False
