"""Codecs: how the leaves of samples become columns of plain arrays, and come back."""

from lmdbpipe.codecs.base import Array, Codec, Column, Rows
from lmdbpipe.codecs.image import ImageCodec, ImageRows
from lmdbpipe.codecs.schema import CODECS, Columns, LeafColumn, Schema

__all__ = [
    "CODECS",
    "Array",
    "Codec",
    "Column",
    "Columns",
    "ImageCodec",
    "ImageRows",
    "LeafColumn",
    "Rows",
    "Schema",
]
