"""Turn a torchvision transform into a batched pipeline that gives the same bits.

The transform is flattened to steps. For a batch, the longest runs of steps that are batched for such images (`Spec`)
are applied at once; the others get one sample after the other, as the object that torchvision would have given them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.compose import Container
from lmdbpipe.transforms.crops import Crops, run
from lmdbpipe.transforms.draws import Draws, ReplayDraws
from lmdbpipe.transforms.groups import Images, Leaf, batches_of, collect, grouped, size_of
from lmdbpipe.transforms.opaque import Opaque
from lmdbpipe.transforms.step import Params, Spec, Step, spec_of
from lmdbpipe.transforms.streams import torch_words, torch_words_known
from lmdbpipe.transforms.table import TABLE
from lmdbpipe.transforms.windows import Ints

_OVERRIDES = ("__call__", "forward", "get_params", "make_params", "transform")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Lowered:
    """A transform in batched form. Made by `lower`; safe to call from several threads.

    Attributes:
        transform: What was lowered.
        steps: Its steps, containers of steps unrolled.
        exact: Whether resizing gives the same bits as PIL.
    """

    def __init__(self, transform: Any, steps: Sequence[Step], *, exact: bool) -> None:
        self.transform = transform
        self.steps = tuple(steps)
        self.exact = exact
        self._first = np.concatenate([[0], np.cumsum([step.words for step in steps])]).tolist()
        self._unbatched = functools.lru_cache(maxsize=256)(self._find_unbatched)
        self._first_far = functools.lru_cache(maxsize=256)(self._find_first_far)

    def __repr__(self) -> str:
        batched = sum(not isinstance(step, Opaque) for step in self.steps)
        return f"Lowered({len(self.steps)} steps, {batched} of them batched)"

    def __getstate__(self) -> dict[str, Any]:
        return {"transform": self.transform, "exact": self.exact}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(lower(state["transform"], exact=state["exact"]).__dict__)

    def explain(self, mode: str = "RGB") -> str:
        """Say step by step what is batched, what is not, and why.

        Args:
            mode: The PIL mode of the images that go in.
        """
        lines, spec = [], Spec.pil(mode)
        known = True
        for number, step in enumerate(self.steps, 1):
            out = step.infer(spec) if known or isinstance(step, Opaque) else spec
            name = _name(step.t)
            if isinstance(out, str):
                lines.append(f"{number:2} {name:<28} one at a time: {out}")
                known = False
            else:
                lines.append(
                    f"{number:2} {name:<28} batched" + (f": {spec} -> {out}" if known else ", where it can be")
                )
                spec = out
        return "\n".join(lines) if lines else "no steps: images are handed on as they are"

    def prepare(self) -> None:
        """Load or compile now, once a process, what the first batch would wait for: forked processes inherit it."""
        for step in self.steps:
            step.prepare()

    def __call__(
        self, images: Images, draws: Draws | None = None, *, device: torch.device | str | None = None
    ) -> Tensor | Sequence[Any]:
        """Transform a batch.

        Args:
            images: Stored images, PIL images, tensors [C, H, W], or a tensor [n, C, H, W] on any device.
            draws: Where randomness comes from; `ReplayDraws` if not given.
            device: Where the result is to be. Pixels go over as they are stored, once they are gathered (crops and
                flips are part of that) and all steps are done that need the CPU; the others compute there.

        Returns:
            A tensor [n, ...] that the caller owns; `Tuples` where each result is a tuple of images, as ``FiveCrop``
            makes them; a list of n where sizes or types of the results differ, or where they are no tensors.
        """
        count = len(images)
        if not count:
            raise TransformError("the batch is empty; a transform needs at least one image")
        draws = ReplayDraws() if draws is None else draws
        device = None if device is None else torch.device(device)
        leaves = self._replay(images, draws, device) if draws.in_order else self._count(images, draws, device)
        return collect(leaves, count, device)

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
            with closing(draws.own(places, self._first[end])) as own:  # type: ignore[type-var]
                results = [transform(sample) for sample, _ in zip(samples, own, strict=True)]
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


def lower(transform: Callable[[Any], Any] | None, *, exact: bool = True) -> Lowered:
    """Lower a transform.

    Args:
        transform: Any torchvision transform of either generation, a container of them, or any callable of one image;
            None for none.
        exact: Whether ``Resize`` and ``RandomResizedCrop`` must give the same bits as PIL. Where numba is installed,
            that is quickest, and it makes no difference. Elsewhere PIL itself resizes, and with False torchvision's
            antialiased uint8 kernel does. On 64 photos of about 480x400 pixels, of 255 levels: bilinear
            ``RandomResizedCrop(224)`` differed by at most 1, in 2.2 % of values; ``Resize(256)`` by at most 1, in
            0.2 %; bicubic ``RandomResizedCrop(224)`` by at most 13, in 2.5 %, and by more than 1 in 0.02 %. It was
            1.9 times as fast as PIL (random resized crop, flip, to tensor and normalise). ``ColorJitter``,
            ``RandAugment`` and their like have PIL's bits either way: torchvision's tensor kernels took 1.1 to 3.2
            times PIL's time, on 32x32 and 224x224 pixels, in both generations.

    Returns:
        A batched pipeline. What has no batched form is still applied, one sample at a time.

    Example:
        >>> from torchvision import transforms as T
        >>> print(lower(T.Compose([T.RandomHorizontalFlip(), T.RandomPerspective(), T.ToTensor()])).explain())
         1 RandomHorizontalFlip         batched: PIL RGB -> PIL RGB
         2 RandomPerspective            one at a time: it has no batched form
         3 ToTensor                     batched, where it can be
    """
    return Lowered(transform, [] if transform is None else _steps(transform, exact), exact=exact)


def _steps(transform: Any, exact: bool) -> list[Step]:
    """Unroll containers."""
    if _overridden(transform):
        return [Opaque(transform, "it has hooks or replaced methods")]
    if type(transform) in (v1.Compose, v2.Compose):
        return [step for child in transform.transforms for step in _steps(child, exact)]
    if type(transform) is torch.nn.Sequential:
        return [step for child in transform for step in _steps(child, exact)]
    lowered = TABLE.get(type(transform))
    if lowered is not None:
        if issubclass(lowered, Container):
            step: Step = lowered(transform, [_steps(child, exact) for child in transform.transforms])
        else:
            step = lowered(transform)
        step.exact = exact
        return [step]
    base = next((cls for cls in type(transform).__mro__ if cls in TABLE), None)
    if base is not None:
        return [Opaque(transform, f"it is a subclass of {base.__name__}, which may do anything")]
    return [Opaque(transform, "it has no batched form")]


def _overridden(transform: Any) -> bool:
    """Whether an object does something else than its class says."""
    own = getattr(transform, "__dict__", {})
    return any(name in own for name in _OVERRIDES) or any(own.get(name) for name in _HOOKS)


def _name(transform: Any) -> str:
    return getattr(transform, "__qualname__", None) or type(transform).__qualname__
