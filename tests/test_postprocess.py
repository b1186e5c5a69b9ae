"""The chain over places against every labelling counted by hand, and the bundles that may carry one."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.manifest import Grid, Network, Step
from service.bundle.store import open_bundle
from service.errors import BundleError
from service.postprocess import MAX_SCORE, Crf, Postprocess, messages
from tests.clip_bundle import LABELS, make_clip_bundle

CLASSES = len(LABELS)
GRID = Grid(rows=2, columns=2, order="boustrophedon", background="red")
PLAIN: dict[str, Any] = {"weight": 1.0, "bias": [0.0] * CLASSES, "transitions": [[0.0] * CLASSES] * CLASSES}


def network(grid: Grid | None) -> Network:
    return Network(kind="clip", attention=True, positions=True, grid=grid)


def counted(crf: Crf, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marginals and log Z of `[B, P, K]` by the sum over all K^P labellings."""
    scores = crf.scores(positions)
    count, places, classes = scores.shape
    marginals, total = np.zeros(scores.shape), np.zeros(count)
    for labelling in product(range(classes), repeat=places):
        score = scores[:, np.arange(places), labelling].sum(axis=1)
        score = score + sum(crf.transitions[one, other] for one, other in pairwise(labelling))
        total += np.exp(score)
        marginals[:, np.arange(places), labelling] += np.exp(score)[:, None]
    return marginals / total[:, None, None], np.log(total)


def test_marginals_and_the_sum_over_all_labellings_are_those_counted_one_by_one() -> None:
    random = np.random.default_rng(0)
    positions = random.dirichlet(np.ones(3), (2, 5)).astype(np.float32)
    crf = Crf(1.3, random.normal(size=3), random.normal(size=(3, 3)))  # not symmetric: its direction counts
    marginals, total = counted(crf, positions)
    assert np.abs(crf.marginals(positions) - marginals).max() < 1e-6
    assert messages(crf.scores(positions), crf.transitions)[2] == pytest.approx(total)


def test_long_chains_of_the_surest_answers_and_the_largest_scores_neither_under_nor_overflow() -> None:
    positions = np.zeros((1, 1024, 2), np.float32)
    positions[0, np.arange(1024), np.arange(1024) % 2] = 1  # each place denies what the chain wants of it
    crf = Crf(10.0, np.array([-MAX_SCORE, MAX_SCORE]), MAX_SCORE * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    found = crf.marginals(positions)
    assert np.isfinite(found).all()
    assert np.allclose(found.sum(axis=-1), 1)


def test_an_unsure_place_takes_after_its_neighbours_and_a_chain_of_zeros_changes_nothing() -> None:
    positions = np.array([[[0.9, 0.1], [0.45, 0.55], [0.9, 0.1]]], np.float32)
    sticky = Crf(1.0, np.zeros(2), np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert sticky.marginals(positions)[0, 1, 0] > 0.9
    assert Crf(1.0, np.zeros(2), np.zeros((2, 2))).marginals(positions) == pytest.approx(positions, abs=1e-6)


def test_parameters_come_back_as_they_were_written() -> None:
    crf = Crf(0.5, np.arange(5.0), np.arange(25.0).reshape(5, 5))
    again = Postprocess.read([Step(name="crf", parameters=crf.parameters())], classes=5, places=4).steps[0]
    assert again.parameters() == crf.parameters()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weight": "much"}, "weight is"),
        ({"weight": float("nan")}, "weight is"),
        ({"weight": 11.0}, "at most ±10"),
        ({"bias": [0.0] * 4}, r"bias is \[4\], expected \[5\]"),
        ({"bias": [31.0] + [0.0] * 4}, "at most ±30"),
        ({"transitions": [[0.0] * 5] * 4}, r"transitions is \[4, 5\], expected \[5, 5\]"),
        ({"transitions": [[0.0] * 5, [0.0]]}, "transitions is"),
        ({"slope": 1.0}, "and no others"),
    ],
)
def test_a_bundle_whose_chain_is_none_of_its_classes_is_not_opened(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    bundle = make_clip_bundle(tmp_path / "whole", positions="places", network=network(GRID))
    text = bundle.path.joinpath("manifest.json").read_text()
    step = Step(name="crf", parameters=PLAIN | changed).model_dump_json()
    bundle.path.joinpath("manifest.json").write_text(text.replace('"postprocess": []', f'"postprocess": [{step}]'))
    with pytest.raises(BundleError, match=said):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("step", "grid", "said"),
    [
        (Step(name="median", parameters=PLAIN), GRID, "'median' version 1 is unknown here"),
        (Step(name="crf", version=2, parameters=PLAIN), GRID, "version 2 is unknown here"),
        (Step(name="crf", parameters=PLAIN), None, "no grid"),
    ],
)
def test_a_step_that_this_program_cannot_run_is_refused_when_the_bundle_is_written(
    tmp_path: Path, step: Step, grid: Grid | None, said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        make_clip_bundle(tmp_path / "whole", positions="places", network=network(grid), postprocess=(step,))


def test_a_grid_has_as_many_places_as_the_network_and_a_background_of_its_labels(tmp_path: Path) -> None:
    for grid, said in ((Grid(rows=2, columns=3), "is 2×3"), (Grid(rows=2, columns=2, background="sky"), "'sky'")):
        with pytest.raises(ValueError, match=said):
            make_clip_bundle(tmp_path / "whole", positions="places", network=network(grid))


def test_places_are_numbered_row_after_row_and_every_second_one_backwards_where_the_order_says_so() -> None:
    assert Grid(rows=2, columns=3).cells == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert Grid(rows=2, columns=3, order="boustrophedon").cells == ((0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0))
