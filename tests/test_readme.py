"""The README: what is written there is run, command by command and block by block, in its order."""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lmdbpipe.cli import app
from lmdbpipe.config import LMDBConfig

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block."""

    language: str
    code: str
    line: int


BLOCKS = [
    Block(found[1], found[2], README[: found.start()].count("\n") + 1)
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with an ImageFolder ``train``, and the variables that torchrun sets for one rank."""
    noise = torch.Generator().manual_seed(0)
    for index in range(40):
        folder = tmp_path / "train" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (100 + index, 120, 3), dtype=torch.uint8, generator=noise)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.jpg")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    yield
    assert not torch.distributed.is_initialized()


@pytest.mark.usefixtures("_elsewhere", "_served")
@pytest.mark.filterwarnings("ignore:.*set_vital")  # torchdata calls what torch has deprecated
def test_blocks_run() -> None:
    """Every Python block runs as it stands, after the commands and blocks before it."""
    for language, code, line in BLOCKS:
        if language == "python":
            exec(compile("\n" * line + code, "README.md", "exec"), {"__name__": "__main__"})
            gc.collect()  # lets the block's files go
        for command in lmdbpipe_commands(code) if language == "console" else []:
            if command[0] != "demo":
                result = CliRunner().invoke(app, command)
                assert result.exit_code == 0, f"line {line}: {result.output}"
    assert not [name for name in os.listdir() if name.endswith((".partial", ".lock"))]  # noqa: PTH208 - the current folder


def test_commands_exist() -> None:
    """Every `lmdbpipe` command, in blocks and in the text, exists and has the options that are shown."""
    shown = [command for block in BLOCKS if block.language == "console" for command in lmdbpipe_commands(block.code)]
    shown += [shlex.split(found) for found in re.findall(r"`lmdbpipe ([^`]+)`", README)]
    assert shown
    for name, *arguments in shown:
        described = CliRunner().invoke(app, [name, "--help"])
        assert described.exit_code == 0, name
        missing = [argument for argument in arguments if argument.startswith("--") and argument not in described.stdout]
        assert not missing


def test_the_two_commands_come_first() -> None:
    """The first two blocks install and run the demo, and install and run the tests."""
    assert [block.code.strip() for block in BLOCKS[:2]] == [
        "pip install . && lmdbpipe demo",
        'pip install ".[test]" && python -m pytest',
    ]


def test_options_are_documented() -> None:
    """The table of options names every field of LMDBConfig, with its default."""
    section = README.split("## Options")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE))
    assert rows == {field.name: repr(field.default) for field in dataclasses.fields(LMDBConfig)}


def test_files_that_are_named_exist() -> None:
    """Paths of this repository that the README names are there."""
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|ipynb))`", README)
    root = Path(__file__).parents[1]
    assert named
    assert not [path for path in named if not ((root / path).exists() or (root / "lmdbpipe" / path).exists())]


def lmdbpipe_commands(code: str) -> list[list[str]]:
    """Split the `lmdbpipe` commands of a console block into arguments."""
    parts = (part.strip() for line in code.splitlines() for part in line.split("&&"))
    return [shlex.split(part)[1:] for part in parts if part.startswith("lmdbpipe ")]
