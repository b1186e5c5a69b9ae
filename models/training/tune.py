"""Search a recipe's parameters: trials that our own kit trains and split val judges, chosen by KerasTuner; test is never looked at.

    recipe + space ──oracle──► settings ──train──► loss on val ──oracle──► settings …

A search that was interrupted is played again from its start: the oracle depends on its seed and on the losses alone, and a trial that was
trained is not trained again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras

from models.errors import BuildError, RecipeError
from models.recipe import Recipe, read_toml
from models.space import USUAL
from models.training.train import RUN, train
from service.errors import MareyError

_log = logging.getLogger(__name__)

# So many trials in a row without a network mean that the space is wrong, not the trial.
_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """What was set, and what came of it: `val_loss` is the mean cross-entropy on split val of the weights that were kept."""

    settings: Mapping[str, Any]
    folder: str
    val_loss: float | None = None
    val: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    seconds: float | None = None
    failed: str | None = None

    def __str__(self) -> str:
        said = (
            ", ".join(f"{name} = {json.dumps(value)}" for name, value in self.settings.items()) or "the recipe as it is"
        )
        if self.val_loss is None:
            return f"failed: {said}: {self.failed}"
        return f"loss {self.val_loss:.4f}, {self.val['right']} of {self.val['n']} right on val: {said}"


@dataclass(frozen=True, slots=True)
class Found:
    """All trials, the recipe as it stood first, and the one of lowest loss."""

    trials: tuple[Trial, ...]
    best: Trial


def tune(recipe: str | Path, *, data: Path, work: Path, trials: int | None = None) -> Found:
    """Search below `work`; `trials` in place of the recipe's number. Raises RecipeError, DataError, BuildError."""
    read = Recipe.read(recipe)
    if read.training is None:
        raise RecipeError(f"recipe {read.name} trains nothing; tune needs [training]")
    space = space_of(recipe, read)
    oracle = _oracle(space, read, trials=trials or read.tune.trials, work=work)
    done = [_try(recipe, {}, data=data, work=work)]
    if done[0].failed:
        raise BuildError(f"the recipe itself cannot be trained: {done[0].failed}")
    failures = 0
    while (asked := oracle.create_trial("marey")).status == "RUNNING":
        settings = {name: _value(space, name, chosen) for name, chosen in asked.hyperparameters.values.items()}
        trial = _try(recipe, settings, data=data, work=work)
        failures = failures + 1 if trial.failed else 0
        if failures == _FAILURES:
            raise BuildError(f"{_FAILURES} trials in a row failed, the last with: {trial.failed}; mend [tune.space]")
        if trial.val_loss is not None:
            oracle.update_trial(asked.trial_id, {"val_loss": trial.val_loss})
        asked.status = "COMPLETED" if trial.val_loss is not None else "FAILED"
        oracle.end_trial(asked)
        if trial.folder not in {each.folder for each in done}:
            done.append(trial)
    wanted = 1 + (trials or read.tune.trials)
    if len(done) < wanted:
        _log.warning(
            "%d of %d trials were made, the recipe itself among them: [tune.space] holds no others", len(done), wanted
        )
    if done[1:] and all(each.failed for each in done[1:]):
        _log.warning("no trial could be trained but the recipe itself: it stays as it is; mend [tune.space]")
    best = min((each for each in done if each.val_loss is not None), key=lambda each: each.val_loss or 0.0)
    return Found(tuple(done), best)


def space_of(recipe: str | Path, read: Recipe) -> dict[str, tuple[Any, ...]]:
    """The recipe's own space, or the usual one as far as its architecture has it. Raises RecipeError where a value cannot stand there."""
    fields = type(read.architecture).model_fields
    usual = {
        name: values
        for name, values in USUAL.items()
        if name.removeprefix("architecture.") in fields or (name == "sampling.frames" and "video" in read.tasks)
    }
    space = read.tune.space or usual
    if not any(name.startswith("architecture.") for name in space) and not read.tune.space:
        raise RecipeError(
            f"architecture {read.architecture.name} has none of {', '.join(name.split('.')[1] for name in USUAL if name.startswith('arch'))}: "
            "nothing to search by default; name what to try in [tune.space]"
        )
    for name, values in space.items():
        for value in values:
            try:
                Recipe.read(recipe, overrides=[_override(name, value)])
            except RecipeError as error:
                raise RecipeError(f"[tune.space] {name} = {json.dumps(value)} cannot be tried: {error}") from None
    return space


def write_found(found: Found, recipe: str | Path, *, out: Path, command: str) -> Path:
    """Write the best settings to `out` as a recipe, and all trials to the JSON file beside it; returns the latter."""
    import tomli_w  # noqa: PLC0415 -- an extra

    content = read_toml(recipe, overrides=[_override(name, value) for name, value in found.best.settings.items()])
    content.pop("tune", None)
    content["name"] = f"{content['name']}_tuned"
    head = [
        f"# Found by: {command}",
        f"# Best of {len(found.trials)} trials by the loss on val: {found.best}",
        "# Val chose it, so val flatters it: what it reaches is said by marey-build run, on test.",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(head) + "\n\n" + tomli_w.dumps(content), encoding="utf-8")
    told = out.with_suffix(".trials.json")
    table = {"command": command, "best": asdict(found.best), "trials": [asdict(each) for each in found.trials]}
    told.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return told


def _try(recipe: str | Path, settings: Mapping[str, Any], *, data: Path, work: Path) -> Trial:
    overrides = [_override(name, value) for name, value in settings.items()]
    changed = Recipe.read(recipe, overrides=overrides)
    folder = work / changed.weights_sha256[:16]  # a value that the recipe has anyway is no other trial
    try:
        train(changed, data=data, out=folder, cache=work.parent / "cache")
    except MareyError as error:  # a combination that cannot be built, or does not learn, is a trial too
        return Trial(settings, folder.name, failed=str(error))
    finally:
        keras.backend.clear_session()
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    last = run["history"][-1]
    return Trial(settings, folder.name, last["val_loss"][last["best"]], run["val"], run["parameters"], run["seconds"])


def _oracle(space: Mapping[str, Sequence[Any]], recipe: Recipe, *, trials: int, work: Path) -> Any:
    if find_spec("keras_tuner") is None or find_spec("tomli_w") is None:
        raise RecipeError(
            "marey-build tune needs keras-tuner and tomli-w, which are not installed; pip install 'marey[tune]'"
        )
    import keras_tuner  # noqa: PLC0415 -- an extra

    parameters = keras_tuner.HyperParameters()
    for name, values in space.items():
        parameters.Choice(name, list(values) if _plain(values) else [json.dumps(value) for value in values])
    oracle = keras_tuner.oracles.BayesianOptimizationOracle(
        objective=keras_tuner.Objective("val_loss", "min"),
        max_trials=trials,
        seed=recipe.tune.seed + 1,  # 0 would be no seed to it
        hyperparameters=parameters,
        allow_new_entries=False,
        tune_new_entries=False,
    )
    oracle.verbose = 0
    # It gives the oracle a folder for its notes; they are not read again.
    keras_tuner.engine.base_tuner.BaseTuner(oracle, directory=str(work), project_name="oracle", overwrite=True)
    return oracle


def _plain(values: Sequence[Any]) -> bool:
    """Whether KerasTuner takes them as they are: values of one type, and no lists."""
    kinds = {type(value) for value in values}
    return len(kinds) == 1 and kinds <= {bool, int, float, str}


def _value(space: Mapping[str, Sequence[Any]], name: str, chosen: Any) -> Any:
    if not _plain(space[name]):
        return json.loads(chosen)
    return next(each for each in space[name] if each == chosen)  # KerasTuner makes numbers of true and false


def _override(name: str, value: Any) -> str:
    return f"{name}={json.dumps(value)}"
