"""The build pipe: a dataset goes in, a finished file comes out, or nothing does."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from tqdm.auto import tqdm

from lmdbpipe.chunks import encode_in_processes, encode_iterable, encode_map
from lmdbpipe.codecs import Columns, Schema
from lmdbpipe.config import LMDBConfig
from lmdbpipe.encode import EncodedChunk, Encoder
from lmdbpipe.errors import (
    ConfigError,
    DatabaseMismatchError,
    DatabasePathError,
    EmptyDatasetError,
    FormatError,
    SampleError,
)
from lmdbpipe.provenance import differences, provenance
from lmdbpipe.seeding import preserved
from lmdbpipe.source import as_source
from lmdbpipe.store import Database, Manifest, Writer, lock_path, looks_like_lmdb, partial_path, read_checkpoint


def build(
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    db_transform: Any = None,
    num_workers: int = 0,
    rounds: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    db_cfg: object = None,
    progress: bool = True,
) -> Manifest:
    """Write a dataset into one LMDB file, once.

    Samples are read raw: the dataset's own ``transform``, ``target_transform`` and ``transforms`` are left for the
    readers to apply. The file is built beside its place as ``NAME.partial`` and appears by rename when it is complete.
    A build that was interrupted goes on where it stopped, if the dataset is map-style; one builder works at a time,
    others wait and then use its file. A finished file is used again if it was built from the same source with the same
    options. The same arguments give a file with the same content, whatever the number of workers.

    Args:
        dataset: A map-style dataset, any iterable of samples, or an IterDataPipe.
        path: Where the file goes. Its folder must exist.
        db_transform: A transform baked into the images, in place of the dataset's own. A last PILToTensor says that
            readers give tensors; any other transform must give what a codec takes.
        num_workers: Processes that read and encode; 0 works in this one. Iterables are always read in this one. Where
            processes are not forked (macOS, Windows, and Linux from Python 3.14), the script that builds needs
            ``if __name__ == "__main__":`` around what it does.
        rounds: How many passes over the dataset are written, `db_transform` drawn anew in each.
        shuffle: Write the samples of every round in a random order. Needs a map-style dataset.
        seed: Seeds that order, and the draws of a random `db_transform`.
        overwrite: Build anew even if there is a finished file. Of several processes, such as ranks, let only one do it:
            another that comes when that is done builds once more, and replaces the file that is read already.
        db_cfg: An `LMDBConfig`, a mapping, or an object with such attributes. Its ``rounds``, ``shuffle_while_writing``
            and ``num_workers`` hold where the arguments here are left at their defaults.
        progress: Show a progress bar.

    Returns:
        The manifest of the finished file.

    Raises:
        ConfigError: An option has a value that cannot be used; or a process that is being started imports the script
            that calls this, and there is no finished file.
        DatabasePathError: The path is a folder, has no parent, or cannot be written.
        DatabaseMismatchError: There is a finished file of another source or other options.
        FormatError: There is a file that is not a finished database; with `overwrite`, one that is no LMDB file at all.
        EmptyDatasetError: The dataset has no samples.
        SampleError: A sample does not fit the first one, or holds what no codec takes; nothing is left behind.
        SourceError: The dataset raised, or a worker process died; what was committed stays, and the same call resumes
            if the dataset is map-style.
        DatabaseFullError: The disk, a quota, or ``map_size``, is full.
    """
    given = LMDBConfig.of(db_cfg)
    options = {
        "num_workers": num_workers or given.num_workers,
        "rounds": rounds if rounds != 1 else given.rounds,
        "shuffle_while_writing": shuffle or given.shuffle_while_writing,
    }
    config = LMDBConfig.of({**vars(given), **options})
    target = Path(path).expanduser().absolute()
    before = _check_path(target)
    if overwrite and before is not None:
        _check_overwrite(target)
    encoder, origin = _prepare(dataset, db_transform, config, seed)
    if before is not None and not overwrite:
        return _use_again(target, origin)
    _check_process(target)
    with _lock(target):
        if _identity(target) not in (before, None):  # another has just built it
            return _use_again(target, origin)
        try:
            return _build(encoder, target, config, origin, progress=progress)
        except Exception as error:
            if encoder.length is None or isinstance(error, SampleError | EmptyDatasetError):  # no use in going on
                partial_path(target).unlink(missing_ok=True)
            raise


def check_reuse(dataset: Any, path: Path, *, db_transform: Any, db_cfg: LMDBConfig) -> Manifest:
    """Read the manifest of a finished file, if `build` would use it again for a dataset.

    Raises:
        DatabaseMismatchError: It is of another source or other options.
        FormatError: It is not a finished database.
    """
    return _use_again(path, _prepare(dataset, db_transform, db_cfg, seed=0)[1])


def _prepare(dataset: Any, db_transform: Any, config: LMDBConfig, seed: int) -> tuple[Encoder, dict[str, Any]]:
    with preserved():
        source = as_source(dataset)
        encoder = Encoder.of(
            source,
            db_transform=db_transform,
            channels_first=config.db_channels_first,
            rounds=config.rounds,
            shuffle=config.shuffle_while_writing,
            seed=seed,
        )
        return encoder, provenance(source, encoder, db_transform)


class _Progress(NamedTuple):
    """How far a build has come; what its checkpoints hold."""

    fingerprint: str
    base: Schema
    schema: Schema
    chunk_length: int
    chunks: int = 0
    length: int = 0
    payload_bytes: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> _Progress:
        """A build that wrote all its chunks."""
        schema, payload = manifest.schema, manifest.totals["payload_bytes"]
        numbers = (manifest.chunk_length, manifest.num_chunks, manifest.length, payload)
        return cls(manifest.fingerprint, schema, schema, *numbers)

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "base": self.base.to_json(), "schema": self.schema.to_json()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> _Progress:
        return cls(**{**fields, **{name: Schema.from_json(fields[name]) for name in ("base", "schema")}})


def _build(encoder: Encoder, target: Path, config: LMDBConfig, origin: dict[str, Any], *, progress: bool) -> Manifest:
    fingerprint = str(origin["fingerprint"])
    done, samples = _resume(encoder, target, fingerprint), encoder.samples()
    first: list[EncodedChunk] = []
    if done is None:
        with preserved():
            chunk = encoder.first_chunk(samples)
        if chunk is None:
            raise EmptyDatasetError(f"{origin['source']}: has no samples; there is nothing to write")
        first = [chunk]
        done = _Progress(fingerprint, chunk.schema, chunk.schema, chunk.length)
    with (
        _remaining_chunks(encoder, done, samples, config.num_workers) as rest,  # starts processes: no file is open yet
        Writer(target, config, fresh=bool(first)) as writer,
        tqdm(total=encoder.length, initial=done.length, unit=" samples", disable=not progress, desc=target.name) as bar,
    ):
        try:
            for chunk in itertools.chain(first, rest):
                done = _put(writer, done, chunk)
                bar.update(chunk.length)
        except SampleError:
            raise
        except BaseException:
            writer.commit()
            raise
        manifest = Manifest(
            length=done.length,
            chunk_length=done.chunk_length,
            schema=done.schema,
            provenance=origin,
            totals={"payload_bytes": done.payload_bytes},
        )
        return writer.finish(manifest)


def _resume(encoder: Encoder, target: Path, fingerprint: str) -> _Progress | None:
    """Find how far an interrupted build of the same source has come."""
    if encoder.length is None:
        return None
    try:
        found = read_checkpoint(target)
        if found is None:
            return None
        done = _Progress.of(found) if isinstance(found, Manifest) else _Progress.from_json(found)
    except (FormatError, TypeError, KeyError):  # another version's
        return None
    return done if done.fingerprint == fingerprint else None


def _remaining_chunks(
    encoder: Encoder, done: _Progress, samples: Iterator[Any], num_workers: int
) -> contextlib.AbstractContextManager[Iterator[EncodedChunk]]:
    start = max(done.chunks, 1)
    if encoder.length is None:
        return contextlib.nullcontext(encode_iterable(encoder, done.base, done.chunk_length, samples))
    if num_workers:
        return encode_in_processes(encoder, done.base, done.chunk_length, start, num_workers)
    return contextlib.nullcontext(encode_map(encoder, done.base, done.chunk_length, start))


def _put(writer: Writer, done: _Progress, chunk: EncodedChunk) -> _Progress:
    """Write the next chunk. If it widens the schema, first add to earlier chunks the columns that they lack."""
    schema = done.schema.join(chunk.schema)
    payload = done.payload_bytes
    if schema != done.schema:
        lacking, checkpoint = schema.widen(done.schema, done.chunk_length), done.to_json()
        payload += done.chunks * _nbytes(lacking)
        for before in range(done.chunks):
            writer.put(before, lacking, 0, checkpoint)
    columns = {**chunk.columns, **schema.widen(chunk.schema, chunk.length)}
    done = done._replace(
        schema=schema,
        chunks=done.chunks + 1,
        length=done.length + chunk.length,
        payload_bytes=payload + _nbytes(columns),
    )
    writer.put(done.chunks - 1, columns, chunk.length, done.to_json())
    return done


def _nbytes(columns: Columns) -> int:
    return sum(array.nbytes for array in columns.values())


def _use_again(target: Path, origin: dict[str, Any]) -> Manifest:
    """Take a finished file, if it is of the same source and options."""
    with contextlib.closing(Database(target)) as database:
        manifest = database.manifest
    if different := differences(dict(manifest.provenance), origin):
        raise DatabaseMismatchError(
            f"{target}: was built from something else: {'; '.join(different)}. "
            "Use another name, or build it anew with overwrite=True (force_db_rebuild=True in LMDBDataset)"
        )
    return manifest


def _check_path(target: Path) -> tuple[int, int] | None:
    """See that a file can be at a path, and tell which is."""
    try:
        is_folder, has_parent = target.is_dir(), target.parent.is_dir()
    except OSError as error:  # a folder above it may not be searched
        raise DatabasePathError(f"{target}: cannot be reached: {error.strerror}") from error
    if is_folder:
        raise DatabasePathError(f"{target}: is a folder; give the path of a file in it, such as {target / 'data.lmdb'}")
    if not has_parent:
        raise DatabasePathError(f"{target}: its folder does not exist; make {target.parent} first")
    if not os.access(target.parent, os.W_OK) and not target.exists():
        raise DatabasePathError(f"{target}: its folder cannot be written")
    return _identity(target)


def _check_overwrite(target: Path) -> None:
    """See that nothing but an LMDB file would be lost."""
    try:
        is_ours = looks_like_lmdb(target)
    except OSError as error:
        raise DatabasePathError(f"{target}: cannot be read: {error.strerror}") from error
    if not is_ours:
        raise FormatError(f"{target}: is no LMDB file, and is not overwritten; use another name, or delete it first")


def _check_process(target: Path) -> None:
    """Refuse to build while a new process imports the main script: the build that started it may hold the lock."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            f"{target}: a process that was started by spawn or forkserver imports the script, and would build again; "
            'put what the script does under `if __name__ == "__main__":`'
        )


def _identity(target: Path) -> tuple[int, int] | None:
    """Tell a file from its successor of the same name."""
    try:
        stat = target.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Be the only builder of a file; the lock's own file is gone afterwards."""
    lock = FileLock(lock_path(target))
    try:
        lock_path(target).touch()  # or it would be waited for where no file can be made
        lock.acquire()
    except OSError as error:
        raise DatabasePathError(f"{target}: its folder cannot be written: {error}") from error
    try:
        yield
    finally:
        if os.name == "posix":  # while it is held: who waits for it sees that it is gone, and makes another
            lock_path(target).unlink(missing_ok=True)
        lock.release()
