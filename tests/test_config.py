"""Options: taken from what users have, checked when made."""

from __future__ import annotations

import dataclasses
import pickle
import types
from typing import Any

import pytest

from lmdbpipe import LMDB_config, LMDBConfig
from lmdbpipe.errors import ConfigError


class Attributes:
    """Options as plain attributes of a class."""

    rounds = 3
    access = "cursor"


class Slotted:
    """Options as attributes of an object, with a method among them."""

    def __init__(self) -> None:
        self.write_frequency = 5

    def method(self) -> None:
        """Is no option."""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        (LMDBConfig, {}),
        (LMDB_config, {}),
        (LMDBConfig(rounds=2), {"rounds": 2}),
        ({"map_size": 1 << 20}, {"map_size": 1 << 20}),
        (types.MappingProxyType({"readahead": False}), {"readahead": False}),
        (types.SimpleNamespace(db_attempt_interval=0), {"db_attempt_interval": 0}),
        (Attributes, {"rounds": 3, "access": "cursor"}),
        (Attributes(), {"rounds": 3, "access": "cursor"}),
        (Slotted(), {"write_frequency": 5}),
    ],
    ids=repr,
)
def test_options_from_anything(given: Any, expected: dict[str, Any]) -> None:
    """A config, a mapping, None, an object or a class with such attributes become the same kind of config."""
    config = LMDBConfig.of(given)
    assert type(config) is LMDBConfig
    assert config == LMDBConfig(**expected)


def test_defaults_are_torchlmdbs() -> None:
    """All of torchlmdb's options have the defaults that its README gives."""
    defaults = LMDBConfig()
    assert defaults.map_size == 2 * 1024**4
    assert defaults.write_frequency == 65536
    assert (defaults.shuffle_while_writing, defaults.db_channels_first, defaults.rounds) == (False, True, 1)
    assert (defaults.num_db_attempts, defaults.max_readers, defaults.max_spare_txns) == (10, 128, 128)
    assert (defaults.readahead, defaults.meminit, defaults.access) == (True, True, "get")


@pytest.mark.parametrize("given", [{"mapsize": 1}, types.SimpleNamespace(mapsize=1)], ids=["mapping", "object"])
def test_unknown_options_name_the_known_ones(given: Any) -> None:
    """A misspelt option is an error that names it and lists all options."""
    with pytest.raises(ConfigError, match="unknown option mapsize; the options are map_size, write_frequency,"):
        LMDBConfig.of(given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((field.name, value) for field in dataclasses.fields(LMDBConfig) for value in ("nonsense", None, -1)),
        ("map_size", 0),
        ("map_size", 1e12),
        ("rounds", 0),
        ("rounds", True),
        ("num_workers", 1.0),
        ("readahead", 1),
        ("db_attempt_interval", float("nan")),
        ("db_attempt_interval", float("inf")),
        ("db_attempt_interval", True),
        ("write_frequency", 0),
    ],
)
def test_wrong_values_are_refused(name: str, value: Any) -> None:
    """Each option is checked when it is set; the error names it and shows the value. ConfigError is a ValueError."""
    with pytest.raises(ConfigError, match=f"^{name} must be .*got {value!r}"):
        LMDBConfig(**{name: value})
    assert issubclass(ConfigError, ValueError)


def test_configs_are_frozen_and_travel() -> None:
    """A config cannot be changed, and comes back equal from a pickle."""
    config = LMDBConfig(rounds=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rounds = 3  # type: ignore[misc]
    assert config == pickle.loads(pickle.dumps(config))
