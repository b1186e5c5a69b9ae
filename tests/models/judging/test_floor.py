"""The floor: fitted on train alone, and asked about the very samples that a network is asked about."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from models.cli import main
from models.judging.floor import floor
from models.recipe import Recipe
from models.table.entry import read_floors


def test_it_learns_what_can_be_learned_and_names_what_it_said_wrong(
    moving: Path, moving_recipe: Recipe, tmp_path: Path
) -> None:
    found = floor(moving_recipe, data=moving, cache=tmp_path)
    judged = moving_recipe.dataset(moving).split(moving_recipe.data.assess)
    assert (found["split"], found["n"]) == (moving_recipe.data.assess, len(judged))
    assert found["accuracy"] >= 0.8
    wrong = found["answers"]["wrong"]["floor"]
    assert found["accuracy"] == pytest.approx(1 - len(wrong) / len(judged))
    truth = np.array(moving_recipe.dataset(moving).class_ids(judged))
    assert all(truth[place] != said for place, said in wrong)
    assert floor(moving_recipe, data=moving, cache=tmp_path) == found, "nothing in it is drawn by chance"


def test_a_class_that_train_lacks_is_never_said_and_shifts_no_other(
    moving: Path, moving_recipe: Recipe, tmp_path: Path
) -> None:
    known = tmp_path / "moving"
    shutil.copytree(moving, known)
    table = known / "splits.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("c41,stands", "c41,falls"), encoding="utf-8")
    found = floor(moving_recipe, data=known, cache=tmp_path / "cache")
    assert found["accuracy"] >= 0.7
    assert all(said != 0 for _, said in found["answers"]["wrong"]["floor"]), "falls, the first of the labels"


def test_the_command_writes_what_results_reads(moving: Path, moving_file: Path, tmp_path: Path) -> None:
    said = [
        "floor",
        str(moving_file),
        "--data",
        str(moving),
        "--results",
        str(tmp_path),
        "--cache",
        str(tmp_path / "c"),
    ]
    result = CliRunner().invoke(main, said)
    assert result.exit_code == 0, result.output
    (written,) = read_floors(tmp_path)
    assert f"{written.accuracy:.1%} of 10 on test; wrote {tmp_path / 'moving' / 'floor.json'}" in result.output
    assert written.answers.wrong.keys() == {"floor"}
