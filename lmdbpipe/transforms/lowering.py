"""Turn a torchvision transform into a batched pipeline that gives the same bits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import _presets as presets
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.errors import TransformError
from lmdbpipe.transforms.compose import Container
from lmdbpipe.transforms.draws import Draws, ReplayDraws
from lmdbpipe.transforms.groups import Images, collect
from lmdbpipe.transforms.opaque import Opaque
from lmdbpipe.transforms.running import Runner
from lmdbpipe.transforms.step import Spec, Step, spec_of
from lmdbpipe.transforms.table import TABLE

_OVERRIDES = ("__call__", "forward", "get_params", "make_params", "transform", "_augmentation_space", "_call_kernel")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_UNROLLED = (v1.Compose, v2.Compose, torch.nn.Sequential)


class Lowered:
    """A transform in batched form. Made by `lower`; safe to call from several threads.

    Changes of the transform take effect with the next batch: of attributes, of the steps of containers.

    Attributes:
        transform: What was lowered.
        exact: Whether resizing gives the same bits as PIL.
    """

    def __init__(self, transform: Any, *, exact: bool) -> None:
        self.transform = transform
        self.exact = exact
        self._known: tuple[list[Any], Runner] | None = None

    def __repr__(self) -> str:
        batched = sum(not isinstance(step, Opaque) for step in self.steps)
        return f"Lowered({len(self.steps)} steps, {batched} of them batched)"

    def __getstate__(self) -> dict[str, Any]:
        return {"transform": self.transform, "exact": self.exact, "_known": None}

    @property
    def steps(self) -> tuple[Step, ...]:
        """The transform's steps as they are now, containers of steps unrolled."""
        return self._runner().steps

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

    def takes_generators(self, sample: Any) -> bool:
        """Whether steps that have no batched form for an image may draw from the global generators.

        Those are seeded for them. The image goes through all steps, and what is batched draws from the generators here.
        """
        for step in self.steps:
            spec = spec_of(sample)
            is_batched = spec.kind != "object" and not isinstance(step.infer(spec), str)
            if step.draws and not is_batched:
                return True
            sample = step.t(sample)
        return False

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
        device = None if device is None else torch.device(device)
        return collect(self._runner()(images, ReplayDraws() if draws is None else draws, device), count, device)

    def _runner(self) -> Runner:
        """What applies the steps; made anew when the transform has changed."""
        parts = [] if self.transform is None else _parts(self.transform)
        known = self._known
        if known is None or len(known[0]) != len(parts) or not all(map(operator.is_, known[0], parts)):
            steps = [] if self.transform is None else _steps(self.transform, self.exact)
            known = self._known = (parts, Runner(steps))
        return known[1]


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
    return Lowered(transform, exact=exact)


def _steps(transform: Any, exact: bool) -> list[Step]:
    """Unroll containers."""
    if _overridden(transform):
        return [Opaque(transform, "it has hooks or replaced methods")]
    if type(transform) is presets.ImageClassification:
        return [step for child in _classification(transform) for step in _steps(child, exact)]
    if type(transform) in _UNROLLED:
        return [step for child in _children(transform) for step in _steps(child, exact)]
    lowered = TABLE.get(type(transform))
    if lowered is not None:
        if issubclass(lowered, Container):
            step: Step = lowered(transform, [_steps(child, exact) for child in _children(transform)])
        else:
            step = lowered(transform)
        step.exact = exact
        return [step]
    base = next((cls for cls in type(transform).__mro__ if cls in TABLE), None)
    if base is not None:
        return [Opaque(transform, f"it is a subclass of {base.__name__}, which may do anything")]
    return [Opaque(transform, "it has no batched form")]


def _classification(preset: Any) -> tuple[Any, ...]:
    """What ``weights.transforms()`` of a classification model does, as transforms."""
    return (
        v1.Resize(preset.resize_size, interpolation=preset.interpolation, antialias=preset.antialias),
        v1.CenterCrop(preset.crop_size),
        v2.PILToTensor(),  # which lets tensors pass
        v1.ConvertImageDtype(torch.float),
        v1.Normalize(preset.mean, preset.std),
    )


def _children(transform: Any) -> Iterable[Any]:
    """The transforms in a container; none in what is no container, or no known one."""
    if type(transform) is torch.nn.Sequential:
        return transform
    lowered = TABLE.get(type(transform))
    known = type(transform) in _UNROLLED or (lowered is not None and issubclass(lowered, Container))
    return transform.transforms if known else ()


def _parts(transform: Any) -> list[Any]:
    """All that decides how a transform is lowered: itself, its attributes, its hooks, and what is in a container."""
    own = getattr(transform, "__dict__", {})
    parts = [transform, type(transform), *own.values(), *(bool(own.get(name)) for name in _HOOKS)]
    for child in _children(transform):
        parts += _parts(child)
    return parts


def _overridden(transform: Any) -> bool:
    """Whether an object does something else than its class says."""
    own = getattr(transform, "__dict__", {})
    return any(name in own for name in _OVERRIDES) or any(own.get(name) for name in _HOOKS)


def _name(transform: Any) -> str:
    return getattr(transform, "__qualname__", None) or type(transform).__qualname__
