"""Where a reader stands in an epoch's order, as a few integers that go through JSON.

For all ranks in step, and one worker each, a state is one number: the position, how many samples of the global order
are consumed. Several workers of a rank progress apart; each one's state then also says what it is a share of. `merge`
turns shares into a position, or into the few ranges that remain.

The state of an epoch over 10**9 samples takes about 250 bytes, beside the file's fingerprint. It grows by two numbers
for each rank and worker where epochs dealt without a ``batch_size`` are interrupted and dealt again.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lmdbpipe.checks import flag, whole
from lmdbpipe.errors import ConfigError, StateError
from lmdbpipe.order.base import BaseOrder
from lmdbpipe.order.dealing import Dealing, Uneven
from lmdbpipe.order.segments import LENGTH_LIMIT, Segments, count, make_segments

STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Share:
    """How far one worker of one rank is: ``done`` of its own batches, or samples without a ``batch_size``.

    The other fields are those of the `Dealing` it reads.
    """

    done: int
    batch_size: int | None
    world_size: int
    rank: int
    num_workers: int
    worker: int
    uneven: Uneven
    drop_last: bool

    @classmethod
    def of(cls, dealing: Dealing, done: int) -> Share:
        """Return the share of a worker that has taken ``done`` items of its dealing."""
        names = [field.name for field in fields(cls) if field.name != "done"]
        return cls(done=operator.index(done), **{name: getattr(dealing, name) for name in names})

    def dealing(self, length: int, remaining: Segments) -> Dealing:
        """Return the dealing that this is a share of."""
        settings = asdict(self)
        del settings["done"]
        return Dealing(length=length, remaining=remaining, **settings)


@dataclass(frozen=True, kw_only=True)
class OrderState:
    """Where a reader stands. Make one by `start` and `after`, load one by `from_json_dict`.

    Attributes:
        fingerprint: Says which file, or files, the order is over.
        order: Says how the order is made: `BaseOrder.describe`.
        length: Number of samples of the epoch.
        seed: The order's seed.
        epoch: The order's epoch.
        remaining: What remained of the epoch when it was last dealt; in a state without ``share``, what remains now.
        share: What one of several workers has taken of ``remaining``; None where the state speaks for everyone.
        finished: Whether the reader reached the end of the epoch, so that `next_epoch` comes next.

    Raises:
        StateError: A value is of the wrong type or out of its range.
    """

    fingerprint: str
    order: str
    length: int
    seed: int
    epoch: int
    remaining: Segments
    share: Share | None = None
    finished: bool = False

    def __post_init__(self) -> None:
        try:
            self._check()
        except ConfigError as error:
            raise StateError(f"the state is damaged: {error}") from error

    def _check(self) -> None:
        for name in ("fingerprint", "order"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} must be a string, not {getattr(self, name)!r}")
        whole("length", self.length, 0, LENGTH_LIMIT)
        whole("seed", self.seed, None)
        whole("epoch", self.epoch, 0, 2**64 - 1)
        object.__setattr__(self, "remaining", make_segments(self.remaining, self.length))
        flag("finished", self.finished)
        if self.share is not None:
            total = len(self.share.dealing(self.length, self.remaining))
            whole("done", self.share.done, total if self.finished else 0, total)
        elif self.finished and self.remaining:
            raise ConfigError(f"a finished epoch has no positions left, but {self.remaining} remain")

    @classmethod
    def start(cls, order: BaseOrder, *, fingerprint: str) -> OrderState:
        """Return the state of a reader that has not begun."""
        return cls(
            fingerprint=fingerprint,
            order=order.describe(),
            length=order.length,
            seed=order.seed,
            epoch=order.epoch,
            remaining=((0, order.length),),
        )

    @property
    def position(self) -> int:
        """How many samples of the epoch's order were consumed when it was last dealt; without ``share``, by now."""
        return self.length - count(self.remaining)

    def after(self, dealing: Dealing, done: int, *, finished: bool = False) -> OrderState:
        """Return the state of a worker that has taken ``done`` items of its dealing (batches, or single samples).

        Args:
            dealing: What the worker reads.
            done: How many of its own items it has given out, from the beginning of the dealing.
            finished: Whether it was asked for one more and had none.

        Raises:
            StateError: ``done`` is not from 0 to ``len(dealing)``, or ``finished`` too early.
        """
        share = replace(self, remaining=dealing.segments, share=Share.of(dealing, done), finished=finished)
        # With one worker a rank, and equally many batches on each, every rank knows how far all of them are.
        if dealing.batch_size is None or dealing.num_workers > 1 or dealing.uneven == "allow":
            return share
        remaining = () if finished else dealing.remaining_after(done)
        return replace(self, remaining=remaining, share=None, finished=finished)

    def next_epoch(self) -> OrderState:
        """Return the state at the beginning of the following epoch."""
        return replace(self, epoch=self.epoch + 1, remaining=((0, self.length),), share=None, finished=False)

    def restore(self, order: BaseOrder, *, fingerprint: str) -> BaseOrder:
        """Return ``order`` with the seed and epoch of this state.

        Raises:
            StateError: The state is of another file, or of an order made in another way.
        """
        given = {"file": self.fingerprint, "length": self.length, "order": self.order}
        here = {"file": fingerprint, "length": order.length, "order": order.describe()}
        for name, value in given.items():
            if value != here[name]:
                raise StateError(f"the state is of another {name}: it has {value!r}, the reader {here[name]!r}")
        same = (order.seed, order.epoch) == (self.seed, self.epoch)
        return order if same else replace(order, seed=self.seed, epoch=self.epoch)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the state as strings, integers, booleans, None and lists of them, all new objects.

        ``remaining`` is None where it is all from ``position`` on.
        """
        tail = make_segments([(self.position, self.length)], self.length)
        remaining = None if self.remaining == tail else [list(pair) for pair in self.remaining]
        return {
            "version": STATE_VERSION,
            "fingerprint": self.fingerprint,
            "order": self.order,
            "length": self.length,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "finished": self.finished,
            "remaining": remaining,
            "share": None if self.share is None else asdict(self.share),
        }

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any]) -> OrderState:
        """Return the state that `to_json_dict` wrote.

        Raises:
            StateError: The state is damaged, or of a newer version.
        """
        if not isinstance(data, Mapping):
            raise StateError(f"the state is damaged: it must be a mapping, not {type(data).__name__}")
        version = data.get("version")
        if type(version) is int and version > STATE_VERSION:
            raise StateError(f"the state is of version {version}, newer than {STATE_VERSION}: use a newer lmdbpipe")
        expected = {field.name for field in fields(cls)} | {"version", "position"}
        if type(version) is not int or version != STATE_VERSION:
            raise StateError(f"the state is damaged: its version must be {STATE_VERSION}, not {version!r}")
        if set(data) != expected:
            raise StateError(f"the state is damaged: it must hold {sorted(expected)}, not {list(data)}")
        settings = {name: data[name] for name in expected - {"version", "position"}}
        try:
            position = whole("position", data["position"], 0, whole("length", data["length"], 0, LENGTH_LIMIT))
            if settings["remaining"] is None:
                settings["remaining"] = [(position, data["length"])]
            if settings["share"] is not None:
                settings["share"] = Share(**settings["share"])
            state = cls(**settings)
        except (ConfigError, TypeError) as error:
            raise StateError(f"the state is damaged: {error}") from error
        if state.position != position:
            raise StateError(f"the state is damaged: it is at position {position}, but {state.remaining} remain")
        return state
