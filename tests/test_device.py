"""Batches on their way to a device: what is refused, what arrives, and in which order a GPU's streams are used."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from lmdbpipe import LMDBDataset, LMDBIterableDataset, LMDBReader, build, device
from lmdbpipe.device import Transfer, find_device, move, one_ahead
from lmdbpipe.errors import ConfigError
from lmdbpipe.nodes import LMDBNode, loader

AUGMENT = v2.Compose(
    [v2.RandomCrop(12), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
)
GPUS = [f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
FACES = [LMDBIterableDataset, LMDBReader, LMDBNode, lambda path, **given: LMDBDataset.from_path(path).stream(**given)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of 16×16."""
    path = tmp_path_factory.mktemp("device") / "fake.lmdb"
    build(FakeData(30, (3, 16, 16), 10), path, progress=False)
    return path


def see_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let torch say that there are so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("given", "gpus", "words"),
    [
        ("cuda", 0, "'cuda', which torch does not see here; available are cpu$"),
        ("cuda:2", 2, "'cuda:2', which torch does not see here; available are cpu, cuda:0, cuda:1$"),
        ("gpu", 1, "must name a device as torch does, got 'gpu'; available are cpu, cuda:0$"),
        (1.5, 0, "must name a device as torch does, got 1.5"),
        ("meta", 0, "must be a CPU or CUDA device, got 'meta'; available are cpu$"),
    ],
)
def test_a_device_that_is_not_there(
    face: Any, given: Any, gpus: int, words: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every face says at once what was given and what there is."""
    see_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=words):
        face(path, batch_size=8, device=given)


@pytest.mark.parametrize("face", FACES)
def test_single_samples_go_nowhere(face: Any, path: Path) -> None:
    """Without a batch size there is nothing to move."""
    with pytest.raises(ConfigError, match="device='cpu' needs a batch_size"):
        face(path, device="cpu")


def test_not_in_worker_processes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU in a DataLoader's worker is refused in words that say what to do instead."""
    see_gpus(monkeypatch, 1)
    reader = LMDBIterableDataset(path, batch_size=8, device="cuda")
    with pytest.raises(ConfigError, match=r"(?s)device is 'cuda'.*worker process.*num_workers=0.*num_threads"):
        list(DataLoader(reader, batch_size=None, num_workers=1))


def test_batches_of_a_gpu_are_not_pinned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the GPU cannot be pinned."""
    see_gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match="pin_memory=True does not go with device='cuda'"):
        loader(path, batch_size=8, device="cuda", pin_memory=True)


def to_cpu(batch: Any) -> Any:
    """Bring a batch back."""
    return move(batch, torch.device("cpu"))


def assert_equal(expected: list[Any], actual: list[Any], where: str) -> None:
    """Compare lists of batches bit for bit, and say where the tensors must be."""
    assert len(expected) == len(actual)
    for one, other in zip(expected, actual, strict=True):
        leaves = [tensor for tensor in tree_leaves(other) if isinstance(tensor, torch.Tensor)]
        assert {str(tensor.device) for tensor in leaves} == {where}
        pairs = list(zip(tree_leaves(one), tree_leaves(to_cpu(other)), strict=True))
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def stack(samples: list[Any]) -> dict[str, Any]:
    """A collate function that gives a dict."""
    return {"images": torch.stack([image for image, _ in samples]), "more": [torch.tensor([k for _, k in samples])]}


@pytest.mark.parametrize("where", ["cpu", *GPUS])
@pytest.mark.parametrize(
    "options",
    [
        {"transform": AUGMENT},
        {"transform": AUGMENT, "num_threads": 2, "with_mask": True},
        {"transform": AUGMENT, "collate_fn": stack},
        {"transform": AUGMENT, "lower": False},
        {"transform": v2.Compose([v2.FiveCrop(8), v2.ToImage()])},
        {},
    ],
)
@pytest.mark.parametrize("face", [LMDBIterableDataset, LMDBReader])
def test_the_same_bits_everywhere(where: str, options: dict[str, Any], face: Any, path: Path) -> None:
    """On every device that this machine has, for whole epochs, all tensors of the batches."""
    options = {"batch_size": 7, "shuffle": True, **options}
    given, plain = face(path, device=where, **options), face(path, **options)
    for _ in range(2):
        assert_equal(list(plain), list(given), where)


@pytest.mark.parametrize("where", ["cpu", *GPUS])
@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (2, 2)])
def test_nodes_too(where: str, num_threads: int, prefetch: int, path: Path) -> None:
    """A graph of torchdata.nodes ends on the device, and resumes in an epoch."""
    options: dict[str, Any] = {"batch_size": 7, "shuffle": True, "transform": AUGMENT}
    expected = list(LMDBIterableDataset(path, **options))
    node = LMDBNode(path, num_threads=num_threads, prefetch=prefetch, device=where, **options)
    node.reset()
    first = [next(node) for _ in range(2)]
    state = node.get_state()
    node.reset(state)
    assert_equal(expected, [*first, *node], where)


def test_workers_take_the_cpu(path: Path) -> None:
    """In worker processes the CPU is a device like none."""
    given, plain = (LMDBIterableDataset(path, batch_size=7, device=where) for where in ("cpu", None))
    assert_equal(list(plain), list(DataLoader(given, batch_size=None, num_workers=2)), "cpu")


Pair = collections.namedtuple("Pair", ["image", "label"])


def test_move_walks_containers() -> None:
    """Tensors in lists, tuples, named tuples and dicts are moved; all else stays as it is."""
    there = torch.device("meta")
    batch = {"a": [torch.zeros(2), "text"], "b": Pair((torch.ones(1, 2), None), 3), "c": b"x"}
    moved = move(batch, there)
    assert [moved["a"][1], moved["b"].label, moved["b"].image[1], moved["c"]] == ["text", 3, None, b"x"]
    assert type(moved["b"]) is Pair
    assert (moved["a"][0].device, moved["b"].image[0].device) == (there, there)
    assert batch["a"][0].device.type == "cpu"


def test_one_ahead() -> None:
    """An item is taken before the one before it is given; an error comes where its item would be."""
    taken: list[int] = []

    def items(count: int, *, fail: bool = False) -> Iterator[int]:
        for number in range(count):
            taken.append(number)
            yield number
        if fail:
            raise KeyError("broken")

    assert [(item, len(taken)) for item in one_ahead(items(3))] == [(0, 2), (1, 3), (2, 3)]
    assert list(one_ahead(items(0))) == []
    broken = one_ahead(items(2, fail=True))
    assert [next(broken), next(broken)] == [0, 1]
    with pytest.raises(KeyError, match="broken"):
        next(broken)


def test_streams_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is queued on the side stream; the caller's waits for it, and is noted on its memory, before it is given.

    Streams are stood in for by what writes down how they are used: this is about order, not about CUDA.
    """
    log: list[str] = []

    class Stream:
        """The side stream, or the caller's."""

        def __init__(self, device: Any = None) -> None:
            self.device = torch.device("cuda:0")
            self.events = 0

        def record_event(self) -> int:
            self.events += 1
            log.append(f"event {self.events}")
            return self.events

        def wait_event(self, event: int) -> None:
            log.append(f"wait for {event}")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        log.append("side")
        yield
        log.append("back")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"note on {len(self)}"))
    monkeypatch.setattr(device, "move", lambda batch, there: [batch.to("meta"), "text"])

    def read(number: int) -> torch.Tensor:
        log.append(f"read {number}")
        return torch.zeros(number)

    transfer = Transfer(torch.device("cuda"))
    assert transfer.device == torch.device("cuda:0")
    for tensor, _ in transfer.arrivals(map(transfer.over(read), (1, 2))):
        log.append(f"use {len(tensor)}")
    queued = [["side", f"read {k}", f"event {k}", "back"] for k in (1, 2)]
    used = [[f"wait for {k}", f"note on {k}", f"use {k}"] for k in (1, 2)]
    assert log == [*queued[0], *queued[1], *used[0], *used[1]]


def test_no_device_costs_nothing() -> None:
    """Without a device reading is left as it is."""
    assert Transfer(None).over(to_cpu) is to_cpu
    assert find_device(None) is None
    assert find_device(torch.device("cpu")) == find_device("cpu") == torch.device("cpu")
