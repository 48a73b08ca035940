"""The contract of sources, which every one in the table keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import lmdbpipe
from lmdbpipe.errors import ConfigError
from lmdbpipe.sources import SOURCES, parse


def _image_folder(folder: Path) -> str:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (3, 2), "red" if name == "cat" else "blue").save(folder / name / "0.png")
    return str(folder)


MAKERS: dict[str, Callable[[Path], str]] = {"imagefolder": _image_folder}
"""For each source, how to make something that it can open."""


def test_every_source_is_covered() -> None:
    """A source that is added to the table is added to this suite."""
    assert set(MAKERS) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_opens_what_build_takes(name: str, tmp_path: Path) -> None:
    """What a source opens can be built, and read back equal."""
    source, where = parse(f"{name}:{MAKERS[name](tmp_path / 'data')}")
    dataset = source.open(where)
    manifest = lmdbpipe.build(dataset, tmp_path / "out.lmdb", progress=False)
    assert manifest.length == len(dataset)
    read = lmdbpipe.LMDBDataset.from_path(tmp_path / "out.lmdb")
    assert all(read[index] == dataset[index] for index in range(len(dataset)))


@pytest.mark.parametrize("name", SOURCES)
def test_says_in_its_name_what_is_not_there(name: str, tmp_path: Path) -> None:
    """What cannot be opened is a ConfigError that begins with what the user wrote."""
    source, where = parse(f"{name}:{tmp_path / 'nothing'}")
    with pytest.raises(ConfigError, match=f"^{name}:"):
        source.open(where)


@pytest.mark.parametrize("name", SOURCES)
def test_describes_itself_for_the_help(name: str) -> None:
    """The help can show how a source is written and what it is."""
    source = SOURCES[name]
    assert source.name == name
    assert source.where.isupper()
    assert source.summary
    assert "\n" not in source.summary


@pytest.mark.parametrize("text", ["", "photos", "photos:", "imagefolder:", ":x", "tarfile:x"])
def test_refuses_what_names_no_source(text: str) -> None:
    """A text that names no source is refused, and the message lists the sources."""
    with pytest.raises(ConfigError, match="the sources are imagefolder:DIR"):
        parse(text)


def test_keeps_colons_in_the_place() -> None:
    """Only the first colon counts, so that any path can be given."""
    assert parse("imagefolder:a:b")[1] == "a:b"


def test_image_folder_without_images(tmp_path: Path) -> None:
    """A folder without classes of images is refused in a line."""
    (tmp_path / "class").mkdir()
    source, where = parse(f"imagefolder:{tmp_path}")
    with pytest.raises(ConfigError, match="is no folder of classes with images") as caught:
        source.open(where)
    assert "\n" not in str(caught.value)
