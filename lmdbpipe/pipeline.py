"""Records with transforms: batches as users get them.

Transforms of images are lowered to batched ones; whatever else is done to a sample is done one sample at a time. What
transforms draw depends on the seed, the epoch and the sample's key alone, in either way: its index, or another number
where a sample occurs more than once in an epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms import Compose

from lmdbpipe.checks import flag, whole
from lmdbpipe.codecs import ImageCodec
from lmdbpipe.codecs.array import ArrayCodec
from lmdbpipe.collate import collate
from lmdbpipe.device import Device, find_device
from lmdbpipe.records import Indices, Records, as_list
from lmdbpipe.ring import travels
from lmdbpipe.seeding import preserved, seed_all
from lmdbpipe.structure import Path, get
from lmdbpipe.transforms import CounterDraws, Draws, Lowered, Tuples, lower
from lmdbpipe.wrapped import Step, Transform, apply, touched

Steps: TypeAlias = tuple[Step, ...]
StepsFor: TypeAlias = Callable[[int], Steps]
"""The transforms that now act on a sample, by its index. Where it has a true `uniform`, all samples have the same."""

Keys: TypeAlias = npt.NDArray[np.int64] | None
"""What a sample draws is a function of, int64 ``[n]``; None for the indices, where no sample occurs twice."""

_PROBED_CHUNKS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How batches are read and transformed.

    Attributes:
        lower: Whether transforms of images are batched where they can be.
        exact: Whether lowered transforms must give torchvision's bits; if not, resizing may differ where it is faster.
        num_threads: Threads that read and transform batches ahead; 0 does it when the next one is asked for.
        device: Where batches go, and where lowered steps compute; None leaves them in the CPU's memory.
    """

    lower: bool = True
    exact: bool = True
    num_threads: int = 0
    device: Device | None = None

    def __post_init__(self) -> None:
        flag("lower", self.lower)
        flag("exact", self.exact)
        object.__setattr__(self, "num_threads", whole("num_threads", self.num_threads))
        object.__setattr__(self, "device", find_device(self.device))

    @property
    def torch_device(self) -> torch.device | None:
        """Where batches go, as torch knows it."""
        return None if self.device is None else torch.device(self.device)


class Pipeline:
    """Reads batches and applies transforms to them.

    Args:
        records: Where samples come from.
        steps_for: The transforms that act on a sample; asked anew for every batch, since users may change them.
        collate_fn: Makes a batch of a list of samples; None collates as `lmdbpipe.collate` does.
        options: How.
    """

    def __init__(
        self,
        records: Records,
        steps_for: StepsFor,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        options: ReadOptions | None = None,
    ) -> None:
        self.records = records
        self.steps_for = steps_for
        self.collate_fn = collate_fn
        self.options = options or ReadOptions()
        self._probed: dict[Any, tuple[Steps, list[Any]]] = {}
        self._lowered: dict[tuple[int, ...], Lowered] = {}
        if len(records):
            self._prepare(steps_for(0))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_probed": {}, "_lowered": {}}

    @property
    def is_plain(self) -> bool:
        """Whether batches are those of the records, whoever changes what: nothing transforms, and nothing collates."""
        return self.collate_fn is None and getattr(self.steps_for, "steps", None) == ()

    def seeded_samples(self, indices: Indices, seed: int, epoch: int, keys: Keys = None) -> list[Any]:
        """Read samples one by one."""
        samples = []
        with contextlib.ExitStack() as generators:
            untaken = True
            for index, key in zip(as_list(indices), as_list(indices if keys is None else keys), strict=True):
                steps = self.steps_for(index)
                sample = self.records.sample(index, touched(steps))
                if steps:
                    if untaken:
                        generators.enter_context(preserved())
                        untaken = False
                    seed_all(seed, epoch, key)
                    sample = apply(steps, sample)
                samples.append(sample)
        return samples

    def batch(self, indices: Indices, seed: int, epoch: int, keys: Keys = None) -> Any:
        """Read a batch."""
        if self.collate_fn is not None:
            return self.collate_fn(self.seeded_samples(indices, seed, epoch, keys))
        if getattr(self.steps_for, "uniform", False) or not len(indices):
            steps = self.steps_for(int(indices[0])) if len(indices) else ()
        else:
            routes: dict[Any, tuple[Steps, list[int]]] = {}
            for row, own in enumerate(map(self.steps_for, as_list(indices))):
                routes.setdefault(_identity(own), (own, []))[1].append(row)
            if len(routes) > 1:
                samples = self._mixed(list(routes.values()), indices, seed, epoch, keys)
                return collate(samples, samples)
            ((steps, _),) = routes.values()
        if not steps:
            return self.records.batch(indices)
        if self.options.lower and (chains := self.chains(steps)):
            return self._by_leaf(steps, chains, indices, seed, epoch, indices if keys is None else keys)
        samples = self.seeded_samples(indices, seed, epoch, keys)
        if any(path not in self.records.schema.structure.paths for path in touched(steps)):
            return collate(samples, self._probes(steps))
        return self._collate(samples, indices, steps)

    def threads(self, wanted: int) -> int:
        """How many threads may read: none, with a warning, if they shared the global generators with the caller.

        That is so if something has no batched form, as is seen for a few samples: it may draw from these, so they are
        seeded before and put back afterwards, and what the caller draws in between would be lost. But not in a loader's
        worker, where nobody else draws.
        """
        if not wanted or travels() or not len(self.records):
            return wanted
        last = len(self.records) - 1
        some = (0,) if getattr(self.steps_for, "uniform", False) else (0, last // 2, last)
        if not any(self._takes_generators(self.steps_for(index), index) for index in some):
            return wanted
        warnings.warn(
            "no threads read ahead: a step without a batched form may draw from the global random generators, which "
            "they would share with this one. Use worker processes, or num_threads=0",
            stacklevel=2,
        )
        return 0

    def _takes_generators(self, steps: Steps, index: int) -> bool:
        """Whether what is done to a sample seeds the global generators; looks at sizes that threads would ask for."""
        if not steps:
            return False
        structure, codecs = self.records.schema.structure, self.records.schema.codecs
        chains = self.chains(steps) if self.options.lower and self.collate_fn is None else None
        if chains is None or not all(isinstance(codecs[structure.paths.index(path)], ImageCodec) for path in chains):
            return True
        sample = self.records.sample(index, touched(steps))
        with preserved(), contextlib.suppress(Exception):  # which is raised where the sample is read
            if any(self._lower(chain).takes_generators(get(sample, path)) for path, chain in chains.items()):
                return True
            self._probes(steps)
        return False

    def lowered_images(self, leaf: int, chain: Sequence[Transform], indices: Indices, draws: Draws) -> Any:
        """Read images and apply transforms to them in batches: a tensor, or a list where results differ.

        Batched steps compute on the options' device, as far as no other one follows them.
        """
        images: Any = self.records.raw_images(leaf, indices)
        if images is None:
            images = self.records.images(leaf, indices)
        return self._lower(chain)(images, draws, device=self.options.torch_device)

    def chains(self, steps: Steps) -> dict[Path, list[Transform]] | None:
        """The transforms of each leaf; None if one acts on several together, or on something that is not a leaf."""
        chains: dict[Path, list[Transform]] = {}
        for function, paths in steps:
            if len(paths) != 1 or paths[0] not in self.records.schema.structure.paths:
                return None
            chains.setdefault(paths[0], []).append(function)
        return chains

    def _by_leaf(
        self, steps: Steps, chains: dict[Path, list[Transform]], indices: Indices, seed: int, epoch: int, keys: Indices
    ) -> Any:
        """Read a batch, each leaf by itself."""
        leaves = []
        for leaf, (path, codec) in enumerate(
            zip(self.records.schema.structure.paths, self.records.schema.codecs, strict=True)
        ):
            if path not in chains:
                leaves.append(self.records.leaf_batch(leaf, indices))
                continue
            values = self._transformed(leaf, chains[path], indices, seed, epoch, keys)
            probes = [] if codec.dense() is not None else [get(probe, path) for probe in self._probes(steps)]
            if isinstance(values, torch.Tensor):
                leaves.append(list(values.unbind(0)) if _shapes_differ(probes) else values)
            elif isinstance(values, Tuples):
                leaves.append(list(values.batches))
            else:
                leaves.append(collate(values, probes))
        return self.records.schema.structure.unflatten_batch(leaves)

    def _mixed(
        self, routes: Sequence[tuple[Steps, list[int]]], indices: Indices, seed: int, epoch: int, keys: Keys
    ) -> list[Any]:
        """Read samples with different transforms: those that share theirs together, by their places among all."""
        structure, given = self.records.schema.structure, np.asarray(indices)
        samples: list[Any] = [None] * len(indices)
        for steps, rows in routes:
            some, own = given[rows], given[rows] if keys is None else keys[rows]
            chains = self.chains(steps) if self.options.lower else None
            if chains is None:
                found = self.seeded_samples(some, seed, epoch, own)
            else:
                leaves = [
                    self._transformed(leaf, chains[path], some, seed, epoch, own)
                    if path in chains
                    else self.records.listed(leaf, some)
                    for leaf, path in enumerate(structure.paths)
                ]
                found = [structure.unflatten([values[row] for values in leaves]) for row in range(len(rows))]
            for row, sample in zip(rows, found, strict=True):
                samples[row] = sample
        return samples

    def _transformed(
        self, leaf: int, chain: Sequence[Transform], indices: Indices, seed: int, epoch: int, keys: Indices
    ) -> Any:
        """Apply transforms to a leaf: a tensor, tuples of images, or a list. What they draw is the leaf's own."""
        if isinstance(self.records.schema.codecs[leaf], ImageCodec):
            return self.lowered_images(leaf, chain, indices, CounterDraws(seed % 2**64, epoch, np.asarray(keys), leaf))
        values = self.records.listed(leaf, indices)
        with preserved():
            for row, key in enumerate(as_list(keys)):
                seed_all(seed, epoch, key, leaf)
                for function in chain:
                    values[row] = function(values[row])
        return values

    def _prepare(self, steps: Steps) -> None:
        """Do before workers are forked what each of them would begin with."""
        if not self.options.lower or self.options.device is not None or self.collate_fn is not None:
            return
        for path, chain in (self.chains(steps) or {}).items():
            codec = self.records.schema.codecs[self.records.schema.structure.paths.index(path)]
            if isinstance(codec, ImageCodec):
                self._lower(chain).prepare()

    def _lower(self, chain: Sequence[Transform]) -> Lowered:
        """Lower transforms that follow each other, as one: each draws numbers of its own."""
        key = tuple(map(id, chain))
        found = self._lowered.get(key)
        if found is None:
            if len(self._lowered) > 16:
                self._lowered = {}
            one = chain[0] if len(chain) == 1 else Compose(list(chain))  # which holds them, so that ids stay theirs
            found = self._lowered[key] = lower(one, exact=self.options.exact)
        return found

    def _collate(self, samples: Sequence[Any], indices: Indices, steps: Steps) -> Any:
        """Collate what transforms gave; what they did not touch is read as a batch."""
        structure = self.records.schema.structure
        leaves = []
        for leaf, path in enumerate(structure.paths):
            if path in touched(steps):
                probes = [get(probe, path) for probe in self._probes(steps)]
                leaves.append(collate([get(sample, path) for sample in samples], probes))
            else:
                leaves.append(self.records.leaf_batch(leaf, indices))
        return structure.unflatten_batch(leaves)

    def _probes(self, steps: Steps) -> list[Any]:
        """Transform a few samples whose sizes differ most, to see what the transforms make equal."""
        found = self._probed.get(_identity(steps))
        if found is None:
            with preserved():
                seed_all(0)
                samples = (self.records.sample(index, touched(steps)) for index in self._extremes())
                found = steps, [apply(steps, sample) for sample in samples]
            if len(self._probed) > 16:
                self._probed = {}
            self._probed[_identity(steps)] = found  # it holds the transforms, so that no others get their ids
        return found[1]

    def _extremes(self) -> list[int]:
        """Find samples of the smallest and largest size and proportion, for each leaf whose size varies."""
        records, found = self.records, set()
        count = min(len(records), _PROBED_CHUNKS * records.chunk_length)
        for leaf, codec in enumerate(records.schema.codecs):
            if not isinstance(codec, ImageCodec | ArrayCodec) or codec.dense() is not None:
                continue
            shapes = np.array(list(itertools.islice(records.shapes(leaf), count))).reshape(count, -1)
            first, last = shapes[:, :1], shapes[:, -1:]
            for key in (shapes.prod(axis=1), (first / np.maximum(last, 1)).sum(axis=1)):
                found |= {int(key.argmin()), int(key.argmax())}
        return sorted(found)


def _identity(steps: Steps) -> Any:
    """What tells transforms apart: users' own need not be hashable."""
    return tuple((id(function), paths) for function, paths in steps)


def _shapes_differ(probes: Sequence[Any]) -> bool:
    return len({getattr(probe, "shape", None) for probe in probes}) > 1
