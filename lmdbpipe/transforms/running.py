"""Applying steps to batches, the longest runs of them at once.

For a batch, runs of steps that are batched for such images (`Spec`) are applied at once; the others get one sample
after the other, as the object that torchvision would have given them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.crops import Crops, run
from lmdbpipe.transforms.draws import Draws
from lmdbpipe.transforms.gather import near
from lmdbpipe.transforms.groups import Images, Leaf, batches_of, grouped, size_of
from lmdbpipe.transforms.step import Params, Spec, Step, spec_of
from lmdbpipe.transforms.streams import torch_words, torch_words_known
from lmdbpipe.transforms.windows import Ints


class Runner:
    """Steps one after the other, containers unrolled.

    Args:
        steps: What to apply. What they are batched for is remembered, so their transforms must stay as they are but for
            what they draw and compute with.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self._first = np.concatenate([[0], np.cumsum([step.words for step in steps])]).tolist()
        self._unbatched = functools.lru_cache(maxsize=256)(self._find_unbatched)
        self._first_far = functools.lru_cache(maxsize=256)(self._find_first_far)

    def __call__(self, images: Images, draws: Draws, device: torch.device | None) -> list[Leaf]:
        """Transform a batch of at least one image."""
        if isinstance(images, torch.Tensor) and not near(images.device) and not all(s.anywhere for s in self.steps):
            images = list(images)  # which torchvision transforms where they are, one at a time
        return self._replay(images, draws, device) if draws.in_order else self._count(images, draws, device)

    # Draws that do not depend on order: as far as possible at once, then the next step one at a time, and so on.

    def _count(self, images: Images, draws: Draws, device: torch.device | None) -> list[Leaf]:
        leaves: list[Leaf] = []
        pending: list[tuple[Ints, Batch | Crops | list[Any], int]] = [(*group, 0) for group in batches_of(images)]
        while pending:
            places, batch, begin = pending.pop()
            if isinstance(batch, list):
                end, samples = begin, batch
            else:
                end = self._unbatched(begin, batch.spec)
                far = self._first_far(begin, batch.spec) if device is not None else None
                first = self._first[begin]
                words = draws.words(places, first, self._first[end] - first)
                for number in range(begin, end):
                    step, at = self.steps[number], self._first[number] - first
                    if device is not None and number == far:
                        batch = batch.bound_for(device)
                    params, _ = step.decode(words[:, at : at + step.words], batch.spec, batch.size)
                    batch = run(step, batch, params)
                if end == len(self.steps):
                    leaves.append(Leaf(places, batch))
                    continue
                samples = batch.samples()
            if end == len(self.steps):
                leaves.append(Leaf(places, samples))
                continue
            transform = self.steps[end].t
            if self.steps[end].draws:
                with closing(draws.own(places, self._first[end])) as own:  # type: ignore[type-var]
                    results = [transform(sample) for sample, _ in zip(samples, own, strict=True)]
            else:
                results = list(map(transform, samples))
            pending += [(places[rows], group, end + 1) for rows, group in grouped(results)]
        return leaves

    # Draws in torchvision's order: per sample, all that is not batched and then the parameters of what is.

    def _replay(self, images: Images, draws: Draws, device: torch.device | None) -> list[Leaf]:
        count = len(images)
        batches = batches_of(images)
        if len(batches) == 1 and isinstance(batches[0][1], Batch):
            places, batch = batches[0]
            assert isinstance(batch, Batch)
            params = self._replay_words(batch) if self._unbatched(0, batch.spec) == len(self.steps) else None
            if params is not None:
                return [Leaf(places, self._apply(batch, 0, params, device))]
        where = {int(place): (group, i) for group in batches for i, place in enumerate(group[0])}
        tails: dict[tuple[int, Spec | None], list[tuple[int, Any, list[Any]]]] = {}
        for place in range(count):
            (_, batch), i = where[place]
            tail, sample, spec = self._replay_head(batch, i)
            ones: list[Any] = []
            if spec is not None:
                size = sample.size if isinstance(sample, Batch) else size_of(sample)
                at = spec
                for step in self.steps[tail:]:
                    one, size = step.draw(at, size)
                    ones.append(one)
                    at = step.infer(at)  # type: ignore[assignment]
            tails.setdefault((tail, spec), []).append((place, sample, ones))
        leaves = []
        for (tail, spec), members in tails.items():
            places = np.array([place for place, _, _ in members])
            if spec is None:
                leaves.append(Leaf(places, [sample for _, sample, _ in members]))
                continue
            if tail == 0:
                group, _ = where[int(places[0])]
                order = {int(place): i for i, place in enumerate(group[0])}
                assert isinstance(group[1], Batch)
                batch = group[1].take(np.array([order[int(place)] for place in places]))
            else:
                batch = Batch.of_samples(spec, [sample for _, sample, _ in members])
            columns = zip(*(ones for _, _, ones in members), strict=True)
            params = [step.stack(column) for step, column in zip(self.steps[tail:], columns, strict=False)]
            leaves.append(Leaf(places, self._apply(batch, tail, params, device)))
        return leaves

    def _replay_head(self, batch: Batch | list[Any], i: int) -> tuple[int, Any, Spec | None]:
        """Apply all steps of one sample up to the last that is not batched; give the next, the sample and its spec."""
        if isinstance(batch, Batch):
            end, spec = self._unbatched(0, batch.spec), batch.spec
            if end == len(self.steps):
                return 0, batch.take(np.array([i])), spec
            sample = batch.take(np.array([i])).samples()[0]
        else:
            end, sample = 0, batch[i]
        begin = 0
        while begin < len(self.steps):
            for step in self.steps[begin : end + 1]:
                sample = step.t(sample)
            begin = end + 1
            spec = spec_of(sample)
            end = begin if spec.kind == "object" else self._unbatched(begin, spec)
            if spec.kind != "object" and end == len(self.steps):
                return begin, sample, spec
        return begin, sample, None

    def _replay_words(self, batch: Batch) -> list[Params] | None:
        """Draw for a whole batch at once, where each sample takes the same number of words of torch's generator."""
        plain = torch.get_default_dtype() == torch.float32 and torch.get_default_device().type == "cpu"
        if not plain or not torch_words_known():
            return None
        spec, size, counts = batch.spec, batch.size, []
        sized = np.empty((len(batch), 0), np.uint32)
        for step in self.steps:
            count = step.fixed(spec, size)
            if count is None:
                return None
            counts.append(count)
            size = step.extent(spec, size)
            spec = step.infer(spec)  # type: ignore[assignment]
        words = torch_words(len(batch) * sum(counts)).reshape(len(batch), -1) if sum(counts) else sized
        params, spec, size, first = [], batch.spec, batch.size, 0
        for step, count in zip(self.steps, counts, strict=True):
            drawn, size = step.decode(words[:, first : first + count], spec, size)
            params.append(drawn)
            first += count
            spec = step.infer(spec)  # type: ignore[assignment]
        return params

    def _apply(
        self, batch: Batch | Crops, begin: int, params: Sequence[Params], device: torch.device | None
    ) -> Batch | Crops:
        far = self._first_far(begin, batch.spec) if device is not None else None
        for number, drawn in enumerate(params, begin):
            if device is not None and number == far:
                batch = batch.bound_for(device)
            batch = run(self.steps[number], batch, drawn)
        return batch

    def _find_unbatched(self, begin: int, spec: Spec) -> int:
        """The first step at or after ``begin`` that is not batched for such images; the number of steps if all are."""
        if spec.kind == "object":
            return begin
        for number in range(begin, len(self.steps)):
            out = self.steps[number].infer(spec)
            if isinstance(out, str):
                return number
            spec = out
        return len(self.steps)

    def _find_first_far(self, begin: int, spec: Spec) -> int | None:
        """The first step from which on pixels may be on another device; None if the CPU needs them in the end."""
        if self._unbatched(begin, spec) < len(self.steps):
            return None
        for step in self.steps[begin:]:
            spec = step.infer(spec)  # type: ignore[assignment]
        needing = [number for number, step in enumerate(self.steps) if not step.anywhere]
        return max([begin, *(number + 1 for number in needing)]) if spec.kind == "tensor" else None
