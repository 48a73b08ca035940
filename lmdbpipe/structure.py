"""The shape of a sample: a tree of tuples, lists, dicts and named tuples whose leaves are values.

The tree is taken from the first sample; every other sample is checked against it while it is flattened. What is plain
data whose form may change from sample to sample (None, and dicts or lists as annotations have them) is one leaf.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeAlias

from lmdbpipe.errors import CorruptError, SampleError, UnsupportedLeafError

Key: TypeAlias = str | int
Path: TypeAlias = tuple[Key, ...]
_PLAIN = (str, int, float, bool, type(None))
_DICTS: dict[str, type[dict[Any, Any]]] = {"dict": dict, "OrderedDict": collections.OrderedDict}


def format_path(path: Path) -> str:
    """Write a leaf's path as users see it: ``"0"``, ``"target/boxes"``; the sample itself is ``"sample"``."""
    return "/".join(map(str, path)) or "sample"


def is_plain(value: object) -> bool:
    """Whether JSON gives the value back equal and of the same types (exact built-in types, string keys)."""
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return type(value) in _PLAIN


def _varies(value: object) -> bool:
    """Whether plain data has a form that another sample may not share: a list, None or nothing somewhere in it."""
    if type(value) is dict:
        return not value or any(map(_varies, value.values()))
    return value is None or type(value) is list


def is_json_leaf(value: object) -> bool:
    """Whether a value is stored whole, as JSON, rather than as a branch of the tree."""
    return _varies(value) and is_plain(value)


@dataclasses.dataclass(frozen=True)
class Structure:
    """A node of the tree: a leaf, or a container and its children.

    Attributes:
        kind: ``leaf``, ``tuple``, ``list``, ``dict``, ``OrderedDict`` or ``namedtuple``.
        keys: The children's keys: positions, dict keys, or field names.
        children: One structure for each key.
        type_name: Of a named tuple: its module and qualified name.
    """

    kind: str
    keys: tuple[Key, ...] = ()
    children: tuple[Structure, ...] = ()
    type_name: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, sample: object, path: Path = ()) -> Structure:
        """Take the structure of a sample.

        Raises:
            UnsupportedLeafError: A dict has a key that is neither a string nor an integer.
        """
        kind = _container(sample)
        if kind is None:
            return cls("leaf")
        keys, values = _items(sample, kind)
        for key in keys:
            if type(key) not in (str, int):
                raise UnsupportedLeafError(
                    f"leaf {format_path(path)}: a dict key must be a string or an integer, got {key!r}"
                )
        children = tuple(cls.of(value, (*path, key)) for key, value in zip(keys, values, strict=True))
        return cls(kind, keys, children, _type_name(sample) if kind == "namedtuple" else ("", ""))

    @functools.cached_property
    def paths(self) -> tuple[Path, ...]:
        """The path of every leaf, in flat order."""
        if self.kind == "leaf":
            return ((),)
        pairs = zip(self.keys, self.children, strict=True)
        return tuple((key, *path) for key, child in pairs for path in child.paths)

    def flatten(self, sample: Any, path: Path = ()) -> list[Any]:
        """List a sample's leaves in the order of `paths`.

        Raises:
            SampleError: The sample has another structure.
        """
        if self.kind == "leaf":
            return [sample]
        kind = _container(sample)
        where = f"leaf {format_path(path)}"
        if kind != self.kind or (kind == "namedtuple" and _type_name(sample) != self.type_name):
            expected = ".".join(self.type_name) if self.kind == "namedtuple" else self.kind
            raise SampleError(f"{where}: the first sample has a {expected} here, this one a {type(sample).__name__}")
        keys, values = _items(sample, self.kind)
        if kind == "dict" and keys != self.keys and set(keys) == set(self.keys):
            keys, values = self.keys, tuple(sample[key] for key in self.keys)  # equal dicts, whatever their order
        if keys != self.keys:
            raise SampleError(
                f"{where}: the first sample's {self.kind} has {_describe(self.keys)}, this one {_describe(keys)}"
            )
        return [
            leaf
            for key, child, value in zip(keys, self.children, values, strict=True)
            for leaf in child.flatten(value, (*path, key))
        ]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Put leaves, in the order of `paths`, back into a sample of the source's types."""
        return self._assemble(iter(leaves), as_batch=False)

    def unflatten_batch(self, leaves: Sequence[Any]) -> Any:
        """Put batched leaves into the containers that torch's ``default_collate`` uses: a tuple becomes a list."""
        return self._assemble(iter(leaves), as_batch=True)

    def _assemble(self, leaves: Iterator[Any], *, as_batch: bool) -> Any:
        if self.kind == "leaf":
            return next(leaves)
        values = [child._assemble(leaves, as_batch=as_batch) for child in self.children]
        if self.kind in _DICTS:
            return _DICTS[self.kind](zip(self.keys, values, strict=True))
        if self.kind == "namedtuple":
            return _named_tuple(*self.type_name, self.keys)(*values)
        return values if as_batch or self.kind == "list" else tuple(values)

    def to_json(self) -> Any:
        """Describe the tree as JSON: ``"leaf"``, or one item from the kind to the children."""
        if self.kind == "leaf":
            return "leaf"
        children = [child.to_json() for child in self.children]
        if self.kind in ("tuple", "list"):
            return {self.kind: children}
        items = [list(pair) for pair in zip(self.keys, children, strict=True)]
        if self.kind == "namedtuple":
            return {self.kind: items, "type": list(self.type_name)}
        return {self.kind: items}

    @classmethod
    def from_json(cls, tree: Any) -> Structure:
        """Read what `to_json` wrote.

        Raises:
            CorruptError: The description is not one of a tree.
        """
        if tree == "leaf":
            return cls("leaf")
        try:
            kind, items = next(iter(tree.items()), ("", ()))
            if kind in ("tuple", "list"):
                return cls(kind, tuple(range(len(items))), tuple(map(cls.from_json, items)))
            if kind not in _DICTS and kind != "namedtuple":
                raise ValueError(kind)
            module, name = tree["type"] if kind == "namedtuple" else ("", "")
            keys, children = tuple(key for key, _ in items), tuple(cls.from_json(item) for _, item in items)
            return cls(kind, keys, children, (module, name))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"the manifest describes no sample structure: {tree!r}") from error


def get(sample: Any, path: Path) -> Any:
    """Fetch what lies at a path of a sample."""
    for key in path:
        sample = getattr(sample, key) if isinstance(key, str) and isinstance(sample, tuple) else sample[key]
    return sample


def replace(sample: Any, path: Path, value: Any) -> Any:
    """Copy the containers along a path of a sample, with another value at its end."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    child = replace(get(sample, (key,)), rest, value)
    if isinstance(sample, tuple):
        if isinstance(key, str):
            return sample._replace(**{key: child})  # type: ignore[attr-defined]
        return (*sample[:key], child, *sample[key + 1 :])
    copy = sample.copy()
    copy[key] = child
    return copy


def _container(value: object) -> str | None:
    """Name the kind of a container; None for a leaf."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "namedtuple"
    if type(value) not in (tuple, list, dict, collections.OrderedDict) or is_json_leaf(value):
        return None
    return type(value).__name__


def _items(value: Any, kind: str) -> tuple[tuple[Key, ...], tuple[Any, ...]]:
    if kind in _DICTS:
        return tuple(value), tuple(value.values())
    return value._fields if kind == "namedtuple" else tuple(range(len(value))), tuple(value)


def _type_name(value: object) -> tuple[str, str]:
    module = type(value).__module__
    return "__main__" if module == "__mp_main__" else module, type(value).__qualname__  # spawned processes rename it


def _describe(keys: tuple[Hashable, ...]) -> str:
    is_positions = keys == tuple(range(len(keys)))
    return f"{len(keys)} items" if is_positions else f"keys {', '.join(map(repr, keys))}"


@functools.cache
def _named_tuple(module: str, name: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    """Find a named tuple's class where it is imported already, or make an equal one: a file never causes an import."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == fields:
        return found
    base = collections.namedtuple(name.rsplit(".", 1)[-1], fields)  # type: ignore[misc]
    reduce = {"__slots__": (), "__reduce__": lambda self: (_make, (module, name, fields, tuple(self)))}
    return type(base.__name__, (base,), reduce)


def _make(module: str, name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """Rebuild a named tuple whose class exists in no module (what its ``__reduce__`` names)."""
    return _named_tuple(module, name, fields)(*values)
