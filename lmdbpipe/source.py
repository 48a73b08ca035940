"""What a build reads from: a map-style dataset, or an iterable of samples, raw."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset
from torch.utils.data.datapipes.iter import IterableWrapper
from torchvision.datasets.vision import StandardTransform

from lmdbpipe.errors import ConfigError
from lmdbpipe.structure import Path
from lmdbpipe.wrapped import WrappedDataset, source_error

_PROBED = 4
"""How many samples tell one source from another."""


class MapSource:
    """Raw samples by index; a build from it can be resumed and spread over processes."""

    def __init__(self, dataset: Any) -> None:
        self.wrapped = WrappedDataset(dataset)
        self.length: int | None = len(dataset)

    @property
    def dataset(self) -> Any:
        """The user's dataset."""
        return self.wrapped.dataset

    def __getstate__(self) -> dict[str, Any]:
        return {"raw": self.wrapped.raw}  # a worker process needs no transforms, which may not pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["raw"])  # type: ignore[misc]

    def fetch(self, index: int) -> Any:
        """Read a raw sample.

        Raises:
            SourceError: The dataset raised.
        """
        try:
            return self.wrapped.raw[index]
        except Exception as error:
            raise source_error(self.dataset, index, error) from error

    def probe(self) -> list[Any]:
        """Read a few samples, spread over the whole."""
        length = self.length or 0
        indices = sorted({k * (length - 1) // (_PROBED - 1) for k in range(_PROBED)}) if length else []
        return [self.fetch(index) for index in indices]

    def transform_paths(self) -> dict[str, tuple[Path, ...]]:
        """Where in a sample the dataset applies its own transforms, by the attribute's name.

        Of ``transform`` and ``target_transform``, each place is one that it is applied to by itself; of ``transforms``,
        they are the arguments of one call.
        """
        found: dict[str, tuple[Path, ...]] = {}
        for site in self.wrapped.sites() if self.length else ():
            before = found.get(site.name, ())
            if site.name != "transforms" or not before:
                found[site.name] = tuple(dict.fromkeys((*before, *site.paths)))
        return {name: paths for name, paths in found.items() if paths}

    def live_transform(self) -> Any:
        """The transform that now acts on the first sample's input, if any."""
        for site in self.wrapped.sites() if self.length else ():
            transform = getattr(site.owner, site.name)
            if site.name == "transforms" and isinstance(transform, StandardTransform):
                transform = transform.transform
            if site.name != "target_transform" and transform is not None:
                return transform
        return None


class IterableSource:
    """Raw samples one after the other; their number may be unknown."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.length: int | None = None
        try:
            begun = iter(dataset)
        except TypeError as error:
            raise ConfigError(
                f"a {type(dataset).__name__} is no dataset: it has neither __getitem__ and __len__ nor __iter__"
            ) from error
        self._repeatable = begun is not dataset
        self._begun: Iterator[Any] | None = self._read(begun)
        """The first pass: another ``iter`` may share what is read, and begin behind the samples that were probed."""

    def __iter__(self) -> Iterator[Any]:
        samples, self._begun = self._begun, None
        return self._read(iter(self.dataset)) if samples is None else samples

    def _read(self, samples: Iterator[Any]) -> Iterator[Any]:
        for index in itertools.count():
            try:
                sample = next(samples)
            except StopIteration:
                return
            except Exception as error:
                raise source_error(self.dataset, index, error, bare=False) from error
            yield sample

    def require_repeatable(self, why: str) -> None:
        """Raise ConfigError if the samples can be read only once."""
        if not self._repeatable:
            raise ConfigError(f"{why} needs a source that can be read again, and {type(self.dataset).__name__} cannot")

    def probe(self) -> list[Any]:
        """Read the first few samples, which the next pass gives too; none of an iterator, to leave it as it is."""
        if not self._repeatable:
            return []
        samples = iter(self)
        probed = list(itertools.islice(samples, _PROBED))
        self._begun = itertools.chain(probed, samples)
        return probed

    def transform_paths(self) -> dict[str, tuple[Path, ...]]:
        """Nothing: an iterable gives what it gives."""
        return {}

    def live_transform(self) -> Any:
        """None: an iterable has applied its transforms."""
        return None


Source = MapSource | IterableSource


def as_source(dataset: Any) -> Source:
    """Find out how a dataset is read; an IterableWrapper around a map-style dataset is that dataset."""
    if isinstance(dataset, IterableWrapper):
        dataset = dataset.iterable
    is_map = (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)
    )
    return MapSource(dataset) if is_map else IterableSource(dataset)
