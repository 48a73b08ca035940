"""Collating: a leaf's form is decided by what may vary, not by what one batch happens to hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate
from torchvision.transforms.functional import pil_to_tensor

from lmdbpipe.collate import collate
from lmdbpipe.errors import TransformError
from tests.helpers import image, same


class Pair(NamedTuple):
    """A named tuple."""

    x: Any
    y: Any


EQUAL: dict[str, list[Any]] = {
    "tensors": [torch.ones(2, 3), torch.zeros(2, 3)],
    "arrays": [np.ones(2), np.zeros(2)],
    "ints": [1, 2],
    "floats": [1.0, float("nan")],
    "bools": [True, False],
    "NumPy scalars": [np.float32(1), np.float32(2)],
    "strings": ["a", "b"],
    "bytes": [b"a", b"b"],
    "tuples": [(torch.ones(1), 1), (torch.zeros(1), 2)],
    "dicts": [{"a": torch.ones(1), "b": "x"}, {"a": torch.zeros(1), "b": "y"}],
    "named tuples": [Pair(1, (2, 3.0)), Pair(4, (5, 6.0))],
}


@pytest.mark.parametrize("values", EQUAL.values(), ids=EQUAL.keys())
@pytest.mark.parametrize("probed", [True, False])
def test_equal_values_are_default_collates(values: list[Any], probed: bool) -> None:
    """What always has one shape and type is collated as torch's default_collate does."""
    assert same(default_collate(values), collate(values, values if probed else []))


def test_images_count_as_tensors() -> None:
    """PIL images are collated as the tensors that PILToTensor makes of them."""
    images = [image("RGB", (4, 5), k) for k in range(3)]
    assert same(torch.stack([pil_to_tensor(one) for one in images]), collate(images, []))


def test_what_varies_is_listed_by_structure() -> None:
    """Where probes differ in size, the leaf is a list, even if the batch's values are equal; other leaves stack."""
    values = [(torch.ones(2, 2), 1), (torch.zeros(2, 2), 2)]
    probes = [(torch.ones(2, 2), 1), (torch.ones(3, 1), 1)]
    tensors, labels = collate(values, probes)
    assert type(tensors) is list
    assert all(map(same, tensors, (value for value, _ in values)))
    assert labels.tolist() == [1, 2]


def test_arrays_that_vary_are_listed() -> None:
    """NumPy arrays whose sizes vary are listed like tensors."""
    assert type(collate([np.ones(2), np.ones(2)], [np.ones(2), np.ones(3)])) is list


PLAIN: dict[str, list[Any]] = {
    "lists of equal length": [[1, 2], [3, 4]],
    "lists of different lengths": [[1], []],
    "annotations": [{"boxes": [[1, 2]], "id": 3}, {"boxes": [[4, 5]], "id": 6}],
    "None": [None, None],
    "None and more": [None, [1]],
    "other objects": [object(), object()],
    "sets": [{1}, {2}],
}


@pytest.mark.parametrize("values", PLAIN.values(), ids=PLAIN.keys())
def test_plain_data_is_listed(values: list[Any]) -> None:
    """Plain data whose form may vary, and what default_collate does not take, is a list of the values."""
    collated = collate(values, values)
    assert type(collated) is list
    assert all(left is right for left, right in zip(values, collated, strict=True))


def test_different_structures_are_listed() -> None:
    """Values of different structures are a list as a whole."""
    values = [(1, torch.ones(2)), {"a": 1}]
    assert collate(values, []) == values


@pytest.mark.parametrize("kind", [torch.ones, np.ones])
def test_unexpected_sizes_name_the_remedy(kind: Any) -> None:
    """Tensors or arrays that differ though they were expected to be equal: the error names sizes and the remedy."""
    with pytest.raises(TransformError, match=r"such as \[\(2,\), \(3,\)\].* or give a collate_fn"):
        collate([kind(2), kind(3)], [])
