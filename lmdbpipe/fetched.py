"""Samples that are the rows of a batch: a list like any other, but torch's ``default_collate`` need not stack it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data._utils.collate import collate, default_collate_fn_map

from lmdbpipe.ring import share, travels


class Row(tuple[Any, ...]):
    """A sample that is a tuple, and knows which batch it is a row of."""

    batch: FetchedBatch
    number: int


class FetchedBatch(list[Row]):
    """The samples of a batch.

    Args:
        columns: For each element of a sample, the values of all.
        collated: What ``default_collate`` would make of the samples.
    """

    def __init__(self, columns: Iterable[Iterable[Any]], collated: list[Any]) -> None:
        super().__init__(map(Row, zip(*columns, strict=True)))
        self.collated = collated
        for number, row in enumerate(self):
            row.batch, row.number = self, number


def _collate_rows(rows: Sequence[Row], *, collate_fn_map: dict[Any, Any] | None = None) -> Any:
    """Give the batch that the rows are of; stack them if they are not just its rows, in order."""
    batch = rows[0].batch
    if len(rows) == len(batch) and all(row.batch is batch and row.number == k for k, row in enumerate(rows)):
        return share(batch.collated) if travels() else batch.collated
    return collate([tuple(row) for row in rows], collate_fn_map=collate_fn_map)


default_collate_fn_map[Row] = _collate_rows
