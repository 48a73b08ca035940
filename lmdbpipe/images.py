"""Stored images as batched transforms take them: uncopied, in the map, whatever their sizes, modes and files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lmdbpipe.codecs import ImageCodec, ImageRows
from lmdbpipe.dense import MOST_WINDOWS
from lmdbpipe.indices import Indices
from lmdbpipe.mapped import view
from lmdbpipe.store import Database
from lmdbpipe.transforms.raw import RawImages

_Int64 = npt.NDArray[np.int64]


class _Found(NamedTuple):
    """Where images lie, and what they are."""

    addresses: _Int64
    """Where in memory each begins; anything where it has no pixels."""
    nbytes: _Int64
    sizes: _Int64
    """(height, width), ``[n, 2]``."""
    modes: list[str]
    palettes: list[bytes]


def view_images(leaf: int, parts: Sequence[tuple[Database, Indices]], order: _Int64 | None) -> RawImages | None:
    """View some images in the maps of their files.

    Args:
        leaf: Which leaf.
        parts: Files, and which of their samples.
        order: Which of these, laid one after the other, comes when; None for as they are.

    Returns:
        None where the files store them in different layouts, or lie too far from each other in memory.
    """
    codecs = [database.manifest.schema.codecs[leaf] for database, _ in parts]
    images = [codec for codec in codecs if isinstance(codec, ImageCodec)]
    first = images[0] if images else None
    if first is None or len(images) < len(codecs) or any(codec.layout != first.layout for codec in images):
        return None
    found = [_find(database, leaf, codec, local) for codec, (database, local) in zip(images, parts, strict=True)]
    addresses, nbytes, sizes = (np.concatenate([part[field] for part in found]) for field in range(3))
    addresses = np.where(nbytes == 0, addresses.max(), addresses)
    low, high = int(addresses.min()), int((addresses + nbytes).max())
    if (high - low) * int(nbytes.max()) >= MOST_WINDOWS:
        return None
    fixed = len({(codec.size, codec.mode) for codec in images}) == 1
    raw = RawImages(
        view([database for database, _ in parts], low, high - low),
        addresses - low,
        first.size if fixed and first.size else sizes,
        first.mode if fixed and first.mode else [mode for part in found for mode in part.modes],
        first.layout,
        [palette for part in found for palette in part.palettes] if any(codec.palette for codec in images) else None,
    )
    return raw if order is None else raw.take(order)


def _find(database: Database, leaf: int, codec: ImageCodec, indices: Indices) -> _Found:
    """Find some images of one file."""
    pixels = codec.columns()[0]
    chunks, rows = np.divmod(indices, database.manifest.chunk_length)
    images: list[tuple[ImageRows, int]] = [
        (database.rows(chunk)[leaf], row)  # type: ignore[misc]
        for chunk, row in zip(chunks.tolist(), rows.tolist(), strict=True)
    ]
    spans = np.array([(span.start, span.stop) for span in (image.span(row) for image, row in images)], np.int64)
    starts = database.addresses(chunks, database.manifest.schema.index(leaf, pixels.role), pixels)
    return _Found(
        starts + spans[:, 0],
        spans[:, 1] - spans[:, 0],
        np.array([codec.size or image.size(row) for image, row in images], np.int64),
        [codec.mode or image.mode(row) for image, row in images],
        [image.palette(row) if codec.palette else b"" for image, row in images],
    )
