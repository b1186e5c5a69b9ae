"""A recipe determines a bundle, and says where it is wrong."""

from pathlib import Path

import pytest

from models.errors import DataError, RecipeError
from models.recipe import RECIPES, Recipe
from models.zoo.cnn_lstm import CnnLstm

TEXT = (RECIPES / "fight.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_that_ships_reads_and_says_what_it_costs_and_reaches(name: str) -> None:
    recipe = Recipe.read(name)
    assert recipe.name == name
    header = [
        line for line in (RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    for word in ("marey-build run", "Cost:", "Accuracy:"):
        assert any(word in line for line in header), f"the header of {name}.toml lacks {word!r}"


def test_a_recipe_is_told_by_what_it_says_not_by_its_comments(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("# another comment\n" + TEXT, encoding="utf-8")
    (tmp_path / "b.toml").write_text(TEXT.replace("seed = 0", "seed = 1"), encoding="utf-8")
    first, second = Recipe.read(tmp_path / "a.toml"), Recipe.read(tmp_path / "b.toml")
    assert first == Recipe.read("fight")
    assert first.sha256 != second.sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("grid = [5, 7]", "grids = [5, 7]", r"architecture\.cnn_lstm\.grids: there is no such key"),
        ('name = "cnn_lstm"', 'name = "vit"', "architecture: Input tag 'vit'"),
        ("rate = ", "rate = -", r"training\.stages\.0\.rate: Input should be greater than 0, not -"),
        (
            "[input]\n",
            "[input]\nheigth = 3\n",
            r"input\.heigth: there is no such key here; docs/training\.md lists those that are; mend the recipe$",
        ),
        ("[[training.stages]]", "[[training.steps]]", r"training\.stages: Field required; mend the recipe$"),
        ("[weights]", "[weight]", r"weight: there is no such key|pretrained weights need"),
        ("[input]", "[input", "is no TOML"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    (tmp_path / "wrong.toml").write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        Recipe.read(tmp_path / "wrong.toml")


def test_a_recipe_that_does_not_exist_lists_those_that_ship() -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe missing; .*fight, imagenet"):
        Recipe.read("missing")


def test_the_parameters_of_a_recipe_reach_its_network() -> None:
    recipe = Recipe.read("fight")
    assert isinstance(recipe.architecture, CnnLstm)
    small = recipe.model_copy(
        update={"architecture": recipe.architecture.model_copy(update={"units": 3, "weights": None})}
    )
    model = small.build(classes=4)
    assert model.get_layer("bilstm").output.shape == (None, None, 6)
    assert model.output_shape == (None, 4)


@pytest.mark.data
def test_imagenets_labels_are_readable_and_each_is_there_once(data: Path) -> None:
    dataset = Recipe.read("imagenet").dataset(data)
    assert len(dataset.labels) == len({label.lower() for label in dataset.labels}) == 1000
    assert (dataset.labels[134], dataset.labels[517]) == ("crane (bird)", "crane (machine)")
    assert [len(dataset.split(split)) for split in ("train", "test")] == [200, 600]
    assert Recipe.read("imagenet").dataset(data / "imagenet_photos") == dataset


@pytest.mark.data
def test_a_renamed_label_that_the_data_lack_is_an_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(
        TEXT.replace("[input]", '[labels.rename]\nbrawl = "fight"\n\n[input]'), encoding="utf-8"
    )
    with pytest.raises(RecipeError, match=r"labels\.rename names brawl"):
        Recipe.read(tmp_path / "wrong.toml").dataset(data)


def test_a_recipe_takes_its_share_of_train_alone_by_the_seed_of_the_training(moving: Path) -> None:
    def read(*overrides: str) -> list[tuple[str | None, str]]:
        dataset = Recipe.read("fight", overrides=["data.folder=moving", *overrides]).dataset(moving)
        return [(sample.split, sample.name) for sample in dataset.samples]

    whole, half = read(), read("data.share=0.5")
    assert [each for each in half if each[0] != "train"] == [each for each in whole if each[0] != "train"]
    # Twelve groups of two clips, one of each class.
    assert sum(split == "train" for split, _ in half) == 12
    assert half == read("data.share=0.5", "description=another")
    assert half != read("data.share=0.5", "training.seed=1")


def test_what_a_recipe_says_of_motion_reaches_whoever_loads(squares: Path) -> None:
    recipe = Recipe.read("fight", overrides=["data.folder=squares", "data.motion.frames=7", "data.motion.window=0.5"])
    assert recipe.dataset(squares).motion == recipe.data.motion
    assert recipe.data.motion is not None
    assert (recipe.data.motion.frames, recipe.data.motion.window, recipe.data.motion.path) == (7, 0.5, "along")


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "one" / split / "only").mkdir(parents=True)
        (tmp_path / "one" / split / "only/a.png").touch()
    with pytest.raises(DataError, match="holds one class, only; there is nothing to tell it from"):
        Recipe.read("fight", overrides=["data.folder=one"]).dataset(tmp_path)


def test_weights_depend_on_what_is_trained_and_not_on_how_it_is_quantized_or_judged() -> None:
    recipe = Recipe.read("cnn_neu")
    for same in (
        "calibration.frames=64",
        'calibration.skip=["stem_conv/Conv"]',
        'export.weights="float32"',
        'version="9"',
    ):
        overridden = Recipe.read("cnn_neu", overrides=(same,))
        assert overridden.weights_sha256 == recipe.weights_sha256
        assert overridden.sha256 != recipe.sha256
    for other in (
        "training.seed=1",
        "sampling.frames=8",
        "architecture.dropout=0.1",
        "data.share=0.5",
        "input.height=192",
    ):
        assert Recipe.read("cnn_neu", overrides=(other,)).weights_sha256 != recipe.weights_sha256


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("calibration.split=test", r'calibration.split and data.assess are both "test": .*calibrate on train'),
        ("places.background=none", r"\[places\] is for an architecture that says where, which cnn_lstm does not"),
        ("architecture.grid=5", r"architecture\.cnn_lstm\.grid: a list is wanted, not 5; mend the option"),
        ("architecture=3", r"architecture: a table is wanted, not 3|architecture: .*3"),
    ],
)
def test_parts_that_do_not_suit_each_other_are_refused_when_the_recipe_is_read(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.read("fight", overrides=[override])
