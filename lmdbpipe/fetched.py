"""The samples that torch's DataLoader fetches for a batch, read and transformed at once.

They are the rows of a batch: a list like any other, but torch's ``default_collate`` need not stack it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lmdbpipe.codecs import Codec, ImageCodec
from lmdbpipe.codecs.scalar import ScalarCodec
from lmdbpipe.codecs.text import BytesCodec, TextCodec
from lmdbpipe.pipeline import Pipeline, Steps
from lmdbpipe.ring import share, travels
from lmdbpipe.transforms import ReplayDraws


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """What rows are rows of; it does not refer to them, so that it goes with the last of them.

    Attributes:
        length: How many there are.
        collated: What ``default_collate`` would make of them.
    """

    length: int
    collated: list[Any]


class Row(tuple[Any, ...]):
    """A sample that is a tuple, and knows which batch it is a row of."""

    batch: Batch
    number: int


def make_rows(columns: Iterable[Iterable[Any]], collated: list[Any]) -> list[Row]:
    """Make the rows of a batch.

    Args:
        columns: For each element of a sample, the values of all.
        collated: What ``default_collate`` would make of the samples.
    """
    rows = list(map(Row, zip(*columns, strict=True)))
    batch = Batch(len(rows), collated)
    for number, row in enumerate(rows):
        row.batch, row.number = batch, number
    return rows


def fetch(pipeline: Pipeline, steps: Steps, positions: npt.NDArray[np.int64]) -> Sequence[Any] | None:
    """Fetch samples at once, if all that acts on them is one transform of one image; None otherwise.

    The transform draws from the global generators what it would have drawn sample by sample.
    """
    chains = pipeline.chains(steps)
    if chains is None:
        return None
    ((path, chain),) = chains.items()
    records, schema = pipeline.records, pipeline.records.schema
    image = schema.structure.paths.index(path)
    if not isinstance(schema.codecs[image], ImageCodec):
        return None
    images = pipeline.lowered_images(image, chain, positions, ReplayDraws())
    others = [codec for leaf, codec in enumerate(schema.codecs) if leaf != image]
    is_flat = schema.structure.kind == "tuple" and all(len(path) == 1 for path in schema.structure.paths)
    if not is_flat or not isinstance(images, torch.Tensor) or not all(map(_is_plain, others)):
        listed = [images if leaf == image else records.listed(leaf, positions) for leaf in range(len(schema.codecs))]
        return list(map(schema.structure.unflatten, zip(*listed, strict=True)))
    collated = [images if leaf == image else records.leaf_batch(leaf, positions) for leaf in range(len(schema.codecs))]
    collated = [tuple(column) if isinstance(column, list) else column for column in collated]  # as torch gives strings
    numbers = [isinstance(column, torch.Tensor) and column is not images for column in collated]
    columns = [column.tolist() if number else column for column, number in zip(collated, numbers, strict=True)]
    return make_rows(columns, collated)


def _is_plain(codec: Codec) -> bool:
    """Whether a leaf's batch is what ``default_collate`` makes of its values: of built-in numbers, or strings."""
    return isinstance(codec, TextCodec | BytesCodec) or (isinstance(codec, ScalarCodec) and codec.kind != "numpy")


def _collate_rows(rows: Sequence[Row], *, collate_fn_map: dict[Any, Any] | None = None) -> Any:
    """Give the batch that the rows are of; stack them if they are not just its rows, in order."""
    batch = rows[0].batch
    if len(rows) == batch.length and all(row.batch is batch and row.number == k for k, row in enumerate(rows)):
        return share(batch.collated) if travels() else batch.collated
    return collate([tuple(row) for row in rows], collate_fn_map=collate_fn_map)


default_collate_fn_map[Row] = _collate_rows
