"""The contract of a source: what the command line can build from, written ``NAME:WHERE``."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol


class Source(Protocol):
    """One kind of dataset that a line of text can name."""

    name: ClassVar[str]
    """What stands before the colon."""
    where: ClassVar[str]
    """What stands after it, as the help shows it: ``DIR``."""
    summary: ClassVar[str]
    """What it is, in a line."""

    def open(self, where: str) -> Any:
        """Open the dataset: whatever `lmdbpipe.build` takes.

        Raises:
            ConfigError: There is no such dataset; the message begins with ``NAME:WHERE``.
        """
        ...
