"""Mistakes on the command line end with an exit code and a sentence, most before the model is opened."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from models.cli import main
from service.bundle.store import open_bundle
from tests.models.export_command.conftest import export
from tests.models.export_command.networks import images

ONE_NODE = onnx.helper.make_model(
    onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])],
    )
).SerializeToString()


def test_what_is_wrong_with_the_labels_is_said_before_any_reading_is_tried(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    for name, text, saying in (
        ("two.txt", "a\nb\n", "tells 3 classes apart, 2 labels"),
        ("twice.txt", "a\nb\na\n", "names 'a' twice"),
        ("one.txt", "a\n", "at least 2 are needed"),
        ("gap.txt", "a\n\nb\n", "gap.txt: line 2 is empty"),
        ("absent.txt", None, "cannot be read as labels"),
    ):
        if text is not None:
            (given / name).write_text(text)
        error = export(given, tmp_path / "out", tmp_path / "m.keras", code=1, labels=name).stderr
        assert saying in error
        assert "--preprocess" not in error


@pytest.mark.parametrize(
    ("flags", "saying"),
    [
        (("--name", "my model"), r"'my model' cannot be a bundle's name: letters .* give another with --name"),
        (("--version", "1 beta"), r"'1 beta' cannot be a bundle's version: .* give another with --version"),
        (("--preprocess", "zscore"), r"--preprocess 'zscore' is none of none, caffe"),
        (("--preprocess", "0/0"), r"std"),
        (("--size", "big"), r"--size 'big' is not HxW"),
        (("--resize", "stretch"), r"--resize 'stretch' is none of"),
        (("--enhance", "sharpen"), r"--enhance sharpen: there is no step 'sharpen', only clahe, denoise, vessels"),
        (("--data", "nowhere"), r"nowhere is no folder"),
    ],
)
def test_a_flag_that_no_model_could_follow_is_refused_before_the_model_is_opened(
    given: Path, tmp_path: Path, flags: tuple[str, str], saying: str
) -> None:
    error = export(given, tmp_path / "out", tmp_path / "absent.keras", *flags, code=1).stderr
    assert re.search(saying, error), error
    assert "absent.keras" not in error
    assert error.count("\n") == 1


def test_a_folder_whose_name_no_bundle_may_have_needs_a_name(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    arguments = (tmp_path / "m.keras", "--preprocess", "0/255")
    assert "'my model' cannot be" in export(given, tmp_path / "my model", *arguments, code=1).stderr
    export(given, tmp_path / "my model", *arguments, "--name", "mine")
    assert open_bundle(tmp_path / "my model").manifest.name == "mine"


def test_a_place_that_can_hold_no_bundle_is_told_before_the_model_is_opened(given: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"a cat")
    for place, saying in (
        ("photos", "photos exists and is no bundle; name another folder, or empty this one"),
        ("photos/cat.jpg/out", "cat.jpg is a file; name another folder"),
    ):
        common = ("--calibration", given / "pictures", "--labels", given / "labels.txt", "--out", tmp_path / place)
        result = CliRunner().invoke(main, ["export", *map(str, (tmp_path / "absent.keras", *common))])
        assert result.exit_code == 1
        assert saying in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "cat.jpg"]


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        ((), "give one of MODEL, --encoder with --head, and --from-onnx; got none of them"),
        (("m.keras", "--from-onnx", "a.onnx"), "got MODEL and --from-onnx"),
        (("--encoder", "a.keras"), "--encoder needs the other half: give it with --head"),
        (("m.keras", "--head", "a.keras"), "--head belongs to --encoder or --from-onnx"),
    ],
)
def test_a_mix_of_sources_is_a_mistake_on_the_command_line(
    given: Path, tmp_path: Path, arguments: tuple[str, ...], saying: str
) -> None:
    assert saying in export(given, tmp_path / "out", *arguments, code=2).stderr


@pytest.mark.parametrize(
    ("name", "content", "saying"),
    [
        ("absent.keras", None, "absent.keras does not exist"),
        ("m.keras", b"", "is empty"),
        ("m.pkl", b"\x80\x04N.", "a Python pickle, which runs code when it is read and is never opened"),
        ("m.onnx", ONE_NODE, "an ONNX graph; give it with --from-onnx"),
    ],
)
def test_what_is_no_model_ends_with_one_sentence(
    given: Path, tmp_path: Path, name: str, content: bytes | None, saying: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = export(given, tmp_path / "out", tmp_path / name, code=1).stderr.strip()
    assert error.startswith("error: ")
    assert saying in error
    assert "\n" not in error
