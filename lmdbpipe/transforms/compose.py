"""Containers that choose: ``RandomApply``, ``RandomChoice``, ``RandomOrder`` over steps that are batched.

Images are sorted by what was chosen for them, each lot goes through its steps at once, and they are put in order again.
A container with a step that is not batched is not batched either.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lmdbpipe.transforms.batch import Batch, merge
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, Step, below, uniform
from lmdbpipe.transforms.streams import Words
from lmdbpipe.transforms.windows import Ints, axes, join


class Chain:
    """Steps one after the other, as one."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self.words = sum(step.words for step in steps)

    def infer(self, spec: Spec) -> Spec | str:
        """What comes out in the end, or why one of them is not batched."""
        for step in self.steps:
            out = step.infer(spec)
            if isinstance(out, str):
                return f"{type(step.t).__name__} is not batched: {out}"
            spec = out
        return spec

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[list[Params], Size]:
        """As `Step.decode`, with all words side by side."""
        params, first = [], 0
        for step in self.steps:
            drawn, size = step.decode(words[:, first : first + step.words], spec, size)
            params.append(drawn)
            first += step.words
            spec = step.infer(spec)  # type: ignore[assignment]
        return params, size

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[list[Any], tuple[int, int]]:
        """As `Step.draw`."""
        ones = []
        for step in self.steps:
            one, size = step.draw(spec, size)
            ones.append(one)
            spec = step.infer(spec)  # type: ignore[assignment]
        return ones, size

    def stack(self, ones: Sequence[Sequence[Any]]) -> list[Params]:
        """As `Step.stack`."""
        return [step.stack([one[i] for one in ones]) for i, step in enumerate(self.steps)]

    def apply(self, batch: Batch, params: Sequence[Params]) -> Batch:
        """Apply all."""
        for step, drawn in zip(self.steps, params, strict=True):
            batch = step.apply(batch, drawn)
        return batch


class Container(Step):
    """A transform that chooses among others.

    Its parameters are a list of lots: the places of images, and for each chain to apply, the chain and its parameters.

    Args:
        transform: torchvision's own container.
        children: The steps that each of its transforms unrolls to.
    """

    draws = True
    images = "kept"

    def __init__(self, transform: Any, children: Sequence[Sequence[Step]]) -> None:
        super().__init__(transform)
        self.chains = [Chain(child) for child in children]
        self.words = self.choosing + sum(chain.words for chain in self.chains)

    @property
    def anywhere(self) -> bool:
        """Where all its steps are."""
        return all(step.anywhere for chain in self.chains for step in chain.steps)

    def prepare(self) -> None:
        """Prepare all its steps."""
        for chain in self.chains:
            for step in chain.steps:
                step.prepare()

    choosing: int = 1
    """Words that the choice needs."""

    def accept(self, spec: Spec) -> Spec | str:
        """Only where what comes out is of one kind whatever is chosen, and no tuple."""
        outs = [chain.infer(spec) for chain in self.chains]
        reason = next((out for out in outs if isinstance(out, str)), None)
        if reason is not None:
            return reason
        if any(isinstance(out, Spec) and out.crops for out in outs):
            return "it chooses among tuples of images"
        wanted = outs[0] if self.one_of else spec
        same = all(out == wanted for out in outs)
        return wanted if same else "what comes out differs in kind by what is chosen"

    def _infer_tuple(self, spec: Spec) -> Spec | str:
        return "it chooses for tuples of images"

    one_of = False
    """Whether exactly one chain is applied."""

    def fixed(self, spec: Spec, size: Size) -> int | None:
        """It varies."""
        return None

    def choose(self, words: Words) -> list[tuple[int, ...]]:
        """Turn words uint32 [n, `choosing`] into the chains to apply, in order, for each image."""
        raise NotImplementedError

    def chosen(self) -> tuple[int, ...]:
        """Draw the chains to apply, in order, by the calls that torchvision makes."""
        raise NotImplementedError

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give lots."""
        heights, widths = (np.array(np.broadcast_to(np.asarray(extent), len(words))) for extent in axes(size))
        first = np.cumsum([self.choosing, *(chain.words for chain in self.chains)]).tolist()
        lots = []
        for picks, places in _lots(self.choose(words[:, : self.choosing])):
            at: Any = join(heights[places], widths[places])
            params = []
            for pick in picks:
                chain = self.chains[pick]
                drawn, at = chain.decode(words[places, first[pick] : first[pick] + chain.words], spec, at)
                params.append(drawn)
            heights[places], widths[places] = axes(at)
            lots.append((places, picks, params))
        return lots, join(heights, widths)

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """The chains to apply, and what each drew."""
        picks = self.chosen()
        drawn = []
        for pick in picks:
            ones, size = self.chains[pick].draw(spec, size)
            drawn.append(ones)
        return (picks, drawn), size

    def stack(self, ones: Sequence[Any]) -> Params:
        """Give lots."""
        lots = []
        for picks, places in _lots([picks for picks, _ in ones]):
            columns = [[ones[place][1][i] for place in places.tolist()] for i in range(len(picks))]
            params = [self.chains[pick].stack(column) for pick, column in zip(picks, columns, strict=True)]
            lots.append((places, picks, params))
        return lots

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Apply to each lot what was chosen for it."""
        parts = []
        for places, picks, drawn in params:
            part = batch if len(params) == 1 else batch.take(places)
            for pick, one in zip(picks, drawn, strict=True):
                part = self.chains[pick].apply(part, one)
            parts.append((places, part))
        return merge(parts)


def _lots(picks: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], Ints]]:
    """Sort places by what was picked for them."""
    lots: dict[tuple[int, ...], list[int]] = {}
    for place, pick in enumerate(picks):
        lots.setdefault(pick, []).append(place)
    return [(pick, np.array(places)) for pick, places in lots.items()]


class RandomApply(Container):
    """``v1.RandomApply``: all or none."""

    def __init__(self, transform: Any, children: Sequence[Sequence[Step]]) -> None:
        super().__init__(transform, [[step for child in children for step in child]])

    def choose(self, words: Words) -> list[tuple[int, ...]]:
        """Not where ``p < torch.rand(1)``."""
        off = uniform(words[:, 0]) > float(np.float32(self.t.p))
        return [() if skip else (0,) for skip in off.tolist()]

    def chosen(self) -> tuple[int, ...]:
        """By one ``torch.rand``."""
        return () if self.t.p < torch.rand(1) else (0,)


class RandomApplyV2(RandomApply):
    """``v2.RandomApply``."""

    def choose(self, words: Words) -> list[tuple[int, ...]]:
        """Where ``torch.rand(1) < p``."""
        return [(0,) if on else () for on in below(words[:, 0], self.t.p, as_tensor=True).tolist()]

    def chosen(self) -> tuple[int, ...]:
        """By one ``torch.rand``."""
        return () if torch.rand(1) >= self.t.p else (0,)


class RandomChoice(Container):
    """``v1.RandomChoice``: one of them, by weight."""

    one_of = True

    def choose(self, words: Words) -> list[tuple[int, ...]]:
        """By where a uniform number falls among the sums of weights."""
        weights = np.ones(len(self.chains)) if self.t.p is None else np.asarray(self.t.p, np.float64)
        sums = np.cumsum(weights) / weights.sum()
        picked = np.searchsorted(sums, uniform(words[:, 0]), side="right").clip(0, len(sums) - 1)
        return [(pick,) for pick in picked.tolist()]

    def chosen(self) -> tuple[int, ...]:
        """By ``random.choices``."""
        return (random.choices(range(len(self.chains)), weights=self.t.p)[0],)


class RandomChoiceV2(RandomChoice):
    """``v2.RandomChoice``."""

    def chosen(self) -> tuple[int, ...]:
        """By ``torch.multinomial``."""
        return (int(torch.multinomial(torch.tensor(self.t.p), 1)),)


class RandomOrder(Container):
    """``v1.RandomOrder``: all, in a random order."""

    def __init__(self, transform: Any, children: Sequence[Sequence[Step]]) -> None:
        self.choosing = len(children)
        super().__init__(transform, children)

    def choose(self, words: Words) -> list[tuple[int, ...]]:
        """By the order of as many words."""
        return [tuple(row) for row in np.argsort(words, axis=1, kind="stable").tolist()]

    def chosen(self) -> tuple[int, ...]:
        """By ``random.shuffle``."""
        order = list(range(len(self.chains)))
        random.shuffle(order)
        return tuple(order)


class RandomOrderV2(RandomOrder):
    """``v2.RandomOrder``."""

    def chosen(self) -> tuple[int, ...]:
        """By ``torch.randperm``."""
        return tuple(torch.randperm(len(self.chains)).tolist())
