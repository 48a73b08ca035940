"""Collating: values of many samples become a batch, in which a leaf's form is decided by structure, not by chance.

Values that always have one size are stacked; values whose sizes vary come as a list, even where one batch happens to
hold equal ones. What varies is seen beforehand in a few samples of very different sizes (``probes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms.functional import pil_to_tensor

from lmdbpipe.errors import TransformError
from lmdbpipe.structure import Structure

_COLLATED = (torch.Tensor, np.ndarray, np.generic, bool, int, float, str, bytes)
"""What `default_collate` is asked to collate; plain data (None, annotations) whose form varies is listed."""


def collate(values: Sequence[Any], probes: Sequence[Any]) -> Any:
    """Collate values as torch's ``default_collate`` does, but for what does not stack.

    Args:
        values: One value of each sample; PIL images count as the tensors that PILToTensor makes of them.
        probes: The same value of a few samples of different sizes; none if sizes cannot differ.

    Returns:
        Tensors that always have one shape stacked, others listed; numbers as a tensor; containers of these; anything
        else as a list.

    Raises:
        TransformError: Tensors that were expected to be equal are not.
    """
    structures = {Structure.of(value) for value in (*values, *probes)}
    if len(structures) > 1:
        return list(values)
    structure = structures.pop()
    columns = zip(*map(structure.flatten, values), strict=True)
    probed = list(zip(*map(structure.flatten, probes), strict=True)) or [()] * len(structure.paths)
    leaves = [_collate_leaf(column, probe) for column, probe in zip(columns, probed, strict=True)]
    return structure.unflatten_batch(leaves)


def _collate_leaf(values: Sequence[Any], probes: Sequence[Any]) -> Any:
    values, probes = list(map(_as_tensor, values)), list(map(_as_tensor, probes))
    if not isinstance(values[0], _COLLATED) or len({np.shape(probe) for probe in probes}) > 1:
        return values
    try:
        return default_collate(values)
    except TypeError:
        return values
    except RuntimeError as error:
        shapes = sorted({tuple(value.shape) for value in values if hasattr(value, "shape")})
        raise TransformError(
            f"a batch holds tensors of different shapes, such as {shapes[:3]}: make them equal in the transform, "
            "or give a collate_fn"
        ) from error


def _as_tensor(value: Any) -> Any:
    return pil_to_tensor(value) if isinstance(value, Image.Image) else value
