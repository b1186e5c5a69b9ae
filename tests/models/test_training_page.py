"""docs/training.md explains every key that a recipe may have, and none that it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from models.data.motion import Motion
from models.data.places import PlacesPlan
from models.recipe import RECIPES, CalibrationPlan, Data, Export, Labels, Recipe, Weights
from models.schedule import Augmentation, CrossValidation, Stage, Training
from models.space import Tune
from models.zoo.architectures import AnyArchitecture
from service.bundle.manifest import Frozen, Input, Resize, Sampling, Step
from service.bundle.pixel_steps import PIXEL_STEPS

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
TABLES: tuple[type[Frozen], ...] = (
    Recipe,
    Data,
    Motion,
    Weights,
    Labels,
    Input,
    Resize,
    Step,
    Sampling,
    PlacesPlan,
    Training,
    Augmentation,
    Stage,
    CrossValidation,
    Export,
    CalibrationPlan,
    Tune,
    *PIXEL_STEPS.values(),
)
ARCHITECTURES = {kind.model_fields["name"].annotation: kind for kind in get_args(get_args(AnyArchitecture)[0])}


def words(text: str) -> set[str]:
    """Every word that stands in code, between backticks or in an indented block."""
    blocks = re.findall(r"^ {4}.*$", text, flags=re.MULTILINE)
    return {word for code in [*re.findall(r"`([^`]+)`", text), *blocks] for word in re.findall(r"\w+", code)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.__name__))
def test_every_key_of_a_recipe_is_explained(table: type[Frozen]) -> None:
    assert set(table.model_fields) - {"sha256"} <= words(PAGE)


@pytest.mark.parametrize("kind", ARCHITECTURES.values(), ids=lambda kind: str(kind.__name__))
def test_every_architecture_stands_with_its_keys_and_no_others(kind: type[Frozen]) -> None:
    name = get_args(kind.model_fields["name"].annotation)[0]
    (keys,) = re.findall(rf"^\| `{name}` \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert words(keys.split(":")[0].split(";")[0]) == set(kind.model_fields) - {"name"}


def test_the_recipes_that_it_names_are_there() -> None:
    named = set(re.findall(r"marey-build run (\w+) ", PAGE)) | set(re.findall(r"recipes/(\w+)\.toml", PAGE))
    rows = PAGE.split("| you have | start from |")[1].split("###")[0]
    named |= set(re.findall(r"`(\w+)`", rows))
    assert named
    assert {name for name in named if not (RECIPES / f"{name}.toml").is_file()} == set()
