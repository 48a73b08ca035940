"""The store: the only part that knows LMDB. It keeps chunks of columns in a file, and gives them back."""

from lmdbpipe.store.manifest import Manifest
from lmdbpipe.store.pages import looks_like_lmdb
from lmdbpipe.store.reader import STEP, Database
from lmdbpipe.store.verify import verify
from lmdbpipe.store.writer import Writer, lock_path, partial_path, read_checkpoint

__all__ = [
    "STEP",
    "Database",
    "Manifest",
    "Writer",
    "lock_path",
    "looks_like_lmdb",
    "partial_path",
    "read_checkpoint",
    "verify",
]
