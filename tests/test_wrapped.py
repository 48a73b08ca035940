"""Wrapped datasets: their transforms are found wherever they act, taken off and put back, and never touched."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from torch.utils.data import ConcatDataset, Dataset, Subset, random_split
from torchvision.datasets.vision import StandardTransform, VisionDataset

from lmdbpipe.errors import SourceError, TransformError
from lmdbpipe.structure import Structure
from lmdbpipe.wrapped import WrappedDataset, apply, standard_paths


class times(NamedTuple):
    """A transform that multiplies."""

    factor: int

    def __call__(self, value: Any) -> Any:
        """Apply it."""
        return value * self.factor


def both(image: Any, target: Any) -> tuple[Any, Any]:
    """A joint transform."""
    return image + 0.25, {**target, "seen": image} if isinstance(target, dict) else target + 0.25


class Images(Dataset[Any]):
    """(image, target) as torchvision's classification datasets; numbers stand for images."""

    def __init__(self, start: int = 0, transform: Any = None, target_transform: Any = None, length: int = 5) -> None:
        self.start = start
        self.transform = transform
        self.target_transform = target_transform
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        image, target = float(self.start + index), index * 1000.0
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


class Detection(VisionDataset):  # type: ignore[misc]
    """(image, annotations) through a joint ``transforms``, as VOC and COCO do."""

    def __init__(self, transform: Any = None, target_transform: Any = None, transforms: Any = None) -> None:
        super().__init__("nowhere", transforms, transform, target_transform)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        image: Any = float(index)
        target: Any = {"boxes": [index], "label": index}
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target


class Dicts(Dataset[Any]):
    """Dict samples with the image deep inside."""

    def __init__(self, transform: Any = None) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        image: Any = float(index)
        return {"id": index, "inputs": [{"image": self.transform(image) if self.transform else image}, None]}


class Labelled(Dataset[Any]):
    """A user's wrapper without transforms: adds the index."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return (index, *self.inner[index])


class Transformed(Labelled):
    """A user's wrapper with a transform of its own, after the inner one's."""

    def __init__(self, inner: Any, transform: Any = None) -> None:
        super().__init__(inner)
        self.transform = transform

    def __getitem__(self, index: int) -> Any:
        image, target = self.inner[index]
        return self.transform(image) if self.transform is not None else image, target


class Working(Images):
    """Works on after its transform."""

    def __getitem__(self, index: int) -> Any:
        image, target = super().__getitem__(index)
        return image + 1, target


class TwoViews(Images):
    """Applies its transform twice, as contrastive learning does."""

    def __getitem__(self, index: int) -> Any:
        transform = self.transform if self.transform is not None else times(1)
        return transform(float(index)), transform(-float(index)), index


class Twice(Images):
    """Gives what its transform gave in two places."""

    def __getitem__(self, index: int) -> Any:
        image, target = super().__getitem__(index)
        return image, image, target


class Duck:
    """A dataset by its methods only."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]


class DuckImages(Duck):
    """A dataset by its methods only, with a transform."""

    __getitem__ = Transformed.__getitem__

    def __init__(self, inner: Any, transform: Any = None) -> None:
        super().__init__(inner)
        self.transform = transform


class ByName(Dataset[Any]):
    """Samples of several datasets, by name, together or one after the other."""

    def __init__(self, together: bool, **parts: Any) -> None:
        self.together = together
        self.parts = parts

    def __len__(self) -> int:
        return 5 if self.together else 5 * len(self.parts)

    def __getitem__(self, index: int) -> Any:
        if self.together:
            return {name: part[index] for name, part in self.parts.items()}
        return self.parts[list(self.parts)[index // 5]][index % 5]


DATASETS: dict[str, Callable[[], Any]] = {
    "transform": lambda: Images(1, times(2)),
    "both": lambda: Images(1, times(2), times(3)),
    "none": lambda: Images(1),
    "joint": lambda: Detection(transforms=both),
    "standard joint": lambda: Detection(transform=times(2)),
    "dicts": lambda: Dicts(times(2)),
    "subset": lambda: Subset(Images(1, times(2)), [4, 0, -1]),
    "split": lambda: random_split(Images(1, times(2), times(3)), [2, 3])[1],
    "wrapper": lambda: Labelled(Images(1, times(2), times(5))),
    "nested transforms": lambda: Transformed(Transformed(Images(1, times(2)), times(3)), times(5)),
    "concat": lambda: ConcatDataset([Images(1, times(2)), Images(100, times(3)), Images(200)]),
    "subset of concat": lambda: Subset(
        ConcatDataset([Images(1, times(2)), Images(100, times(3))]), [9, 0, 5, 4, -1, -10]
    ),
    "concat of subsets": lambda: ConcatDataset([Subset(Images(1, times(2)), [3]), Images(50, times(7)), Detection()]),
    "concat of concats": lambda: ConcatDataset([ConcatDataset([Images(1, times(2)), Images(9)]), Images(50, times(7))]),
    "wrapper of concat": lambda: Labelled(ConcatDataset([Images(1, times(2)), Images(100, times(3)), Images(200)])),
    "two views": lambda: TwoViews(transform=times(3)),
    "list": lambda: [(1.0, 2), (3.0, 4)],
    "no Dataset": lambda: DuckImages([(1.0, 2), (3.0, 4)], times(2)),
    "no Dataset inside": lambda: Labelled(Duck(DuckImages(Images(1, times(3)), times(2)))),
    "no Dataset around a concat": lambda: Duck(ConcatDataset([Images(1, times(2)), Images(100, times(3))])),
    "dict": lambda: ByName(True, a=Images(1, times(2)), b=DuckImages(Images(50), times(7))),
    "dict as a concat": lambda: ByName(False, a=Images(1, times(2)), b=DuckImages(Images(50), times(7)), c=Images(9)),
}
parametrize = pytest.mark.parametrize("make", DATASETS.values(), ids=DATASETS.keys())


def samples(wrapped: WrappedDataset, **overrides: Any) -> list[Any]:
    """Raw samples with the live transforms applied."""
    length = len(wrapped.dataset)
    return [apply(wrapped.steps(index, overrides), wrapped.raw[index]) for index in range(length)]


def plain(dataset: Any) -> list[Any]:
    """What the dataset itself gives."""
    return [dataset[index] for index in range(len(dataset))]


@parametrize
def test_raw_and_live_make_the_sample(make: Callable[[], Any]) -> None:
    """A raw sample with the live transforms applied is what the dataset gives, sample by sample."""
    dataset = make()
    assert samples(WrappedDataset(dataset)) == plain(dataset)


@parametrize
def test_samples_may_be_asked_for_in_any_order(make: Callable[[], Any]) -> None:
    """Which sample is asked for first does not decide what is seen of the others."""
    dataset = make()
    wrapped = WrappedDataset(dataset)
    for index in reversed(range(len(dataset))):
        assert apply(wrapped.steps(index, {}), wrapped.raw[index]) == dataset[index]


def _state(dataset: Any, seen: dict[int, Any] | None = None) -> dict[int, Any]:
    seen = {} if seen is None else seen
    if hasattr(dataset, "__dict__") and id(dataset) not in seen:
        seen[id(dataset)] = dict(vars(dataset))
        for value in vars(dataset).values():
            for item in value if isinstance(value, list) else [value]:
                _state(item, seen)
    return seen


@parametrize
def test_datasets_are_not_touched(make: Callable[[], Any]) -> None:
    """Wrapping, reading and transforming leave every attribute of every dataset inside as it was."""
    dataset = make()
    before = _state(dataset)
    wrapped = WrappedDataset(dataset)
    samples(wrapped)
    samples(wrapped, transform=times(9))
    assert wrapped.dataset is dataset
    after = _state(dataset)
    assert before.keys() == after.keys()
    for key, attributes in before.items():
        assert attributes.keys() == after[key].keys()
        assert all(value is after[key][name] for name, value in attributes.items())


@parametrize
def test_raw_samples_have_no_transforms(make: Callable[[], Any]) -> None:
    """Raw samples are those of the same dataset without transforms."""
    dataset = make()
    wrapped = WrappedDataset(dataset)
    bare = copy.deepcopy(dataset)
    for one in _objects(bare):
        for name in {"transform", "target_transform", "transforms"} & getattr(one, "__dict__", {}).keys():
            setattr(one, name, None)
    assert plain(wrapped.raw) == plain(bare)


def _objects(dataset: Any) -> list[Any]:
    """A dataset and those inside it."""
    inner = [
        item
        for value in getattr(dataset, "__dict__", {}).values()
        for item in (value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value])
    ]
    return [dataset, *(one for item in inner if isinstance(item, Dataset | Duck) for one in _objects(item))]


@parametrize
def test_wrapped_datasets_travel(make: Callable[[], Any]) -> None:
    """A pickled wrapper gives the same samples."""
    wrapped = WrappedDataset(make())
    expected = samples(wrapped)
    assert samples(pickle.loads(pickle.dumps(wrapped))) == expected


def test_transforms_are_live() -> None:
    """A transform that is set later, on any dataset inside, acts from then on; one that is removed no longer does."""
    inner = [Images(1), Images(100, times(3))]
    dataset: Any = Subset(ConcatDataset(inner), [0, 7])
    wrapped = WrappedDataset(dataset)
    assert samples(wrapped) == plain(dataset)
    inner[0].transform = times(7)
    inner[1].transform = None
    inner[1].target_transform = times(5)
    assert samples(wrapped) == plain(dataset) == [(7.0, 0.0), (102.0, 10_000.0)]


def test_overrides_replace_by_name() -> None:
    """A transform set in place of a dataset's own acts where that did; None takes it away; others stay."""
    wrapped = WrappedDataset(Subset(Images(1, times(2), times(3)), [2]))
    assert samples(wrapped, transform=times(10)) == [(30.0, 6000.0)]
    assert samples(wrapped, transform=None) == [(3.0, 6000.0)]
    assert samples(wrapped, target_transform=None) == [(6.0, 2000.0)]
    assert samples(wrapped, transform=None, target_transform=times(0)) == [(3.0, 0.0)]


def test_overrides_reach_every_child() -> None:
    """In place of transforms of several datasets beside each other, one replaces them all."""
    wrapped = WrappedDataset(ConcatDataset([Images(1, times(2), length=1), Images(100, times(3), length=1)]))
    assert samples(wrapped, transform=times(10)) == [(10.0, 0.0), (1000.0, 0.0)]


def test_overrides_replace_the_outermost() -> None:
    """Of datasets inside each other that each have a transform, the outermost's is replaced, and it acts once."""
    dataset: Any = Transformed(Images(1, times(2), length=1), times(3))
    wrapped = WrappedDataset(dataset)
    expected = Transformed(Images(1, times(2), length=1), times(10))
    assert samples(wrapped, transform=times(10)) == plain(expected) == [(20.0, 0.0)]


def test_overrides_reach_joint_transforms() -> None:
    """``transform`` and ``target_transform`` become parts of a joint one; ``transforms`` replaces it."""
    wrapped = WrappedDataset(Detection(transform=times(2)))
    assert samples(wrapped, transform=times(10))[3] == (30.0, {"boxes": [3], "label": 3})
    assert samples(wrapped, target_transform=len)[3] == (6.0, 2)
    assert samples(wrapped, transform=None)[3] == (3.0, {"boxes": [3], "label": 3})
    assert samples(wrapped, transforms=both)[3] == (3.25, {"boxes": [3], "label": 3, "seen": 3.0})
    assert samples(wrapped, transforms=StandardTransform(times(4)))[3][0] == 12.0


def test_work_after_a_transform_is_refused() -> None:
    """Where a dataset works on after its transform, a live one cannot be applied: the error names it. None is fine."""
    wrapped = WrappedDataset(Working(1, times(2)))
    with pytest.raises(TransformError, match=r"Working\.transform acts on no one part .* Set it to None"):
        wrapped.steps(0, {})
    bare = Working(1)
    assert samples(WrappedDataset(bare)) == plain(bare)


def test_value_in_two_places_is_refused() -> None:
    """Where what a transform gave stands in two places, it cannot be told which one it acts on."""
    with pytest.raises(TransformError, match=r"Twice\.transform"):
        WrappedDataset(Twice(1, times(2))).steps(0, {})


def test_looking_into_a_value_is_seen_through() -> None:
    """A dataset that computes with what its transform gave, but returns it too, is seen by identity."""

    class Measuring(Images):
        def __getitem__(self, index: int) -> Any:
            image, target = super().__getitem__(index)
            return image, image > 2, target

    dataset = Measuring(1, target_transform=times(3))
    assert samples(WrappedDataset(dataset)) == plain(dataset)


def test_a_transform_that_changes_what_else_is_computed_is_not_caught_up() -> None:
    """What the dataset computes beside the transform comes from the raw value: the source without its transform."""
    raw = WrappedDataset(Dicts(times(2))).raw[3]
    assert raw == {"id": 3, "inputs": [{"image": 3.0}, None]}


class Pair(NamedTuple):
    """A named tuple sample."""

    image: float
    target: float


class Named(Images):
    """Gives named tuples."""

    def __getitem__(self, index: int) -> Any:
        return Pair(*super().__getitem__(index))


def test_named_tuples_stay() -> None:
    """Transforms act on the fields of named tuples, which stay what they are."""
    dataset = Named(1, times(2), times(3))
    (sample,) = samples(WrappedDataset(Subset(dataset, [2])))
    assert type(sample) is Pair
    assert sample == dataset[2]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ((1, 2), {"transform": ((0,),), "target_transform": ((1,),), "transforms": ((0,), (1,))}),
        (
            Pair(1, 2),
            {"transform": (("image",),), "target_transform": (("target",),), "transforms": (("image",), ("target",))},
        ),
        (5, {"transform": ((),), "target_transform": ((),), "transforms": ((),)}),
        ({"a": 1}, {"transform": ((),), "target_transform": ((),), "transforms": ((),)}),
    ],
    ids=str,
)
def test_convention_without_a_dataset(sample: Any, expected: dict[str, Any]) -> None:
    """Where nothing is known, transforms act as torchvision's do: on input and target, or on the whole sample."""
    assert standard_paths(Structure.of(sample)) == expected


class Table:
    """No dataset, though it looks like one; it cannot be copied."""

    def __init__(self) -> None:
        self.transforming = [1, 2]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return float(self.transforming[index])

    def __copy__(self) -> Any:
        raise TypeError


def test_data_is_left_alone() -> None:
    """What looks like a dataset, but holds no transforms, is not copied; nor are long lists looked through."""
    dataset: Any = DuckImages(Table(), times(2))
    dataset.numbers = list(range(10**6))
    wrapped = WrappedDataset(dataset)
    assert wrapped.raw.inner is dataset.inner
    assert wrapped.raw.numbers is dataset.numbers


def test_same_dataset_twice() -> None:
    """A dataset that stands twice in another is one dataset."""
    inner = Images(1, times(2))
    dataset: Any = ConcatDataset([inner, inner])
    assert samples(WrappedDataset(dataset)) == plain(dataset)


class Keywords(Images):
    """Calls its transform as albumentations wants it."""

    def __getitem__(self, index: int) -> Any:
        return self.transform(image=float(index))["image"], index


def test_transforms_that_cannot_be_taken_off() -> None:
    """Who calls a transform with keywords is told what to do; who has none is not."""
    with pytest.raises(SourceError, match="calls one with keywords"):
        WrappedDataset(Keywords(transform=lambda image: {"image": image})).sites(0)
    with pytest.raises(SourceError) as caught:
        WrappedDataset(Keywords()).sites(0)
    assert "keywords" not in str(caught.value)
