"""What an export tells of itself: counted alike each time, and drawn so that a ResNet fits on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from models.export.report.describe import describe_graphs, keras_classes
from models.export.report.table import count, parts, steps, warnings
from service.bundle.store import Bundle, find_bundles, open_bundle
from tests.clip_bundle import make_clip_bundle


@pytest.fixture(scope="module")
def fight() -> Bundle:
    return next(open_bundle(path) for path in find_bundles(()) if path.name == "fight")


def described(bundle: Bundle, *, frames: int) -> dict:
    report = bundle.path / "report.json"
    export = json.loads(report.read_text())["export"] if report.is_file() else {}
    graphs = {role: onnx.load(bundle.file(role)) for role in bundle.manifest.network.stages}
    return describe_graphs(graphs, frames=frames, classes=keras_classes(export))


def test_a_head_costs_as_many_frames_as_a_clip_has_and_an_encoder_one(fight: Bundle) -> None:
    short, long = described(fight, frames=16), described(fight, frames=32)
    assert short["parts"]["encoder"] == long["parts"]["encoder"]
    macs = {
        frames: {layer["name"]: layer["macs"] for layer in found["parts"]["head"]["layers"]}
        for frames, found in ((16, short), (32, long))
    }
    assert macs[32]["bilstm"] == 2 * macs[16]["bilstm"] == 2 * 16 * 2 * 4 * 16 * (16 + 16)
    assert macs[32]["classify"] == macs[16]["classify"], "once a clip"
    assert [loop["steps"] for loop in long["loops"]] == [32]


def test_layers_have_the_class_that_their_author_knows_and_the_shape_that_they_give(fight: Bundle) -> None:
    layers = {layer["name"]: layer for layer in described(fight, frames=16)["parts"]["head"]["layers"]}
    assert (layers["bilstm"]["class"], layers["bilstm"]["output"]) == ("Bidirectional", [16, 32])
    assert (layers["classify"]["class"], layers["classify"]["parameters"]) == ("Dense", 66)


def test_it_is_json_and_the_same_every_time(fight: Bundle) -> None:
    one, other = described(fight, frames=16), described(fight, frames=16)
    assert json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("frames", [None, 5])
def test_a_clip_network_is_one_part_for_a_whole_clip(tmp_path: Path, frames: int | None) -> None:
    found = described(make_clip_bundle(tmp_path / "motion", frames=frames), frames=5)
    (part,) = found["parts"].values()
    convolution = next(layer for layer in part["layers"] if layer["macs"] and len(layer["output"]) > 2)
    assert convolution["output"] == [5, 5, 16, 16]
    assert convolution["macs"] == 5 * 5 * 16 * 16 * 3 * 27


def test_many_layers_are_drawn_by_stage_and_in_full_where_asked(fight: Bundle) -> None:
    found = described(fight, frames=16)
    layers = found["parts"]["encoder"]["layers"]
    lines, full = parts(found, full=False), parts(found, full=True)
    assert len(layers) > 40
    assert len(lines) < 22
    assert len(full) == 2 + sum(len(part["layers"]) + 1 for part in found["parts"].values())
    total = next(line for line in lines if "all, for a frame" in line)
    assert "249,888" in total
    assert "112 M" in total
    assert "7,186" in next(line for line in lines if "all, for a clip of 16" in line)
    stage = next(line for line in lines if "stem_conv" in line)
    assert "96×80×112" in stage
    assert "3 Conv2D" in stage
    assert len({len(line) for line in lines}) == 1, "columns line up"


def test_a_gate_that_is_pooled_and_comes_back_belongs_to_the_stage_around_it() -> None:
    shapes = [[8, 16, 16], [8], [8, 1, 1], [8, 16, 16], [12, 8, 8], [12], [12, 1, 1], [12, 8, 8], [12, 8, 8]] * 2
    shapes[9:] = [[20, 4, 4]] * 8 + [[20]]
    layers = [
        {"name": f"l{n}", "class": "Conv2D", "output": shape, "parameters": 1, "macs": 1}
        for n, shape in enumerate(shapes)
    ]
    lines = parts({"frames": 1, "parts": {"encoder": {"layers": layers, "parameters": 18, "macs": 18}}}, full=False)
    assert [line.split("|")[2].strip() for line in lines[2:-1]] == ["l0 … l3 (4)", "l4 … l8 (5)", "l9 … l16 (8)", "l17"]
    assert [line.split("|")[4].strip() for line in lines[2:-1]] == ["8×16×16", "12×8×8", "20×4×4", "20"]


def test_what_a_transformer_repeats_is_cut_in_the_middle() -> None:
    layers = [
        {"name": f"block{n}", "class": "Dense", "output": [49, 64 + n % 2], "parameters": 10, "macs": 1000}
        for n in range(60)
    ]
    found = {"frames": 4, "parts": {"encoder": {"layers": layers, "parameters": 600, "macs": 60_000}}}
    lines = parts(found, full=False)
    assert len(lines) == 2 + 15 + 1
    assert "… 46 layers" in lines[9]
    assert "46 k" in lines[9]


def test_why_a_model_became_one_network_stands_below_the_table() -> None:
    layer = {"name": "memory", "class": "ConvLSTM2D", "output": [4, 8, 8], "parameters": 1, "macs": 1}
    found = {
        "frames": 6,
        "parts": {"clip": {"layers": [layer], "parameters": 1, "macs": 1}},
        "not_split": "layer 'memory' reads several frames at once",
        "static_frames": 6,
        "static_frames_because": "layer 'memory' is written out step by step",
        "notes": ["Dropout is left out"],
    }
    assert parts(found, full=False)[-4:] == [
        "",
        "- One network for whole clips: layer 'memory' reads several frames at once.",
        "- The network takes 6 frames: layer 'memory' is written out step by step.",
        "- Dropout is left out",
    ]
    assert len(parts(found, full=True)) == 4


def test_steps_and_warnings_are_sentences_that_name_the_layers() -> None:
    risk = {
        "kind": "squeeze and excite",
        "layers": ["a", "b", "c", "d", "e"],
        "skip": ["a/Conv", "b/Conv", "c/Conv", "d/Conv"],
        "finding": "a gate",
        "remedy": "keep it in float",
    }
    (line,) = warnings({"warnings": [risk]})
    assert "in `a`, `b`, `c` and 2 more: a gate. Keep it in float" in line
    assert "--skip a/Conv --skip b/Conv --skip c/Conv` … (all are in report.json)" in line
    loop = {"layer": "lstm", "kind": "LSTM", "hidden": 8, "directions": 2, "steps": 7}
    assert steps({"loops": [loop], "loops_cost": "Slow."}) == [
        "- lstm: LSTM of 8 units, 7 steps, both directions",
        "",
        "Slow.",
    ]
    written = {"loops": [], "loops_cost": "None.", "frames": 5, "written_step_by_step": ["layer 'memory' (ConvLSTM2D)"]}
    assert steps(written)[0].startswith("- layer 'memory' (ConvLSTM2D): written out for 5 frames")
    assert steps({}) == warnings({}) == parts({}, full=True) == []


@pytest.mark.parametrize(("number", "text"), [(4_089_184_256, "4.09 G"), (12_345, "12.3 k"), (64, "64"), (0, "0")])
def test_counts_are_readable(number: int, text: str) -> None:
    assert count(number) == text
