"""Batched torchvision transforms: `lower` turns the transform that a user has into one of whole batches."""

from __future__ import annotations

from lmdbpipe.transforms.crops import Tuples
from lmdbpipe.transforms.draws import CounterDraws, Draws, ReplayDraws
from lmdbpipe.transforms.lowering import Lowered, lower
from lmdbpipe.transforms.raw import RawImages

__all__ = ["CounterDraws", "Draws", "Lowered", "RawImages", "ReplayDraws", "Tuples", "lower"]
