"""Judge a recipe on a small data set: grouped cross-validation, beside a plain floor in the very same folds.

One split of some fifty clips has a standard error of six points; every clip in a fold of its own, with whole groups kept
together, says more. Whatever is chosen by figures (the epoch at which to stop) is chosen inside each fold, on groups taken
from its training part.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from models.data.dataset import Dataset, Sample
from models.errors import DataError, RecipeError
from models.provenance import packages
from models.recipe import Recipe
from models.schedule import FRAMES, CrossValidation
from models.training.floor import classifier, statistics
from models.training.machine import machine
from models.training.material import Material
from models.training.part import Part
from models.training.precision import built_for, gpus
from models.training.train import fit_all

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # the samples to fit on, and those to judge by
_TIMED = 10  # runs of one clip


def crossvalidate(
    recipe: Recipe,
    *,
    data: str | Path,
    cache: str | Path | None = None,
    seeds: int | None = None,
    floor: bool = True,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Figures of `recipe` and of the floor on every clip below `data`, as a JSON object; raises DataError and RecipeError.

    `accuracy` is a mean over seeds and folds, `standard_error` that of the folds' accuracies (each a mean over seeds); `right` counts, for
    each clip in the data set's order, the seeds that answered right. `seeds` overrides the recipe's. The folds depend on the data and
    their number alone: `held_out` lists their groups. `beside`: the figures of another recipe in the very same folds, or it is a DataError;
    the paired difference is added, and its floor taken over. `cache` keeps the frozen activations for another run.
    """
    if recipe.training is None:
        raise RecipeError(f"recipe {recipe.name} trains nothing; cross-validation needs [training]")
    if recipe.data.share < 1:
        raise RecipeError(
            f"data.share = {recipe.data.share:g} is of split train, and cross-validation knows no splits; leave it out"
        )
    started = time.perf_counter()
    plan, dataset = recipe.crossval, recipe.dataset(data)
    if seeds is not None:
        plan = plan.model_copy(update={"seeds": seeds})
    folds = grouped_folds(dataset, dataset.samples, count=plan.folds, seed=0)
    found = {
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256,
        "data": recipe.data.folder,
        "data_sha256": dataset.digest(dataset.samples),
        "n": len(dataset.samples),
        "groups": len({sample.group for sample in dataset.samples}),
        "fold_sizes": [len(judged) for _, judged in folds],
        "held_out": [sorted({dataset.samples[i].group for i in judged}) for _, judged in folds],
        "seeds": plan.seeds,
    }
    if beside is not None:
        _check_same_folds(found, beside)
    with _folder(cache) as kept:
        judged = beside.get("floor") if beside else None
        if judged is None and floor:
            judged = _floor(dataset, folds, plan=plan, cache=kept)
        ours = _ours(recipe, dataset, folds, plan=plan, cache=kept)
    found |= {**_size(recipe, dataset), "ours": ours, "floor": judged}
    if judged is not None:
        found |= {
            "difference": round(ours["accuracy"] - judged["accuracy"], 4),
            # Of the folds' differences: both were judged on the same clips.
            "difference_standard_error": _standard_error(np.subtract(ours["by_fold"], judged["by_fold"])),
            "within_one_standard_error": ours["accuracy"] >= judged["accuracy"] - judged["standard_error"],
        }
    if beside is not None:
        theirs = beside["ours"]
        found["beside"] = {
            "recipe": beside["recipe"],
            "difference": round(ours["accuracy"] - theirs["accuracy"], 4),
            "standard_error": _standard_error(np.subtract(ours["by_fold"], theirs["by_fold"])),
        }
    return found | {
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine(gpus=gpus()),
        "packages": packages(),
    }


def _check_same_folds(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name, what in (("data_sha256", "other data"), ("held_out", "other folds")):
        if theirs.get(name) != ours[name]:
            raise DataError(
                f"{theirs.get('recipe', 'the other recipe')} was judged on {what} than {ours['recipe']}: nothing can be paired; "
                "judge both again with the same data and crossval.folds"
            )


def _size(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """How large and how fast the network is as Keras runs it in float32, a clip at a time, from frames to probabilities."""
    model = recipe.build(classes=len(dataset.labels))
    sampled = recipe.sampling.frames
    shape = model.input_shape[1:]
    # A network of images sees all frames of a clip as one batch.
    size = (sampled, *shape) if len(shape) == 3 else (1, shape[0] or sampled, *shape[1:])
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, size).astype(np.float32))
    forward = tf.function(lambda clip: model(clip, training=False))
    seconds = []
    for _ in range(_TIMED + 1):
        before = time.perf_counter()
        tf.nest.map_structure(lambda each: each.numpy(), forward(frames))
        seconds.append(time.perf_counter() - before)
    return {
        "frames": sampled,
        "parameters": model.count_params(),
        "ms_per_clip": round(1e3 * float(np.median(seconds[1:])), 2),  # the first call compiles
    }


def grouped_folds(dataset: Dataset, samples: Sequence[Sample], *, count: int, seed: int) -> list[Fold]:
    """`count` folds of `samples`: groups stay whole, classes are spread as evenly as that allows."""
    groups = [sample.group for sample in samples]
    if len(set(groups)) < count:
        raise DataError(
            f"{dataset.root} has {len(set(groups))} groups, {count} folds need as many or more; lower crossval.folds"
        )
    classes = np.array(dataset.class_ids(samples))
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(samples)), classes, groups))


def _ours(
    recipe: Recipe, dataset: Dataset, folds: Sequence[Fold], *, plan: CrossValidation, cache: Path
) -> dict[str, Any]:
    samples, labels = dataset.samples, len(dataset.labels)
    material = Material(recipe.build(classes=labels), recipe, dataset=dataset, cache=cache)
    material.prepare(samples)
    assert recipe.training is not None
    last = recipe.training.stages[-1].cut
    if not recipe.architecture.pretrained and any(stage.cut != FRAMES for stage in recipe.training.stages):
        raise RecipeError(
            f"recipe {recipe.name} keeps activations of a CNN without pretrained weights: every seed's are others; give its stages cut = {FRAMES!r}"
        )
    # Where every epoch is run and nothing is chosen, no clips need to be held back for the choice.
    stops_early = any(stage.patience for stage in recipe.training.stages)
    right = np.zeros((plan.seeds, len(samples)), bool)
    progress = tqdm(total=plan.seeds * len(folds), desc=f"cross-validate {recipe.name}", unit="fold")
    for seed in range(plan.seeds):
        for fitted, judged in folds:
            outer = [samples[i] for i in fitted]
            inner, chosen = np.arange(len(outer)), np.array([], np.int64)
            if stops_early:
                inner, chosen = grouped_folds(dataset, outer, count=plan.inner_folds, seed=seed)[0]
            keras.utils.set_random_seed(seed)
            with built_for(recipe.training):
                model = recipe.build(classes=labels, seed=seed)
            fit_all(
                model,
                recipe,
                material=material,
                dataset=dataset,
                train=tuple(outer[i] for i in inner),
                val=tuple(outer[i] for i in chosen),
                seed=seed,
                quiet=True,
            )
            tested = [samples[i] for i in judged]
            predicted = Part(model, cut=last).predict(material.read(tested, cut=last)).argmax(1)
            right[seed, judged] = predicted == np.array(dataset.class_ids(tested))
            keras.backend.clear_session()
            progress.update()
            progress.set_postfix(accuracy=f"{right[seed, judged].mean():.3f}")
    progress.close()
    return _summary(right, folds) | {"right": right.sum(0).tolist()}


def _floor(dataset: Dataset, folds: Sequence[Fold], *, plan: CrossValidation, cache: Path) -> dict[str, Any]:
    inputs = statistics(dataset, dataset.samples, frames=plan.floor_frames, cache=cache)
    classes = np.array(dataset.class_ids(dataset.samples))
    right = np.zeros((1, len(classes)), bool)
    for fitted, judged in folds:
        found = classifier().fit(inputs[fitted], classes[fitted])
        right[0, judged] = found.predict(inputs[judged]) == classes[judged]
    return _summary(right, folds)


def _summary(right: NDArray[np.bool_], folds: Sequence[Fold]) -> dict[str, Any]:
    """From `[seeds, clips]` of right answers; the error is over folds, which differ far more than seeds do."""
    table = np.array([[seed[judged].mean() for _, judged in folds] for seed in right])
    by_fold = table.mean(0)
    return {
        "accuracy": round(float(table.mean()), 4),
        "standard_error": _standard_error(by_fold),
        "by_seed": [round(float(value), 4) for value in table.mean(1)],
        "by_fold": [round(float(value), 4) for value in by_fold],
    }


def _standard_error(by_fold: NDArray[np.float64]) -> float:
    return round(float(by_fold.std(ddof=1) / np.sqrt(len(by_fold))), 4)


@contextlib.contextmanager
def _folder(cache: str | Path | None) -> Iterator[Path]:
    if cache is not None:
        yield Path(cache)
        return
    with tempfile.TemporaryDirectory(prefix="marey-") as folder:
        yield Path(folder)
