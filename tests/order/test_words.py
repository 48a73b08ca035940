"""Words for places in any sequence: pure, unrelated to each other, uniform, pinned."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmdbpipe.order import Purpose
from lmdbpipe.order.words import words_at


@given(places=st.lists(st.integers(0, 2**62), max_size=20), seed=st.integers(-(2**70), 2**70))
def test_a_word_depends_on_its_own_place_only(places: list[int], seed: int) -> None:
    """In whatever company a place is asked for, its word is the same."""
    words = words_at(np.array(places, dtype=np.int64), purpose=Purpose.DRAWS, seed=seed, epoch=2)
    alone = [words_at(np.array([place]), purpose=Purpose.DRAWS, seed=seed, epoch=2)[0] for place in places]
    assert words.tolist() == alone
    assert words.dtype == np.uint64


def test_all_arguments_matter() -> None:
    """Neighbouring seeds, epochs, streams, purposes and places share no word."""
    words = [
        words_at(np.arange(50), purpose=purpose, seed=seed, epoch=epoch, stream=stream)
        for purpose in (Purpose.DRAWS, Purpose.PARTS)
        for seed in (0, 1)
        for epoch in (0, 1)
        for stream in (0, 1)
    ]
    assert len(np.unique(np.concatenate(words))) == 16 * 50


def test_words_are_uniform() -> None:
    """Each of the 64 bits is set in about half of the words, and each byte is spread evenly (chi-square, 5 sigma)."""
    words = words_at(np.arange(2**16), purpose=Purpose.DRAWS, seed=3, epoch=1)
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / 2**8
    for byte in words.view(np.uint8).reshape(-1, 8).T:
        found = np.bincount(byte, minlength=256)
        assert ((found - 2**8) ** 2 / 2**8).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_words_are_pinned() -> None:
    """These words must never change: states of older versions rely on them."""
    words = words_at(np.array([0, 1, 10**12]), purpose=Purpose.DRAWS, seed=0, epoch=0)
    assert words.tolist() == [
        13337225610019549368,
        12698035575558056434,
        10144571414271878040,
    ]
    assert words_at(np.array([7]), purpose=Purpose.PARTS, seed=-1, epoch=3, stream=2).tolist() == [4558322155153034385]
