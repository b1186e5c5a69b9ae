"""What a chain learns from places that were drawn from one."""

from __future__ import annotations

import numpy as np
import pytest

from models.data.places import UNKNOWN
from models.errors import BuildError
from models.judging.crf import Places, learn_crf

PLACES, CLASSES = 20, 3


def drawn(count: int, *, seed: int, stays: float) -> tuple[Places, np.ndarray]:
    """Chains that stay in a class with the share `stays`, seen dimly; a tenth of the places is not known. And all of them."""
    random = np.random.default_rng(seed)
    truth = np.zeros((count, PLACES), np.int64)
    for place in range(PLACES):
        fresh = random.integers(0, CLASSES, count)
        before = truth[:, place - 1] if place else fresh
        truth[:, place] = np.where(random.random(count) < stays, before, fresh)
    said = random.dirichlet(np.full(CLASSES, 2.0), truth.shape)
    said[np.arange(count)[:, None], np.arange(PLACES), truth] += 0.3
    said /= said.sum(axis=-1, keepdims=True)
    hidden = np.where(random.random(truth.shape) < 0.1, UNKNOWN, truth)
    return Places(said.astype(np.float32), hidden), truth


def test_a_chain_learned_from_sticky_places_tells_others_better_than_each_place_by_itself() -> None:
    (train, _), (val, _), (other, truth) = (drawn(n, seed=seed, stays=0.8) for n, seed in ((80, 0), (40, 1), (60, 2)))
    learned = learn_crf(train, val, strengths=[1e-2])
    transitions = learned.crf.transitions
    assert np.diag(transitions).min() > transitions[~np.eye(CLASSES, dtype=bool)].max() + 1
    assert (transitions == transitions.T).all()
    assert learned.val_loss < 0.8 * learned.val_loss_alone
    alone = (other.said.argmax(axis=-1) == truth).mean()
    chained = (learned.crf.marginals(other.said).argmax(axis=-1) == truth).mean()
    assert chained > alone + 0.05


def test_of_places_without_a_chain_it_learns_none() -> None:
    (train, _), (val, _) = (drawn(n, seed=seed, stays=0.0) for n, seed in ((80, 0), (40, 1)))
    transitions = learn_crf(train, val, strengths=[1e-2]).crf.transitions
    assert np.ptp(transitions) < 0.5


def test_val_chooses_the_strength() -> None:
    (train, _), (val, _) = (drawn(n, seed=seed, stays=0.8) for n, seed in ((20, 0), (40, 1)))
    losses = {strength: learn_crf(train, val, strengths=[strength]).val_loss for strength in (1e-2, 100.0)}
    learned = learn_crf(train, val, strengths=list(losses))
    assert losses[1e-2] != losses[100.0]
    assert learned.strength == min(losses, key=losses.__getitem__)
    assert learned.val_loss == min(losses.values())


def test_places_of_which_nothing_is_known_are_an_error() -> None:
    train, _ = drawn(4, seed=0, stays=0.5)
    with pytest.raises(BuildError, match="no place of split val is known"):
        learn_crf(train, Places(train.said, np.full_like(train.truth, UNKNOWN)))
