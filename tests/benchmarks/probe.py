"""Measurements that need a process of their own.

One process imports the contenders; for each repeat it forks a child, which so starts with the imports done and nothing
else, and passes on the child's figure. Where a system cannot fork, the repeats share the process.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from lmdbpipe.machine import own_memory, peak_memory

from .contender import Job, Reader, Unsupported
from .contenders import CONTENDERS
from .contenders.ours import stream
from .data import Source
from .machine import deadline

_ENOUGH_SECONDS = 20.0  # repeats end here, so that a contender that compiles for seconds is not asked 21 times

_M_MMAP_THRESHOLD = -3  # malloc.h


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure, of whom, how often."""

    what: Literal["first-batch", "memory", "pass"]
    contender: str
    source: Source
    folder: Path
    job: Job
    repeats: int = 1
    epochs: int = 1
    """How many of each order ``memory`` reads."""
    readahead: bool = True


class Prober:
    """The process, started at the first question and ended by ``close`` (or ``with``)."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self._server: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._errors.close()

    def ask(self, request: Request) -> list[float]:
        """Seconds (``first-batch``, ``pass``) or bytes (``memory``), a value a repeat.

        Raises:
            Unsupported: The contender has no such thing.
            RuntimeError: It failed; the message says how.
            TimeoutError: It took too long.
        """
        answer = self._exchange(request)
        if answer["kind"] == "refused":
            raise Unsupported(answer["reason"])
        if answer["kind"] == "failed":
            raise RuntimeError(answer["reason"])
        values: list[float] = answer["values"]
        return values

    def _exchange(self, request: Request) -> dict[str, Any]:
        server = self._server or self.start()
        if server.stdin is None or server.stdout is None:
            raise RuntimeError("the probe has no pipes")
        try:
            with deadline(self.limit_seconds * request.repeats):
                pickle.dump(request, server.stdin)
                server.stdin.flush()
                line = server.stdout.readline()
        except BaseException:
            self.close()
            raise
        if not line:
            self.close()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the probe died: {''.join(last)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process; the first question does so too, but then waits for its imports."""
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", f"{__package__}.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        )
        return self._server

    def close(self) -> None:
        """End the process, if it runs."""
        if self._server is not None:
            self._server.kill()
            self._server.communicate()
            self._server = None


def first_batch(request: Request) -> float:
    """Seconds from nothing open to the first batch of a sequential epoch."""
    start = time.perf_counter()
    next(iter(_open(request).sequential(request.job)))
    return time.perf_counter() - start


def memory(request: Request) -> float:
    """Bytes by which the process's own memory grows at most, over some sequential and some shuffled epochs.

    What the allocator has free is given back before each look. Without that a batch counts or not by whether the
    imports have left a hole of its size, which is as much as all else that a stream holds.
    """
    before = _memory()
    peak = max(_sizes(request), default=before)
    return peak - before


def one_pass(request: Request) -> float:
    """Seconds for opening and one sequential pass."""
    start = time.perf_counter()
    for _ in stream(request.folder, request.job, shuffle=False, db_cfg={"readahead": request.readahead}):
        pass
    return time.perf_counter() - start


def _open(request: Request) -> Reader:
    contender = next(one for one in CONTENDERS if one.name == request.contender)
    return contender.open(request.source, request.folder)


def _memory() -> int:
    _return_free_memory()
    own = own_memory()
    return (peak_memory() or 0) if own is None else own


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if is_glibc else None


def _return_free_memory() -> None:
    """Have glibc's allocator give free memory back to the system: what is 64 KiB or more from now on at once."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        libc.malloc_trim(0)


def _sizes(request: Request) -> Iterator[int]:
    reader = _open(request)
    for epochs in (reader.sequential(request.job), reader.shuffled(request.job)):
        for batch in itertools.chain.from_iterable(itertools.repeat(epochs, request.epochs)):
            yield _memory()
            del batch


_MEASURES: dict[str, Callable[[Request], float]] = {"first-batch": first_batch, "memory": memory, "pass": one_pass}


def _answer(request: Request) -> dict[str, Any]:
    """One repeat, as it goes over the pipe."""
    try:
        return {"kind": "value", "value": _MEASURES[request.what](request)}
    except Unsupported as refusal:
        return {"kind": "refused", "reason": str(refusal)}
    except Exception as error:  # the next contender is asked all the same
        return {"kind": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}


def _child(request: Request, answers: Connection) -> None:
    answers.send(_answer(request))


def _repeat(request: Request) -> dict[str, Any]:
    if "fork" not in multiprocessing.get_all_start_methods():
        return _answer(request)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(request, theirs))
    child.start()
    theirs.close()
    try:
        answer: dict[str, Any] = ours.recv()
    except EOFError:
        answer = {"kind": "failed", "reason": "its process died"}
    child.join()
    return answer


def _repeats(request: Request) -> dict[str, Any]:
    """All repeats of a request, in this process's children; the imports are done here, once."""
    contender = next(one for one in CONTENDERS if one.name == request.contender)
    reason = contender.available()
    if reason is not None:
        return {"kind": "failed", "reason": reason}
    values: list[float] = []
    start = time.perf_counter()
    while len(values) < request.repeats and time.perf_counter() - start < _ENOUGH_SECONDS:
        answer = _repeat(request)
        if answer["kind"] != "value":
            return answer
        values.append(answer["value"])
    return {"kind": "values", "values": values}


def serve() -> None:
    """Answer requests on standard input until it ends."""
    torch.set_num_threads(1)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what contenders print is no answer
        while True:
            try:
                request = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            answers.write(f"{json.dumps(_repeats(request))}\n")
            answers.flush()


if __name__ == "__main__":
    # The request's class is looked up by the package's path: the one in __main__ is another.
    importlib.import_module(f"{__package__}.probe").serve()
