"""What the command line can build from: a file for each source, and this table of them."""

from __future__ import annotations

from lmdbpipe.errors import ConfigError
from lmdbpipe.sources.base import Source
from lmdbpipe.sources.imagefolder import ImageFolderSource

__all__ = ["SOURCES", "Source", "parse"]

_SOURCES: tuple[Source, ...] = (ImageFolderSource(),)
SOURCES = {source.name: source for source in _SOURCES}
"""The sources by the name that stands before the colon."""


def parse(text: str) -> tuple[Source, str]:
    """Split ``NAME:WHERE`` into the source and what it shall open.

    Raises:
        ConfigError: It is not of this form, or there is no such source.
    """
    name, colon, where = text.partition(":")
    if not colon or not where or name not in SOURCES:
        known = ", ".join(f"{source.name}:{source.where}" for source in SOURCES.values())
        raise ConfigError(f"{text!r} names no source; the sources are {known}")
    return SOURCES[name], where
