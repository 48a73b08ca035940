"""The store: the only part that knows LMDB. It keeps chunks of columns in a file, and gives them back."""

from lmdbpipe.store.manifest import Manifest
from lmdbpipe.store.reader import STEP, Database
from lmdbpipe.store.verify import verify
from lmdbpipe.store.writer import Writer, lock_path, partial_path, read_checkpoint

__all__ = ["STEP", "Database", "Manifest", "Writer", "lock_path", "partial_path", "read_checkpoint", "verify"]
