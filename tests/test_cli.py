"""The command line: what it prints, where, and its exit status."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner, Result

import lmdbpipe
from lmdbpipe.bench import bench
from lmdbpipe.cli import app
from lmdbpipe.store import Database

REPOSITORY = Path(lmdbpipe.__file__).parents[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of two classes, six images of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    pixels = torch.Generator().manual_seed(0)
    for index in range(6):
        (folder / f"class{index % 2}").mkdir(exist_ok=True)
        image = torch.randint(256, (10 + index, 12, 3), dtype=torch.uint8, generator=pixels)
        Image.fromarray(image.numpy()).save(folder / f"class{index % 2}" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def built(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file built from `images`."""
    path = tmp_path_factory.mktemp("built") / "photos.lmdb"
    lmdbpipe.build(ImageFolder(str(images)), path, progress=False)
    return path


def run(*args: str | os.PathLike[str]) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [os.fspath(arg) for arg in args], prog_name="lmdbpipe")


def run_process(*args: str | os.PathLike[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as users do."""
    command: Sequence[str | os.PathLike[str]] = [sys.executable, "-m", "lmdbpipe", *args]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def assert_error(result: Result, status: int, *parts: str) -> None:
    """Check that a command failed with one line on stderr and nothing else."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("lmdbpipe: error: ")
    assert all(part in line for part in parts), line


def test_build_writes_every_pixel(images: Path, tmp_path: Path) -> None:
    """A built file holds what the folder holds, and a line says so."""
    result = run("build", f"imagefolder:{images}", tmp_path / "out.lmdb")
    assert result.exit_code == 0, result.output
    assert "6 samples" in result.stdout
    assert "100%" in result.stderr  # the progress bar
    source, read = ImageFolder(str(images)), lmdbpipe.LMDBDataset.from_path(tmp_path / "out.lmdb")
    assert [read[index] for index in range(6)] == [source[index] for index in range(6)]
    assert [path.name for path in tmp_path.iterdir()] == ["out.lmdb"]


def test_build_options(images: Path, tmp_path: Path) -> None:
    """Resizing, rounds, workers and silence do what they say."""
    options = ["--resize", "8x9", "--rounds", "2", "--workers", "1", "--quiet"]
    result = run("build", f"imagefolder:{images}", tmp_path / "out.lmdb", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    read = lmdbpipe.LMDBDataset.from_path(tmp_path / "out.lmdb")
    assert len(read) == 12
    assert {read[index][0].size for index in range(12)} == {(9, 8)}


def test_build_resizes_the_shorter_side(images: Path, tmp_path: Path) -> None:
    """A single number is the length of the shorter side, as in torchvision."""
    assert run("build", f"imagefolder:{images}", tmp_path / "out.lmdb", "--resize", "5").exit_code == 0
    read = lmdbpipe.LMDBDataset.from_path(tmp_path / "out.lmdb")
    assert {min(read[index][0].size) for index in range(6)} == {5}


def test_build_again(images: Path, tmp_path: Path) -> None:
    """A finished file is used as it is; of other options it is refused, unless it may be overwritten."""
    source, out = f"imagefolder:{images}", tmp_path / "out.lmdb"
    assert "built in" in run("build", source, out).stdout
    before = out.stat().st_mtime_ns
    assert "was complete already" in run("build", source, out).stdout
    assert out.stat().st_mtime_ns == before
    assert_error(run("build", source, out, "--rounds", "2"), 1, "rounds is 1, not 2", "overwrite")
    assert "built in" in run("build", source, out, "--rounds", "2", "--overwrite").stdout
    assert Database(out).manifest.length == 12


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["build"], ["SOURCE", "lmdbpipe build --help"]),
        (["build", "imagefolder:x"], ["OUT"]),
        (["build", "tar:x", "out.lmdb"], ["'tar:x' names no source", "imagefolder:DIR"]),
        (["build", "imagefolder:x", "out.lmdb", "--workers", "-1"], ["--workers"]),
        (["build", "imagefolder:x", "out.lmdb", "--rounds", "0"], ["--rounds"]),
        (["build", "imagefolder:x", "out.lmdb", "--resize", "big"], ["--resize", "'big'"]),
        (["build", "imagefolder:x", "out.lmdb", "--resize", "0"], ["--resize"]),
        (["build", "imagefolder:x", "out.lmdb", "--resize", "1x2x3"], ["--resize"]),
        (["info"], ["FILE"]),
        (["info", "a", "b"], ["b"]),
        (["verify", "--fast", "a"], ["--fast"]),
        (["bench"], ["FILE"]),
        (["bench", "a", "--batch-size", "0"], ["--batch-size"]),
        (["bench", "a", "--transform", "nowhere:x"], ["nowhere:x"]),
        (["train"], ["train", "lmdbpipe --help"]),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_status_2(args: list[str], parts: list[str]) -> None:
    """A command that cannot be understood says why, and where help is."""
    assert_error(run(*args), 2, *parts)


def test_failures_are_one_line_and_status_1(images: Path, built: Path, tmp_path: Path) -> None:
    """What is wrong with files and data is said in a line that names them."""
    (tmp_path / "text.lmdb").write_text("no database\n" * 1000)
    assert_error(run("build", f"imagefolder:{tmp_path / 'none'}", tmp_path / "o.lmdb"), 1, "no such folder")
    assert_error(run("build", f"imagefolder:{images}", tmp_path / "no" / "o.lmdb"), 1, "its folder does not exist")
    assert_error(run("build", f"imagefolder:{images}", tmp_path), 1, "is a folder")
    assert_error(run("info", tmp_path / "none.lmdb"), 1, "none.lmdb", "no such file")
    assert_error(run("info", tmp_path / "text.lmdb"), 1, "text.lmdb", "is not an LMDB file")
    (tmp_path / "cut.lmdb").write_bytes(built.read_bytes()[:-4096])
    assert_error(run("info", tmp_path / "cut.lmdb"), 1, "truncated")


def test_an_image_that_cannot_be_read(images: Path, tmp_path: Path) -> None:
    """The error names the sample and the file, and there is no file where one would look finished."""
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "class0" / "2.png").write_bytes(b"no image")
    result = run("build", f"imagefolder:{tmp_path / 'data'}", tmp_path / "out.lmdb", "--quiet")
    assert_error(result, 1, "sample 1", "2.png")
    assert not (tmp_path / "out.lmdb").exists()


def test_info_tells_what_is_in_a_file(built: Path) -> None:
    """Leaves, sizes and provenance are shown, and the sizes are those of the file."""
    shown = run("info", built).stdout
    lines = {line.split()[0]: line for line in shown.splitlines()[1:] if line.strip()}
    assert "6 in 1 chunks of 6" in lines["samples"]
    assert f"{built.stat().st_size:,} bytes" in lines["file"]
    assert f"{Database(built).manifest.totals['payload_bytes']:,} bytes" in lines["payload"]
    assert "ImageFolder, 6 samples" in lines["source"]
    assert "nothing" in lines["baked"]
    assert "torch" in lines["written"]
    assert Database(built).manifest.fingerprint in lines["fingerprint"]
    assert lines["0"].split()[:5] == ["0", "image", "pixels", "uint8", "varies"]
    assert "mode RGB, size varies" in lines["0"]
    assert lines["1"].split()[:4] == ["1", "scalar", "data", "int64"]


def test_info_knows_the_home_folder(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that no shell has expanded is found as everywhere else."""
    monkeypatch.setenv("HOME", str(built.parent))
    monkeypatch.setenv("USERPROFILE", str(built.parent))
    assert f"~/{built.name}\n  samples" in run("info", f"~/{built.name}").stdout


def test_info_of_baked_in_transforms(images: Path, tmp_path: Path) -> None:
    """A transform that is baked in is shown, and shapes are then the same for all."""
    run("build", f"imagefolder:{images}", tmp_path / "out.lmdb", "--resize", "8x9", "--rounds", "3", "--quiet")
    shown = run("info", tmp_path / "out.lmdb").stdout
    assert "Resize(size=[8, 9]" in shown
    assert "(8, 9, 3)" in shown
    assert "size 8x9" in shown


def test_info_as_json(built: Path) -> None:
    """The manifest can be had for programs."""
    assert json.loads(run("info", built, "--json").stdout) == json.loads(Database(built).manifest.dumps())


@pytest.mark.usefixtures("_served")
def test_verify_finds_a_changed_byte(built: Path, tmp_path: Path) -> None:
    """A byte that has changed is found, with the chunk and the column it lies in."""
    pixels = lmdbpipe.LMDBDataset.from_path(built)[2][0].tobytes()
    data = bytearray(built.read_bytes())
    data[data.index(pixels[:64])] ^= 1
    (tmp_path / "changed.lmdb").write_bytes(data)
    result = run("verify", tmp_path / "changed.lmdb")
    assert result.exit_code == 1
    assert "chunk 0, column 0 (0/pixels)" in result.stdout
    assert "checksum" in result.stdout
    assert result.stderr.startswith("lmdbpipe: error: ")
    assert "1 problem found" in result.stderr


@pytest.mark.usefixtures("_served")
def test_verify_survives_damaged_pages(built: Path, tmp_path: Path) -> None:
    """Pages on which LMDB itself would crash are reported like other damage, and do not take the command with them."""
    data = bytearray(built.read_bytes())
    for page in range(len(data) // 4096 - 5, len(data) // 4096):  # the roots of the trees, written last
        data[page * 4096 + 16 : (page + 1) * 4096] = b"\xa5" * 4080
    (tmp_path / "damaged.lmdb").write_bytes(data)
    result = run("verify", tmp_path / "damaged.lmdb")
    assert_error(result, 1, "damaged.lmdb")


@pytest.mark.parametrize("command", ["build", "info", "verify", "bench", "demo"])
def test_help_has_an_example(command: str) -> None:
    """The help of every command shows how it is used."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: lmdbpipe {command}" in result.stdout


def test_version() -> None:
    """The version is one line."""
    assert run("--version").stdout.startswith("lmdbpipe ")


def test_help_lists_the_commands() -> None:
    """No arguments, or --help, show what there is."""
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in ("build", "info", "verify", "bench", "demo"))


def test_as_a_process(images: Path, tmp_path: Path) -> None:
    """The command line works as users call it: status, streams, and no traceback; verifying spawns a process."""
    done = run_process("build", f"imagefolder:{images}", "out.lmdb", "--workers", "2", cwd=tmp_path)
    assert (done.returncode, done.stdout[:20]) == (0, "out.lmdb: 6 samples,"), done.stderr
    found = run("verify", tmp_path / "out.lmdb")
    assert (found.exit_code, found.stdout) == (0, f"{tmp_path / 'out.lmdb'}: sound, 6 samples\n"), found.stderr


def test_info_explains_a_transform(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transform of the user's own, named by module and attribute, is explained step by step."""
    (tmp_path / "augmentations.py").write_text(
        "from torchvision.transforms import *\ntrain = Compose([CenterCrop(4), RandomPerspective(), ToTensor()])\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run("info", built, "--transform", "augmentations:train")
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert [line.split()[1] for line in lines] == ["CenterCrop", "RandomPerspective", "ToTensor"]
    assert ["batched" in lines[0], "one at a time" in lines[1]] == [True, True]
    assert_error(run("info", built, "--transform", "augmentations:test"), 2, "augmentations:test")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for name, reason in {
        "nowhere": "no MODULE:NAME",
        "./augmentations:train": "no MODULE:NAME",
        "nowhere:train": "No module named",
        "broken:train": "ZeroDivisionError",
        "os:sep": "no transform",
        "augmentations:ToTensor": "name an object of it",
    }.items():
        assert_error(run("info", built, "--transform", name), 2, name, reason)


def test_no_command(tmp_path: Path) -> None:
    """Without a command, the help is shown as it is."""
    result = run()
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) > 10
    assert "lmdbpipe: error" not in result.stderr


@pytest.mark.parametrize("partial", [True, False])
def test_interrupted(partial: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is said in one line, and what to do with what is there already."""

    def interrupt(*_: object, **__: object) -> None:
        if partial:
            (tmp_path / "out.lmdb.partial").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("lmdbpipe.cli.build", interrupt)
    result = run("build", f"imagefolder:{images}", tmp_path / "out.lmdb")
    assert_error(result, 130, "interrupted")
    assert ("out.lmdb.partial" in result.stderr) == partial
    monkeypatch.setattr("lmdbpipe.cli.bench", interrupt)
    result = run("bench", tmp_path / "out.lmdb")
    assert_error(result, 130, "interrupted")


@pytest.mark.usefixtures("_served", "_impatient")
def test_bench_measures_a_file(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is measured with the user's own transform; the table is for people, JSON for programs."""
    (tmp_path / "measured.py").write_text(
        "from torchvision.transforms import *\nsmall = Compose([CenterCrop(8), ToTensor()])\n"
    )
    monkeypatch.chdir(tmp_path)
    measure = functools.cache(bench)  # once, and shown twice
    monkeypatch.setattr("lmdbpipe.cli.bench", measure)
    options = ["--seconds", "0", "--workers", "0", "--batch-size", "4", "--transform", "measured:small"]
    result = run("bench", built, *options)
    assert result.exit_code == 0, result.output
    assert "6 samples" in result.stdout
    assert "Transformed: measured:small" in result.stdout
    assert all(word in result.stdout for word in ("warm cache", "cold cache", "samples/s", "MB/s"))
    assert "not measured" not in result.stdout.partition("cold cache")[0]
    data = json.loads(run("bench", built, *options, "--json").stdout)
    assert (data["length"], data["batch_size"], data["transform"]) == (6, 4, "measured:small")
    assert measure.cache_info().misses == 1
    assert_error(run("bench", tmp_path / "none.lmdb"), 1, "none.lmdb")
