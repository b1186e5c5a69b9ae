"""The floor on a recipe's own split: fitted on train, judged on the very samples that the recipe's network is judged on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.judging.assess import answers
from models.judging.metrics import figures
from models.judging.report import Report
from models.recipe import Recipe
from models.training.floor import classifier, statistics

FLOOR = "floor"


def floor(recipe: Recipe, *, data: str | Path, cache: Path) -> Report:
    """Its accuracy on the split that `recipe` names, with Wilson's 95 % interval, and what it said wrong there; raises DataError.

    `cache` keeps the frozen features for another run.
    """
    dataset, split = recipe.dataset(data), recipe.data.assess
    train, judged = dataset.split("train"), dataset.split(split)
    rows = statistics(dataset, (*train, *judged), frames=recipe.crossval.floor_frames, cache=cache)
    fitted, asked = rows[: len(train)], rows[len(train) :]
    truth = np.array(dataset.class_ids(judged))
    learned = classifier().fit(fitted, dataset.class_ids(train))
    probabilities = np.zeros((len(judged), len(dataset.labels)), np.float32)
    probabilities[:, learned.classes_] = learned.predict_proba(asked)  # a class that train lacks is never said
    found = figures(probabilities, truth)
    return {
        "data": recipe.data.folder,
        "split": split,
        "n": found.n,
        "accuracy": found.accuracy,
        "accuracy_interval": found.accuracy_interval,
        "answers": answers(judged, truth, {FLOOR: probabilities}, root=dataset.root),
    }
