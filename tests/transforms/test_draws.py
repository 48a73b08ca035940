"""Draws: torchvision's distributions, no dependence on batches, the global generators kept."""

from __future__ import annotations

import multiprocessing
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from lmdbpipe.errors import ConfigError
from lmdbpipe.transforms import CounterDraws, ReplayDraws, lower, streams
from lmdbpipe.transforms.step import Spec
from lmdbpipe.transforms.table import TABLE
from tests.helpers import same
from tests.transforms.examples import EXAMPLES
from tests.transforms.helpers import assert_same, lowered_tensor, make_images, outcome, pack, seed_all, states

COUNT = 20_000
PINNED = [[4248871245, 4278614739], [1968982153, 3890029832], [904330171, 140361331]]


def _decoded(transform: Any, size: tuple[int, int], *, epoch: int = 0) -> Any:
    """The parameters of many samples."""
    step = lower(transform).steps[0]
    draws = CounterDraws(3, epoch, np.arange(COUNT))
    spec = Spec("tensor", "", torch.uint8, 3)
    return step.decode(draws.words(np.arange(COUNT), 0, step.words), spec, size)[0]


def test_torch_stream_is_known() -> None:
    """This torch's generator gives the words that are computed for it in bulk."""
    assert streams.torch_words_known()


def _take_words(results: Any) -> None:
    results.send(len(streams.torch_words(1300)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_fork_while_a_thread_takes_words() -> None:
    """A child that is forked meanwhile does not wait for a thread that it has not got."""
    context: Any = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_take_words, args=(there,), daemon=True)
    with streams._lock, streams._twister.lock:
        child.start()
    try:
        assert here.poll(30)
    finally:
        child.kill()
        child.join()


def test_torch_words_match_single_calls() -> None:
    """Words taken in bulk are those of single calls, across the refilling of the state, and leave the same state."""
    for skip in (0, 1, 623, 624, 625):
        torch.manual_seed(9)
        torch.rand(skip)
        words = streams.torch_words(1300)
        after = torch.get_rng_state()
        torch.manual_seed(9)
        torch.rand(skip)
        expected = [torch.rand(1).item() if i % 2 else torch.randint(0, 97, ()).item() for i in range(1300)]
        actual = [(int(w) & 0xFFFFFF) / 2**24 if i % 2 else int(w) % 97 for i, w in enumerate(words)]
        assert actual == expected
        assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(
    "transform",
    [
        v1.Compose([v1.RandomCrop(8, padding=2), v1.RandomHorizontalFlip(), v1.ToTensor()]),
        v2.Compose([v2.RandomCrop((8, 9)), v2.RandomVerticalFlip(), v2.ToImage()]),
    ],
)
def test_replay_without_the_bulk_stream(transform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch's stream were another, single calls give the same."""
    raw = pack(make_images("RGB", [(9, 9)] * 7, 0))
    seed_all(4)
    expected, after = lowered_tensor(transform, raw), states()
    monkeypatch.setattr("lmdbpipe.transforms.running.torch_words_known", lambda: False)
    seed_all(4)
    assert torch.equal(lowered_tensor(transform, raw), expected)
    assert states() == after


def test_replay_under_float64_default() -> None:
    """A default dtype that takes other words from the generator is replayed too."""
    images = make_images("RGB", [(9, 9)] * 5, 0)
    transform = v1.Compose([v1.RandomHorizontalFlip(), v1.ToTensor()])
    torch.set_default_dtype(torch.float64)
    try:
        seed_all(4)
        expected = torch.stack([transform(image) for image in images])
        seed_all(4)
        assert_same(lower(transform)(pack(images)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_flip_probability() -> None:
    """Flips come with probability p."""
    for p in (0.1, 0.5, 0.73):
        share = _decoded(v1.RandomHorizontalFlip(p), (8, 8)).mean()
        assert abs(share - p) < 4 * (p * (1 - p) / COUNT) ** 0.5


def test_crop_is_uniform() -> None:
    """Tops and lefts are uniform over all places, and independent of each other."""
    top, left = _decoded(v1.RandomCrop(32, padding=4), (32, 32))
    counts = np.bincount(top * 9 + left, minlength=81)
    expected = COUNT / 81
    assert ((counts - expected) ** 2 / expected).sum() < 80 + 4 * (2 * 80) ** 0.5


def test_independence() -> None:
    """Neighbouring samples, steps and epochs do not correlate."""
    draws = [CounterDraws(1, epoch, np.arange(COUNT)).words(np.arange(COUNT), 0, 6) for epoch in (0, 1)]
    columns = [column / 2**32 - 0.5 for words in draws for column in words.T]
    columns += [np.roll(columns[0], shift) for shift in (1, 2, 256)]
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 5 / COUNT**0.5


def test_resized_crop_distribution() -> None:
    """Boxes have torchvision's distribution: the means of area, log ratio and place agree."""
    transform = v1.RandomResizedCrop(8)
    top, left, height, width = _decoded(transform, (60, 90))
    torch.manual_seed(0)
    blank = torch.empty(3, 60, 90, device="meta")
    theirs = np.array([transform.get_params(blank, transform.scale, transform.ratio) for _ in range(4000)])
    ours = np.stack([top, left, height, width], axis=1)
    for k in range(4):
        tolerance = 5 * theirs[:, k].std() / len(theirs) ** 0.5
        assert abs(ours[:, k].mean() - theirs[:, k].mean()) < tolerance
    quantiles = np.quantile(ours[:, 2] * ours[:, 3], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, np.quantile(theirs[:, 2] * theirs[:, 3], [0.1, 0.5, 0.9]), rtol=0.1)


def test_erasing_distribution() -> None:
    """Erased areas have torchvision's distribution."""
    transform = v1.RandomErasing(0.5)
    ours = _decoded(transform, (32, 40))
    share = sum(one is not None for one in ours) / COUNT
    assert abs(share - 0.5) < 0.02
    torch.manual_seed(0)
    blank = torch.empty(3, 32, 40, device="meta")
    theirs = [transform.get_params(blank, transform.scale, transform.ratio, [0.0]) for _ in range(3000)]
    areas = [one[2] * one[3] for one in theirs if one[4] is not blank]
    mine = [one.height * one.width for one in ours if one is not None]
    assert abs(np.mean(mine) - np.mean(areas)) < 5 * np.std(areas) / len(areas) ** 0.5


def _chosen(transform: Any) -> Any:
    """The operations and values that many PIL images of 32x32 get: [n, k, 7]."""
    step = lower(transform).steps[0]
    words = CounterDraws(3, 0, np.arange(COUNT)).words(np.arange(COUNT), 0, step.words)
    return step.decode(words, Spec.pil("RGB"), (32, 32))[0]


def _assert_equally_often(values: Any, kinds: int) -> None:
    """As many kinds, all as likely: chi squared within four of its standard deviations."""
    found, counts = np.unique(values, return_counts=True, axis=0)
    assert len(found) == kinds
    expected = len(values) / kinds
    assert ((counts - expected) ** 2 / expected).sum() < kinds - 1 + 4 * (2 * (kinds - 1)) ** 0.5


def _assert_uniform(values: Any, low: float, high: float) -> None:
    """Numbers fill an interval evenly: none outside, a twentieth of them in every twentieth."""
    assert low <= values.min() < low + (high - low) / 100
    assert high >= values.max() > high - (high - low) / 100
    _assert_equally_often(np.minimum((values - low) / (high - low) * 20, 19).astype(int), 20)


@pytest.mark.parametrize("module", [v1, v2])
def test_jitter_distribution(module: Any) -> None:
    """Every order is as likely, and each factor fills its range, independently of the others."""
    edits = _chosen(module.ColorJitter(0.4, (0.5, 3.0), 1.5, 0.3))
    _assert_equally_often(edits[:, :, 0], 24)
    factors = [edits[edits[:, :, 0] == operation, 1] for operation in (1, 2, 3, 4)]
    for values, (low, high) in zip(factors[:3], ((0.6, 1.4), (0.5, 3.0), (0.0, 2.5)), strict=True):
        _assert_uniform(values, low, high)
    shifts = (factors[3] + 128) % 256 - 128
    assert (shifts.min(), shifts.max()) == (-76, 76)  # 0.3 of 255, cut off
    assert abs(shifts.mean()) < 5 * shifts.std() / COUNT**0.5
    assert np.abs(np.corrcoef(factors) - np.eye(4)).max() < 5 / COUNT**0.5


@pytest.mark.parametrize("module", [v1, v2])
def test_augment_distributions(module: Any) -> None:
    """Operations, magnitudes and signs are as likely as torchvision makes them."""
    first, second = _chosen(module.RandAugment(2)).transpose(1, 0, 2)
    for edits in (first, second):
        kinds = np.minimum(edits[:, 0], 11)
        share = np.bincount(kinds.astype(int), minlength=12) / COUNT
        expected = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 5]) / 14  # five are affine
        assert np.abs(share - expected).max() < 4 * (0.25 / COUNT) ** 0.5
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 5 / COUNT**0.5
    factors = first[first[:, 0] == 1, 1]
    _assert_equally_often(factors.round(3), 2)  # a magnitude and its negative
    wide = _chosen(module.TrivialAugmentWide())[:, 0]
    factors = wide[wide[:, 0] == 1, 1]
    _assert_equally_often(np.abs(factors - 1).round(3), 31)
    assert abs((factors > 1).mean() - 15 / 31) < 4 * (0.25 / len(factors)) ** 0.5


@pytest.mark.parametrize("module", [v1, v2])
def test_policy_distribution(module: Any) -> None:
    """Policies are as likely as each other, and their parts as the policies say."""
    transform = module.AutoAugment(module.AutoAugmentPolicy.CIFAR10)
    step: Any = lower(transform).steps[0]
    policies = step.policies
    expected = np.zeros(12)
    names = {"Brightness": 1, "Contrast": 2, "Color": 3, "Sharpness": 5, "AutoContrast": 6, "Equalize": 7}
    names |= {"Invert": 8, "Posterize": 9, "Solarize": 10}
    for policy in policies:
        for name, chance, _ in policy:
            expected[names.get(name, 11)] += chance / len(policies)
            expected[0] += (1 - chance) / len(policies)
    counts = np.bincount(_chosen(transform)[:, :, 0].astype(int).ravel(), minlength=12) / COUNT
    assert np.abs(counts - expected).max() < 5 * (0.5 / COUNT) ** 0.5


@pytest.mark.parametrize("module", [v1, v2])
def test_map_distributions(module: Any) -> None:
    """Angles, places, scales and shears fill their ranges."""
    turned = _chosen(module.RandomRotation((-10, 80)))[:, 0]
    _assert_uniform(np.degrees(np.arctan2(turned[:, 4], turned[:, 1])), -10, 80)
    moved = _chosen(module.RandomAffine(0, (0.25, 0.5)))[:, 0]
    for column, most in ((3, 8), (6, 16)):
        places = moved[:, column]
        assert np.array_equal(np.unique(places), np.arange(-most, most + 1))
        assert abs(places.mean()) < 5 * places.std() / COUNT**0.5
    _assert_uniform(1 / _chosen(module.RandomAffine(0, scale=(0.5, 2.0)))[:, 0, 1], 0.5, 2.0)
    sheared = _chosen(module.RandomAffine(0, shear=(-20, 20, 5, 10)))[:, 0]
    _assert_uniform(np.degrees(np.arctan(sheared[:, 2])), -20, 20)
    _assert_uniform(np.degrees(np.arctan(sheared[:, 4])), 5, 10)


@pytest.mark.parametrize("cls", [cls for cls in TABLE if lower(EXAMPLES[cls][0]()).steps[0].draws])
def test_batches_do_not_matter(cls: type) -> None:
    """A sample's augmentation is the same alone, in any batch, in any order."""
    transform = v1.Compose([EXAMPLES[cls][0](), v1.RandomHorizontalFlip()])
    raw = pack(make_images("RGB", [(12, 12)] * 8, 0))
    if isinstance(outcome(lambda: lower(transform)(raw, CounterDraws(5, 1, np.arange(8)))), Exception):
        transform = v1.Compose([v2.ToImage(), transform])
    lowered = lower(transform)
    whole = lowered(raw, CounterDraws(5, 1, np.arange(8)))
    order = np.array([6, 1, 7, 0, 3])
    for got, i in zip(lowered(raw.take(order), CounterDraws(5, 1, order)), order.tolist(), strict=True):
        assert_same(got, whole[i])
    alone = lowered(raw.take(np.array([2])), CounterDraws(5, 1, np.array([2])))
    assert_same(alone[0], whole[2])


def test_seed_and_epoch_matter() -> None:
    """Other seeds and epochs give other draws; (1, 0) and (0, 1) are not the same."""
    keys = {
        tuple(CounterDraws(s, e, np.arange(4)).words(np.arange(4), 0, 2).ravel()) for s in (0, 1, 2) for e in (0, 1)
    }
    assert len(keys) == 6


def test_counter_is_pinned() -> None:
    """Draws do not change between versions."""
    words = CounterDraws(7, 3, np.array([0, 1, 10**12])).words(np.arange(3), 5, 2)
    assert words.tolist() == PINNED


def _noise(x: Tensor) -> Tensor:
    return x + torch.rand(1) + random.random() + float(np.random.rand())


def test_compiled_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What numba compiles gives the same keys and words as NumPy, of the same dtypes and shapes."""
    pytest.importorskip("numba")
    bits = random.Random(5).getrandbits
    cases = [(bits(2 * k + 1), bits(k + 1), k % 3, k % 7) for k in range(64)]
    indices = np.array([*range(9), *(bits(62) for _ in range(50))])

    def drawn() -> list[Any]:
        keys = [streams.keys(seed, epoch, indices, stream) for seed, epoch, stream, _ in cases]
        return keys + [streams.counter_words(key, 3 * case[3], case[3]) for key, case in zip(keys, cases, strict=True)]

    monkeypatch.setattr(streams, "_COMPILED", [])
    plain = drawn()
    streams.prepare()
    assert streams._COMPILED
    assert same(drawn(), plain)


def test_own_code_draws_by_sample() -> None:
    """A user's own step draws by sample, not by batch; the global generators are as before."""
    lowered = lower(v1.Compose([v1.ToTensor(), _noise]))
    raw = pack(make_images("L", [(4, 4)] * 6, 0))
    seed_all(1)
    before = states()
    whole = lowered(raw, CounterDraws(1, 2, np.arange(6)))
    assert states() == before
    order = np.array([5, 2])
    assert_same(lowered(raw.take(order), CounterDraws(1, 2, order)), whole[order.tolist()])


def test_own_code_that_raises_leaves_the_generators() -> None:
    """The global generators are put back when a user's step raises."""

    def broken(x: Any) -> Any:
        raise KeyError("no")

    seed_all(1)
    before = states()
    with pytest.raises(KeyError):
        lower(broken)(pack(make_images("L", [(4, 4)], 0)), CounterDraws(1, 2, np.arange(1)))
    assert states() == before


def test_negative_seed() -> None:
    """A negative seed is refused."""
    with pytest.raises(ConfigError, match="at least 0"):
        CounterDraws(-1, 0, np.arange(1))


def test_reprs() -> None:
    """Draws say what they are."""
    assert repr(ReplayDraws()) == "ReplayDraws()"
    assert repr(CounterDraws(1, 2, np.arange(3))) == "CounterDraws(seed=1, epoch=2, 3 samples)"
