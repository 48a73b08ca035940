"""Steps without a batched form: the user's own callable, on one sample after the other."""

from __future__ import annotations

from typing import Any

from lmdbpipe.transforms.batch import Batch
from lmdbpipe.transforms.step import Params, Spec, Step


class Opaque(Step):
    """Any callable.

    Args:
        transform: The callable.
        reason: Why it is not batched.
    """

    words = 2
    """The seed of its own draws."""
    draws = True

    def __init__(self, transform: Any, reason: str) -> None:
        super().__init__(transform)
        self.reason = reason

    @property
    def anywhere(self) -> bool:
        """Never, since torchvision would have given it what lies in the CPU's memory."""
        return False

    def accept(self, spec: Spec) -> Spec | str:
        """Never batched."""
        return self.reason

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Not called."""
        raise NotImplementedError
