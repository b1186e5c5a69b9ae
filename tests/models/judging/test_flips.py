"""The clips on which float and INT8 name different classes: found, told, pictured, and left out of a bundle that is handed on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from models.data.dataset import Dataset, Sample
from models.judging import flips
from models.judging.assess import assess, dataset_of, note
from models.judging.flips import compare, flip_lines, flipped
from models.judging.judge import Judged, Runner
from models.judging.plots import flips_figure
from service.bundle.manifest import Manifest
from service.bundle.store import Bundle, rewrite_bundle, sha256
from tests.conftest import ENCODER, make_color_bundle

FLOAT, INT8 = Runner("openvino", "fp32"), Runner("openvino", "int8")
LABELS = ("red", "green", "blue")


def judged(ours: list[list[float]], theirs: list[list[float]], truth: list[int]) -> Judged:
    samples = tuple(
        Sample(Path("/data/clips.npz"), f"c{place}", LABELS[label], f"g{place}", "val" if place % 2 else "test")
        for place, label in enumerate(truth)
    )
    rows = {FLOAT: np.array(ours, np.float32), INT8: np.array(theirs, np.float32)}
    return Judged(samples, np.array(truth), rows, {})


def test_flips_are_told_with_both_answers_those_that_move_most_first() -> None:
    found = compare(
        both := judged(
            [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.4, 0.35, 0.25]],
            [[0.4, 0.5, 0.1], [0.45, 0.45, 0.1], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]],
            [0, 0, 0, 2],
        ),
        FLOAT,
        INT8,
        root=Path("/data"),
        labels=LABELS,
    )
    assert flipped(both, FLOAT, INT8) == [3, 0]
    assert found["flips"] | {"listed": None} == {"count": 2, "lost": 1, "gained": 1, "listed": None}
    assert found["flips"]["listed"][0] == {
        "file": "clips.npz",
        "key": "c3",
        "split": "val",
        "truth": "blue",
        "float": "red",
        "float_probability": 0.4,
        "int8": "blue",
        "int8_probability": 0.7,
    }
    assert (found["n"], found["splits"]) == (4, ["test", "val"])
    assert found["largest_difference"] == pytest.approx(0.45)
    assert found["mean_difference"] == pytest.approx((0.2 + 0.05 + 0 + 0.45) / 4)
    text = "\n".join(flip_lines(found, pictured=True))
    assert (
        "INT8 names another class for 2 of them: 1 that float has right, 1 that INT8 has right, 0 that neither has."
        in text
    )
    assert "| `clips.npz:c3` | val   | blue  | red (0.40) | blue (0.70)  |" in text
    assert text.endswith("(flips.png)")
    assert "flips.png" not in "\n".join(flip_lines(found, pictured=False))


def test_the_divergence_is_that_of_float_from_int8_in_nats() -> None:
    # By hand: 0.5·ln(0.5/0.25) + 0.5·ln(0.5/0.75) = 0.14384; a class that neither gives anything adds nothing.
    found = compare(judged([[0.5, 0.5, 0]], [[0.25, 0.75, 0]], [0]), FLOAT, INT8, root=Path("/data"), labels=LABELS)
    assert found["mean_kl"] == pytest.approx(0.14384, abs=1e-5)


def test_of_many_flips_fifty_are_listed_and_all_counted() -> None:
    found = compare(
        judged([[0.6, 0.4, 0]] * 70, [[0.4, 0.6, 0]] * 70, [2] * 70), FLOAT, INT8, root=Path("/data"), labels=LABELS
    )
    assert (found["flips"]["count"], len(found["flips"]["listed"])) == (70, 50)
    text = "\n".join(flip_lines(found, pictured=True))
    assert "70 of them: 0 that float has right, 0 that INT8 has right, 70 that neither has." in text
    assert "Those 12 of 70 whose probabilities move most; report.json lists 50." in text


def test_where_both_say_the_same_it_is_said() -> None:
    same = [[0.6, 0.3, 0.1]] * 3
    found = compare(judged(same, same, [0, 1, 2]), FLOAT, INT8, root=Path("/data"), labels=LABELS)
    text = "\n".join(flip_lines(found, pictured=False))
    assert "INT8 names the same class as float for every one of them." in text


@pytest.mark.parametrize(("shape", "count"), [((20, 30, 3), 5), ((28, 28, 1), 1), ((90, 20, 3), 12)])
def test_each_flip_is_a_tile_with_its_four_lines_inside_the_sheet(shape: tuple[int, ...], count: int) -> None:
    flip = {"file": "a.png", "split": "val", "truth": "$x", "float": "$x", "float_probability": 0.5}
    flip |= {"int8": "y", "int8_probability": 0.51}
    figure = flips_figure([flips.Tile(np.full(shape, 7, np.uint8), flip)] * count, count=20, n=100)
    assert len(figure.axes) == count
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "a.png",
        "truth: $x (val)",
        "float: $x (0.50)",
        "INT8: y (0.51)",
    ]
    for axes in figure.axes:
        assert axes.images[0].get_array().shape[:2] == shape[:2]
        for text in axes.texts:
            box = text.get_window_extent()
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The color bundle with an "INT8" encoder that takes red for green."""
    made = make_color_bundle(tmp_path / "bundle")
    swapped = ENCODER.replace(
        "features = Div(means, scale)",
        "places = Constant<value = int64[3] {1, 0, 2}>()\n  scaled = Div(means, scale)\n  features = Gather<axis=1>(scaled, places)",
    )
    data = onnx.parser.parse_model(swapped).SerializeToString()
    named = made.artifact("encoder").model_copy(
        update={"file": "encoder.int8.onnx", "precision": "int8", "sha256": sha256(data), "bytes": len(data)}
    )
    golden = made.manifest.golden.model_copy(update={"tolerance": {"fp32": 1e-4, "int8": 2.0}})
    changes = {"artifacts": {**made.manifest.artifacts, "encoder.int8": named}, "golden": golden}
    manifest = Manifest.model_validate({**made.manifest.model_dump(), **changes})
    return rewrite_bundle(made, manifest, {"encoder.int8.onnx": data})


@pytest.fixture
def pictures(tmp_path: Path, bundle: Bundle) -> Dataset:
    """Nine pictures of one colour each, three of a class."""
    root = tmp_path / "colors"
    root.mkdir()
    rows = ["path,label,group,split"]
    for number in range(9):
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[..., 2 - number % 3] = 200 + number
        cv2.imwrite(str(root / f"{number}.png"), picture)
        rows.append(f"{number}.png,{LABELS[number % 3]},g{number},{'val' if number < 3 else 'test'}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return dataset_of(bundle, root)


def test_an_assessment_tells_and_shows_the_flips_of_both_splits(bundle: Bundle, pictures: Dataset) -> None:
    changed, report = assess(bundle, pictures)
    (row,) = report["comparison"]
    assert (row["engine"], row["split"], row["pictured"]) == ("openvino", "test", True)
    assert row["difference"]["flips"]["count"] == 6, "red and green of val and test"
    assert [each["int8"]["right"] for each in row["classes"]["classes"]] == [0, 0, 2]
    assert [each["precision"] for each in report["reliability"]] == ["fp32", "int8"]
    assert cv2.imread(str(changed.path / "flips.png")) is not None
    assert cv2.imread(str(changed.path / "reliability.png")) is not None
    text = (changed.path / "report.md").read_text(encoding="utf-8")
    assert "(flips.png)" in text
    assert "n = 6 on test is small" in text
    written = json.loads((changed.path / "report.json").read_text(encoding="utf-8"))
    assert (written["comparison"], written["reliability"]) == (report["comparison"], report["reliability"])


def test_a_bundle_that_is_handed_on_holds_no_picture_of_the_data(bundle: Bundle, pictures: Dataset) -> None:
    changed, _ = assess(bundle, pictures)
    with_data = (changed.path / "report.html").read_text(encoding="utf-8")
    assert with_data.count("data:image/png;base64,") == 4, "flips, reliability and two confusion matrices"
    changed, report = assess(changed, pictures, show_data=False)
    assert not (changed.path / "flips.png").exists()
    assert "flips.png" not in (changed.path / "report.md").read_text(encoding="utf-8")
    without = (changed.path / "report.html").read_text(encoding="utf-8")
    assert without.count("data:image/png;base64,") == 3
    assert report["comparison"][0]["difference"]["flips"]["count"] == 6


def test_what_is_noted_later_keeps_the_pictures_and_one_precision_alone_what_both_have_shown(
    bundle: Bundle, pictures: Dataset
) -> None:
    changed, before = assess(bundle, pictures)
    sheet = (changed.path / "flips.png").read_bytes()
    changed = note(changed, {"remark": "later"})
    assert (changed.path / "flips.png").read_bytes() == sheet
    assert (changed.path / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 4
    changed, report = assess(changed, pictures, runners=[INT8])
    assert report["comparison"] == before["comparison"]
    assert (changed.path / "flips.png").read_bytes() == sheet
    changed, report = assess(changed, pictures, split="val")
    assert [(row["split"], row.get("pictured", False)) for row in report["comparison"]] == [
        ("test", False),
        ("val", True),
    ]
    assert "## Flips: openvino, val" in (changed.path / "report.md").read_text(encoding="utf-8")
