"""The search trains real trials on a data set that can be learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import BuildError, RecipeError
from models.recipe import Recipe
from models.training.tune import space_of, tune, write_found

pytest.importorskip("keras_tuner", reason="marey[tune] is not installed")

SPACE = """
[tune]
trials = 1

[tune.space]
"architecture.units" = [1, 8]
"architecture.grid" = [[1, 1], [2, 2]]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: what one test has trained another need not."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def recipe(moving_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The moving squares with their first stage alone, and a space of four."""
    text = moving_file.read_text(encoding="utf-8").rsplit("[[training.stages]]", 1)[0]
    path = tmp_path_factory.mktemp("tune") / "moving.toml"
    path.write_text(text.replace("epochs = 20", "epochs = 6") + SPACE, encoding="utf-8")
    return path


def test_a_search_is_seeded_goes_on_where_it_was_and_writes_a_recipe(
    recipe: Path, moving: Path, work: Path, tmp_path: Path
) -> None:
    found = tune(recipe, data=moving.parent, work=work)
    assert len(found.trials) == 2
    assert found.trials[0].settings == {}
    assert found.best.val_loss == min(trial.val_loss or 9 for trial in found.trials)
    before = {path: path.stat().st_mtime_ns for path in work.glob("*/model.keras")}
    more = tune(recipe, data=moving.parent, work=work, trials=2)
    assert len(more.trials) == 3
    assert more.trials[:2] == found.trials, "the same seed asks for the same trials, and none is trained twice"
    assert before.items() <= {path: path.stat().st_mtime_ns for path in work.glob("*/model.keras")}.items()
    table = write_found(more, recipe, out=tmp_path / "best.toml", command="marey-build tune moving")
    written = Recipe.read(tmp_path / "best.toml")
    assert written.name == "moving_tuned"
    for name, value in more.best.settings.items():
        assert getattr(written.architecture, name.removeprefix("architecture.")) in (
            value,
            tuple(value) if isinstance(value, list) else value,
        )
    told = json.loads(table.read_text(encoding="utf-8"))
    assert [trial["val_loss"] for trial in told["trials"]] == [trial.val_loss for trial in more.trials]
    assert all(trial["val"]["n"] == 8 for trial in told["trials"])


def test_a_space_of_its_own_is_no_part_of_what_determines_a_bundle(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.toml").write_text(recipe.read_text(encoding="utf-8").replace(SPACE, ""), encoding="utf-8")
    assert Recipe.read(tmp_path / "bare.toml").sha256 == Recipe.read(recipe).sha256


def test_without_a_space_what_is_usual_is_searched_as_far_as_the_architecture_has_it() -> None:
    space = space_of("fight", Recipe.read("fight"))
    assert set(space) == {
        "architecture.units",
        "architecture.layers",
        "architecture.cell",
        "architecture.bidirectional",
        "architecture.readout",
        "sampling.frames",
    }


@pytest.mark.parametrize(
    ("space", "saying"),
    [
        (
            "architecture.heads = [2, 4]",
            r"\[tune.space\] architecture.heads = 2 cannot be tried: .*there is no such key",
        ),
        ("architecture.units = [8, 0]", r"architecture.units = 0 cannot be tried: .*greater than or equal to 1"),
        ("architecture.units = []", r"tune.space.architecture.units: .*at least 1 item"),
    ],
)
def test_a_value_that_cannot_stand_there_is_refused_before_anything_is_trained(
    recipe: Path, tmp_path: Path, space: str, saying: str
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(recipe.read_text(encoding="utf-8").replace(SPACE, f"[tune.space]\n{space}\n"), encoding="utf-8")
    with pytest.raises(RecipeError, match=saying):
        tune(wrong, data=tmp_path, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_what_trains_nothing_or_has_nothing_to_search_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"imagenet trains nothing; tune needs \[training\]"):
        tune("imagenet", data=tmp_path, work=tmp_path)
    bare = Recipe.read("imagenet")
    with pytest.raises(
        RecipeError, match=r"imagenet_classifier has none of units, layers, cell.* name what to try in \[tune.space\]"
    ):
        space_of("imagenet", bare)


def test_trials_that_all_fail_end_the_search_with_the_reason(
    recipe: Path, moving: Path, work: Path, tmp_path: Path
) -> None:
    text = recipe.read_text(encoding="utf-8").replace(
        SPACE, '[tune]\ntrials = 9\n[tune.space]\narchitecture.until = ["block77", "block78", "block79", "block80"]\n'
    )
    (tmp_path / "wrong.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BuildError, match=r"3 trials in a row failed, the last with: .*has no block .block"):
        tune(tmp_path / "wrong.toml", data=moving.parent, work=work)


def test_a_space_that_holds_fewer_than_were_asked_for_is_said(
    recipe: Path, moving: Path, work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = tmp_path / "small.toml"
    text = recipe.read_text(encoding="utf-8").replace(
        SPACE, '[tune]\ntrials = 3\n[tune.space]\n"architecture.units" = [1]\n'
    )
    small.write_text(text, encoding="utf-8")
    found = tune(small, data=moving.parent, work=work)
    assert len(found.trials) == 2
    assert "2 of 4 trials were made, the recipe itself among them: [tune.space] holds no others" in caplog.text


def test_true_and_false_are_tried_and_written_as_such(recipe: Path, moving: Path, work: Path, tmp_path: Path) -> None:
    either = tmp_path / "either.toml"
    space = '[tune]\ntrials = 2\n[tune.space]\n"architecture.bidirectional" = [false, true]\n'
    either.write_text(recipe.read_text(encoding="utf-8").replace(SPACE, space), encoding="utf-8")
    found = tune(either, data=moving.parent, work=work)
    assert len(found.trials) == 2, "one way and both ways, of which one is the recipe as it is"
    assert all(isinstance(value, bool) for trial in found.trials for value in trial.settings.values())
    write_found(found, either, out=tmp_path / "best.toml", command="marey-build tune")
    Recipe.read(tmp_path / "best.toml")
