"""The manifest: everything about a file that is not its samples, as JSON. It is written last and makes a file whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from lmdbpipe.codecs import Schema
from lmdbpipe.errors import CorruptError, FormatError, UnsupportedVersionError

FORMAT = "lmdbpipe"
VERSION = 1
MANIFEST_KEY = b"manifest"
CHECKPOINT_KEY = b"checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a file holds and where it came from.

    Attributes:
        length: Samples in the file.
        chunk_length: Samples in every chunk but the last; sample i is row ``i % chunk_length`` of chunk
            ``i // chunk_length``.
        schema: The structure of a sample and the codec of each leaf.
        provenance: Where it came from: ``source`` (class), ``source_repr``, ``source_length``, ``db_transform``,
            ``db_transform_repr`` and ``db_transform_output`` (hashes, only where what is shown of its repr does not
            tell it apart), ``db_transform_seed``, ``rounds``, ``shuffle_seed`` (None if samples lie in the source's
            order), ``samples`` (a hash of some raw ones), ``fingerprint``, ``transforms`` (where in a sample the source
            applied its own), ``versions``, ``date``.
        totals: ``payload_bytes`` (of all columns) and ``file_bytes``.
    """

    length: int
    chunk_length: int
    schema: Schema
    provenance: Mapping[str, Any]
    totals: Mapping[str, int]

    @property
    def num_chunks(self) -> int:
        """Chunks in the file."""
        return -(-self.length // self.chunk_length)

    @property
    def fingerprint(self) -> str:
        """A short hash of what the file was built from."""
        return str(self.provenance["fingerprint"])

    def chunk_rows(self, chunk: int) -> int:
        """Samples in a chunk."""
        return min(self.chunk_length, self.length - chunk * self.chunk_length)

    def dumps(self) -> bytes:
        """Write UTF-8 JSON."""
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "length": self.length,
                "chunk_length": self.chunk_length,
                **self.schema.to_json(),
                "provenance": dict(self.provenance),
                "totals": dict(self.totals),
            },
            ensure_ascii=False,
        ).encode("utf-8", "surrogatepass")  # a path in a repr may hold what is no UTF-8

    @classmethod
    def loads(cls, data: bytes, *, source: str) -> Manifest:
        """Read what `dumps` wrote; `source` names the file in errors.

        Raises:
            FormatError: It is the manifest of something else.
            UnsupportedVersionError: It is of a newer format.
            CorruptError: It cannot be understood.
        """
        try:
            fields = json.loads(data)
            if fields.get("format") != FORMAT:
                raise FormatError(f"{source}: is not an lmdbpipe file: its format is {fields.get('format')!r}")
            if fields["version"] != VERSION:
                raise UnsupportedVersionError(
                    f"{source}: is of format version {fields['version']}, this lmdbpipe reads version {VERSION}; "
                    "upgrade it"
                )
            manifest = cls(
                length=fields["length"],
                chunk_length=fields["chunk_length"],
                schema=Schema.from_json(fields),
                provenance=fields["provenance"],
                totals=fields["totals"],
            )
            whole = manifest.length > 0 and manifest.chunk_length > 0 and bool(manifest.fingerprint)
            whole = whole and min(manifest.totals["payload_bytes"], manifest.totals["file_bytes"]) >= 0
        except FormatError as error:
            raise type(error)(f"{source}: {error}" if source not in str(error) else str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{source}: has a damaged manifest ({error!r})") from error
        if not whole:
            raise CorruptError(f"{source}: has a manifest with no samples or no fingerprint")
        return manifest
