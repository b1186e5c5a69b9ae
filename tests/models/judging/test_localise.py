"""Localisation figures against scikit-learn and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.judging.localise import Marked, heat, localisation, picture_auc
from service.bundle.manifest import Grid

BINS = 1000


def marked(heats: np.ndarray, shows: np.ndarray, labels: tuple[str, ...]) -> Marked:
    """Of pixels `[n, pixels]`."""
    bins = (heats * BINS).astype(int)
    counts = [
        np.stack([np.bincount(row[chosen], minlength=BINS) for row, chosen in zip(bins, which, strict=True)])
        for which in (shows, ~shows)
    ]
    return Marked(labels, *counts)


def test_the_area_over_pixels_is_that_of_scikit_learn_and_lies_in_its_interval() -> None:
    random = np.random.default_rng(0)
    shows = random.random((12, 50)) < 0.2
    heats = np.round(np.clip(0.3 * shows + 0.6 * random.random(shows.shape), 0, 0.99), 2) + 0.0005
    found = marked(heats, shows, ("dent", "hole") * 6)
    figures = localisation(found, val=found)
    assert figures.pixel_auc == pytest.approx(roc_auc_score(shows.ravel(), heats.ravel()))
    assert figures.pixel_auc_interval[0] < figures.pixel_auc < figures.pixel_auc_interval[1]
    best = max(((heats >= cut) & shows).sum() / ((heats >= cut) | shows).sum() for cut in np.unique(heats))
    assert figures.iou == pytest.approx(best)
    assert figures.n == 12


def test_val_sets_the_threshold_and_each_label_has_an_iou_of_its_own() -> None:
    shows = np.array([[True, True, False, False], [True, False, False, False], [False] * 4])
    heats = np.array([[0.9, 0.3, 0.4, 0.1], [0.9, 0.4, 0.1, 0.1], [0.1, 0.1, 0.1, 0.4]])
    val = marked(np.array([[0.8, 0.8, 0.6, 0.1]]), np.array([[True, True, False, False]]), ("dent",))
    figures = localisation(marked(heats, shows, ("dent", "hole", "free")), val=val)
    assert 0.6 < figures.threshold <= 0.8
    assert figures.iou == pytest.approx(2 / 3)
    assert figures.iou_by_label == {"dent": 0.5, "hole": 1.0}


def test_a_picture_of_which_nothing_is_known_does_not_count() -> None:
    shows = np.array([[True, False]])
    one = marked(np.array([[0.9, 0.1]]), shows, ("dent",))
    nothing = np.zeros_like(one.inside)
    both = Marked(("dent", "dent"), np.concatenate([one.inside, nothing]), np.concatenate([one.outside, nothing]))
    assert localisation(both, val=one).n == 1


def test_heat_is_what_is_not_background_laid_out_as_the_grid_says() -> None:
    rows = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)  # the third place of a boustrophedon: below, right
    spread = heat(rows, grid=Grid(rows=2, columns=2, order="boustrophedon"), background=0, height=8, width=8)
    assert spread[7, 7] == 1
    assert spread[0].max() == spread[7, 0] == 0
    assert 0 < spread[4, 4] < 1


def test_the_area_of_pictures_is_that_of_something_against_nothing() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.1, 0.7], [0.6, 0.4, 0.0], [0.7, 0.0, 0.3]], np.float32)
    found = picture_auc(probabilities, np.array([0, 2, 1, 0]), background=0)
    assert found.value == 1.0
    assert picture_auc(probabilities, np.array([0, 2, 0, 1]), background=0).value == 0.75
