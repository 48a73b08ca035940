"""``lmdbpipe demo``: which data it takes, what it prints, and that it leaves nothing behind. Never the network."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision import datasets
from typer.testing import CliRunner

from lmdbpipe import demo as module
from lmdbpipe.cli import app
from lmdbpipe.errors import ConfigError, SourceError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure briefly; look for data nowhere but in an empty folder; put temporary files where they can be seen."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(module._rate, "__kwdefaults__", {"epochs": 2, "least": 0.02})
    monkeypatch.setattr(module, "_SECONDS", 0.2)


def images(folder: Path, *, equal: bool) -> Path:
    """Make an ImageFolder."""
    for index in range(6):
        (folder / f"class{index % 3}").mkdir(parents=True, exist_ok=True)
        size = (32, 24) if equal else (32 + index, 24)
        Image.new("RGB", size, (40 * index, 128, 0)).save(folder / f"class{index % 3}" / f"{index}.png")
    return folder


def check(output: str) -> None:
    """Check the table: four rows of rates above zero, the first of ratio 1."""
    rows = [line.split() for line in output.splitlines() if line.startswith("  ") and line.split()[-1] != "ratio"]
    names, rates = [" ".join(row[:-2]) for row in rows], [float(row[-2].replace(",", "")) for row in rows]
    assert names == [
        "the dataset itself",
        "LMDBDataset, DataLoader(shuffle=True)",
        "stream in cursor order",
        "stream, shuffled",
    ]
    assert min(rates) > 0
    assert rows[0][-1] == "1.0"
    assert "File: " in output
    assert len({len(line) for line in output.splitlines() if line.startswith("  ")}) == 1  # columns are aligned


@pytest.mark.parametrize("equal", [True, False])
def test_images_that_are_given(tmp_path: Path, equal: bool) -> None:
    """A folder of images is taken as it is, or resized if sizes vary; nothing is left behind."""
    folder = images(tmp_path / "images", equal=equal)
    result = CliRunner().invoke(app, ["demo", "--data", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"the images in {folder}; 6 images" in result.stdout
    assert ("resized" in result.stdout) is not equal
    assert "100%" in result.stderr  # the progress bar of the build
    check(result.stdout)
    assert not list((tmp_path / "temporary").iterdir())


def test_fake_data_where_there_is_nothing(tmp_path: Path) -> None:
    """With no data and no download it takes FakeData, and says so."""
    result = CliRunner().invoke(app, ["demo", "--no-download"])
    assert result.exit_code == 0, result.output
    assert "torchvision's FakeData" in result.stdout
    check(result.stdout)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_dataset_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision dataset in a usual place is found, and named."""
    monkeypatch.setattr(module, "_KNOWN", {"Absent": _absent, "Present": _Present})
    (tmp_path / "elsewhere" / "data").mkdir()
    choice = module.choose(None, tmp_path, download=True, echo=print)
    assert choice.name == "torchvision's Present, found in data"
    assert len(choice.open(transform=None)) == 7


def test_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that works is used; one that does not is passed over with a line."""
    said: list[str] = []
    monkeypatch.setattr(module, "_KNOWN", {"Present": _Present})
    monkeypatch.setattr(module, "_download", module._find)
    assert "downloaded" in module.choose(None, tmp_path, download=True, echo=said.append).name
    monkeypatch.setattr(module, "_download", lambda folder: None)
    assert "FakeData" in module.choose(None, tmp_path, download=True, echo=said.append).name
    assert said[-1] == "That did not work."


def test_a_download_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that downloads is ended when its time is over."""
    monkeypatch.setattr(module, "_DOWNLOAD_SECONDS", 0.1)  # less than a process takes to start
    assert module._download(tmp_path) is None


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    """A folder that is missing, or whose images are broken, is one clear error."""
    with pytest.raises(ConfigError, match="no such folder"):
        module.demo(tmp_path / "none", download=False, echo=print)
    broken = images(tmp_path / "images", equal=True)
    (broken / "class0" / "0.png").write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be read"):
        module.demo(broken, download=False, echo=print)


def _absent(root: str, **options: Any) -> None:
    raise RuntimeError("Dataset not found or corrupted.")


_Present = functools.partial(lambda root, **options: datasets.FakeData(size=7, **options))
