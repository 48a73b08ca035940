"""The sample tree: flattening and unflattening, mismatches, named tuples, JSON leaves."""

from __future__ import annotations

import collections
import copy
import json
import pickle
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.errors import CorruptError, SampleError, UnsupportedLeafError
from lmdbpipe.structure import Structure, format_path, get, is_json_leaf, replace


class Point(NamedTuple):
    """A named tuple that can be imported."""

    x: Any
    y: Any


class Empty(NamedTuple):
    """A named tuple without fields."""


KEYS = st.one_of(st.integers(), st.text(st.characters(), max_size=4))
LEAVES = st.one_of(st.integers(), st.binary(max_size=3), st.none(), st.floats(allow_nan=False), st.builds(object))


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(KEYS, children, max_size=3),
        st.dictionaries(KEYS, children, max_size=3).map(collections.OrderedDict),
        st.builds(Point, children, children),
        st.just(Empty()),
    )


SAMPLES = st.recursive(LEAVES, _containers, max_leaves=12)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value), [(key, _types(item)) for key, item in value.items()]
    return (type(value), list(map(_types, value))) if isinstance(value, list | tuple) else type(value)


@given(SAMPLES)
def test_flatten_and_unflatten_are_inverse(sample: Any) -> None:
    """A sample put together from its leaves is equal, of the same types, with its dicts in the same order."""
    structure = Structure.of(sample)
    leaves = structure.flatten(sample)
    again = structure.unflatten(leaves)
    assert sample == again
    assert _types(sample) == _types(again)
    assert len(leaves) == len(structure.paths) == len(set(structure.paths))


@given(SAMPLES)
def test_paths_lead_to_leaves(sample: Any) -> None:
    """The path of each leaf, followed in the sample, finds that leaf; a leaf replaced there is found there."""
    structure = Structure.of(sample)
    for path, leaf in zip(structure.paths, structure.flatten(sample), strict=True):
        assert leaf is get(sample, path)
        mark = object()
        changed = replace(sample, path, mark)
        assert mark is get(changed, path)
        assert leaf is get(sample, path)
        assert [mark if leaf is before else before for before in structure.flatten(sample)].count(mark) >= 1
        assert structure.flatten(changed).count(mark) == 1


@given(SAMPLES)
def test_structures_travel(sample: Any) -> None:
    """A structure comes back equal, with an equal hash, from real JSON, from a pickle, and from a deep copy."""
    structure = Structure.of(sample)
    text = json.dumps(structure.to_json(), ensure_ascii=False)
    travelled = [Structure.from_json(json.loads(text)), pickle.loads(pickle.dumps(structure)), copy.deepcopy(structure)]
    for again in travelled:
        assert structure == again
        assert hash(structure) == hash(again)
        assert structure.paths == again.paths


@given(SAMPLES, SAMPLES)
def test_other_structures_do_not_flatten(one: Any, other: Any) -> None:
    """A sample flattens under another's structure if and only if the structures are the same, but for dicts' order."""
    structure = Structure.of(one)
    leaves_only = structure.kind == "leaf"
    if leaves_only:
        assert structure.flatten(other) == [other]
        return
    try:
        leaves = structure.flatten(other)
    except SampleError:
        assert structure != Structure.of(other)
    else:
        assert len(leaves) == len(structure.paths)
        assert type(one) is type(other)


MISMATCHES: dict[str, tuple[Any, Any, str]] = {
    "kind": ((1, (2, 3)), (1, [2, object()]), "leaf 1: the first sample has a tuple here, this one a list"),
    "leaf for a branch": ({"a": (1, 2)}, {"a": 1}, "leaf a: the first sample has a tuple here, this one a int"),
    "length": (((1, 2), 3), ((1, 2, 4), 3), "leaf 0: the first sample's tuple has 2 items, this one 3 items"),
    "keys": ((0, {"a": 1}), (0, {"b": 1}), "leaf 1: the first sample's dict has keys 'a', this one keys 'b'"),
    "deep": ({"a": [b"", {"b": (1,)}]}, {"a": [b"", {"b": ()}]}, "leaf a/1/b: "),
    "sample": ((1, 2), {"a": 1}, "leaf sample: the first sample has a tuple here, this one a dict"),
    "named tuple": ((Point(1, 2),), ((1, 2),), "leaf 0: the first sample has a .*Point here, this one a tuple"),
    "order": (
        collections.OrderedDict(a=1, b=2),
        collections.OrderedDict(b=2, a=1),
        "OrderedDict has keys 'a', 'b', this one keys 'b', 'a'",
    ),
}


@pytest.mark.parametrize(("first", "other", "message"), MISMATCHES.values(), ids=MISMATCHES.keys())
def test_mismatches_name_the_path(first: Any, other: Any, message: str) -> None:
    """An error about another structure says where, what was expected and what was found."""
    with pytest.raises(SampleError, match=message):
        Structure.of(first).flatten(other)


def test_dicts_may_differ_in_order() -> None:
    """A dict with the same keys in another order is equal, so it fits, and its leaves go to their own places."""
    structure = Structure.of({"a": 1, "b": (2, b"")})
    assert structure.flatten({"b": (4, b"x"), "a": 3}) == [3, 4, b"x"]


@pytest.mark.parametrize("key", [1.5, (1, 2), b"a", None, True])
def test_odd_keys_are_refused(key: Any) -> None:
    """A dict key that JSON cannot tell apart from others is refused by name."""
    with pytest.raises(UnsupportedLeafError, match="leaf 1: a dict key must be a string or an integer"):
        Structure.of((0, {key: object()}))


JSON_LEAVES: list[Any] = [None, [], {}, [1, 2], {"a": []}, {"a": {"b": None}, "c": 1}, [{"bbox": [1.0, 2.0], "id": 3}]]
BRANCHES = [(), (1,), {"a": 1}, {"a": {"b": "c"}}, [object()], {"a": object()}, {1: 2}, {"a": (1,)}, [(1, 2)]]


@pytest.mark.parametrize("value", JSON_LEAVES, ids=repr)
def test_plain_data_of_varying_form_is_one_leaf(value: Any) -> None:
    """Plain data with a list, None or an empty dict in it is a leaf as a whole, so that its form may vary."""
    assert is_json_leaf(value)
    assert Structure.of(value).kind == "leaf"
    assert Structure.of((1, value)).paths == ((0,), (1,))


@pytest.mark.parametrize("value", BRANCHES, ids=lambda value: type(value).__name__)
def test_other_containers_are_branches(value: Any) -> None:
    """Tuples, dicts of plain scalars, and whatever holds more than plain data, are branches."""
    assert not is_json_leaf(value)
    assert Structure.of(value).kind == type(value).__name__


def test_lost_named_tuples_are_made_anew() -> None:
    """A named tuple whose class cannot be found comes back as an equal one, which pickles; nothing is imported."""
    structure = Structure.of(Point(1, 2))
    tree = structure.to_json()
    for name in (
        ["nowhere", "Point"],
        [__name__, "Local.<locals>.Point"],
        [__name__, "KEYS"],
        ["collections", "deque"],
    ):
        made = Structure.from_json({**tree, "type": name}).unflatten([3, 4])
        assert made == (3, 4)
        assert (made.x, made.y) == (3, 4)
        assert made._replace(x=5) == (5, 4)
        assert type(made).__name__ == name[1].rsplit(".", maxsplit=1)[-1]
        assert pickle.loads(pickle.dumps(made)) == made
        assert type(pickle.loads(pickle.dumps(made))) is type(made)


def test_found_named_tuples_keep_their_class() -> None:
    """A named tuple whose class is imported already comes back as that class."""
    structure = Structure.from_json(json.loads(json.dumps(Structure.of(Point(1, 2)).to_json())))
    assert type(structure.unflatten([1, 2])) is Point


def test_main_module_of_spawned_processes_is_main() -> None:
    """A class of ``__main__``, which a spawned process calls ``__mp_main__``, is one and the same."""
    local = collections.namedtuple("local", "a")
    local.__module__ = "__main__"
    structure = Structure.of(local(1))
    local.__module__ = "__mp_main__"
    assert structure == Structure.of(local(1))
    assert structure.flatten(local(2)) == [2]


def test_batches_use_the_containers_of_default_collate() -> None:
    """In a batch a tuple becomes a list, as torch's default_collate has it; dicts and named tuples stay."""
    sample = (1, {"a": (2, 3)}, Point(4, 5))
    structure = Structure.of(sample)
    assert structure.unflatten_batch(list("abcde")) == ["a", {"a": ["b", "c"]}, Point("d", "e")]


@pytest.mark.parametrize(
    "tree", [None, 1, "branch", [], {}, {"tuple": 3}, {"nope": []}, {"dict": [["a"]]}, {"namedtuple": []}]
)
def test_damaged_trees_are_corrupt(tree: Any) -> None:
    """A description that is no tree is a CorruptError."""
    with pytest.raises(CorruptError):
        Structure.from_json(tree)


def test_paths_as_users_see_them() -> None:
    """Paths are written with slashes; the sample itself has a name."""
    assert format_path(()) == "sample"
    assert format_path(("target", "boxes", 0)) == "target/boxes/0"
