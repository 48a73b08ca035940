"""The public names of the package, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

from lmdbpipe import order


def test_public_names_are_sorted_and_there() -> None:
    """What the package promises can be imported, and stands in order."""
    assert sorted(order.__all__, key=lambda name: (not name.isupper(), name)) == order.__all__
    assert all(hasattr(order, name) for name in order.__all__)


def test_modules_know_integers_only() -> None:
    """No module of the package imports torch, lmdb, random or time by itself."""
    code = (
        "import sys, types; sys.modules['lmdbpipe'] = package = types.ModuleType('lmdbpipe');"
        f"package.__path__ = [{str(order.__path__[0]).removesuffix('order')!r}];"
        "import numpy; before = set(sys.modules); import lmdbpipe.order;"
        "print(sorted({'torch', 'lmdb', 'random', 'time'} & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
