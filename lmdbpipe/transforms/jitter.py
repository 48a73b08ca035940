"""``ColorJitter``, ``RandomAdjustSharpness`` and ``RandomEqualize``, with the bits of Pillow or torch."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from lmdbpipe.transforms.color import Chance, Function
from lmdbpipe.transforms.edits import Edited, edit_alike
from lmdbpipe.transforms.operations import Edit, Operation, make_edit
from lmdbpipe.transforms.raw import Size
from lmdbpipe.transforms.step import Params, Spec, between, uniform
from lmdbpipe.transforms.streams import Words

_OPERATIONS = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR, Operation.HUE)
"""In the order in which torchvision numbers them and draws their factors."""
_ORDERS = np.array(list(permutations(range(4))))


class ColorJitter(Edited):
    """``v1.ColorJitter``."""

    words = 5

    def ranges(self) -> tuple[Any, ...]:
        """From what each factor is drawn, in the order of operations; None for those that are left out."""
        return self.t.brightness, self.t.contrast, self.t.saturation, self.t.hue

    def decode(self, words: Words, spec: Spec, size: Size) -> tuple[Params, Size]:
        """Give four operations for each image, those left out among them."""
        edits = np.zeros((len(words), 4, 7))
        for number, (operation, limits) in enumerate(zip(_OPERATIONS, self.ranges(), strict=True)):
            if limits is not None:
                factors = between(uniform(words[:, number + 1]), limits)
                edits[:, number, 0] = operation
                edits[:, number, 1] = self.value(operation, factors, spec)
        orders = _ORDERS[words[:, 0] % len(_ORDERS)]
        return np.take_along_axis(edits, orders[:, :, None], axis=1), size

    def drawn(self) -> tuple[Any, ...]:
        """The order of operations, and their factors, by the calls that torchvision makes."""
        drawn: tuple[Any, ...] = self.t.get_params(*self.ranges())
        return drawn

    def draw(self, spec: Spec, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """Four operations."""
        order, *factors = self.drawn()
        edits = []
        for number in order.tolist():
            operation, factor = _OPERATIONS[number], factors[number]
            if factor is None:
                edits.append(make_edit(Operation.IDENTITY))
            else:
                edits.append(make_edit(operation, self.value(operation, factor, spec)))
        return edits, size

    def value(self, operation: Operation, factor: Any, spec: Spec) -> Any:
        """What an operation takes for a factor, or for some; on PIL images, hues are shifted by levels."""
        return _shift(factor) if operation == Operation.HUE and spec.kind == "pil" else factor


class ColorJitterV2(ColorJitter):
    """``v2.ColorJitter``."""

    def accept(self, spec: Spec) -> Spec | str:
        """Where it turns hues, torchvision puts channels first."""
        accepted = super().accept(spec)
        return accepted if isinstance(accepted, str) else replace(accepted, hwc=spec.hwc and self.t.hue is None)

    def drawn(self) -> tuple[Any, ...]:
        """By ``make_params``."""
        drawn = self.t.make_params([])
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        return drawn["fn_idx"], *(drawn[name] for name in names)


def _shift(factor: Any) -> Any:
    """What torchvision adds to hues, of 0 to 255, for a part of a whole turn."""
    return np.trunc(np.multiply(factor, 255)).astype(np.int32).astype(np.uint8)


class _Single(Chance):
    """One operation, the same for all images that are chosen."""

    as_tensor = False

    @property
    def anywhere(self) -> bool:
        """The CPU computes."""
        return False

    accept = Edited.accept
    prepare = Edited.prepare

    def operation(self) -> Edit:
        """Which, and with what values."""
        raise NotImplementedError

    def function(self, spec: Spec) -> Function:
        """Edit in place what nobody else holds."""
        return lambda x: edit_alike(x, self.operation(), spec)


class RandomAdjustSharpness(_Single):
    """``v1.RandomAdjustSharpness``."""

    def operation(self) -> Edit:
        """By its factor."""
        return make_edit(Operation.SHARPNESS, self.t.sharpness_factor)


class RandomAdjustSharpnessV2(RandomAdjustSharpness):
    """``v2.RandomAdjustSharpness``."""

    as_tensor = True


class RandomEqualize(_Single):
    """``v1.RandomEqualize``."""

    def operation(self) -> Edit:
        """It has no values."""
        return make_edit(Operation.EQUALIZE)


class RandomEqualizeV2(RandomEqualize):
    """``v2.RandomEqualize``."""

    as_tensor = True
