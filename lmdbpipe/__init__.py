"""Write a PyTorch dataset once into an LMDB file, then read it as fast as the memory can be copied."""

from lmdbpipe.build import build
from lmdbpipe.config import LMDB_config, LMDBConfig
from lmdbpipe.datapipes import LMDBReader, LMDBWriter
from lmdbpipe.dataset import LMDBDataset
from lmdbpipe.errors import LMDBPipeError
from lmdbpipe.iterable import LMDBIterableDataset
from lmdbpipe.parts import Part
from lmdbpipe.states import merge_states

__all__ = [
    "LMDBConfig",
    "LMDBDataset",
    "LMDBIterableDataset",
    "LMDBPipeError",
    "LMDBReader",
    "LMDBWriter",
    "LMDB_config",
    "Part",
    "build",
    "merge_states",
]
