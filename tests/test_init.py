"""The public names of the package."""

from __future__ import annotations

import subprocess
import sys

import lmdbpipe


def test_public_names_are_pinned() -> None:
    """What the package promises can be imported, is sorted, and is this."""
    assert lmdbpipe.__all__ == sorted(lmdbpipe.__all__, key=lambda name: (name.islower(), name))
    assert all(hasattr(lmdbpipe, name) for name in lmdbpipe.__all__)
    assert {
        "LMDBConfig",
        "LMDBDataset",
        "LMDBIterableDataset",
        "LMDBReader",
        "LMDBWriter",
        "LMDB_config",
        "Part",
        "build",
    } <= set(lmdbpipe.__all__)
    assert all(getattr(lmdbpipe, name).__doc__ for name in lmdbpipe.__all__)


def test_import_leaves_the_process_alone() -> None:
    """Importing the package starts no process or thread, opens no file, draws no random number and prints nothing."""
    code = (
        "import random, threading, torch, numpy, torchvision, multiprocessing\n"
        "before = random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()\n"
        "import lmdbpipe\n"
        "assert before == (random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist())\n"
        "assert threading.active_count() == 1 and not multiprocessing.active_children()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == ""
