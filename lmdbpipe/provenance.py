"""Where a file comes from: what is written into its manifest, and compared before it is used again."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import re
from typing import Any

import xxhash

from lmdbpipe.codecs import Schema
from lmdbpipe.encode import Encoder
from lmdbpipe.errors import SampleError
from lmdbpipe.seeding import seed_all
from lmdbpipe.source import Source

_COMPARED = {
    "source": "its source",
    "source_length": "the source's length",
    "db_transform": "db_transform",
    "db_transform_seed": "the seed of db_transform's draws",
    "rounds": "rounds",
    "shuffle_seed": "the shuffle seed (None: not shuffled)",
    "samples": "the hash of some raw samples",
}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_REPR_LENGTH = 2000
_VERSIONS = ("lmdbpipe", "torch", "torchvision", "numpy", "Pillow", "lmdb")


def provenance(source: Source, encoder: Encoder, db_transform: Any) -> dict[str, Any]:
    """Describe a build. Transforms are told apart by their ``repr`` without addresses.

    Raises:
        SourceError: The dataset raised while a few samples were read.
    """
    kind = type(source.dataset)
    compared = {
        "source": f"{kind.__module__}.{kind.__qualname__}",
        "source_length": source.length,
        "db_transform": None if db_transform is None else _stable_repr(db_transform),
        "db_transform_seed": None if db_transform is None else encoder.seed,
        "rounds": encoder.rounds,
        "shuffle_seed": encoder.shuffle_seed,
        "samples": _hash_samples(source),
    }
    return {
        **compared,
        "source_repr": _stable_repr(source.dataset),
        "fingerprint": xxhash.xxh3_128_hexdigest(json.dumps(compared).encode()),
        "transforms": {name: [list(path) for path in paths] for name, paths in source.transform_paths().items()},
        "versions": {name: _version(name) for name in _VERSIONS},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say in which of the things that make up a fingerprint two provenances differ."""
    return [
        f"{name} is {found.get(key)!r}, not {wanted[key]!r}"
        for key, name in _COMPARED.items()
        if found.get(key) != wanted[key]
    ]


def _hash_samples(source: Source) -> str | None:
    """Hash what a few raw samples are when stored; None where they can be read only once."""
    digest = xxhash.xxh3_128()
    seed_all(0)
    samples = source.probe()
    for sample in samples:
        with contextlib.suppress(SampleError):  # db_transform may make of it what can be stored
            schema = Schema.of(sample)
            digest.update(json.dumps(schema.to_json()).encode())
            for _, array in sorted(schema.encode([schema.structure.flatten(sample)]).items()):
                digest.update(array.tobytes())
    return digest.hexdigest() if samples else None


def _stable_repr(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))[:_REPR_LENGTH]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
