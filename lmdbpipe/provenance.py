"""Where a file comes from: what is written into its manifest, and compared before it is used again."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import re
from collections.abc import Iterable
from typing import Any

import xxhash

from lmdbpipe.codecs import Columns, Schema
from lmdbpipe.encode import Encoder
from lmdbpipe.errors import SampleError
from lmdbpipe.seeding import seed_all
from lmdbpipe.source import Source

_COMPARED = {
    "source": "its source",
    "source_length": "the source's length",
    "db_transform": "db_transform",
    "db_transform_repr": "the hash of db_transform's whole repr",
    "db_transform_output": "the hash of what db_transform makes of some samples",
    "db_transform_seed": "the seed of db_transform's draws",
    "rounds": "rounds",
    "shuffle_seed": "the shuffle seed (None: not shuffled)",
    "samples": "the hash of some raw samples",
}
_OPTIONAL = ("db_transform_repr", "db_transform_output")
"""What is compared only if both have it; files of earlier versions have not."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_HIDING = re.compile(_ADDRESS.pattern + r"|\bLambda\(")
"""Of a repr that does not tell what is done; torchvision's Lambda does not show its function."""
_REPR_LENGTH = 2000
_VERSIONS = ("lmdbpipe", "torch", "torchvision", "numpy", "Pillow", "lmdb")


def provenance(source: Source, encoder: Encoder, db_transform: Any) -> dict[str, Any]:
    """Describe a build.

    Transforms are told apart by their ``repr`` without addresses; where it has some, as that of a function, also by
    what they make of a few samples.

    Raises:
        SourceError: The dataset raised while a few samples were read.
    """
    kind = type(source.dataset)
    seed_all(0)
    samples = source.probe()
    compared = {
        "source": f"{kind.__module__}.{kind.__qualname__}",
        "source_length": source.length,
        "db_transform": None if db_transform is None else _stable_repr(db_transform),
        "db_transform_seed": None if db_transform is None else encoder.seed,
        "rounds": encoder.rounds,
        "shuffle_seed": encoder.shuffle_seed,
        "samples": _hash(map(_encode, samples)) if samples else None,
        **_hidden(db_transform, encoder, samples),
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
        if found.get(key) != wanted.get(key) and not (key in _OPTIONAL and None in (found.get(key), wanted.get(key)))
    ]


def _hidden(transform: Any, encoder: Encoder, samples: list[Any]) -> dict[str, str]:
    """Hash what the repr of a transform, as it is shown, does not tell of it."""
    hidden, text = {}, _ADDRESS.sub("", repr(transform))
    if len(text) > _REPR_LENGTH:
        hidden["db_transform_repr"] = xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
    if samples and _HIDING.search(repr(transform)):
        output, again = (_hash(map(encoder.trial, samples)) for _ in range(2))
        if output == again:  # it may have random generators of its own
            hidden["db_transform_output"] = output
    return hidden


def _encode(sample: Any) -> tuple[Schema, Columns] | None:
    """Encode a raw sample; None if db_transform must make of it what can be stored."""
    try:
        schema = Schema.of(sample)
        return schema, schema.encode([schema.structure.flatten(sample)])
    except SampleError:
        return None


def _hash(encoded: Iterable[tuple[Schema, Columns] | None]) -> str:
    digest = xxhash.xxh3_128()
    for schema, columns in filter(None, encoded):
        digest.update(json.dumps(schema.to_json()).encode())
        for _, array in sorted(columns.items()):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _stable_repr(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))[:_REPR_LENGTH]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
