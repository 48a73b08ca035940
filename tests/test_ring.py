"""Tensors travel from workers through reused slots, and arrive as if nothing were special about them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lmdbpipe import ring


def tensors(number: int) -> list[torch.Tensor]:
    """Tensors that differ in size, dtype and order of axes, large and small."""
    torch.manual_seed(number)
    return [
        torch.randint(0, 255, (64, 3, 32, 32), dtype=torch.uint8),
        torch.rand(40_000 + number),
        torch.rand(16, 64, 65).permute(2, 0, 1),
        torch.rand(300, 300)[::2],
        torch.rand(100, 1).expand(100, 700),
        torch.arange(number),
        torch.rand(200, 200).to(torch.bfloat16),
        torch.tensor(1.5),
        torch.rand(200, 200) > 0.5,
    ]


class Source(IterableDataset[Any]):
    """Batches that a worker shares; `extra` says in how many different forms."""

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        for number in range(info.id, 12, info.num_workers):
            yield ring.share({"list": tensors(number), "tuple": (number, "text", torch.ones(70_000) * number)})


@pytest.mark.parametrize(
    ("method", "persistent", "prefetch"), [("fork", False, 2), ("fork", True, 12), ("forkserver", True, 2)]
)
def test_what_arrives_is_what_was_sent(method: str, persistent: bool, prefetch: int) -> None:
    """Values, dtypes, shapes and types are the same, held or not, over several passes, however much is prefetched."""
    loader = DataLoader(
        Source(),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=persistent,
        prefetch_factor=prefetch,
    )
    for _ in range(2):
        held = list(loader)
        assert len(held) == 12
        for number, batch in enumerate(held):
            assert batch["tuple"][0] == number
            assert torch.equal(batch["tuple"][2], torch.ones(70_000) * number)
            for expected, actual in zip(tensors(number), batch["list"], strict=True):
                assert type(actual) is torch.Tensor
                assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
                assert torch.equal(actual, expected)
                actual.zero_()  # it is the caller's own


def test_an_abandoned_pass_does_no_harm() -> None:
    """Batches that nobody takes keep their slots from nobody else, in this pass and the next."""
    loader = DataLoader(
        Source(), batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    for _ in range(3):
        assert next(iter(loader))["tuple"][0] == 0
    assert [batch["tuple"][0] for batch in loader] == list(range(12))


@pytest.mark.parametrize("persistent", [False, True])
def test_memory_goes_with_the_workers(persistent: bool) -> None:
    """After a pass, or a loader that keeps its workers, nothing of them is left but what somebody holds."""
    loader = DataLoader(
        Source(), batch_size=None, num_workers=2, persistent_workers=persistent, multiprocessing_context="fork"
    )
    last = list(loader)[-1]
    assert bool(ring._received) == persistent
    del loader
    assert not ring._received
    assert torch.equal(last["tuple"][2], torch.ones(70_000) * 11)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be the worker, and the main process too."""
    monkeypatch.setattr(ring, "travels", lambda: True)
    yield
    for known in (ring._rings, ring._lent, ring._received):
        known.clear()


def lent_tensor(value: int) -> torch.Tensor:
    """A tensor of 100,000 bytes in lent memory."""
    lent = ring.lend(100_000)
    assert lent is not None
    lent[:] = value
    return torch.from_numpy(lent)


def travel(tensor: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Send a tensor; the number of its slot, and what arrives."""
    rebuild, arguments = ring._reduce(tensor.as_subclass(ring.SharedTensor))
    assert rebuild is ring._rebuild
    return arguments[1], rebuild(*arguments)


def test_lent_memory_travels_uncopied(worker: None) -> None:
    """What was made in a slot arrives over the same memory, whole or a part, in whatever order of axes."""
    sent = lent_tensor(0)
    number, arrived = travel(sent.view(100, 10, 100)[20:].permute(0, 2, 1))
    assert (type(arrived), arrived.shape, arrived.stride()) == (torch.Tensor, (80, 100, 10), (1000, 1, 100))
    arrived.fill_(7)
    assert (sent[20_000:] == 7).all()
    assert not sent[:20_000].any()
    second, copy_of_it = travel(sent)  # the slot is the main process's now
    assert second != number
    assert torch.equal(copy_of_it, sent)


def test_memory_is_lent_again_when_nobody_holds_it(worker: None) -> None:
    """A slot is held by any view in either process, and free after the last."""
    sent = lent_tensor(1)
    number, arrived = travel(sent)
    views: list[Any] = [sent.numpy()[5:], arrived[3:].view(torch.int8)]
    del sent, arrived
    while views:
        other = lent_tensor(2)
        assert travel(other)[0] != number
        assert [int(view[-1]) for view in views] == [1] * len(views)
        views.pop()
    assert travel(lent_tensor(3))[0] == number


def test_a_fork_gives_nothing_back(worker: None) -> None:
    """What another process drops that inherited a batch, the main process keeps."""
    number, arrived = travel(lent_tensor(1))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=ring._received[next(iter(ring._received))].give_back, args=(number,))
    process.start()
    process.join()
    assert travel(lent_tensor(2))[0] != number
    assert int(arrived.max()) == 1


def test_what_a_fork_has_is_not_used_again(worker: None) -> None:
    """A child that inherited a batch sees it unchanged, whatever the parent goes on with."""
    context: Any = multiprocessing.get_context("fork")
    go_on, (here, there) = context.Event(), context.Pipe()

    def look(tensor: torch.Tensor) -> None:
        go_on.wait(60)
        there.send(set(tensor.tolist()))

    _, arrived = travel(lent_tensor(1))
    process = context.Process(target=look, args=(arrived,))
    process.start()
    del arrived
    for value in range(2, 20):
        travel(lent_tensor(value))
    go_on.set()
    assert here.recv() == {1}
    process.join()


def test_forks_do_not_use_up_a_ring(worker: None) -> None:
    """Where forks have many slots of a ring, another one takes its place, and nothing refers to it any more."""
    first, rings = travel(lent_tensor(0))[1], set()
    for value in range(1, 20):
        number, arrived = travel(lent_tensor(value))
        ring._before_fork()
        (received,) = ring._received.values()
        rings.add(id(received.arena))
        assert int(arrived.min()) == int(arrived.max()) == value
        del arrived
    assert len(ring._received) == len(ring._rings) == 1
    assert len({lender for lender, _ in ring._lent.values()}) == 1
    assert len(rings) > 3
    assert not first.any()
    assert number < 8


def test_who_holds_many_gets_copies(worker: None) -> None:
    """The main process holds four slots of a worker at most, so that the worker is never without."""
    arrived = [travel(lent_tensor(value))[1] for value in range(20)]
    assert [int(tensor[0]) for tensor in arrived] == list(range(20))
    (received,) = ring._received.values()
    assert len(received.held) == 4


def test_little_is_lent(worker: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bytes are not lent, nor more slots than there are, nor anything outside of workers."""
    assert ring.lend(1000) is None
    lent = [ring.lend(100_000) for _ in range(9)]
    assert [one is None for one in lent] == [False] * 8 + [True]
    monkeypatch.undo()
    assert ring.lend(200_000) is None


def test_slots_are_few_and_used_again() -> None:
    """However many tensors travel one after the other, a ring has one slot for them; at most eight for any number."""
    marked = torch.rand(100_000).as_subclass(ring.SharedTensor)
    numbers = set()
    for _ in range(20):
        rebuild, arguments = ring._reduce(marked)
        assert torch.equal(rebuild(*arguments), marked)
        numbers.add(arguments[1])
    assert numbers == {0}
    sent = [ring._reduce(marked) for _ in range(20)]
    assert [arguments[1] for rebuild, arguments in sent if rebuild is ring._rebuild] == list(range(8))
    for rebuild, arguments in sent[:8]:
        assert torch.equal(rebuild(*arguments), marked)
    ring._rings.clear()
    ring._received.clear()


def test_outside_of_workers_nothing_changes() -> None:
    """Nothing travels; and a marked tensor can be pickled, copied and used like any other."""
    batch = [torch.rand(100_000)]
    assert not ring.travels()
    marked = batch[0].as_subclass(ring.SharedTensor)
    for twin in (pickle.loads(pickle.dumps(marked)), copy.deepcopy(marked), marked + 0, marked[:]):
        assert torch.equal(twin, batch[0])
    assert type(marked + 0) is torch.Tensor
