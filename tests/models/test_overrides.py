"""`--set` changes a recipe as if its file said so, and says what is wrong with it."""

from pathlib import Path

import pytest

from models.errors import RecipeError
from models.overrides import Override
from models.recipe import RECIPES, Recipe

FIGHT = RECIPES / "fight.toml"


def test_an_override_is_part_of_the_recipe_and_of_its_digest(tmp_path: Path) -> None:
    text = FIGHT.read_text(encoding="utf-8")
    (tmp_path / "other.toml").write_text(text.replace("units = 16", "units = 24"), encoding="utf-8")
    changed = Recipe.read("fight", overrides=["architecture.units=24"])
    assert changed == Recipe.read(tmp_path / "other.toml")
    assert changed.sha256 != Recipe.read("fight").sha256
    assert Recipe.read("fight", overrides=["architecture.units=16"]) == Recipe.read("fight")


@pytest.mark.parametrize(
    ("said", "key", "value"),
    [
        ("name=row_lstm_14", ("name",), "row_lstm_14"),
        ("version=1.0.1", ("version",), "1.0.1"),
        ('version="2.0"', ("version",), "2.0"),
        ("data.share = 0.1", ("data", "share"), 0.1),
        ("training.class_weights=false", ("training", "class_weights"), False),
        ("architecture.grid=[7, 7]", ("architecture", "grid"), [7, 7]),
        ('data.motion={ frames = 16, path = "down" }', ("data", "motion"), {"frames": 16, "path": "down"}),
    ],
)
def test_a_value_is_toml_and_a_single_word_a_string(said: str, key: tuple[str, ...], value: object) -> None:
    assert Override.parse(said) == Override(key, value, said)


def test_overrides_reach_into_lists_and_make_the_tables_that_lack() -> None:
    recipe = Recipe.read("fight", overrides=["training.stages.0.epochs=3", "data.motion.frames=8", "name=short"])
    assert recipe.training is not None
    assert recipe.data.motion is not None
    assert (recipe.training.stages[0].epochs, recipe.data.motion.frames, recipe.name) == (3, 8, "short")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "architecture.unit=3",
            r"^--set architecture.unit=3: architecture\.cnn_lstm\.unit: there is no such key .* mend the option$",
        ),
        ("data.shares=0.1", r"^--set data\.shares=0\.1: data\.shares: there is no such key"),
        ("data.share=much", r"^--set data\.share=much: data\.share: Input should be a valid number"),
        ("data.share=0", r"data\.share: Input should be greater than 0"),
        ("version=2.0", r"^--set version=2\.0: version: Input should be a valid string"),
        ("architecture.name=vit", r"^--set architecture\.name=vit: architecture: Input tag 'vit'"),
        ("name.first=a", "name is 'fight' and has no entries of its own"),
        ("training.stages.1.epochs=3", "training.stages is a list of 1; name one by its number, from 0"),
        ("training.stages.first.epochs=3", "training.stages is a list of 1; name one by its number"),
        ("units", "--set units is not KEY=VALUE"),
        ("units=", r'--set units= gives no value; an empty text is written as --set units=""'),
        ("a b=1", "is not KEY=VALUE"),
        ("description=two words", "two words is no TOML value"),
        ("training.seed=1\nname = 2", "is no TOML value"),
    ],
)
def test_an_override_that_is_wrong_is_told_in_one_sentence(said: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        Recipe.read("fight", overrides=[said])
    assert "mend the recipe" not in str(raised.value)


def test_what_is_wrong_in_the_file_is_not_blamed_on_the_option(tmp_path: Path) -> None:
    text = FIGHT.read_text(encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(text.replace("units = 16", "units = 0"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"wrong\.toml: architecture\.cnn_lstm\.units: .* mend the recipe$"):
        Recipe.read(tmp_path / "wrong.toml", overrides=["training.seed=3"])
