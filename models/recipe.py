"""A recipe: one TOML file that determines a bundle, from the data set to the shipped weights."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import keras
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from models.data.dataset import Dataset, named_folder
from models.data.motion import Motion
from models.data.places import PlacesPlan
from models.errors import DataError, RecipeError
from models.overrides import Override, overridden
from models.schedule import CrossValidation, Training
from models.space import Tune
from models.zoo.architecture import Locating
from models.zoo.architectures import AnyArchitecture
from service.bundle.manifest import Frozen, Input, Sampling, Task
from service.bundle.pixel_steps import pixel_steps
from service.errors import BundleError

_FEWEST = 2
RECIPES = Path(__file__).parent / "recipes"
Score = Literal["accuracy", "auc"]


class Export(Frozen):
    """How the weights of the float graphs are stored, and the opset."""

    weights: Literal["float32", "float16"] = "float16"


class CalibrationPlan(Frozen):
    """Which frames set the INT8 ranges: `frames` in all, spread over the clips of `split`; nodes in `skip` stay float."""

    split: str = "train"
    frames: int = Field(default=512, ge=1)
    skip: tuple[str, ...] = ()


class Labels(Frozen):
    """The data set's labels in its order, some of them renamed for readers."""

    rename: dict[str, str] = Field(default_factory=dict)


class Data(Frozen):
    """A folder below the one that `--data` names; or `--data` itself, where it is that folder.

    `assess` is the split to report on, `score` what is asked there: `auc` adds the area under the ROC curve to the accuracy.
    `share` leaves so much of split train, of each class and whole groups, by the seed of the training. With `motion` every
    image is a clip: a window of it that moves.
    """

    folder: str
    source: str
    license: str
    assess: str = "test"
    score: Score = "accuracy"
    share: float = Field(default=1.0, gt=0, le=1)
    motion: Motion | None = None


class Weights(Frozen):
    source: str
    license: str


class Recipe(Frozen):
    """Everything that determines a bundle, and what `tune` may change in it. `sha256` is that of what the file says and `--set` changed; comments do not count."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")
    description: str
    tasks: tuple[Task, ...] = Field(min_length=1)
    data: Data
    weights: Weights | None = None
    labels: Labels = Labels()
    input: Input
    sampling: Sampling
    architecture: AnyArchitecture
    places: PlacesPlan | None = None
    training: Training | None = None
    crossval: CrossValidation = CrossValidation()
    export: Export = Export()
    calibration: CalibrationPlan = CalibrationPlan()
    tune: Tune = Tune()
    sha256: str

    @field_validator("description")
    @classmethod
    def _one_paragraph(cls, text: str) -> str:
        return " ".join(text.split())

    @field_validator("input")
    @classmethod
    def _steps_can_run(cls, spec: Input) -> Input:
        try:
            pixel_steps(spec)
        except BundleError as error:
            raise ValueError(str(error)) from None
        return spec

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if self.architecture.pretrained and self.weights is None:
            raise ValueError("pretrained weights need their source and licence in [weights]")
        if self.training is None and self.architecture.trainable:
            raise ValueError(f"a {self.architecture.name} is trained: it needs [training] with at least one stage")
        return self

    @model_validator(mode="after")
    def _parts_suit_each_other(self) -> Self:
        if self.places is not None and not isinstance(self.architecture, Locating):
            raise ValueError(
                f"[places] is for an architecture that says where, which {self.architecture.name} does not; leave it out"
            )
        if self.calibration.split == self.data.assess:
            raise ValueError(
                f'calibration.split and data.assess are both "{self.data.assess}": INT8 would be judged by what it was fitted to; calibrate on train'
            )
        return self

    @classmethod
    def read(cls, recipe: str | Path, *, overrides: Sequence[str] = ()) -> Self:
        """Read the TOML file at `recipe`, or the recipe of that name that ships; `overrides` are KEY=VALUE. Raises RecipeError."""
        content = read_toml(recipe, overrides=overrides)
        determining = {name: part for name, part in content.items() if name != "tune"}
        digest = hashlib.sha256(json.dumps(determining, sort_keys=True, default=str).encode()).hexdigest()
        try:
            return cls.model_validate(content | {"sha256": digest})
        except ValidationError as error:
            path, said = _file(recipe), [Override.parse(each) for each in overrides]
            first = error.errors()[0]
            place = [str(part) for part in first["loc"]]
            source = next((f"--set {each.text}" for each in said if each.names(place)), None)
            raise RecipeError(
                f"{source or path}: {'.'.join(place) or 'recipe'}: {_told(first)}; mend the {'option' if source else 'recipe'}"
            ) from None

    @property
    def weights_sha256(self) -> str:
        """Of what determines the trained weights: export, calibration and judging may change without another training."""
        apart = {
            "name",
            "version",
            "description",
            "tasks",
            "weights",
            "crossval",
            "export",
            "calibration",
            "tune",
            "sha256",
        }
        said = self.model_dump(mode="json", exclude=apart)
        for name in ("source", "license", "assess", "score"):
            del said["data"][name]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def folder(self, data: str | Path) -> Path:
        """The data set's folder: `data`/folder, or `data` itself where it is called so or holds no such folder."""
        return named_folder(data, self.data.folder)

    def dataset(self, data: str | Path) -> Dataset:
        """The data set, with the recipe's labels; raises DataError, and RecipeError where a renamed label is not there."""
        folder = self.folder(data)
        found = Dataset.open(folder, motion=self.data.motion)
        foreign = set(self.labels.rename) - set(found.labels)
        if foreign:
            raise RecipeError(
                f"labels.rename names {', '.join(sorted(foreign))}, which {folder} does not hold; mend the recipe"
            )
        if self.labels.rename:
            names = [self.labels.rename.get(label, label) for label in found.labels]
            found = Dataset.open(folder, labels=names, motion=self.data.motion)
        if self.places and self.places.background not in found.labels:
            found = Dataset.open(folder, labels=(*found.labels, self.places.background), motion=self.data.motion)
        if len(found.labels) < _FEWEST:
            raise DataError(
                f"{folder} holds one class, {found.labels[0]}; there is nothing to tell it from: add another"
            )
        if self.data.share == 1.0:
            return found
        return found.with_share(self.data.share, seed=self.training.seed if self.training else 0)

    def build(self, *, classes: int, seed: int | None = None) -> keras.Model:
        """The architecture before training: clips `[B, T, H, W, C]`, or images `[B, H, W, C]`, → probabilities `[B, classes]`."""
        if seed is None:
            seed = self.training.seed if self.training else 0
        return self.architecture.build(classes=classes, input=self.input, frames=self.sampling.frames, seed=seed)


def _told(error: ErrorDetails) -> str:
    """Pydantic's sentence, in the words of TOML."""
    match error["type"]:
        case "extra_forbidden":
            return "there is no such key here; docs/training.md lists those that are"
        case "tuple_type":
            return f"a list is wanted, not {error['input']!r}"
        case "model_type" | "model_attributes_type":
            return f"a table is wanted, not {error['input']!r}"
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case _:
            value = error["input"]
            return f"{error['msg']}, not {value!r}" if isinstance(value, str | int | float) else error["msg"]


def read_toml(recipe: str | Path, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the file says, or the one that ships under that name, with `overrides` put into it; raises RecipeError."""
    path, said = _file(recipe), [Override.parse(each) for each in overrides]
    try:
        return overridden(tomllib.loads(path.read_text(encoding="utf-8")), said)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML ({error}); mend the line") from None


def _file(recipe: str | Path) -> Path:
    path = Path(recipe)
    if not path.suffix and not path.is_file():
        path = RECIPES / f"{recipe}.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in RECIPES.glob("*.toml")))
        raise RecipeError(f"there is no recipe {recipe}; name a TOML file, or one of those that ship: {known}")
    return path
