"""The build pipe: whatever goes in and whatever happens meanwhile, a whole file comes out, or none."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch.utils.data import Dataset, IterDataPipe
from torch.utils.data.datapipes.iter import IterableWrapper
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder

import lmdbpipe
from lmdbpipe.chunks import encode_in_processes
from lmdbpipe.codecs import Schema
from lmdbpipe.encode import Encoder
from lmdbpipe.errors import (
    ConfigError,
    DatabaseFullError,
    DatabaseMismatchError,
    DatabasePathError,
    EmptyDatasetError,
    FormatError,
    SampleError,
    SourceError,
    UnsupportedLeafError,
)
from lmdbpipe.seeding import preserved
from lmdbpipe.source import as_source
from lmdbpipe.store import Database, Manifest, Writer, lock_path, verify
from tests.helpers import (
    OPTIONS,
    Failing,
    Listed,
    OneShot,
    Pictures,
    Slow,
    Stream,
    content,
    dump,
    files,
    image,
    same,
    unprivileged,
)

SMALL = {"write_frequency": 20}
FORK: Any = multiprocessing.get_context("fork")
"""Processes that are there at once, without an import of torch."""

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


def build(dataset: Any, path: Path, **options: Any) -> Manifest:
    """Build without a progress bar."""
    return lmdbpipe.build(dataset, path, progress=False, **options)


def samples(path: Path) -> list[Any]:
    """All samples of a sound file, in physical order."""
    with contextlib.closing(Database(path)) as database:
        assert list(verify(database)) == []
        manifest = database.manifest
        return [
            manifest.schema.structure.unflatten([leaf.sample(row) for leaf in database.rows(chunk)])
            for chunk in range(manifest.num_chunks)
            for row in range(manifest.chunk_rows(chunk))
        ]


def described(path: Path) -> Any:
    """What a file's manifest says of its data, without times and sizes."""
    manifest = json.loads(dump(path, b"meta")[b"manifest"])
    return {key: manifest[key] for key in ("length", "chunk_length", "structure", "leaves", "columns")}


def assert_same_files(one: Path, other: Path) -> None:
    """Two files hold the same values under the same keys, and say the same of them."""
    assert content(one) == content(other)
    assert dump(one, b"sums") == dump(other, b"sums")
    assert described(one) == described(other)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of seven samples, so that small files have many."""
    monkeypatch.setattr("lmdbpipe.encode._CHUNK_LENGTH", 7)


class Pipe(IterDataPipe[Any]):
    """An IterDataPipe of samples."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        return iter([Pictures(self.length)[index] for index in range(self.length)])


SOURCES: dict[str, Callable[[], Any]] = {
    "map-style": lambda: Pictures(30),
    "list": lambda: [Pictures(30)[k] for k in range(30)],
    "iterable dataset": lambda: Stream(Pictures(30)),
    "generator": lambda: (Pictures(30)[k] for k in range(30)),
    "iterator": lambda: iter([Pictures(30)[k] for k in range(30)]),
    "one iterator behind others": lambda: OneShot(Pictures(30)[k] for k in range(30)),
    "IterDataPipe": lambda: Pipe(30),
    "IterDataPipe over a generator": lambda: IterableWrapper((k for k in range(30)), deepcopy=False).map(
        Pictures(30).__getitem__
    ),
    "IterableWrapper of a map-style dataset": lambda: IterableWrapper(Pictures(30)),  # type: ignore[arg-type]
    "IterableWrapper of a generator": lambda: IterableWrapper((Pictures(30)[k] for k in range(30)), deepcopy=False),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("num_workers", [0, 1])
def test_any_source_gives_the_same_file(source: Callable[[], Any], num_workers: int, tmp_path: Path) -> None:
    """Map-style, iterable, generator of unknown length, DataPipe: each sample is written once, in order."""
    manifest = build(source(), tmp_path / "a.lmdb", num_workers=num_workers)
    assert (manifest.length, manifest.num_chunks) == (30, 5)
    assert all(map(same, samples(tmp_path / "a.lmdb"), (Pictures(30)[k] for k in range(30))))
    assert files(tmp_path) == ["a.lmdb"]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_give_the_same_content(start_method: str, tmp_path: Path) -> None:
    """However many processes encode, and however they start, the values are the same, byte by byte.

    The source's transform does not pickle, and need not: samples are read raw.
    """
    source = Pictures(60, varying, transform=lambda picture: picture)
    build(source, tmp_path / "0.lmdb")
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(start_method, force=True)
    try:
        build(source, tmp_path / "2.lmdb", num_workers=2 if start_method == "fork" else 1)
    finally:
        multiprocessing.set_start_method(before, force=True)
    build(source, tmp_path / "1.lmdb", num_workers=1)
    for name in ("1.lmdb", "2.lmdb"):
        assert_same_files(tmp_path / "0.lmdb", tmp_path / name)
    assert all(map(same, samples(tmp_path / "2.lmdb"), (Pictures(60, varying)[k] for k in range(60))))


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_script_without_a_guard(start_method: str, tmp_path: Path) -> None:
    """A script that builds in processes which import it, and would build again, ends with an error that says so."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, lmdbpipe\n"
        f"multiprocessing.set_start_method({start_method!r}, force=True)\n"
        f"lmdbpipe.build(range(20_000), {str(tmp_path / 'a.lmdb')!r}, num_workers=1, progress=False)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert 'put what the script does under `if __name__ == "__main__":`' in ended.stderr
    assert "SourceError: a worker process died" in ended.stderr
    assert not (tmp_path / "a.lmdb").exists()


def varying(index: int) -> tuple[str, tuple[int, int]]:
    """Sizes vary from the second chunk on, modes from the fourth, palettes come last. Pickles."""
    if index < 7:
        return "RGB", (8, 8)
    if index < 25:
        return "RGB", (8, 5 + index % 3)
    return ("L", "RGBA", "P")[index % 3] if index > 40 else "L", (6, 6)


@pytest.mark.parametrize(
    "late",
    [("RGB", (9, 8)), ("L", (8, 8)), ("P", (8, 8)), ("P", (3, 3)), ("I;16", (8, 8)), ("F", (2, 9))],
    ids=str,
)
@pytest.mark.parametrize("at", [1, 6, 7, 29])
def test_late_widening_is_filled_in(late: tuple[str, tuple[int, int]], at: int, tmp_path: Path) -> None:
    """A first other size, mode or palette late in the build: earlier chunks get the columns that they lack."""
    form = {at: late}
    source = Pictures(30, lambda index: form.get(index, ("RGB", (8, 8))))
    build(source, tmp_path / "a.lmdb", db_cfg={"write_frequency": 1})
    assert all(map(same, samples(tmp_path / "a.lmdb"), (source[k] for k in range(30))))


def test_arrays_widen_late(tmp_path: Path) -> None:
    """A first other shape late in the build makes an array's shapes vary, for earlier chunks too."""
    source = Listed([(torch.zeros(2, 3), np.zeros(3, ">i4"))] * 20 + [(torch.ones(4, 1), np.ones(2, ">i4"))])
    build(source, tmp_path / "a.lmdb")
    assert all(map(same, samples(tmp_path / "a.lmdb"), source.samples))


def test_payload_counts_what_is_filled_in(tmp_path: Path) -> None:
    """The payload in the manifest is the sum of all values, those filled in later included."""
    manifest = build(Pictures(30, lambda index: ("RGB", (8, 8 + index // 20))), tmp_path / "a.lmdb")
    assert manifest.totals["payload_bytes"] == sum(map(len, content(tmp_path / "a.lmdb").values()))


# What is baked in, and in which order


def crop() -> Any:
    """A random transform."""
    return v1.Compose([v1.RandomCrop(6), v1.RandomHorizontalFlip(), v1.ColorJitter(0.5)])


def test_random_db_transform_is_reproducible(tmp_path: Path) -> None:
    """What a random transform draws depends on the seed, the round and the sample, not on processes."""
    for name, options in {"a": {}, "b": {"num_workers": 2}, "c": {"seed": 1}}.items():
        build(Pictures(30), tmp_path / f"{name}.lmdb", db_transform=crop(), rounds=2, **options)
    assert_same_files(tmp_path / "a.lmdb", tmp_path / "b.lmdb")
    assert content(tmp_path / "a.lmdb") != content(tmp_path / "c.lmdb")
    written = samples(tmp_path / "a.lmdb")
    assert any(not same(written[k], written[30 + k]) for k in range(30)), "rounds draw anew"


def test_random_db_transform_survives_resuming(tmp_path: Path) -> None:
    """A build that was interrupted and resumed, even in processes, has the draws of an undisturbed one."""
    flag = tmp_path / "flag"
    flag.touch()
    source = Failing(50, 35, flag)
    options: dict[str, Any] = {"db_transform": crop(), "rounds": 2, "shuffle": True, "db_cfg": SMALL}
    with pytest.raises(SourceError):
        build(source, tmp_path / "a.lmdb", **options)
    assert (tmp_path / "a.lmdb.partial").exists()
    flag.unlink()
    build(source, tmp_path / "a.lmdb", num_workers=2, **options)
    build(source, tmp_path / "b.lmdb", **options)
    assert_same_files(tmp_path / "a.lmdb", tmp_path / "b.lmdb")


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    """A build changes no global random state, whatever its transforms draw, also if it fails."""
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    for source in (Pictures(10), Listed([(image("L", (9, 9)), 1), (image("L", (9, 9)), "x")])):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        with contextlib.suppress(SampleError):
            build(source, tmp_path / "a.lmdb", db_transform=crop(), overwrite=True)
        assert expected == (random.random(), np.random.rand(), float(torch.rand(())))


class RandomInside(Listed):
    """Draws random numbers itself."""

    def __getitem__(self, index: int) -> Any:
        return torch.rand(4), np.random.rand(), random.random()


@pytest.mark.parametrize("make", [RandomInside, lambda numbers: Stream(RandomInside(numbers))], ids=["map", "stream"])
def test_random_sources(make: Any, tmp_path: Path) -> None:
    """What a source draws itself differs from sample to sample, and is the same in each build."""
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        build(make(range(40)), tmp_path / f"{name}.lmdb")
    assert_same_files(tmp_path / "a.lmdb", tmp_path / "b.lmdb")
    assert len({sample[1] for sample in samples(tmp_path / "a.lmdb")}) == 40


def _others_have_the_generators() -> bool:
    """Whether another thread may have the global random generators now."""
    had: list[None] = []

    def have() -> None:
        with preserved():
            had.append(None)

    thread = threading.Thread(target=have)
    thread.start()
    thread.join(5)
    return bool(had)


@pytest.mark.parametrize("source", [Pictures(30), Stream(Pictures(30))], ids=["map", "stream"])
def test_other_threads_have_the_generators_meanwhile(
    source: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A build holds the global random generators while it encodes a chunk, not while it writes."""
    had = []
    put = Writer.put

    def put_and_look(*arguments: Any) -> None:
        had.append(_others_have_the_generators())
        put(*arguments)

    monkeypatch.setattr(Writer, "put", put_and_look)
    build(source, tmp_path / "a.lmdb")
    assert had == [True] * 5


def test_waiting_builders_hold_no_generators(tmp_path: Path) -> None:
    """Who waits for another builder leaves the global random generators to others."""
    with FileLock(lock_path(tmp_path / "a.lmdb")):
        thread = threading.Thread(target=build, args=(Pictures(3), tmp_path / "a.lmdb"))
        thread.start()
        thread.join(1)
        assert thread.is_alive()
        assert _others_have_the_generators()
    thread.join()
    assert len(samples(tmp_path / "a.lmdb")) == 3


def test_shuffle_writes_each_round_once(tmp_path: Path) -> None:
    """Shuffled rounds: each holds every sample once, in an order of its own that the seed decides."""
    source = Listed(list(range(100)))
    manifest = build(source, tmp_path / "a.lmdb", rounds=3, shuffle=True, seed=4)
    build(source, tmp_path / "b.lmdb", rounds=3, shuffle=True, seed=5)
    assert (manifest.length, manifest.provenance["rounds"], manifest.provenance["shuffle_seed"]) == (300, 3, 4)
    written = samples(tmp_path / "a.lmdb")
    rounds = [written[:100], written[100:200], written[200:]]
    assert all(sorted(numbers) == list(range(100)) for numbers in rounds)
    assert len({tuple(numbers) for numbers in (*rounds, range(100))}) == 4
    assert written != samples(tmp_path / "b.lmdb")


def test_rounds_of_an_iterable_read_it_again(tmp_path: Path) -> None:
    """An iterable that can be read again has rounds too."""
    manifest = build(Stream(Pictures(10)), tmp_path / "a.lmdb", rounds=2)
    assert manifest.length == 20
    assert all(map(same, samples(tmp_path / "a.lmdb"), (Pictures(10)[k % 10] for k in range(20))))


@pytest.mark.parametrize("options", [{"rounds": 2}, {"shuffle": True}], ids=str)
def test_generators_have_no_rounds_or_order(options: dict[str, Any], tmp_path: Path) -> None:
    """A generator can be read but once: rounds and shuffling are refused."""
    with pytest.raises(ConfigError):
        build((k for k in range(5)), tmp_path / "a.lmdb", **options)
    assert files(tmp_path) == []


def test_rounds_of_different_lengths(tmp_path: Path) -> None:
    """A source that has no samples left for a second round is an error, not a shorter file."""
    with pytest.raises(SourceError, match="OneShot gave 10 samples at first and 0 in round 1"):
        build(OneShot(range(10)), tmp_path / "a.lmdb", rounds=2)
    assert files(tmp_path) == []


def test_db_cfg_gives_defaults(tmp_path: Path) -> None:
    """``rounds``, ``shuffle_while_writing`` and ``num_workers`` of db_cfg hold where the arguments are left alone."""
    cfg = {"rounds": 2, "shuffle_while_writing": True, "num_workers": 1}
    manifest = build(Listed(list(range(20))), tmp_path / "a.lmdb", db_cfg=cfg)
    assert (manifest.length, manifest.provenance["shuffle_seed"]) == (40, 0)
    manifest = build(Listed(list(range(20))), tmp_path / "b.lmdb", db_cfg=cfg, rounds=3)
    assert manifest.length == 60


def test_last_pil_to_tensor_keeps_pixels(tmp_path: Path) -> None:
    """A last PILToTensor bakes in nothing: the same pixels are stored, and samples come back as its tensors."""
    build(Pictures(10), tmp_path / "a.lmdb", db_transform=v1.Compose([v1.Resize(4), v1.PILToTensor()]))
    build(Pictures(10), tmp_path / "b.lmdb", db_transform=v1.Resize(4), db_cfg={"db_channels_first": False})
    for tensor, picture in zip(samples(tmp_path / "a.lmdb"), samples(tmp_path / "b.lmdb"), strict=True):
        assert same(v1.PILToTensor()(picture[0]), tensor[0])
        assert picture[0].size == (4, 4)


# Bad input


class NotPicklable(Exception):
    """An error whose constructor cannot be called as pickle does."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Raising(Pictures):
    """Raises at index 17."""

    def __getitem__(self, index: int) -> Any:
        if index == 17:
            raise NotPicklable(1, 2)
        return super().__getitem__(index)


class Dying(Pictures):
    """Kills its process at index 17, unless that is the main one."""

    def __getitem__(self, index: int) -> Any:
        if index == 17 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


GOOD = (image("RGB", (8, 8)), 3)
BAD_SAMPLES: dict[str, tuple[Any, type[SampleError], str]] = {
    "structure": (
        [GOOD[0], 3],
        SampleError,
        "sample 25, leaf sample: the first sample has a tuple here, this one a list",
    ),
    "length": (
        (*GOOD, 1),
        SampleError,
        "sample 25, leaf sample: the first sample's tuple has 2 items, this one 3 items",
    ),
    "type": ((GOOD[0], 3.0), SampleError, "sample 25, leaf 1: the samples before have a int, this one a float"),
    "codec": (
        (GOOD[0], "3"),
        SampleError,
        "sample 25, leaf 1: the first sample has a value of codec scalar here, .*str",
    ),
    "image": ((torch.zeros(3, 8, 8), 3), SampleError, "sample 25, leaf 0: the first sample has a value of codec image"),
    "unsupported": ((GOOD[0], object()), SampleError, "sample 25, leaf 1: .*object"),
    "mode": ((image("L", (2, 2)).convert("PA"), 3), SampleError, "sample 25, leaf 0: a PIL image of mode 'PA'"),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("sample", "error", "message"), BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_samples_that_do_not_fit(
    sample: Any, error: type[Exception], message: str, num_workers: int, tmp_path: Path
) -> None:
    """A sample unlike the first: the error names its index and leaf and what differs; nothing is left behind."""
    source = Listed([GOOD] * 25 + [sample] + [GOOD] * 10)
    with pytest.raises(error, match=message):
        build(source, tmp_path / "a.lmdb", num_workers=num_workers, db_cfg=SMALL)
    assert files(tmp_path) == []


def test_array_samples_that_do_not_fit(tmp_path: Path) -> None:
    """A dtype or number of dimensions unlike the first sample's is an error that names both."""
    for bad, message in (
        (torch.zeros(2, dtype=torch.float64), "sample 9, leaf x: .* a torch tensor of dtype float32 .*float64"),
        (torch.zeros(2, 1), "sample 9, leaf x: .* 1 dimensions, this one .* 2 dimensions"),
    ):
        with pytest.raises(SampleError, match=message):
            build([{"x": torch.zeros(2)}] * 9 + [{"x": bad}], tmp_path / "a.lmdb")
    assert files(tmp_path) == []


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([None])], ids=lambda value: type(value).__name__)
def test_unsupported_leaves(value: Any, tmp_path: Path) -> None:
    """What no codec takes is refused at the first sample, with its index, path and type."""
    with pytest.raises(UnsupportedLeafError, match=r"^sample 0, leaf 1/deep: ") as caught:
        build([(1, {"deep": value})], tmp_path / "a.lmdb")
    assert isinstance(caught.value, TypeError)
    assert files(tmp_path) == []


def test_error_names_the_index_in_the_source(tmp_path: Path) -> None:
    """In a shuffled build the sample is named by its index in the dataset, not by where it would have lain."""
    source = Listed([0] * 50 + ["x"] + [0] * 20)
    with pytest.raises(SampleError, match="sample 50, leaf sample"):
        build(source, tmp_path / "a.lmdb", shuffle=True, rounds=2)


@pytest.mark.parametrize("source", [[], Pictures(0), iter([]), Stream([])], ids=["list", "map", "generator", "stream"])
def test_empty_datasets(source: Any, tmp_path: Path) -> None:
    """A dataset without samples is an error, and leaves nothing."""
    with pytest.raises(EmptyDatasetError, match="has no samples"):
        build(source, tmp_path / "a.lmdb")
    assert files(tmp_path) == []


@pytest.mark.parametrize("source", [3, object(), None], ids=repr)
def test_no_datasets(source: Any, tmp_path: Path) -> None:
    """What is neither map-style nor iterable is refused."""
    with pytest.raises(ConfigError, match="is no dataset"):
        build(source, tmp_path / "a.lmdb")
    assert files(tmp_path) == []


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("at", [5, 23, 33])
def test_source_that_raises(at: int, num_workers: int, tmp_path: Path) -> None:
    """A dataset that raises: the error names the index and keeps the cause; the same call resumes and ends the same."""
    flag = tmp_path / "flag"
    flag.touch()
    source = Failing(40, at, flag)
    with pytest.raises(SourceError, match=f"^sample {at}: Failing raised KeyError: 'a label is missing'") as caught:
        build(source, tmp_path / "a.lmdb", num_workers=num_workers)
    assert type(caught.value.__cause__) is KeyError
    assert isinstance(caught.value, RuntimeError)
    flag.unlink()
    if at > 7:
        assert files(tmp_path) == ["a.lmdb.partial"]
        fetched: list[int] = []

        def fetch(_: Any, index: int) -> Any:
            fetched.append(index)
            return Pictures(40)[index]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Failing, "__getitem__", fetch)
            build(source, tmp_path / "a.lmdb")
        assert min(fetched[4:]) == at // 7 * 7, "what was written is not read again"
    else:
        build(source, tmp_path / "a.lmdb")
    build(Failing(40, 99, flag), tmp_path / "b.lmdb")
    assert_same_files(tmp_path / "a.lmdb", tmp_path / "b.lmdb")
    assert files(tmp_path) == ["a.lmdb", "b.lmdb"]


def test_cause_that_does_not_pickle(tmp_path: Path) -> None:
    """An error that cannot travel between processes is described, and the build does not hang or lose it."""
    with pytest.raises(SourceError, match="sample 17: Raising raised NotPicklable: 1 and 2") as caught:
        build(Raising(30), tmp_path / "a.lmdb", num_workers=1)
    assert "1 and 2" in str(caught.value.__cause__)


def test_worker_that_dies(tmp_path: Path) -> None:
    """A worker process that is killed is a SourceError, and the build can be resumed without processes."""
    with pytest.raises(SourceError, match="a worker process died"):
        build(Dying(30), tmp_path / "a.lmdb", num_workers=1)
    build(Dying(30), tmp_path / "a.lmdb")
    assert len(samples(tmp_path / "a.lmdb")) == 30
    assert files(tmp_path) == ["a.lmdb"]


def test_worker_that_dies_while_its_chunks_wait(tmp_path: Path) -> None:
    """A worker that dies is a SourceError also where a chunk that it encoded before is taken after its death."""
    encoder = Encoder.of(as_source(Dying(30)), db_transform=None, channels_first=True, rounds=1, shuffle=False, seed=0)
    base = Schema.of(Pictures(30)[0])
    with encode_in_processes(encoder, base, 7, 1, num_workers=1) as chunks:
        while multiprocessing.active_children():
            threading.Event().wait(0.01)
        with pytest.raises(SourceError, match="a worker process died"):
            list(chunks)


def test_iterable_that_raises_leaves_nothing(tmp_path: Path) -> None:
    """A build from an iterable cannot be resumed, so its partial file is not left behind."""
    flag = tmp_path / "flag"
    flag.touch()
    with pytest.raises(SourceError, match=r"^sample 23: Stream raised KeyError"):
        build(Stream(Failing(40, 23, flag)), tmp_path / "a.lmdb", db_cfg=SMALL)
    assert files(tmp_path) == ["flag"]


def test_db_transform_that_raises(tmp_path: Path) -> None:
    """A baked-in transform that raises is an error of the sample, which keeps the cause; nothing is left behind."""
    source = Pictures(30, lambda index: ("RGB", (8, 4 if index == 23 else 8)))
    with pytest.raises(SampleError, match="sample 23: db_transform raised ValueError") as caught:
        build(source, tmp_path / "a.lmdb", db_transform=v1.RandomCrop(6))
    assert isinstance(caught.value.__cause__, ValueError)
    assert files(tmp_path) == []


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    """A path that is a folder, or whose folder is missing, is a DatabasePathError and an OSError."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatabasePathError, match="folder: is a folder"):
        build(Pictures(3), tmp_path / "folder")
    with pytest.raises(DatabasePathError, match=re.escape(f"make {tmp_path / 'no' / 'where'} first")) as caught:
        build(Pictures(3), tmp_path / "no" / "where" / "a.lmdb")
    assert isinstance(caught.value, OSError)
    (tmp_path / "file").touch()
    with pytest.raises(DatabasePathError):
        build(Pictures(3), tmp_path / "file" / "a.lmdb")
    assert files(tmp_path) == ["file", "folder"]


class Blocking(Pictures):
    """Its samples are read, and a folder lies where the file is to go."""

    def __init__(self, length: int, path: Path) -> None:
        super().__init__(length)
        self.path = path

    def __getitem__(self, index: int) -> Any:
        if index == 20:
            self.path.mkdir(exist_ok=True)
        return super().__getitem__(index)


def test_place_that_is_taken_meanwhile(tmp_path: Path) -> None:
    """A file that cannot take its place when it is complete is a DatabasePathError."""
    with pytest.raises(DatabasePathError, match=r"a\.lmdb: the new file cannot take this place"):
        build(Blocking(30, tmp_path / "a.lmdb"), tmp_path / "a.lmdb")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that takes no files at all")
def test_a_folder_that_takes_no_files() -> None:
    """Where not even a lock can be made, nobody waits for it."""
    with pytest.raises(DatabasePathError, match="cannot be written"):
        build(Pictures(1), Path("/proc/a.lmdb"))


def test_folder_that_cannot_be_written() -> None:
    """A read-only folder is a DatabasePathError; but a file that is finished there can be used again."""
    with unprivileged() as folder:
        build(Pictures(3), folder / "a.lmdb")
        folder.chmod(0o555)
        try:
            with pytest.raises(DatabasePathError, match="cannot be written"):
                build(Pictures(3), folder / "b.lmdb")
            with pytest.raises(DatabasePathError, match="cannot be written"):
                build(Pictures(3), folder / "a.lmdb", overwrite=True)
            assert build(Pictures(3), folder / "a.lmdb").length == 3
            assert files(folder) == ["a.lmdb"]
        finally:
            folder.chmod(0o777)


# Finished files


def test_finished_file_is_used_again(tmp_path: Path) -> None:
    """The same call again reads a few samples, and leaves the file as it is."""
    build(Pictures(30), tmp_path / "a.lmdb")
    before = (tmp_path / "a.lmdb").stat()
    manifest = build(Pictures(30), tmp_path / "a.lmdb")
    after = (tmp_path / "a.lmdb").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert manifest == Database(tmp_path / "a.lmdb").manifest


class Others(Pictures):
    """Another class of the same samples."""


DIFFERENT: dict[str, tuple[Any, dict[str, Any], str]] = {
    "class": (Others(30), {}, r"its source is 'tests\.helpers\.Pictures', not '.*Others'"),
    "length": (Pictures(31), {}, "the source's length is 30, not 31"),
    "samples": (Pictures(30, lambda index: ("RGB", (8, 9))), {}, "the hash of some raw samples is"),
    "transform": (Pictures(30), {"db_transform": v1.Resize(4)}, r"db_transform is None, not 'Resize\(size=4.*"),
    "rounds": (Pictures(30), {"rounds": 2}, "rounds is 1, not 2"),
    "shuffle": (Pictures(30), {"shuffle": True, "seed": 3}, r"the shuffle seed .* is None, not 3"),
}


@pytest.mark.parametrize(("source", "options", "message"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_file_of_another_dataset(source: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A finished file of something else: the error says what differs and how to rebuild; overwrite does it."""
    path = tmp_path / "a.lmdb"
    build(Pictures(30), path)
    before = path.read_bytes()
    with pytest.raises(DatabaseMismatchError, match=message) as caught:
        build(source, path, **options)
    assert "force_db_rebuild" in str(caught.value)
    assert before == path.read_bytes()
    manifest = build(source, path, overwrite=True, **options)
    assert manifest.length == len(source) * options.get("rounds", 1)
    assert files(tmp_path) == ["a.lmdb"]


def test_seed_of_a_baked_in_transform_counts(tmp_path: Path) -> None:
    """Another seed of random draws that are baked in is another file; without such a transform the seed is nothing."""
    build(Pictures(10), tmp_path / "a.lmdb", seed=1)
    build(Pictures(10), tmp_path / "a.lmdb", seed=2)
    build(Pictures(10), tmp_path / "b.lmdb", db_transform=crop(), seed=1)
    with pytest.raises(DatabaseMismatchError, match="the seed of db_transform's draws is 1, not 2"):
        build(Pictures(10), tmp_path / "b.lmdb", db_transform=crop(), seed=2)


def test_readers_keep_the_file_that_is_overwritten(tmp_path: Path) -> None:
    """A file is replaced by rename: who has the old one open reads on from it."""
    path = tmp_path / "a.lmdb"
    build(Listed(list(range(10))), path)
    old = Database(path)
    build(Listed(list(range(100, 120))), path, overwrite=True)
    assert [old.rows(0)[0].sample(row) for row in range(7)] == list(range(7))
    new = Database(path)
    assert new.rows(0)[0].sample(0) == 100


class Removing(Pictures):
    """Its samples are read, and a file is gone."""

    def __init__(self, length: int, path: Path) -> None:
        super().__init__(length)
        self.path = path

    def __getitem__(self, index: int) -> Any:
        self.path.unlink(missing_ok=True)
        return super().__getitem__(index)


def test_file_that_is_removed_while_it_is_overwritten(tmp_path: Path) -> None:
    """A file that somebody removes while its successor is built does not keep the successor away."""
    path = tmp_path / "a.lmdb"
    build(Pictures(3), path)
    build(Removing(30, path), path, overwrite=True)
    assert len(samples(path)) == 30


@pytest.mark.parametrize(
    "content", [b"notes", b"notes of half a year\n" * 900, bytes(5000)], ids=["short", "long", "zeros"]
)
def test_files_of_others_are_not_overwritten(content: bytes, tmp_path: Path) -> None:
    """What is no LMDB file stays, even if it is to be overwritten; any LMDB file is replaced."""
    path = tmp_path / "a.lmdb"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="is no LMDB file, and is not overwritten"):
        build(Pictures(3), path, overwrite=True)
    assert path.read_bytes() == content
    assert files(tmp_path) == ["a.lmdb"]
    path.unlink()
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0", content)
    build(Pictures(3), path, overwrite=True)
    assert len(samples(path)) == 3


def test_empty_file_in_the_way(tmp_path: Path) -> None:
    """An empty file at the path is an error and stays; overwrite replaces it; what is no partial file is dropped."""
    path = tmp_path / "a.lmdb"
    path.touch()
    with pytest.raises(FormatError):
        build(Pictures(3), path)
    assert path.read_bytes() == b""
    (tmp_path / "a.lmdb.partial").write_bytes(b"garbage")
    build(Pictures(3), path, overwrite=True)
    assert len(samples(path)) == 3
    assert files(tmp_path) == ["a.lmdb"]


def test_partial_file_of_another_build_is_dropped(tmp_path: Path) -> None:
    """What an interrupted build of something else left is not built upon."""
    flag = tmp_path / "flag"
    flag.touch()
    with pytest.raises(SourceError):
        build(Failing(40, 23, flag), tmp_path / "a.lmdb", db_cfg=SMALL)
    source = Listed([(image("RGB", (8, 8), 99), k) for k in range(40)])
    build(source, tmp_path / "a.lmdb")
    assert all(map(same, samples(tmp_path / "a.lmdb"), source.samples))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_partial_file_is_dropped(keep: float, tmp_path: Path) -> None:
    """What is left of a partial file that lost its end is not built upon: to map it would kill the process."""
    path, partial = tmp_path / "a.lmdb", tmp_path / "a.lmdb.partial"
    (tmp_path / "flag").touch()
    with pytest.raises(SourceError):
        build(Failing(400, 300, tmp_path / "flag"), path, db_cfg=SMALL)
    os.truncate(partial, int(keep * partial.stat().st_size))
    (tmp_path / "flag").unlink()
    process = FORK.Process(target=build, args=(Failing(400, 300, tmp_path / "flag"), path))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(samples(path)) == 400


# Room


def test_map_grows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A map that is too small at first grows as needed, and loses nothing."""
    monkeypatch.setattr("lmdbpipe.store.writer._FIRST_MAP", 64 * 1024)
    source = Listed([(torch.full((5000,), k), k) for k in range(100)])
    build(source, tmp_path / "a.lmdb", db_cfg={"write_frequency": 3})
    assert all(map(same, samples(tmp_path / "a.lmdb"), source.samples))


@pytest.mark.parametrize("map_size", [1, 30_000, 300_001])
def test_map_size_bounds_the_file(map_size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More than ``map_size`` is a DatabaseFullError that names it; a larger bound resumes what was begun."""
    monkeypatch.setattr("lmdbpipe.store.writer._FIRST_MAP", 64 * 1024)
    source = Listed([(torch.full((5000,), k), k) for k in range(100)])
    with pytest.raises(DatabaseFullError, match=f"map_size={map_size} bytes; raise it in db_cfg") as caught:
        build(source, tmp_path / "a.lmdb", db_cfg={"map_size": map_size, "write_frequency": 3})
    assert isinstance(caught.value, OSError)
    assert not (tmp_path / "a.lmdb").exists()
    build(source, tmp_path / "a.lmdb")
    assert all(map(same, samples(tmp_path / "a.lmdb"), source.samples))


def _build_on_full_disk(path: Path, messages: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        build(Pictures(2000), path, db_cfg={"write_frequency": 50})
    except DatabaseFullError as error:
        messages.send(str(error))


def test_full_disk(tmp_path: Path) -> None:
    """A disk that takes no more is a DatabaseFullError; with room again, the build resumes to the same content."""
    path = tmp_path / "a.lmdb"
    here, there = FORK.Pipe()
    process = FORK.Process(target=_build_on_full_disk, args=(path, there))
    process.start()
    assert "free room and build again" in here.recv()
    process.join()
    assert files(tmp_path) == ["a.lmdb.partial"]
    build(Pictures(2000), path)
    build(Pictures(2000), tmp_path / "b.lmdb")
    assert_same_files(path, tmp_path / "b.lmdb")


# Several builders, and sudden ends


def _build_slowly(path: Path, length: int, num_workers: int, messages: Any) -> None:
    os.setsid()
    manifest = build(Slow(length), path, db_cfg=SMALL, num_workers=num_workers)
    messages.send((manifest.provenance["date"], manifest.totals["file_bytes"]))


@contextlib.contextmanager
def builder(path: Path, length: int, num_workers: int = 0) -> Iterator[tuple[Any, Any]]:
    """A process that builds, and where it sends something of the manifest to; nothing of it is left afterwards."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=_build_slowly, args=(path, length, num_workers, there))
    process.start()
    try:
        yield process, here
    finally:
        for kill in (lambda: os.killpg(process.pid or 0, signal.SIGKILL), process.kill):
            with contextlib.suppress(ProcessLookupError):
                kill()
        process.join()


def test_builders_at_once_end_with_one_build(tmp_path: Path) -> None:
    """Processes and threads that build one file at once: one builds, all get its manifest, and no lock is left."""
    path = tmp_path / "a.lmdb"
    found: list[Any] = []

    def build_here() -> None:
        manifest = build(Slow(300), path, db_cfg=SMALL)
        found.append((manifest.provenance["date"], manifest.totals["file_bytes"]))

    with builder(path, 300) as (_, one), builder(path, 300) as (_, other):
        threads = [threading.Thread(target=build_here) for _ in range(2)]
        for thread in threads:
            thread.start()
        found += [one.recv(), other.recv()]
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert files(tmp_path) == ["a.lmdb"]
    assert len(samples(path)) == 300


def test_killed_builds_resume_to_the_same_content(tmp_path: Path) -> None:
    """SIGKILL at random moments, in processes or not: never a file at its final place before it is whole.

    What is begun again after each kill ends with the content of an undisturbed build.
    """
    length, kills = 500, 0
    undisturbed, path = tmp_path / "undisturbed.lmdb", tmp_path / "a.lmdb"
    build(Slow(length), undisturbed, db_cfg=SMALL)
    rng = random.Random(0)
    progress: list[int] = []
    while kills < 20:
        with builder(path, length, num_workers=kills % 3) as (process, _):
            process.join(rng.uniform(0, 0.3))
            kills += process.is_alive()
            process.kill()  # its workers must see to themselves
            process.join()
            progress.append(_committed(path))
            if path.exists():
                assert_same_files(undisturbed, path)
                path.unlink()
    assert any(later > earlier > 0 for earlier, later in itertools.pairwise(progress)), "later builds go on"
    build(Slow(length), path, db_cfg=SMALL)
    assert_same_files(undisturbed, path)
    assert files(tmp_path) == ["a.lmdb", "undisturbed.lmdb"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes as Linux lists them")
def test_workers_of_a_killed_build_let_the_next_one_go(tmp_path: Path) -> None:
    """Workers end with the process that they work for: they neither stay for ever nor hold its lock."""
    path = tmp_path / "a.lmdb"
    with builder(path, 3000, num_workers=2) as (process, _):
        while not _committed(path):
            process.join(0.01)
        workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert len(workers) == 2
        process.kill()
        process.join()
        assert build(Slow(3000), path, num_workers=2).length == 3000
        while any(map(_is_running, workers)):
            process.join(0.01)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _committed(path: Path) -> int:
    """How many values an interrupted build has committed."""
    partial = path.with_name(path.name + ".partial")
    if not partial.exists():
        return 0
    try:
        with lmdb.open(str(partial), readonly=True, **OPTIONS) as env, env.begin() as txn:
            return int(txn.stat(env.open_db(b"data", txn, create=False))["entries"])
    except lmdb.Error:
        return 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_ended_between_manifest_and_rename(
    step: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A build that ends after its manifest is written, but before the file has its name, is not read as finished.

    The next one gives it its name, and reads no more than what tells the source from others.
    """
    monkeypatch.setattr(os, step, lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises((KeyboardInterrupt, DatabasePathError)):
        build(Pictures(30), tmp_path / "a.lmdb")
    assert files(tmp_path) == ["a.lmdb.partial"]
    monkeypatch.undo()
    monkeypatch.setattr("lmdbpipe.encode.Encoder.encode", None)
    monkeypatch.setattr("lmdbpipe.encode.Encoder.first_chunk", None)
    manifest = build(Pictures(30), tmp_path / "a.lmdb")
    assert manifest.totals["file_bytes"] == (tmp_path / "a.lmdb").stat().st_size
    assert all(map(same, samples(tmp_path / "a.lmdb"), (Pictures(30)[k] for k in range(30))))
    assert files(tmp_path) == ["a.lmdb"]


def test_complete_file_of_another_source_gets_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lacks only its name, but holds something else, is begun anew."""
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(DatabasePathError):
        build(Pictures(30), tmp_path / "a.lmdb")
    monkeypatch.undo()
    build(Pictures(20), tmp_path / "a.lmdb")
    assert len(samples(tmp_path / "a.lmdb")) == 20


def test_commits_as_often_as_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A commit comes after every ``write_frequency`` samples at most, rounded up to a whole chunk."""
    lengths: list[int] = []
    original = lmdbpipe.store.writer.Writer.commit

    def commit(self: Any) -> None:
        lengths.append(sum(1 for _ in self._pending))
        original(self)

    monkeypatch.setattr("lmdbpipe.store.writer.Writer.commit", commit)
    build(Pictures(70), tmp_path / "a.lmdb", db_cfg={"write_frequency": 21})
    assert lengths[:3] == [3, 3, 3]


def test_progress_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A progress bar names the file and counts samples, on standard error; it can be turned off."""
    lmdbpipe.build(Pictures(30), tmp_path / "a.lmdb")
    shown = capsys.readouterr()
    assert "a.lmdb" in shown.err
    assert "30/30" in shown.err
    assert shown.out == ""
    lmdbpipe.build(Pictures(30), tmp_path / "b.lmdb", progress=False)
    assert capsys.readouterr() == ("", "")


class Strange(Dataset[Any]):
    """A dataset whose description is no valid text, as a path on disk may be."""

    def __repr__(self) -> str:
        return "Strange at /data/\udcff\ud83d\ude00"

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return {"\udcff": index, "b": b""}


def test_strange_names_survive(tmp_path: Path) -> None:
    """Paths and keys that are no valid Unicode are written and read back."""
    manifest = build(Strange(), tmp_path / "a.lmdb")
    assert manifest == Database(tmp_path / "a.lmdb").manifest
    assert samples(tmp_path / "a.lmdb")[1] == {"\udcff": 1, "b": b""}


def test_image_folders_come_back(image_folder: Path, tmp_path: Path) -> None:
    """An ImageFolder's own transforms are not baked in; where they act is written down for readers."""
    manifest = build(ImageFolder(image_folder, v1.ToTensor()), tmp_path / "a.lmdb")
    assert all(map(same, samples(tmp_path / "a.lmdb"), ImageFolder(image_folder)))
    assert manifest.provenance["transforms"] == {"transform": [[0]], "target_transform": [[1]]}
    assert manifest.schema.codecs[0].params()["layout"] == "CHW", "the live transform begins with a to-tensor step"
