"""RESULTS.md says what the reports say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import DataError
from models.table.entry import (
    Answers,
    Entry,
    Figures,
    Floor,
    Localisation,
    Robustness,
    Source,
    Timing,
    read_entries,
    read_floors,
    write_entry,
    write_floor,
)
from models.table.folds import read_crossvals
from models.table.page import page, write_page

MODELS = Path(__file__).parents[3] / "models"


def test_the_committed_page_is_what_the_committed_reports_give() -> None:
    folder = MODELS / "results"
    expected = page(read_entries(folder), read_crossvals(folder), read_floors(folder))
    assert (MODELS / "RESULTS.md").read_text(encoding="utf-8") == expected, (
        "run marey-build results, and commit the page"
    )


def test_the_committed_reports_are_small_and_name_no_folder_of_a_machine() -> None:
    for file in (MODELS / "results").glob("*/*.json"):
        text = file.read_text(encoding="utf-8")
        assert len(text) < 20_000, file
        for word in ("/home/", "/work/", "/tmp/", "/root/"):
            assert word not in text, f"{file} names a folder of the machine that made it"


def figures(accuracy: float, *, precision: str = "fp32", n: int = 100, auc: float | None = None) -> Figures:
    return Figures.model_validate(
        {
            "engine": "openvino",
            "precision": precision,
            "split": "test",
            "n": n,
            "accuracy": accuracy,
            "accuracy_interval": (accuracy - 0.05, accuracy + 0.05),
            "macro_f1": accuracy,
            "auc": auc,
            "auc_interval": None if auc is None else (auc - 0.02, auc + 0.02),
        }
    )


def entry(name: str, **changed: Any) -> Entry:
    said: dict[str, Any] = {
        "id": name,
        "base": name,
        "description": f"What {name} is",
        "architecture": "cnn",
        "data": Source(name="tiles"),
        "unit": "image",
        "classes": 2,
        "parameters": 1234567,
        "float_bytes": 2_500_000,
        "int8_bytes": 1_300_000,
        "int8_share": 0.914,
        "figures": (figures(0.9), figures(0.89, precision="int8")),
        "timing": Timing(float_ms=12.34, int8_ms=5.678, frames=1, runs=15, threads=2, device="cpu", load=0.4),
        "training_seconds": 130.0,
        "command": f"marey-build run {name} --data DATA --out BUNDLE",
    }
    return Entry.model_validate(said | changed)


def row(text: str, starting: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {starting}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_shows_every_figure_with_its_n_and_interval() -> None:
    assert row(page([entry("a")], []), "`a`") == [
        "`a`",
        "tiles, test (100)",
        "1,234,567",
        "2.5 MB / 1.3 MB",
        "91%",
        "90.0% [85.0%, 95.0%]",
        "89.0% [84.0%, 94.0%]",
        "12.3 / 5.68, image",
        "2 min",
    ]


def test_what_is_missing_is_a_dash_and_the_reason_stands_below() -> None:
    bare = entry("a", int8_bytes=None, int8_share=None, no_int8="nothing is meant for it", figures=(figures(0.9),))
    text = page([bare], [])
    assert row(text, "`a`")[3:5] == ["2.5 MB / –", "–"]
    assert "- `a`: no INT8: nothing is meant for it." in text


def test_times_of_a_busy_machine_are_marked_and_others_are_not() -> None:
    busy = entry("a", timing=Timing(float_ms=9, int8_ms=3, frames=1, runs=15, threads=2, device="cpu", load=4.0))
    assert "9 / 3 °" in page([busy], [])
    assert "°:" in page([busy], [])
    assert "°" not in page([entry("a")], [])


def test_the_auc_comes_first_where_the_recipe_asks_for_it() -> None:
    text = page([entry("a", score="auc", figures=(figures(0.9, auc=0.95),))], [])
    assert row(text, "`a`")[5] == "AUC 0.950 [0.930, 0.970]; 90.0% [85.0%, 95.0%]"


def test_a_target_is_met_or_missed_by_the_figure_that_is_wanted() -> None:
    text = page(
        [entry("cnn_neu", figures=(figures(0.9799),)), entry("defect_bilstm_tile", figures=(figures(0.5, auc=0.96),))],
        [],
    )
    section = text.split("## What was wanted")[1]
    assert row(section, "`cnn_neu`")[1:] == ["accuracy ≥ 98.0%", "98.0%", "missed"]
    assert row(section, "`defect_bilstm_tile`")[1:] == ["AUC ≥ 0.95", "0.960", "met"]
    assert row(section, "all")[3] == "met"
    late = page([entry("slow", training_seconds=1600.0)], []).split("## What was wanted")[1]
    assert row(late, "all")[1:] == ["trained in ≤ 25 min", "0 of 1 that were timed; not `slow`, 27 min", "missed"]


def answers(wrong: list[int], order: str = "x") -> Answers:
    return Answers(n=100, order=order, wrong={"fp32": tuple((place, 1) for place in wrong)})


def test_rows_on_the_same_samples_stand_beside_the_plain_cnn() -> None:
    plain = entry("b_cnn", answers=answers(list(range(10))))
    better = entry("a_lstm", architecture="cnn_lstm", answers=answers(list(range(4))))
    elsewhere = entry("c", answers=answers([1], order="y"))
    section = page([better, plain, elsewhere], []).split("## Side by side")[1].split("\n## ")[0]
    cells = row(section, "`a_lstm`")
    assert cells[1:4] == ["`b_cnn`", "tiles", "100"]
    assert cells[4].startswith("+6.0 [+0.")
    assert cells[5:] == ["6, 0", "0.031"]
    assert "`c`" not in section


def test_variants_stand_below_the_recipe_that_ships_with_what_differs() -> None:
    variant = entry("a_small", base="a", overrides=("data.share=0.1", "name=a_small"), figures=(figures(0.8),))
    changed = Robustness(
        precision="fp32",
        split="test",
        n=100,
        changed="turned by up to ±15°",
        accuracy=0.7,
        accuracy_interval=(0.6, 0.8),
        difference=-0.2,
        difference_interval=(-0.3, -0.1),
    )
    text = page([entry("a", robustness=(changed,)), variant], [])
    models, studies = text.split("## Other settings")
    assert "`a_small`" not in models
    rows = [line for line in studies.splitlines() if line.startswith("| `a")]
    assert [line.split("|")[2].strip() for line in rows] == [
        "as it ships",
        "test images turned by up to ±15°",
        "`data.share=0.1`",
    ]
    assert "-20.0 [-30.0, -10.0]" in rows[1]
    assert "| -10.0 |" in rows[2]


def test_random_weights_have_a_section_of_their_own_and_no_accuracy() -> None:
    text = page([entry("resnet", not_trained="not trained here: no weights", figures=())], [])
    assert "## Models" not in text
    assert row(text.split("## Not trained here")[1], "`resnet`")[1:3] == ["What resnet is", "1,234,567"]


def test_where_is_shown_by_what_says_it() -> None:
    found = Localisation(
        precision="fp32",
        split="test",
        by="crf",
        n=40,
        pixel_auc=0.912,
        pixel_auc_interval=(0.88, 0.94),
        iou=0.41,
        iou_interval=(0.35, 0.47),
        iou_by_label={"crack": 0.3},
    )
    section = page([entry("a", localisation=(found,))], []).split("## Where")[1]
    assert row(section, "`a`")[2:] == [
        "fp32, crf",
        "test (40)",
        "–",
        "0.912 [0.880, 0.940]",
        "0.410 [0.350, 0.470]",
        "crack 0.30",
    ]


def crossval(recipe: str, by_fold: list[float], *, data: str = "d") -> dict[str, Any]:
    mean = sum(by_fold) / len(by_fold)
    figures = {"accuracy": mean, "standard_error": 0.02, "by_fold": by_fold, "by_seed": [mean]}
    floor = {"accuracy": 0.7, "standard_error": 0.03, "by_fold": [0.6, 0.8]}
    sizes = {"n": 20, "groups": 6, "fold_sizes": [10, 10], "data_sha256": data}
    return {"recipe": recipe, "data": "tiles", "ours": figures, "floor": floor, "frames": 16, "parameters": 99, **sizes}


def test_cross_validations_of_the_same_folds_share_a_table_and_others_do_not(tmp_path: Path) -> None:
    for name, each in {
        "a": crossval("a", [0.7, 0.9]),
        "b": crossval("b", [0.8, 0.8]),
        "c": crossval("c", [0.5, 0.5], data="e") | {"floor": None},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "crossval.json").write_text(json.dumps(each), encoding="utf-8")
    out = write_page(tmp_path, tmp_path / "RESULTS.md")
    text = out.read_text(encoding="utf-8")
    assert text.count("### tiles: 2 folds of whole groups, n = 20, 6 groups") == 2
    assert text.count("| the floor |") == 1, "where one was judged"
    assert row(text, "`c`")[7] == "–"
    assert row(text, "`a`")[1:8] == ["16", "99", "1", "80.0% ± 2.0", "14.1", "70 90", "+10.0 ± 0.0"]


def test_a_cross_validation_of_other_frames_shows_no_time_of_the_recipes_own(tmp_path: Path) -> None:
    timing = Timing(float_ms=9, int8_ms=3, frames=16, runs=15, threads=2, device="cpu", load=0.1)
    write_entry(tmp_path, entry("a", timing=timing))
    for name, frames in (("crossval", 16), ("crossval_8", 8)):
        told = crossval("a", [0.7, 0.9]) | {"frames": frames}
        (tmp_path / "a" / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    text = write_page(tmp_path, tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.split("## Grouped")[1].splitlines() if line.startswith("| `a`")]
    assert [(cells[1], cells[-1].strip("| ")) for cells in rows] == [("16", "9 / 3"), ("8", "–")]


def test_a_cross_validation_that_lacks_something_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "crossval.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"crossval.json lacks data, .*; write it again with marey-build crossval --out"
    ):
        read_crossvals(tmp_path)


def test_a_network_stands_beside_the_floor_of_its_own_samples_and_of_no_others(tmp_path: Path) -> None:
    said = Answers(n=10, order="x", wrong={"floor": ((0, 1), (1, 1), (2, 0), (3, 0))})
    command = "marey-build floor a --data DATA"
    floor = Floor(
        data="tiles", split="test", n=10, accuracy=0.6, accuracy_interval=(0.3, 0.8), answers=said, command=command
    )
    assert read_floors(write_floor(tmp_path, "a", floor).parents[1]) == (floor,)
    above = entry("a", answers=Answers(n=10, order="x", wrong={"fp32": ((3, 1),)}))
    other = entry("b", answers=Answers(n=10, order="y", wrong={"fp32": ()}))
    section = page([above, other], [], [floor]).split("## Beside the floor")[1].split("## ")[0]
    cells = row(section, "`a`")
    assert cells[1:4] == ["tiles", "60.0% [30.0%, 80.0%]", "10"]
    assert cells[4].startswith("+30.0 [")
    assert cells[5:] == ["3, 0", "0.25"]
    assert "`b`" not in section
    assert "    marey-build floor a --data DATA\n" in section


def test_a_floor_that_is_none_is_named_with_the_command_that_writes_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for content, message in (("{", "is no JSON"), ('{"n": 3}', "data: Field required")):
        (tmp_path / "a" / "floor.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=rf"floor\.json.*{message}.*write it again with marey-build floor"):
            read_floors(tmp_path)


def test_a_folder_without_reports_is_refused_and_the_page_stays(tmp_path: Path) -> None:
    out = tmp_path / "RESULTS.md"
    out.write_text("as it was", encoding="utf-8")
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=r"holds no report: .*name the folder that --results wrote to"):
            write_page(folder, out)
    assert out.read_text(encoding="utf-8") == "as it was"


def test_a_page_of_a_users_own_models_does_not_tell_of_ours(tmp_path: Path) -> None:
    assert "## Not built, and why" in page([entry("a", base="fight")], [])
    assert "## Not built, and why" not in page([entry("a")], [])
