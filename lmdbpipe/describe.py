"""What is in a file, as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmdbpipe.codecs import ImageCodec
from lmdbpipe.store import Database, Manifest
from lmdbpipe.table import aligned, megabytes
from lmdbpipe.transforms import lower
from lmdbpipe.wrapped import Transform


def describe(database: Database) -> str:
    """Say what is in a file, how large it is, where it came from, and how each leaf is stored."""
    return "\n".join([*aligned(list(_facts(database))), "", *aligned(_leaves(database.manifest))])


def explain(database: Database, transform: Transform) -> str:
    """Say step by step how a transform would be batched for a file's images."""
    modes = [codec.mode or "RGB" for codec in database.manifest.schema.codecs if isinstance(codec, ImageCodec)]
    return lower(transform).explain(*modes[:1])


def _facts(database: Database) -> Iterator[tuple[str, str]]:
    manifest, stat = database.manifest, database.path.stat()
    payload, origin = manifest.totals["payload_bytes"], manifest.provenance
    yield "samples", f"{manifest.length:,} in {manifest.num_chunks:,} chunks of {manifest.chunk_length:,}"
    yield "payload", f"{payload:,} bytes ({megabytes(payload)}), {payload / manifest.length:,.0f} a sample"
    ratio = f", {stat.st_size / payload:.3f} times the payload" if payload else ""
    yield "file", f"{stat.st_size:,} bytes ({megabytes(stat.st_size)}){ratio}"
    if hasattr(stat, "st_blocks"):
        yield "on disk", f"{stat.st_blocks * 512:,} bytes ({megabytes(stat.st_blocks * 512)})"
    length = origin["source_length"]
    yield "source", f"{origin['source']}, {'of unknown length' if length is None else f'{length:,} samples'}"
    yield "as it said", "; ".join(" ".join(line.split()) for line in origin["source_repr"].splitlines())
    yield "baked in", " ".join((origin["db_transform"] or "nothing").split())
    yield "rounds", str(origin["rounds"])
    seed = origin["shuffle_seed"]
    yield "order", "the source's" if seed is None else f"shuffled, seed {seed}"
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items() if version)
    yield "written", f"{origin['date']} by {versions}"
    yield "fingerprint", manifest.fingerprint


def _leaves(manifest: Manifest) -> list[tuple[str, ...]]:
    schema = manifest.schema
    table: list[tuple[str, ...]] = [("leaf", "codec", "column", "dtype", "shape", "about")]
    for _, leaf, column in schema.columns:
        codec, shape = schema.codecs[leaf], "varies" if column.shape is None else str(column.shape)
        is_first = column.role == codec.columns()[0].role
        name, kind, about = schema.leaf_names[leaf], codec.name, _about(codec.params())
        table.append(
            (*((name, kind) if is_first else ("", "")), column.role, str(column.dtype), shape, about * is_first)
        )
    return table


def _about(params: dict[str, Any]) -> str:
    """Write a codec's parameters: those that are set, and those that vary."""
    return ", ".join(f"{name} {_written(value)}" for name, value in params.items() if value is not False)


def _written(value: Any) -> str:
    if value is None:
        return "varies"
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
