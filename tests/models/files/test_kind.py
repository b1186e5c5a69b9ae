"""What a file is, told by its content; what is no model is refused with what it is and the way out."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.errors import ExportRefused
from models.files.kind import kind_of
from models.files.lambdas import lambda_layers


def zipped(**files: str) -> bytes:
    """Without a date, since tests are called by what they are given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/").replace("_dot_", ".")), text)
    return buffer.getvalue()


def graph() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model: bytes = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return model


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "saying"),
    [
        ("empty.keras", b"", "is empty"),
        ("a.pkl", pickle.dumps([1]), "a Python pickle, which runs code when it is read and is never opened"),
        ("renamed.keras", pickle.dumps({"a": 1}), "a Python pickle"),
        ("a.pt", zipped(archive__data_dot_pkl=""), "a PyTorch file; export it to ONNX .* --from-onnx"),
        ("old.pth", b"\x80\x8a\x0a" + b"\0" * 20, "a PyTorch file"),
        ("a.onnx", graph(), "an ONNX graph; give it with --from-onnx"),
        ("noise.onnx", np.random.default_rng(0).bytes(3000), "holds no ONNX graph, whatever its name says"),
        ("renamed.h5", graph(), "an ONNX graph; give it with --from-onnx"),
        ("a.tflite", b"\x1c\0\0\0TFL3" + b"\0" * 20, "a TensorFlow Lite model.*give the Keras model"),
        ("a.safetensors", (40).to_bytes(8, "little") + b'{"a":{}}' + b" " * 32, "safetensors.*holds weights and no layers"),
        ("frozen.pb", b"\x0a\x05hello", "a frozen TensorFlow graph; convert it with tf2onnx"),
        ("saved_model.pb", b"\x08\x01\x12", "part of a SavedModel; give its folder"),
        ("model.index", b"\0\0\0", "a TensorFlow checkpoint, which holds weights and no layers"),
        ("model.data-00000-of-00001", b"\1\2\3", "a TensorFlow checkpoint"),
        ("a.json", b'{"class_name": "Functional"}', "describes layers without their weights"),
        ("lfs.keras", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
        ("page.keras", b"<!DOCTYPE html><html>", "a web page.*download the file again"),
        ("a.tar.gz", b"\x1f\x8b\x08\0", "a gzip archive; unpack it first"),
        ("a.npy", array(), "a NumPy array"),
        ("noise.h5", b"no model at all", r"no model that Marey knows \(it starts with b'no model'\)"),
        ("cut.keras", zipped(metadata_dot_json="{}", config_dot_json="{}")[:60], "a damaged archive"),
        ("other.keras", zipped(readme_dot_txt="hi"), "a zip archive without config.json and metadata.json"),
        ("packed.zip", zipped(m__saved_model_dot_pb="x"), "unpack it and give the model inside"),
        ("arrays.npz", zipped(a_dot_npy="x"), "an archive of NumPy arrays"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_with_what_it_is(tmp_path: Path, name: str, content: bytes, saying: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ExportRefused, match=saying) as refused:
        kind_of(file)
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("files", "saying"),
    [
        ((), "a folder without a saved_model.pb; give a .keras or .h5 file"),
        (("best.keras", "x.txt"), "it holds best.keras: give one of these"),
        (("manifest.json", "golden.npz"), "a bundle already; serve it with marey serve"),
        (("config.json", "metadata.json", "model.weights.h5"), "an unpacked .keras file"),
        (("checkpoint", "ckpt.index"), "a TensorFlow checkpoint"),
        (("saved_model.pbtxt",), "a SavedModel as text"),
        (("model.json",), "a TensorFlow.js model"),
    ],
)
def test_a_folder_is_looked_into(tmp_path: Path, files: tuple[str, ...], saying: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ExportRefused, match=saying):
        kind_of(tmp_path)


def test_what_is_not_there_is_said_not_to_be(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"absent.keras does not exist"):
        kind_of(tmp_path / "absent.keras")


@pytest.mark.parametrize(("version", "kind"), [("3.4.1", "keras3"), ("2.15.0", "keras2")])
def test_an_archive_tells_its_keras_whatever_its_name(tmp_path: Path, version: str, kind: str) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(zipped(metadata_dot_json=json.dumps({"keras_version": version}), config_dot_json="{}"))
    assert kind_of(file) == kind


@pytest.mark.parametrize(
    ("attributes", "groups", "kind"),
    [
        ({"model_config": "{}", "keras_version": "3.9.0"}, (), "keras3_h5"),
        ({"model_config": "{}", "keras_version": "2.4.0"}, (), "keras2_h5"),
        ({"model_config": "{}"}, (), "keras2_h5"),
        ({"layer_names": ["a"]}, (), "weights"),
        ({}, ("layers",), "weights"),
    ],
)
def test_hdf5_is_a_model_or_weights(
    tmp_path: Path, attributes: dict[str, object], groups: tuple[str, ...], kind: str
) -> None:
    file = tmp_path / "model.bin"
    with h5py.File(file, "w") as content:
        content.attrs.update(attributes)
        for name in groups:
            content.create_group(name)
    assert kind_of(file) == kind


def test_hdf5_of_something_else_or_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.h5"
    with h5py.File(file, "w") as content:
        content["pixels"] = np.zeros((200, 200))
    with pytest.raises(ExportRefused, match="an HDF5 file without a Keras model or its weights"):
        kind_of(file)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ExportRefused, match="a damaged HDF5 file"):
        kind_of(cut)


def test_lambdas_are_found_in_nested_models_and_wrappers() -> None:
    inner = {"class_name": "Lambda", "config": {"name": "deep"}}
    config = {
        "class_name": "Functional",
        "config": {
            "layers": [
                {
                    "class_name": "TimeDistributed",
                    "config": {"layer": {"class_name": "Sequential", "config": {"layers": [inner]}}},
                },
                {"class_name": "Lambda", "name": "shallow", "config": {}},
                {"class_name": "Dense", "config": {"name": "Lambda"}},
            ]
        },
    }
    assert list(lambda_layers(config)) == ["deep", "shallow"]


def test_an_onnx_file_that_is_only_named_so_is_sent_on_as_one(tmp_path: Path) -> None:
    onnx.save(onnx.load_from_string(graph()), tmp_path / "plain.bin")
    with pytest.raises(ExportRefused, match="ONNX graph"):
        kind_of(tmp_path / "plain.bin")
