"""Encoding: raw samples, with transforms baked in, become the columns of chunks."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torchvision import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.codecs import Columns, ImageCodec, Schema
from lmdbpipe.errors import ConfigError, SampleError, SourceError
from lmdbpipe.physical import physical_order
from lmdbpipe.seeding import seed_all
from lmdbpipe.source import IterableSource, MapSource, Source
from lmdbpipe.structure import Path, Structure, get, replace
from lmdbpipe.wrapped import standard_paths

_CHUNK_BYTES = 1024**2
"""What a chunk holds, about: large enough to copy at full speed, small enough to stay in cache."""
_CHUNK_LENGTH = 16384
"""Most samples in a chunk."""
_VALUE_BYTES = 4 * 1024**3
"""One more than LMDB takes as one value."""
TO_TENSOR = (v1.ToTensor, v1.PILToTensor, v2.ToTensor, v2.PILToTensor, v2.ToImage)
_PIL_TO_TENSOR = (v1.PILToTensor, v2.PILToTensor)


class EncodedChunk(NamedTuple):
    """A chunk's columns, and the narrowest schema that describes them."""

    schema: Schema
    columns: Columns
    length: int


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What is done to a sample before it is written; picklable, so that worker processes can do it.

    Attributes:
        source: Where samples come from.
        db_transform: What is baked in, without a last PILToTensor; None for nothing.
        as_tensor: Whether `db_transform` ended with PILToTensor: pixels are stored the same, a reader gives tensors.
        paths: Where in a sample `db_transform` acts; empty for torchvision's convention.
        channels_first: Whether images of equal sizes are stored C×H×W.
        rounds: Passes over the source.
        shuffle_seed: Seeds the physical order; None keeps the source's.
        seed: Seeds the draws of random transforms, by round and sample.
    """

    source: Source
    db_transform: Callable[[Any], Any] | None
    as_tensor: bool
    paths: tuple[Path, ...]
    channels_first: bool
    rounds: int
    shuffle_seed: int | None
    seed: int

    @classmethod
    def of(
        cls, source: Source, *, db_transform: Any, channels_first: bool, rounds: int, shuffle: bool, seed: int
    ) -> Encoder:
        """Prepare an encoder.

        Raises:
            ConfigError: Rounds or a shuffle are asked of an iterable that cannot give them.
        """
        if isinstance(source, IterableSource):
            if rounds > 1:
                source.require_repeatable("rounds")
            if shuffle:
                raise ConfigError("shuffle needs a map-style dataset, with __getitem__ and __len__")
        baked, as_tensor = _split_tail(db_transform)
        found = source.transform_paths()
        return cls(
            source=source,
            db_transform=baked,
            as_tensor=as_tensor,
            paths=found.get("transform") or found.get("transforms", ())[:1],
            channels_first=channels_first and (as_tensor or begins_with(source.live_transform(), TO_TENSOR)),
            rounds=rounds,
            shuffle_seed=seed if shuffle else None,
            seed=seed,
        )

    @property
    def length(self) -> int | None:
        """Samples to write; None if unknown."""
        return None if self.source.length is None else self.source.length * self.rounds

    def samples(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """Read and bake samples in physical order, each with its index in the source.

        Raises:
            SourceError: The dataset raised, or gave another number of samples in a later round.
            SampleError: `db_transform` raised.
        """
        if isinstance(self.source, MapSource):
            for round_, index in self._origins(start, self.length or 0 if stop is None else stop):
                seed_all(self.seed, round_, index)
                yield index, self._bake(self.source.fetch(index), index)
        else:
            lengths = [0] * self.rounds
            for round_ in range(self.rounds):
                for index, sample in enumerate(self.source):
                    if self.db_transform is not None:
                        seed_all(self.seed, round_, index)
                    yield index, self._bake(sample, index)
                    lengths[round_] += 1
                if lengths[round_] != lengths[0]:
                    raise SourceError(
                        f"{type(self.source.dataset).__name__} gave {lengths[0]} samples at first and "
                        f"{lengths[round_]} in round {round_}; rounds need a source that can be read again"
                    )

    def encode(self, samples: Iterable[tuple[int, Any]], base: Schema) -> EncodedChunk:
        """Encode samples as one chunk.

        Raises:
            SampleError: A sample does not fit the base, or they are too large together.
        """
        schema, rows = base, []
        for index, sample in samples:
            with _named(index):
                schema, leaves = schema.flatten(sample)
            rows.append(leaves)
        return _encode_chunk(schema, rows)

    def first_chunk(self, samples: Iterator[tuple[int, Any]]) -> EncodedChunk | None:
        """Encode the first chunk. Its length is that of all, its schema their base; None if there are no samples."""
        taken: list[Any] = []
        schema, size, usual = None, 0, self._usual_size()
        seed_all(self.seed, 0)  # what an iterable draws; a map-style source is seeded for every sample
        for index, sample in samples:
            with _named(index):
                schema, leaves = (schema or Schema.of(sample)).flatten(sample)
            taken.append(leaves)
            size += _size(schema.encode([leaves]))
            if _is_enough(len(taken), max(size, len(taken) * usual)):
                break
        if schema is None:
            return None
        images = self.paths or standard_paths(schema.structure)["transform"]
        pairs = zip(schema.structure.paths, schema.codecs, strict=True)
        codecs = tuple(self._settle(codec) if path in images else codec for path, codec in pairs)
        schema = dataclasses.replace(schema, codecs=codecs)
        return _encode_chunk(schema, taken)

    def _usual_size(self) -> float:
        """The mean size of a few samples, spread over the whole: the first may be small ones. 0 of an iterable."""
        seed_all(self.seed)
        tried = map(self.trial, self.source.probe() if isinstance(self.source, MapSource) else ())
        sizes = [_size(columns) for _, columns in filter(None, tried)]
        return sum(sizes) / max(len(sizes), 1)

    def trial(self, sample: Any) -> tuple[Schema, Columns] | None:
        """Bake and encode a copy of a sample, with the same draws each time; None if that fails, as a build will tell.

        The sample itself is left as it is, for transforms that work in place.
        """
        seed_all(self.seed)
        with contextlib.suppress(Exception):
            sample = self._bake(copy.deepcopy(sample), 0)
            schema = Schema.of(sample)
            return schema, schema.encode([schema.structure.flatten(sample)])
        return None

    def _settle(self, codec: Any) -> Any:
        """Decide the layout and kind of the image that transforms act on, now that a chunk has been seen."""
        if not isinstance(codec, ImageCodec):
            return codec
        layout = "CHW" if self.channels_first and codec.size and codec.mode else "HWC"
        return dataclasses.replace(codec, layout=layout, as_tensor=self.as_tensor)

    def _origins(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The round and the source's index of physical positions."""
        length = self.source.length or 1
        for round_ in range(start // length, -(-stop // length)):
            first, last = max(start, round_ * length), min(stop, (round_ + 1) * length)
            indices: Any = range(first - round_ * length, last - round_ * length)
            if self.shuffle_seed is not None:
                indices = physical_order(length, self.shuffle_seed, round_).forward(indices).tolist()
            yield from zip(itertools.repeat(round_), indices)

    def _bake(self, sample: Any, index: int) -> Any:
        if self.db_transform is None:
            return sample
        try:
            for path in self.paths or standard_paths(Structure.of(sample))["transform"]:
                sample = replace(sample, path, self.db_transform(get(sample, path)))
        except Exception as error:
            raise SampleError(f"sample {index}: db_transform raised {type(error).__name__}: {error}") from error
        return sample


def _encode_chunk(schema: Schema, rows: list[list[Any]]) -> EncodedChunk:
    columns = schema.encode(rows)
    for index, leaf, _ in schema.columns:
        if (size := columns[index].nbytes) >= _VALUE_BYTES:
            raise SampleError(
                f"leaf {schema.leaf_names[leaf]}: {len(rows)} samples, which make a chunk, have {size} bytes together, "
                "and LMDB takes less than 4 GiB as one value; divide them, or shuffle if large ones lie together"
            )
    return EncodedChunk(schema, columns, len(rows))


def _size(columns: Columns) -> int:
    return sum(array.nbytes for array in columns.values())


def _is_enough(length: int, size: float) -> bool:
    """Whether a chunk is as near to its size as powers of two come: batches then seldom reach over a chunk's end."""
    nearest = length & (length - 1) == 0 and 2 * size**2 >= _CHUNK_BYTES**2
    return nearest or size >= 2 * _CHUNK_BYTES or length >= _CHUNK_LENGTH


def begins_with(transform: Any, kinds: tuple[type, ...]) -> bool:
    """Whether the first step of a transform is of some kinds."""
    while isinstance(transform, v1.Compose | v2.Compose) and transform.transforms:
        transform = transform.transforms[0]
    return isinstance(transform, kinds)


@contextlib.contextmanager
def _named(index: int) -> Iterator[None]:
    """Say in a sample's error which sample it is."""
    try:
        yield
    except SampleError as error:
        raise type(error)(f"sample {index}, {error}") from error.__cause__


def _split_tail(transform: Any) -> tuple[Any, bool]:
    """Take a last PILToTensor off a transform."""
    if isinstance(transform, _PIL_TO_TENSOR):
        return None, True
    if isinstance(transform, v1.Compose | v2.Compose) and transform.transforms:
        *head, last = transform.transforms
        if isinstance(last, _PIL_TO_TENSOR):
            return type(transform)(head) if head else None, True
    return transform, False
