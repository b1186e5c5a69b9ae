"""Train a recipe's network: frozen CNN first, on cached features, then its last blocks; resumable at every epoch."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models.data.dataset import Dataset, Sample
from models.errors import BuildError
from models.provenance import packages
from models.recipe import Recipe
from models.schedule import FRAMES, Stage
from models.training.advice import advise
from models.training.checkpoint import History
from models.training.curves import Curves
from models.training.fit import Labelled, class_weights, fit_stage
from models.training.machine import machine
from models.training.material import Material
from models.training.part import Part
from models.training.precision import built_for, gpus, is_mixed

MODEL, RUN = "model.keras", "run.json"
Watch = Callable[[str, History], None]


# What a training must share with an earlier one to go on with it.
_STAMPED = {"recipe": "the recipe's name", "weights_sha256": "what the recipe trains", "data_sha256": "the data"}

_log = logging.getLogger(__name__)


def train(
    recipe: Recipe, *, data: str | Path, out: str | Path, cache: Path | None = None, tensorboard: Path | None = None
) -> Path:
    """Train by `recipe` on the data set below `data`; writes `out`/model.keras and `out`/run.json, and returns the former.

    `cache`: where activations of the frozen CNN are kept, by default below `out`; recipes that share a CNN and its input may share it.
    `tensorboard`: where the curves go as event files, too. Fits on split train, stops early by split val, never looks at test. What is done is not done again: cached
    activations, whole stages and whole epochs are taken up from `out`, unless the recipe or the data changed. Raises
    DataError, RecipeError and BuildError.
    """
    started = time.perf_counter()
    folder = Path(out)
    dataset = recipe.dataset(data)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = {
        "recipe": recipe.name,
        "weights_sha256": recipe.weights_sha256,
        "data_sha256": dataset.digest(dataset.samples),
    }
    done = _read(folder / RUN)
    if done.get("stamp") == stamp and (folder / MODEL).is_file():
        return folder / MODEL
    before = _read(folder / "stamp.json")
    if before != stamp:
        if before:
            changed = [what for name, what in _STAMPED.items() if before.get(name) != stamp[name]]
            _log.warning("%s changed since the training in %s: it begins anew", " and ".join(changed), folder)
        for stale in folder.glob("stage*.npz"):
            stale.unlink()
        _write(folder / "stamp.json", stamp)
    keras.utils.set_random_seed(recipe.training.seed if recipe.training else 0)
    if recipe.training is None:
        model = recipe.build(classes=len(dataset.labels))
        figures: dict[str, Any] = {"parameters": model.count_params()}
    else:
        with built_for(recipe.training):
            model = recipe.build(classes=len(dataset.labels))
        with _watch(tensorboard) as watch:
            figures = _fit(model, recipe, dataset=dataset, folder=folder, cache=cache or folder / "cache", watch=watch)
        model = _in_float32(model, recipe, classes=len(dataset.labels))
    part = folder / f".{MODEL}.part.keras"
    model.save(part)
    part.replace(folder / MODEL)
    seconds = round(time.perf_counter() - started, 1)
    _write(folder / RUN, {"stamp": stamp, "labels": dataset.labels, **figures, "seconds": seconds, **_where()})
    return folder / MODEL


def fit_all(
    model: keras.Model,
    recipe: Recipe,
    *,
    material: Material,
    dataset: Dataset,
    train: tuple[Sample, ...],
    val: tuple[Sample, ...],
    seed: int,
    folder: Path | None = None,
    quiet: bool = False,
    watch: Watch | None = None,
) -> list[History]:
    """All stages of `recipe`, in place: fit on `train`, choose the epoch by `val`, if any. Checkpoints go to `folder`, if given.

    `watch` is told a stage's name and its history after each epoch. Unless `quiet`, advice goes to the log at the end of a stage.
    """
    assert recipe.training is not None
    histories = []
    classes = np.array(dataset.class_ids(train), np.int64)
    weights = class_weights(classes, count=len(dataset.labels))
    if not recipe.training.class_weights:
        weights = np.ones_like(weights)
    for number, stage in enumerate(recipe.training.stages):
        judged = (
            Labelled(material.read(val, cut=stage.cut), np.array(dataset.class_ids(val), np.int64)) if val else None
        )
        history = fit_stage(
            model,
            training=recipe.training,
            stage=stage,
            train=Labelled(material.read(train, cut=stage.cut), classes),
            val=judged,
            train_batchnorm=trains_batchnorm(recipe, stage),
            weights=weights,
            seed=seed * 1000 + number,
            checkpoint=folder / f"stage{number}.npz" if folder else None,
            quiet=quiet,
            watch=partial(watch, f"{number}-{stage.cut}") if watch else None,
        )
        histories.append(history)
        for advice in advise(history, stage=stage) if not quiet else ():
            _log.warning("stage %d, cut %s: %s", number + 1, stage.cut, advice)
    return histories


def trains_batchnorm(recipe: Recipe, stage: Stage) -> bool:
    """Whether BatchNorm of the CNN takes part: where the stage says so, or where it has learnt nothing yet."""
    return stage.train_batchnorm or (stage.cut == FRAMES and not recipe.architecture.pretrained)


def _fit(
    model: keras.Model, recipe: Recipe, *, dataset: Dataset, folder: Path, cache: Path, watch: Watch | None
) -> dict[str, Any]:
    assert recipe.training is not None
    fitted, chosen = dataset.split("train"), dataset.split("val")
    nothing = {recipe.places.background} if recipe.places else set()  # of places, maybe of no whole picture
    missing = set(dataset.labels) - {sample.label for sample in fitted} - nothing
    if missing:
        raise BuildError(
            f"split train has no samples of {', '.join(sorted(missing)[:5])}; a class cannot be learned from none"
        )
    first = recipe.training.stages[0].cut
    if first != FRAMES and not recipe.architecture.pretrained:
        _log.warning(
            'stage 1, cut %s: what comes before it keeps the random weights that it was drawn with; give it cut = "%s", or pretrained weights',
            first,
            FRAMES,
        )
    unseen = set(dataset.labels) - {sample.label for sample in chosen} - nothing
    if unseen:
        _log.warning("split val has no samples of %s: the epoch is chosen without them", ", ".join(sorted(unseen)[:5]))
    material = Material(model, recipe, dataset=dataset, cache=cache)
    material.prepare((*fitted, *chosen))
    histories = fit_all(
        model,
        recipe,
        material=material,
        dataset=dataset,
        train=fitted,
        val=chosen,
        seed=recipe.training.seed,
        folder=folder,
        watch=watch,
    )
    stages = recipe.training.stages
    # The last stage's cut is the deepest: it trains what those before it did.
    part = Part(model, cut=stages[-1].cut, train_batchnorm=trains_batchnorm(recipe, stages[-1]))
    predicted = part.predict(material.read(chosen, cut=part.cut)).argmax(1)
    right = int((predicted == np.array(dataset.class_ids(chosen))).sum())
    return {
        "val": {"n": len(chosen), "right": right, "accuracy": right / len(chosen)},
        "samples": {"train": len(fitted), "val": len(chosen)},
        "parameters": model.count_params(),
        "trainable": sum(int(np.prod(variable.shape)) for variable in part.trainable),
        "stages": [_told(stage, history) for stage, history in zip(stages, histories, strict=True)],
        "history": [dataclasses.asdict(history) for history in histories],
    }


def _told(stage: Stage, history: History) -> dict[str, Any]:
    return {
        "cut": stage.cut,
        "epochs": len(history.loss),
        "best": history.best + 1,
        "seconds": round(sum(history.seconds), 1),
        "advice": [str(advice) for advice in advise(history, stage=stage)],
    }


def _in_float32(model: keras.Model, recipe: Recipe, *, classes: int) -> keras.Model:
    """`model` as it is saved: the same weights in a network that computes in float32."""
    assert recipe.training is not None
    if not is_mixed(recipe.training):
        return model
    plain = recipe.build(classes=classes)
    plain.set_weights(model.get_weights())
    return plain


@contextmanager
def _watch(folder: Path | None) -> Iterator[Watch | None]:
    if folder is None:
        yield None
        return
    with Curves(folder) as curves:
        yield curves.write


def _where() -> dict[str, Any]:
    return {"machine": machine(gpus=gpus()), "versions": packages()}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
