"""Cross-validation on a data set that can be learned."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.errors import DataError, RecipeError
from models.recipe import Recipe
from models.schedule import CrossValidation
from models.training.crossval import crossvalidate, grouped_folds


def test_cross_validation_judges_every_clip_beside_the_floor(
    moving: Path, moving_recipe: Recipe, tmp_path: Path
) -> None:
    assert moving_recipe.training is not None
    stage = moving_recipe.training.stages[0].model_copy(update={"epochs": 12})
    head = moving_recipe.training.model_copy(update={"stages": (stage,)})
    plan = CrossValidation(folds=2, seeds=2, inner_folds=3, floor_frames=2)
    report = crossvalidate(
        moving_recipe.model_copy(update={"training": head, "crossval": plan}), data=moving, cache=tmp_path
    )
    assert report["n"] == sum(report["fold_sizes"]) == 42
    assert report["ours"]["accuracy"] >= 0.85
    assert len(report["ours"]["by_seed"]) == 2
    assert len(report["ours"]["by_fold"]) == len(report["floor"]["by_fold"]) == 2
    assert report["difference"] == pytest.approx(report["ours"]["accuracy"] - report["floor"]["accuracy"], abs=1e-4)
    assert len(report["ours"]["right"]) == 42
    groups = [group for held in report["held_out"] for group in held]
    assert sorted(groups) == sorted({f"g{number}" for number in range(21)})
    assert report["parameters"] > 0
    assert report["ms_per_clip"] > 0
    told = json.loads(json.dumps(report))
    again = crossvalidate(
        moving_recipe.model_copy(update={"name": "other", "training": head, "crossval": plan}),
        data=moving,
        cache=tmp_path,
        seeds=1,
        beside=told,
    )
    assert again["seeds"] == 1
    assert again["held_out"] == report["held_out"]
    assert again["floor"] == report["floor"]
    assert again["beside"]["recipe"] == "moving"
    expected = again["ours"]["accuracy"] - report["ours"]["accuracy"]
    assert again["beside"]["difference"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DataError, match="moving was judged on other folds than other: nothing can be paired"):
        crossvalidate(
            moving_recipe.model_copy(update={"name": "other", "training": head, "crossval": plan}),
            data=moving,
            beside=told | {"held_out": told["held_out"][::-1]},
        )


def test_folds_keep_groups_whole_and_need_enough_of_them(moving: Path, moving_recipe: Recipe) -> None:
    dataset = moving_recipe.dataset(moving)
    folds = grouped_folds(dataset, dataset.samples, count=5, seed=0)
    assert sorted(np.concatenate([judged for _, judged in folds]).tolist()) == list(range(42))
    for fitted, judged in folds:
        assert not {dataset.samples[i].group for i in fitted} & {dataset.samples[i].group for i in judged}
    with pytest.raises(DataError, match="21 groups, 22 folds need as many"):
        grouped_folds(dataset, dataset.samples, count=22, seed=0)


def test_a_share_of_train_means_nothing_where_there_are_no_splits(moving: Path, moving_recipe: Recipe) -> None:
    part = moving_recipe.model_copy(update={"data": moving_recipe.data.model_copy(update={"share": 0.1})})
    with pytest.raises(RecipeError, match=r"data\.share = 0\.1 is of split train.*leave it out"):
        crossvalidate(part, data=moving)
