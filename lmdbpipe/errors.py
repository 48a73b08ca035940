"""Every error that lmdbpipe raises on purpose.

Each one is also the built-in error that a user would catch without knowing lmdbpipe:

    LMDBPipeError
    ├── ConfigError(ValueError)              an option has a value that cannot be used
    ├── SampleError(ValueError)              a sample does not fit the structure of the first one
    │   └── UnsupportedLeafError(TypeError)  no codec takes a value
    ├── EmptyDatasetError(ValueError)        there is nothing to write
    ├── SourceError(RuntimeError)            the source dataset raised; its error is the cause
    ├── TransformError(RuntimeError)         a transform cannot be applied, lowered or collated
    ├── OutOfRangeError(IndexError)          no sample has this index
    ├── StateError(ValueError)               a state cannot be loaded here
    ├── DatabasePathError(OSError)           the path cannot hold a database, or be written
    ├── DatabaseNotFoundError(FileNotFoundError)
    ├── DatabaseFullError(OSError)           the disk or ``map_size`` is full
    ├── DatabaseMismatchError(ValueError)    a finished file holds another dataset
    └── FormatError(ValueError)              the file cannot be read as an lmdbpipe file
        ├── UnsupportedVersionError          it is of a newer format
        ├── UnfinishedError                  its build was interrupted
        └── CorruptError                     it is truncated or damaged
"""

from __future__ import annotations


class LMDBPipeError(Exception):
    """Base of all errors of this package."""


class ConfigError(LMDBPipeError, ValueError):
    """An option has a value that cannot be used, or an unknown name."""


class SampleError(LMDBPipeError, ValueError):
    """A sample's structure, type, dtype or number of dimensions differs from the first sample's."""


class UnsupportedLeafError(SampleError, TypeError):
    """A sample holds a value that no codec takes."""


class EmptyDatasetError(LMDBPipeError, ValueError):
    """The dataset has no samples."""


class SourceError(LMDBPipeError, RuntimeError):
    """The source dataset raised while a sample was fetched; ``__cause__`` is its own error."""


class TransformError(LMDBPipeError, RuntimeError):
    """A transform cannot be applied, lowered or collated."""


class OutOfRangeError(LMDBPipeError, IndexError):
    """A sample index lies outside the dataset."""


class StateError(LMDBPipeError, ValueError):
    """A reader's state cannot be loaded: it is damaged, newer, or of another file."""


class DatabasePathError(LMDBPipeError, OSError):
    """A path cannot hold a database: it is a folder, not writable, or has no parent; or a write to it failed."""


class DatabaseNotFoundError(LMDBPipeError, FileNotFoundError):
    """There is no finished database at a path."""


class DatabaseFullError(LMDBPipeError, OSError):
    """A build needs more room than the disk, a quota or ``map_size`` allows."""


class DatabaseMismatchError(LMDBPipeError, ValueError):
    """A finished database was built from another dataset or with other options."""


class FormatError(LMDBPipeError, ValueError):
    """A file is not an lmdbpipe database."""


class UnsupportedVersionError(FormatError):
    """A file was written in a newer version of the format."""


class UnfinishedError(FormatError):
    """A file belongs to a build that has not been finished."""


class CorruptError(FormatError):
    """A file is truncated or damaged."""
