"""Records with transforms: samples and batches as users get them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from lmdbpipe.codecs.array import ArrayCodec
from lmdbpipe.codecs.image import ImageCodec
from lmdbpipe.collate import collate
from lmdbpipe.records import Indices, Records, as_list
from lmdbpipe.seeding import preserved, seed_all
from lmdbpipe.structure import get
from lmdbpipe.wrapped import Step, apply

Steps: TypeAlias = tuple[Step, ...]
StepsFor: TypeAlias = Callable[[int], Steps]
"""The transforms that now act on a sample, by its index."""

_PROBED_CHUNKS = 64


class Pipeline:
    """Reads samples and applies transforms to them.

    Args:
        records: Where samples come from.
        steps_for: The transforms that act on a sample; asked anew for every sample, since users may change them.
        collate_fn: Makes a batch of a list of samples; None collates as `lmdbpipe.collate` does.
    """

    def __init__(self, records: Records, steps_for: StepsFor, collate_fn: Callable[[list[Any]], Any] | None = None) -> None:
        self.records = records
        self.steps_for = steps_for
        self.collate_fn = collate_fn
        self._probed: dict[Steps, list[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"records": self.records, "steps_for": self.steps_for, "collate_fn": self.collate_fn, "_probed": {}}

    def seeded_samples(self, indices: Indices, seed: int, epoch: int) -> list[Any]:
        """Read samples; what transforms draw depends on the seed, the epoch and the sample's index alone."""
        with preserved():
            samples = []
            for index in as_list(indices):
                steps = self.steps_for(index)
                sample = self.records.sample(index)
                if steps:
                    seed_all(seed, epoch, index)
                    sample = apply(steps, sample)
                samples.append(sample)
        return samples

    def batch(self, indices: Indices, seed: int, epoch: int) -> Any:
        """Read a batch; what transforms draw depends on the seed, the epoch and the samples' indices alone."""
        if self.collate_fn is not None:
            return self.collate_fn(self.seeded_samples(indices, seed, epoch))
        routes = self._routes(indices)
        if len(routes) > 1:
            samples = self.seeded_samples(indices, seed, epoch)
            return collate(samples, samples)
        (steps,) = routes
        if not steps:
            return self.records.batch(indices)
        return self._collate(self.seeded_samples(indices, seed, epoch), indices, steps)

    def _routes(self, indices: Indices) -> set[Steps]:
        """The different transforms that act on some samples."""
        if getattr(self.steps_for, "uniform", False):
            indices = indices[:1]
        return {self.steps_for(index) for index in as_list(indices)} or {()}

    def _collate(self, samples: Sequence[Any], indices: Indices, steps: Steps) -> Any:
        """Collate what transforms gave; what they did not touch is read as a batch."""
        touched = [path for step in steps for path in step.paths]
        structure = self.records.schema.structure
        inner = [path for path in touched if path not in structure.paths]
        if inner:
            return collate(samples, self._probes(steps))
        leaves = []
        for leaf, path in enumerate(structure.paths):
            if path in touched:
                probes = [get(probe, path) for probe in self._probes(steps)]
                leaves.append(collate([get(sample, path) for sample in samples], probes))
            else:
                leaves.append(self.records.leaf_batch(leaf, indices))
        return structure.unflatten_batch(leaves)

    def _probes(self, steps: Steps) -> list[Any]:
        """Transform a few samples whose sizes differ most, to see what the transforms make equal."""
        if steps not in self._probed:
            with preserved():
                seed_all(0)
                self._probed = {steps: [apply(steps, self.records.sample(i)) for i in self._extremes()]}
        return self._probed[steps]

    def _extremes(self) -> list[int]:
        """Find samples of the smallest and largest size and proportion, for each leaf whose size varies."""
        records, found = self.records, set()
        count = min(len(records), _PROBED_CHUNKS * records.chunk_length)
        for leaf, codec in enumerate(records.schema.codecs):
            if not isinstance(codec, ImageCodec | ArrayCodec) or codec.dense() is not None:
                continue
            shapes = np.array([shape for shape in itertools.islice(records.shapes(leaf), count)])
            for key in (shapes.prod(axis=1), shapes[:, 0] / np.maximum(shapes[:, -1], 1)):
                found |= {int(key.argmin()), int(key.argmax())}
        return sorted(found)
