"""A dataset's own transforms: taken off for a build, found again for the readers.

``transform``, ``target_transform`` and ``transforms`` are looked for in the dataset and in the datasets inside it
(Subset, ConcatDataset, a user's wrapper), in attributes and in lists, tuples and dicts there. What is no torch Dataset
counts if it has ``__getitem__`` and ``__len__``, and such transforms in it. Where in a sample each one acts is seen by
fetching one sample from a copy in which they are replaced by recorders; so it works for any dataset that applies them
to a part of what it returns. The user's dataset is never changed.
"""

from __future__ import annotations

import bisect
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets.vision import StandardTransform

from lmdbpipe.errors import SourceError, TransformError
from lmdbpipe.structure import Path, Structure, get, replace

_DATA = (
    str,
    bytes,
    bytearray,
    memoryview,
    range,
    list,
    tuple,
    dict,
    np.ndarray,
    np.generic,
    torch.Tensor,
    torch.nn.Module,
)
"""What has ``__getitem__`` and ``__len__``, and is no dataset."""
_MANY = 1000
"""What a list holds more of are samples, unless they are torch Datasets."""
ATTRIBUTES = ("transform", "target_transform", "transforms")
Transform: TypeAlias = Callable[..., Any]


class Step(NamedTuple):
    """A transform, and the parts of a sample that it takes and gives back."""

    function: Transform
    paths: tuple[Path, ...]


class Site(NamedTuple):
    """Where a dataset applies one of its transforms."""

    owner: Any
    name: str
    paths: tuple[Path, ...]
    """Paths into the sample; empty if they could not be seen, because the dataset works on after the transform."""


def apply(steps: Sequence[Step], sample: Any) -> Any:
    """Apply transforms to a sample, in order."""
    for function, paths in steps:
        if len(paths) == 1:
            sample = replace(sample, paths[0], function(get(sample, paths[0])))
        else:
            values = function(*(get(sample, path) for path in paths))
            for path, value in zip(paths, values, strict=True):
                sample = replace(sample, path, value)
    return sample


def touched(steps: Sequence[Step]) -> frozenset[Path]:
    """The parts of a sample that transforms act on."""
    return frozenset(path for step in steps for path in step.paths)


def standard_paths(structure: Structure) -> dict[str, tuple[Path, ...]]:
    """Where transforms act by torchvision's convention: on (input, target) pairs, or on the whole of anything else."""
    is_pair = structure.kind in ("tuple", "list", "namedtuple") and len(structure.children) > 1
    first, second = ((key,) for key in structure.keys[:2]) if is_pair else ((), ())
    both = (first, second) if is_pair else (first,)
    return {"transform": (first,), "target_transform": (second,), "transforms": both}


class WrappedDataset:
    """A map-style dataset taken apart into raw samples and live transforms.

    Args:
        dataset: Any object with ``__getitem__`` and ``__len__``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.raw = _view(dataset, lambda owner, name, value: None if value is None else _identity)
        self._all = list(_inner(dataset))
        if live := next(filter(_is_live, self._all), None):
            raise TransformError(
                f"{type(dataset).__name__} is, or holds, a {type(live).__name__} whose transforms are live, and would "
                "be baked into the file: wrap the dataset that it wraps, and take a Subset or ConcatDataset of what is "
                "wrapped; or set its transforms to None and give db_transform"
            )
        self._depths = {id(one): depth for depth, one in enumerate(self._all)}
        self._sites: dict[tuple[int, ...], tuple[Site, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "sites": self._sites, "chooses": self.__dict__.get("_chooses")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["dataset"])  # type: ignore[misc]
        self._sites = state["sites"]
        if state["chooses"] is not None:
            self._chooses = state["chooses"]

    @property
    def routed(self) -> bool:
        """Whether samples may have different transforms."""
        return bool(self._routing)

    @functools.cached_property
    def _routing(self) -> set[int]:
        """The datasets that a route leads through."""
        if any(isinstance(one, ConcatDataset) for one in self._all):
            return {id(one) for one in self._all if _holds_concat(one)}
        return set(map(id, self._all)) if self._chooses else set()

    @functools.cached_property
    def _chooses(self) -> bool:
        """Whether the first and the last sample meet transforms of different datasets, where no ConcatDataset is."""
        if sum(map(_has_transforms, self._all)) < 2 or not len(self.dataset):
            return False
        first, last = (_find_sites(self.dataset, index) for index in (0, len(self.dataset) - 1))
        return {id(site.owner) for site in first} != {id(site.owner) for site in last}

    def route(self, index: int) -> tuple[int, ...]:
        """Which of the datasets inside a ConcatDataset a sample comes from; samples of one route share transforms.

        Where a dataset of another kind lies around the ConcatDataset, or chooses itself, every sample is a route of its
        own: only fetching it from the source shows where it comes from.
        """
        return _route(self.dataset, index, self._routing) if self.routed else ()

    def sites(self, index: int = 0) -> tuple[Site, ...]:
        """Where transforms act in a sample, in the order in which they are called."""
        route = self.route(index)
        if route not in self._sites:
            self._sites[route] = tuple(_find_sites(self.dataset, index))
        return self._sites[route]

    def steps(self, index: int, overrides: Mapping[str, Transform | None]) -> tuple[Step, ...]:
        """The transforms that now act on a sample: the datasets' own, or those set in their place.

        Args:
            index: The sample.
            overrides: Transforms by name. Of datasets inside each other that apply one of a name, it is the outermost's
                that is replaced, as if it had been set there.

        Raises:
            TransformError: One is set, but where it acts could not be seen.
        """
        steps = []
        sites = self.sites(index)
        owners = {name: self._outermost(sites, name) for name in overrides}
        for site in sites:
            function = _live(site, {name: given for name, given in overrides.items() if owners[name] is site.owner})
            if function is not None and not site.paths:
                raise TransformError(
                    f"{type(site.owner).__name__}.{site.name} acts on no one part of the sample that can be seen: the "
                    "dataset works on after it. Set it to None before wrapping, and apply it to what the wrapper gives"
                )
            if function is not None:
                steps.append(Step(function, site.paths))
        return tuple(steps)

    def _outermost(self, sites: Sequence[Site], name: str) -> Any:
        """The outermost dataset that applies a transform of some name, or a joint one which that is part of."""
        names = {name} if name == "transforms" else {name, "transforms"}
        owners = [site.owner for site in sites if site.name in names]
        return min(owners, key=lambda owner: self._depths.get(id(owner), len(self._depths)), default=None)


def _live(site: Site, overrides: Mapping[str, Transform | None]) -> Transform | None:
    """The transform at a site: overridden by name; ``transform`` and ``target_transform`` also reach a joint one."""
    current: Transform | None = getattr(site.owner, site.name)
    if site.name in overrides:
        return overrides[site.name]
    parts = {name: overrides[name] for name in ("transform", "target_transform") if name in overrides}
    if site.name != "transforms" or not parts:
        return current
    if isinstance(current, StandardTransform):
        parts = {"transform": current.transform, "target_transform": current.target_transform} | parts
    return StandardTransform(**parts) if any(parts.values()) else None


def _identity(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values


def _inner(dataset: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """All datasets inside a dataset, itself included."""
    seen = set() if seen is None else seen
    if id(dataset) in seen:
        return
    seen.add(id(dataset))
    yield dataset
    for name, value in getattr(dataset, "__dict__", {}).items():
        for item in _items(value) if name not in ATTRIBUTES else ():
            if _may_be_dataset(type(item)):
                yield from _inner(item, seen)


def _is_live(dataset: Any) -> bool:
    """Whether this reads a file, and applies transforms."""
    steps = getattr(type(dataset), "stream_steps", None)
    return steps is not None and len(dataset) > 0 and bool(steps(dataset)(0))


def _items(value: Any) -> Iterable[Any]:
    """What may be datasets in an attribute: itself, or what it holds, unless that is data only."""
    if not isinstance(value, list | tuple | dict):
        return (value,)
    items = value.values() if isinstance(value, dict) else value
    kinds = set(map(type, items))
    if len(value) > _MANY:
        kinds = {kind for kind in kinds if issubclass(kind, Dataset)}
    return items if any(map(_may_be_dataset, kinds)) else ()


def _may_be_dataset(kind: type) -> bool:
    if issubclass(kind, Dataset):
        return True
    return hasattr(kind, "__getitem__") and hasattr(kind, "__len__") and not issubclass(kind, _DATA)


def _is_dataset(value: Any) -> bool:
    """Whether a value is a dataset by its class, or by its methods and the transforms in it."""
    return isinstance(value, Dataset) or (
        _may_be_dataset(type(value)) and any(isinstance(one, Dataset) or _has_transforms(one) for one in _inner(value))
    )


def _has_transforms(dataset: Any) -> bool:
    return not getattr(dataset, "__dict__", {}).keys().isdisjoint(ATTRIBUTES)


def _view(dataset: Any, substitute: Callable[[Any, str, Any], Any], views: dict[int, Any] | None = None) -> Any:
    """Copy a dataset and those inside it, without their data, with other transforms."""
    views = {} if views is None else views
    if not hasattr(dataset, "__dict__"):
        return dataset
    if id(dataset) not in views:
        view = views[id(dataset)] = copy.copy(dataset)
        for name, value in vars(dataset).items():
            if name in ATTRIBUTES:
                vars(view)[name] = substitute(dataset, name, value)
            elif any(map(_is_dataset, _items(value))):
                vars(view)[name] = _view_items(value, lambda item: _view(item, substitute, views))
    return views[id(dataset)]


def _view_items(value: Any, view: Callable[[Any], Any]) -> Any:
    """Exchange a dataset, or those in a list, tuple or dict, for their views."""
    if isinstance(value, dict):
        views = copy.copy(value)
        views.update({key: view(item) for key, item in value.items() if _is_dataset(item)})
        return views
    if isinstance(value, list | tuple):
        items = (view(item) if _is_dataset(item) else item for item in value)
        return list(items) if isinstance(value, list) else tuple(items)
    return view(value)


def _holds_concat(dataset: Any) -> bool:
    return any(isinstance(one, ConcatDataset) for one in _inner(dataset))


def _route(dataset: Any, index: int, routing: set[int]) -> tuple[int, ...]:
    if id(dataset) not in routing:
        return ()
    if isinstance(dataset, Subset):
        return _route(dataset.dataset, int(dataset.indices[index]), routing)
    if isinstance(dataset, ConcatDataset):
        index %= len(dataset)  # a Subset may hold negative indices
        child = bisect.bisect_right(dataset.cumulative_sizes, index)
        start = dataset.cumulative_sizes[child - 1] if child else 0
        return (child, *_route(dataset.datasets[child], index - start, routing))
    return (index,)


class _Mark:
    """Stands for a value while a sample is fetched, to be found again in it."""


def _find_sites(dataset: Any, index: int) -> Iterator[Site]:
    """See where transforms act: with marks in place of values, or by identity if the dataset works on with them."""
    try:
        calls, sample = _record(dataset, index, lambda value: value if isinstance(value, _Mark) else _Mark())
    except Exception:  # the dataset looked into a mark; it may do so in any way
        try:
            calls, sample = _record(dataset, index, lambda value: value)
        except Exception as error:
            raise source_error(dataset, index, error) from error
    for owner, name, values in calls:
        paths = [list(_locate(sample, value)) for value in values]
        seen = all(len(found) == 1 for found in paths)  # a value that stands in two places cannot be told apart
        yield Site(owner, name, tuple(found[0] for found in paths) if seen else ())


def source_error(dataset: Any, index: int, error: Exception, *, bare: bool = True) -> SourceError:
    """Say that a dataset raised; and what may help if its transforms were taken off."""
    message = f"sample {index}: {type(dataset).__name__} raised {type(error).__name__}: {error}"
    owned = [getattr(one, "__dict__", {}).get(name) for one in _inner(dataset) for name in ATTRIBUTES]
    if bare and any(value is not None for value in owned):
        message += (
            ". It is read without its transforms: if it calls one with keywords, or works on after it, set that to "
            "None before wrapping, and apply it to what the wrapper gives"
        )
    return SourceError(message)


def _record(dataset: Any, index: int, give: Callable[[Any], Any]) -> tuple[list[tuple[Any, str, list[Any]]], Any]:
    calls: list[tuple[Any, str, list[Any]]] = []

    def recorder(owner: Any, name: str, value: Any) -> Transform:
        def record(*values: Any) -> Any:
            given = [give(value) for value in values]
            calls.append((owner, name, given))
            return _identity(*given)

        return record

    return calls, _view(dataset, recorder)[index]


def _locate(sample: Any, value: Any) -> Iterator[Path]:
    """Find all places of an object in a sample."""
    if sample is value:
        yield ()
    if isinstance(sample, dict):
        children: Any = sample.items()
    elif isinstance(sample, tuple) and hasattr(sample, "_fields"):
        children = zip(sample._fields, sample, strict=True)
    elif isinstance(sample, list | tuple):
        children = enumerate(sample)
    else:
        return
    for key, child in children:
        for path in _locate(child, value):
            yield (key, *path)
