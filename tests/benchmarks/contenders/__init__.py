"""The table of contenders: one adapter a file, one line here."""

from __future__ import annotations

from ..contender import Contender
from .ffcv import FFCV
from .grain import Grain
from .huggingface import HuggingFaceDatasets
from .litdata import LitData
from .memmap import Memmap
from .mosaic import MosaicStreaming
from .ours import LMDBPipe, LMDBPipeInexact
from .read import FileRead
from .torchlmdb import TorchLMDB
from .torchvision import Torchvision
from .webdataset import WebDataset

CONTENDERS: tuple[Contender, ...] = (
    Memmap(),
    FileRead(),
    LMDBPipe(),
    LMDBPipeInexact(),
    FFCV(),
    TorchLMDB(),
    Torchvision(),
    WebDataset(),
    LitData(),
    HuggingFaceDatasets(),
    MosaicStreaming(),
    Grain(),
)
