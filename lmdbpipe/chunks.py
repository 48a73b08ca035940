"""The chunks of a build, encoded in order: here, or ahead in worker processes."""

from __future__ import annotations

import collections
import contextlib
import itertools
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, NamedTuple

import torch

from lmdbpipe.codecs import Schema
from lmdbpipe.encode import EncodedChunk, Encoder
from lmdbpipe.errors import LMDBPipeError, SourceError
from lmdbpipe.seeding import preserved, seed_all


def encode_map(encoder: Encoder, base: Schema, chunk_length: int, start: int) -> Iterator[EncodedChunk]:
    """Encode the chunks from `start` on, in this process. Others may have the random generators in between."""
    job = _Job(encoder, base, chunk_length)
    for chunk in range(start, job.num_chunks):
        with preserved():
            encoded = job.encode(chunk)
        yield encoded


def encode_iterable(
    encoder: Encoder, base: Schema, chunk_length: int, samples: Iterator[tuple[int, Any]]
) -> Iterator[EncodedChunk]:
    """Encode the chunks that the rest of an iterable makes. Others may have the random generators in between."""
    for chunk in itertools.count(1):
        with preserved():
            seed_all(encoder.seed, chunk)  # or what the source draws would be the same in each
            taken = list(itertools.islice(samples, chunk_length))
        if not taken:
            return
        yield encoder.encode(taken, base)


@contextlib.contextmanager
def encode_in_processes(
    encoder: Encoder, base: Schema, chunk_length: int, start: int, num_workers: int
) -> Iterator[Iterator[EncodedChunk]]:
    """Encode the chunks from `start` on in worker processes, which are started at once, and give them in order."""
    job = _Job(encoder, base, chunk_length)
    with ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(job,)) as pool:
        chunks = iter(range(start, job.num_chunks))
        ahead = collections.deque(pool.submit(_work, chunk) for chunk in itertools.islice(chunks, 2 * num_workers))
        try:
            yield _collect(pool, ahead, chunks)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(
    pool: ProcessPoolExecutor, ahead: collections.deque[Future[Any]], chunks: Iterator[int]
) -> Iterator[EncodedChunk]:
    while ahead:
        try:
            result = ahead.popleft().result()
            if isinstance(result, _Failure):
                raise result.error from result.cause
            ahead.extend(pool.submit(_work, chunk) for chunk in itertools.islice(chunks, 1))
        except BrokenProcessPool as error:
            raise SourceError(
                "a worker process died, perhaps for want of memory (use fewer num_workers); its own error stands above"
            ) from error
        yield result


class _Job(NamedTuple):
    encoder: Encoder
    base: Schema
    chunk_length: int

    @property
    def num_chunks(self) -> int:
        return -(-(self.encoder.length or 0) // self.chunk_length)

    def encode(self, chunk: int) -> EncodedChunk:
        start = chunk * self.chunk_length
        stop = min(start + self.chunk_length, self.encoder.length or 0)
        return self.encoder.encode(self.encoder.samples(start, stop), self.base)


class _Failure(NamedTuple):
    """An error on its way between processes, which would lose its cause."""

    error: Exception
    cause: BaseException | None


_jobs: list[_Job] = []
"""In a worker process: the one job that it does."""


def _start_worker(job: _Job) -> None:
    _jobs[:] = [job]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """Exit when the building process is gone: a forked worker holds its lock too, so that nobody else could build."""
    if (parent := multiprocessing.parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(chunk: int) -> EncodedChunk | _Failure:
    try:
        return _jobs[0].encode(chunk)
    except LMDBPipeError as error:
        return _Failure(error, _portable(error.__cause__))


def _portable(cause: BaseException | None) -> BaseException | None:
    """Give an error that survives the way between processes; many that users define do not."""
    try:
        pickle.loads(pickle.dumps(cause))
    except Exception as problem:  # whatever their constructors do
        return RuntimeError(f"{cause!r} (which does not pickle: {problem})")
    return cause
