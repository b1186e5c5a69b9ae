"""ONNX files as PyTorch writes them become bundles that answer as PyTorch did; what cannot is refused with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.errors import ExportRefused
from models.export.from_onnx import OnnxFile, onnx_networks
from models.export.gate import build_gate
from models.export.networks import Networks
from models.export.normalization import Normalization
from models.export.pack import pack
from models.export.runtime import Runtime
from models.synthetic import synthetic_clips
from service.bundle.manifest import Input, Sampling

# By torch 2.13; torch/make.py made them.
FILES = Path(__file__).with_name("torch")
SPEC = Input(height=24, width=24)
SCALED = Normalization.parse("0/255")


def exported(name: str, **changes: object) -> Networks:
    given = {"input": SPEC, "normalization": SCALED, "activation": None if name == "volume" else "softmax", "frames": 8}
    return onnx_networks(OnnxFile.read(FILES / f"{name}.onnx"), **{**given, **changes})  # type: ignore[arg-type]


def asked(networks: Networks, clips: np.ndarray) -> np.ndarray:
    """What the graphs of the bundle answer to `[B, T, H, W, C]` uint8."""
    run = {role: Runtime(graph) for role, graph in networks.graphs.items()}
    if "clip" in run:
        return run["clip"](clips)["probabilities"]
    features = run["encoder"](clips.reshape(-1, *clips.shape[2:]))["features"]
    return run["head"](features.reshape(*clips.shape[:2], -1))["probabilities"]


def pixels(shape: tuple[int, ...]) -> np.ndarray:
    """As make.py draws them."""
    random = np.random.default_rng(1)
    fields = random.integers(0, 256, (*shape[:-2], 3, 3)) * random.uniform(0, 1, (shape[0], *[1] * (len(shape) - 1)))
    return fields.repeat(shape[-2] // 3, axis=-2).repeat(shape[-1] // 3, axis=-1).astype(np.uint8)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "shape", "turn"),
    [
        ("cnn_lstm", (3, 5, 3, 24, 24), (0, 1, 3, 4, 2)),
        ("cnn_lstm_dynamo", (3, 5, 3, 24, 24), (0, 1, 3, 4, 2)),
        ("volume", (3, 3, 8, 24, 24), (0, 2, 3, 4, 1)),
    ],
)
def test_a_network_of_clips_answers_as_torch_did(name: str, shape: tuple[int, ...], turn: tuple[int, ...]) -> None:
    clips = np.ascontiguousarray(pixels(shape).transpose(turn))
    scores = np.load(FILES / "scores.npz")[name.removesuffix("_dynamo")]
    wanted = scores if name == "volume" else softmax(scores)
    assert np.ptp(wanted, axis=0).max() > 0.05, "answers that do not differ between clips would prove nothing"
    np.testing.assert_allclose(asked(exported(name), clips), wanted, atol=1e-5)


def test_an_image_network_whose_batch_was_fixed_takes_any_number_of_frames() -> None:
    frames = np.ascontiguousarray(pixels((3, 3, 24, 24)).transpose(0, 2, 3, 1))
    wanted = softmax(np.load(FILES / "scores.npz")["image"])
    networks = exported("image")
    np.testing.assert_allclose(asked(networks, frames[:, None]), wanted, atol=1e-5)
    np.testing.assert_allclose(asked(networks, frames[None]), wanted.mean(axis=0, keepdims=True), atol=1e-5)
    assert networks.source == "image"


@pytest.mark.parametrize("name", ["cnn_lstm", "cnn_lstm_dynamo"])
def test_a_cnn_lstm_is_cut_where_its_cnn_ends(name: str) -> None:
    networks = exported(name)
    assert (networks.network.kind, networks.network.feature_dim) == ("encoder_head", 12)
    kinds = {role: [node.op_type for node in graph.graph.node] for role, graph in networks.graphs.items()}
    assert (kinds["encoder"].count("Conv"), kinds["head"].count("LSTM")) == (2, 2)
    assert not {"LSTM", "Shape"} & set(kinds["encoder"])
    assert [(row["batch"], row["frames"]) for row in networks.report["parity"]] == [(1, 1), (2, 7), (3, 16)]


def test_a_network_that_does_not_fold_time_stays_whole() -> None:
    networks = exported("volume")
    assert (networks.network.kind, networks.network.static_frames, list(networks.graphs)) == ("clip", None, ["clip"])
    shape = networks.graphs["clip"].graph.input[0].type.tensor_type.shape
    assert [part.dim_param or part.dim_value for part in shape.dim] == ["B", "T", 24, 24, 3]


@pytest.mark.parametrize("name", ["cnn_lstm", "cnn_lstm_dynamo", "volume", "image"])
def test_tensorrt_builds_what_came_from_torch_in_float_and_in_half(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    for graph in exported(name).graphs.values():
        for half in (False, True):
            assert build_gate(graph, half=half).layers > 0


def test_it_is_packed_as_any_other(tmp_path: Path) -> None:
    for name in ("cnn_lstm", "volume"):
        bundle = pack(
            exported(name, weights="float16"), out=tmp_path / name, name=name, version="1", labels=("a", "b", "c", "d"), input=SPEC,
            sampling=Sampling(frames=8),
        )  # fmt: skip
        golden = bundle.golden()
        found = asked(exported(name, weights="float16"), golden.frames)
        np.testing.assert_allclose(found, golden.probabilities, atol=1e-5)
        assert (golden.features is None) == (name == "volume")
        assert {artifact.weights for artifact in bundle.manifest.artifacts.values()} == {"float16"}


def test_an_encoder_and_a_head_in_two_files_are_the_network_in_one(tmp_path: Path) -> None:
    whole = exported("cnn_lstm")
    clips = synthetic_clips(count=2, frames=6, height=24, width=24, channels=3, seed=4)
    frames = onnx.helper.make_tensor_value_info("frames", onnx.TensorProto.FLOAT, ["N", 24, 24, 3])
    encoder = onnx.ModelProto.FromString(whole.graphs["encoder"].SerializeToString())
    cast = next(node for node in encoder.graph.node if node.op_type == "Cast")
    cast.op_type = "Identity"
    del cast.attribute[:], encoder.graph.input[:]
    encoder.graph.input.append(frames)
    for name, model in (("encoder", encoder), ("head", whole.graphs["head"])):
        onnx.save(model, tmp_path / f"{name}.onnx")
    files = {name: OnnxFile.read(tmp_path / f"{name}.onnx") for name in ("encoder", "head")}
    two = onnx_networks(files["encoder"], head=files["head"], input=SPEC, normalization=Normalization())
    np.testing.assert_allclose(asked(two, clips), asked(whole, clips), atol=1e-6)
    assert two.source == "video"
    with pytest.raises(ExportRefused, match=r"head\.onnx takes features, which is what a head does.*--head"):
        onnx_networks(files["head"], input=SPEC, normalization=Normalization())
    with pytest.raises(
        ExportRefused, match=r"encoder\.onnx takes .* the encoder takes single frames .* and the head features"
    ):
        onnx_networks(files["encoder"], head=files["encoder"], input=SPEC, normalization=Normalization())


def test_the_order_of_colours_is_that_of_the_flag() -> None:
    clips = synthetic_clips(count=1, frames=3, height=24, width=24, channels=3, seed=2)
    bgr = exported("cnn_lstm", normalization=Normalization.parse("0/255", color="bgr"))
    np.testing.assert_allclose(asked(bgr, clips), asked(exported("cnn_lstm"), clips[..., ::-1].copy()), atol=1e-6)
    assert np.abs(asked(bgr, clips) - asked(exported("cnn_lstm"), clips)).max() > 1e-4


Change = Callable[[onnx.ModelProto], None]


def loop(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Loop"


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.example", "Fancy"


def quantized(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "QuantizeLinear"


def half(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def odd(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def second(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["N", 3]))


def wordy(model: onnx.ModelProto) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info(model.graph.node[0].output[0], onnx.TensorProto.FLOAT, None)
    )


def written_in(model: onnx.ModelProto) -> None:
    """As x.view(1, 3, 24, 24) writes its batch into the graph."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, 24, 24]), "one_frame"))
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "one_frame"], ["viewed"]))
    model.graph.node[1].input[0] = "viewed"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (loop, r"node .* \(Loop\) of image\.onnx is control flow.*nn\.LSTM"),
        (foreign, r"node .* \(Fancy\) of image\.onnx is no operator of ONNX \(domain 'com\.example'\)"),
        (quantized, r"image\.onnx is quantized already: node .*export the float model"),
        (half, r"input 'x' of image\.onnx is FLOAT16; export the float32 model"),
        (odd, r"image\.onnx takes \[1, 5, 24, 24\], in which the 1 or 3 channels are not to be found.*\[N, C, H, W\]"),
        (second, r"image\.onnx takes 2 inputs \(x, mask\)"),
        (wordy, r"image\.onnx gives scores, .*; export a model that gives the scores of the classes alone"),
        (written_in, r"batch .* written into .*dynamic_axes"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_taken_in_is_refused_with_the_way_out(tmp_path: Path, change: Change, sentence: str) -> None:
    model = onnx.load(FILES / "image.onnx")
    change(model)
    onnx.save(model, tmp_path / "image.onnx")
    with pytest.raises(ExportRefused, match=sentence) as refused:
        onnx_networks(OnnxFile.read(tmp_path / "image.onnx"), input=SPEC, normalization=SCALED, activation="softmax")
    assert not re.search(r"user/", str(refused.value))


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no")
    (tmp_path / "noise.onnx").write_bytes(np.random.default_rng(0).bytes(3000))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "own.keras")
    model.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "net.pt").write_bytes(b"\x80\x8a\x0a" + b"\0" * 20)
    for name, reason in (
        ("text.onnx", "holds no ONNX graph, whatever its name says"),
        ("noise.onnx", "holds no ONNX graph, whatever its name says"),
        ("absent.onnx", "no such file"),
        ("own.keras", "is a Keras model and no ONNX graph; give it as MODEL"),
        ("own.weights.h5", "the weights of a Keras model; give it as MODEL.*--model-code"),
        ("net.pt", "is a PyTorch file; export it to ONNX"),
    ):
        with pytest.raises(ExportRefused, match=reason) as refused:
            OnnxFile.read(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)


def test_weights_that_were_left_behind_are_asked_for(tmp_path: Path) -> None:
    model = onnx.load(FILES / "image.onnx")
    onnx.save(model, tmp_path / "image.onnx", save_as_external_data=True, location="image.data", size_threshold=0)
    OnnxFile.read(tmp_path / "image.onnx")
    (tmp_path / "image.data").unlink()
    with pytest.raises(ExportRefused, match=r"image\.onnx keeps its weights in a file beside it .*image\.data"):
        OnnxFile.read(tmp_path / "image.onnx")


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ExportRefused, match=r"image\.onnx takes frames of 24×24, asked for are 32×32"):
        exported("image", input=Input(height=32, width=32))
    with pytest.raises(ExportRefused, match=r"takes frames of 3 channels, gray frames have 1"):
        exported("image", input=Input(height=24, width=24, color="gray"), normalization=Normalization(color="gray"))
