"""The command line: ``lmdbpipe build``, ``info``, ``verify``, ``bench`` and ``demo``.

What fails is one line on stderr: with exit status 1 where the files or the data are at fault, 2 where the command is.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.metadata
import json
import multiprocessing
import operator
import sys
import textwrap
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from torchvision.transforms import v2
from typer.core import TyperGroup

from lmdbpipe.bench import Options, as_json_dict, as_text, bench
from lmdbpipe.build import build
from lmdbpipe.demo import demo
from lmdbpipe.describe import describe, explain
from lmdbpipe.errors import ConfigError, LMDBPipeError
from lmdbpipe.sources import SOURCES, parse
from lmdbpipe.store import Database, partial_path, verify
from lmdbpipe.table import megabytes

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's; some versions of typer carry their own click


class _Commands(TyperGroup):
    """The commands, with their errors in one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit."""
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False}) or 0
            if status != _INTERRUPTED:
                sys.exit(status)
            _fail("interrupted", _INTERRUPTED)
        except LMDBPipeError as error:
            _fail(str(error), _FAILED)
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)  # type: ignore[attr-defined]
                sys.exit(_MISUSED)
            context = getattr(error, "ctx", None)
            command = "lmdbpipe" if context is None else context.command_path
            _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", _MISUSED)  # type: ignore[attr-defined]
        except typer.Abort:  # of versions of typer that say so
            _fail("interrupted", _INTERRUPTED)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"lmdbpipe: error: {' '.join(message.split())}", err=True)
    sys.exit(status)


app = typer.Typer(
    name="lmdbpipe",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app(prog_name="lmdbpipe")


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            version = importlib.metadata.version("lmdbpipe")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        typer.echo(f"lmdbpipe {version}")
        raise typer.Exit


@app.callback()
def _lmdbpipe(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Write a PyTorch dataset once into an LMDB file, then stream it.

    \b
    Example: lmdbpipe build imagefolder:photos/train train.lmdb
             lmdbpipe info train.lmdb
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines


_SOURCE_HELP = "What to build from. " + "; ".join(
    f"{source.name}:{source.where}, {source.summary}" for source in SOURCES.values()
)


@app.command("build")
def _build(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"{_SOURCE_HELP}.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; its folder must exist.")],
    *,
    resize: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Store images with their shorter side N pixels long, or HxW pixels large."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=0, help="Processes that read and encode; 0: this one.")] = 0,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the source that are written.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Build anew even if OUT is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")] = False,
) -> None:
    """Write a dataset into a file. An interrupted build goes on where it stopped.

    \b
    Example: lmdbpipe build imagefolder:photos/train train.lmdb --resize 224x224 --workers 4
    """  # noqa: D301
    try:
        kind, where = parse(source)
        size = None if resize is None else _size(resize)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    start, before = time.perf_counter(), out.expanduser().exists() and not overwrite
    try:
        manifest = build(
            kind.open(where),
            out,
            db_transform=None if size is None else v2.Resize(size),
            num_workers=workers,
            rounds=rounds,
            overwrite=overwrite,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        partial = partial_path(out.expanduser())
        kept = f"; run the same command again to go on, or delete {partial}" if partial.exists() else ""
        _fail(f"interrupted{kept}", _INTERRUPTED)
    how = "was complete already" if before else f"built in {time.perf_counter() - start:.1f} s"
    typer.echo(f"{out}: {manifest.length:,} samples, {megabytes(manifest.totals['file_bytes'])}, {how}")


def _size(text: str) -> int | tuple[int, int]:
    """Read ``N`` or ``HxW``.

    Raises:
        ConfigError: It is neither.
    """
    sides = text.lower().split("x")
    if not all(side.isdecimal() and int(side) for side in sides) or len(sides) > 2:
        raise ConfigError(f"--resize takes a number of pixels, or HxW such as 224x224, not {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


_File = Annotated[Path, typer.Argument(metavar="FILE", help="A file that lmdbpipe wrote.")]


@app.command("info")
def _info(
    file: _File,
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's manifest as JSON instead.")] = False,
    transform: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME", help="Say step by step how this transform of yours would be batched instead."
        ),
    ] = None,
) -> None:
    """Show what is in a file, how large it is, and where it came from.

    \b
    Example: lmdbpipe info train.lmdb
             lmdbpipe info train.lmdb --transform train:augment
    """  # noqa: D301
    database = Database(file)
    if transform is not None:
        typer.echo(explain(database, _imported(transform)))
    elif as_json:
        typer.echo(json.dumps(json.loads(database.manifest.dumps()), indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{file}\n{textwrap.indent(describe(database), '  ')}")


def _imported(name: str) -> Any:
    """Import a transform, ``MODULE:NAME``, as Python would in this folder."""
    module, _, attribute = name.partition(":")
    if not module or module.startswith(".") or not attribute:
        raise typer.BadParameter(f"{name!r} is no MODULE:NAME, such as train:augment")
    sys.path.insert(0, "")
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:  # whatever a module of the user's raises
        raise typer.BadParameter(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if isinstance(found, type) or not callable(found):
        what = f"the class {attribute}: name an object of it" if isinstance(found, type) else f"{found!r}"
        raise typer.BadParameter(f"{name!r} is no transform, but {what}")
    return found


@app.command("verify")
def _verify(file: _File) -> None:
    """Check every checksum and every promise that the format makes. Exit status 1 if something is wrong.

    \b
    Example: lmdbpipe verify train.lmdb && echo sound
    """  # noqa: D301
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:  # LMDB trusts its pages: one that is damaged may kill the process that reads it
            length, problems = pool.submit(_problems, file).result()
        except BrokenProcessPool:
            length, problems = 0, ["its tree of pages is so damaged that LMDB crashed on it"]
    for problem in problems:
        typer.echo(f"{file}: {problem}")
    if problems:
        _fail(f"{file}: {len(problems)} problem{'s' * (len(problems) > 1)} found; copy or build it again", _FAILED)
    typer.echo(f"{file}: sound, {length:,} samples")


def _problems(file: Path) -> tuple[int, list[str]]:
    database = Database(file)
    return database.manifest.length, list(verify(database))


@app.command("bench")
def _bench(
    file: _File,
    *,
    transform: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="Your transform; by default what suits the file's images."),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Samples in a batch.")] = 256,
    workers: Annotated[int, typer.Option(metavar="N", min=0, help="Worker processes; 0 measures none.")] = 2,
    seconds: Annotated[float, typer.Option(metavar="S", min=0, help="How long each way is read in all.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print every round as JSON instead.")] = False,
) -> None:
    """Measure how fast a file is read on this machine, in every way, beside what its disk and memory can do.

    For the figures with a cold cache, the kernel is asked to forget the file; nothing is written.

    \b
    Example: lmdbpipe bench train.lmdb
             lmdbpipe bench train.lmdb --transform train:augment --batch-size 128 --workers 8
    """  # noqa: D301
    given = None if transform is None else _imported(transform)
    options = Options(
        batch_size=batch_size, workers=workers, seconds=seconds, transform=given, transform_name=transform or ""
    )
    report = bench(file, options)
    typer.echo(json.dumps(as_json_dict(report), indent=2, ensure_ascii=False) if as_json else as_text(report))


@app.command("demo")
def _demo(
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder with a sub-folder of images for each class.")
    ] = None,
    download: Annotated[bool, typer.Option(help="Whether a small dataset may be downloaded if none is found.")] = True,
) -> None:
    """Show on this machine what it brings: build a file of some images, stream it, and compare. Leaves nothing behind.

    \b
    Example: lmdbpipe demo --data photos/train
    """  # noqa: D301
    demo(data, download=download, echo=typer.echo)
