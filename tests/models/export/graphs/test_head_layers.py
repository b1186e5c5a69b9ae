"""Layers and operations beyond those of a plain CNN-LSTM: temporal convolutions, transformers, normalisations, keras.ops."""

# ruff: noqa: PLW0108 -- a lambda makes its layer anew: with fresh weights, in the test that needs it
from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import openvino
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.gate import build_gate
from models.export.graphs.head import head_onnx
from models.export.split.reference import Reference
from tests.models.export.graphs.head.heads import DIM, Build, agree, classify, head_of, last

FRAMES = 4
CONVOLUTIONS: dict[str, Build] = {
    **{
        f"conv1d {padding}": lambda x, padding=padding: layers.Conv1D(5, 3, padding=padding, activation="relu")(x)
        for padding in ("same", "causal")
    },
    "conv1d of even size": lambda x: layers.Conv1D(5, 4, padding="same", use_bias=False)(x),
    "conv1d dilated": lambda x: layers.Conv1D(5, 3, padding="causal", dilation_rate=4)(x),
    "conv1d dilated on both sides": lambda x: layers.Conv1D(5, 3, padding="same", dilation_rate=2)(x),
    "conv1d in strides": lambda x: layers.Conv1D(5, 3, padding="same", strides=2)(x),
    "conv1d causal in strides": lambda x: layers.Conv1D(5, 3, padding="causal", strides=2)(x),
    "conv1d in groups": lambda x: layers.Conv1D(4, 3, padding="same", groups=2)(x),
    "conv1d of one frame": lambda x: layers.Conv1D(5, 1)(x),
    "depthwise": lambda x: layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same", activation="tanh")(x),
    "separable": lambda x: layers.SeparableConv1D(5, 3, depth_multiplier=2, padding="same", activation="relu")(x),
    "separable dilated": lambda x: layers.SeparableConv1D(5, 3, padding="same", dilation_rate=2)(x),
    "max pooling": lambda x: layers.MaxPooling1D(2, padding="same")(x),
    "max pooling in single steps": lambda x: layers.MaxPooling1D(3, strides=1, padding="same")(x),
    "average pooling": lambda x: layers.AveragePooling1D(3, strides=2, padding="same")(x),
    "zero padding": lambda x: layers.ZeroPadding1D((2, 1))(x),
    "cropping of padding": lambda x: layers.Cropping1D((1, 2))(layers.ZeroPadding1D(2)(x)),
    "cropping of the start": lambda x: layers.Cropping1D((1, 0))(layers.ZeroPadding1D(2)(x)),
    "upsampling": lambda x: layers.UpSampling1D(3)(x),
    "residual block of a tcn": lambda x: x + layers.Conv1D(DIM, 3, padding="causal", dilation_rate=2)(layers.ReLU()(x)),
}  # fmt: skip
NORMALIZATIONS: dict[str, Build] = {
    "group normalisation": lambda x: layers.GroupNormalization(3)(x),
    "instance normalisation": lambda x: layers.GroupNormalization(-1, scale=False, epsilon=1e-2)(x),
    "unit normalisation": lambda x: layers.UnitNormalization()(x),
    "unit normalisation over time": lambda x: layers.UnitNormalization(axis=(1, 2))(x),
    "rms normalisation": lambda x: layers.RMSNormalization(epsilon=1e-2)(x),
    "layer normalisation over time": lambda x: layers.LayerNormalization(axis=[1, 2], scale=False, center=False)(x),
    "layer normalisation over nothing else": lambda x: ops.squeeze(
        layers.LayerNormalization(axis=2)(ops.expand_dims(x, 3)), 3
    ),
    "spectral normalisation": lambda x: layers.SpectralNormalization(layers.Dense(4, activation="relu"))(x),
    "time-distributed normalisation": lambda x: layers.TimeDistributed(layers.UnitNormalization())(x),
    "l2 by operation": lambda x: ops.normalize(x, axis=-1),
    "layer normalisation by operation": lambda x: ops.layer_normalization(x, axis=-1),
    "rms by operation": lambda x: ops.rms_normalization(x, np.float32([1, 2, 3, 4, 5, 6])),
    "spread": lambda x: (x - ops.mean(x, axis=-1, keepdims=True)) / (ops.std(x, axis=-1, keepdims=True) + 0.1),
    "variance": lambda x: x * ops.var(x, axis=[1, 2], keepdims=True),
}
ATTENTION: dict[str, Build] = {
    "causal multi-head attention": lambda x: layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
    "causal attention": lambda x: layers.Attention()([x, x], use_causal_mask=True),
    "causal additive attention": lambda x: layers.AdditiveAttention()([x, x], use_causal_mask=True),
    "transformer block": lambda x: transformer(x),
    "einsum dense": lambda x: layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")(x)[
        :, :, 1
    ],
    "einsum dense of dots": lambda x: layers.EinsumDense("...x,xy->...y", output_shape=5, activation="relu")(x),
    "einsum": lambda x: ops.einsum("btd,bsd->bts", x, x) @ x,
    "scores over a temperature": lambda x: layers.Multiply()([x, ops.softmax(layers.Dense(1)(x) / 0.5, axis=1)]),
}
OPERATIONS: dict[str, Build] = {
    "waves": lambda x: ops.sin(x) + ops.cos(x) * ops.erf(x),
    "logarithms": lambda x: ops.log1p(ops.square(x)) + ops.expm1(x / 4) + ops.logsumexp(x, axis=-1, keepdims=True),
    "roots": lambda x: ops.rsqrt(ops.square(x) + 1.0) * ops.sign(x) + ops.reciprocal(ops.square(x) + 2.0),
    "limits": lambda x: ops.clip(x, -0.5, 0.75),
    "choice": lambda x: ops.where(x > 0.25, x, 0.1 * x) + ops.where(np.array([True, False] * 3), x, 0.0),
    "choice as a number": lambda x: x * ops.cast(ops.greater_equal(x, 0.0), "float32"),
    "stack": lambda x: ops.mean(ops.stack([x, 2 * x, ops.abs(x)], axis=2), axis=2),
    "split": lambda x: ops.multiply(*ops.split(x, 2, axis=-1)),
    "split at places": lambda x: ops.concatenate(list(reversed(ops.split(x, [1, 4], axis=-1))), axis=-1),
    "unstack": lambda x: x * ops.expand_dims(ops.unstack(x, axis=-1)[1], -1),
    "tile": lambda x: ops.tile(x, (1, 1, 2)),
    "repeat": lambda x: x * ops.repeat(ops.mean(x, axis=-1, keepdims=True), DIM, axis=-1),
    "flip": lambda x: x + ops.flip(x, axis=1),
    "swapped axes": lambda x: ops.swapaxes(ops.moveaxis(x, 1, 2), 1, 2),
    "new axes": lambda x: ops.mean(x[:, :, None, :] * x[..., None], axis=2),
    "new axis behind an index": lambda x: x * x[:, 0, None],
    "taken": lambda x: ops.take(x, np.array([4, 0, 2]), axis=-1),
    "gelu approximately": lambda x: ops.gelu(x),
    "gate": lambda x: ops.glu(layers.Dense(6)(x)),
    "logarithm of a softmax": lambda x: ops.log_softmax(x, axis=-1),
    "slopes that are learned": lambda x: layers.PReLU(shared_axes=[1])(x),
    "a threshold": lambda x: layers.ReLU(threshold=0.5, negative_slope=0.1, max_value=1.5)(x),
    **{
        name: lambda x, name=name: layers.Activation(name)(x)
        for name in ("celu", "hard_tanh", "hard_shrink", "soft_shrink", "log_sigmoid", "squareplus", "tanh_shrink")
    },
}  # fmt: skip
POSITIONS: dict[str, Build] = {
    "a table of positions": lambda x: x + layers.Embedding(FRAMES, DIM)(ops.arange(FRAMES)),
    "waves of positions": lambda x: x + np.sin(np.arange(FRAMES * DIM, dtype=np.float32).reshape(FRAMES, DIM)),
    "broadcast positions": lambda x: ops.add(x, ops.broadcast_to(np.ones((1, DIM), np.float32), (1, FRAMES, DIM))),
    "slopes for each frame": lambda x: layers.PReLU()(x),
    "flat": lambda x: layers.Reshape((FRAMES, DIM))(layers.Dense(FRAMES * DIM)(layers.Flatten()(x))),
    "frames apart": lambda x: layers.Add()(ops.unstack(x, axis=1))[:, None],
}


def transformer(x: Any) -> Any:
    """A block as the Keras video transformer example has it."""
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3, dropout=0.3)(x, x))
    return layers.LayerNormalization()(y + layers.Dense(DIM)(layers.Dense(8, activation="gelu")(y)))


ANY = {**CONVOLUTIONS, **NORMALIZATIONS, **ATTENTION, **OPERATIONS}


@pytest.mark.parametrize("name", ANY)
def test_it_equals_keras_at_any_length(name: str) -> None:
    agree(head_of(lambda x: last(ANY[name](x))))


@pytest.mark.parametrize("name", POSITIONS)
def test_what_knows_the_number_of_frames_equals_keras(name: str) -> None:
    agree(head_of(lambda x: last(POSITIONS[name](x)), frames=FRAMES), shapes=((1, FRAMES), (3, FRAMES)))


def side_by_side(builds: dict[str, Build]) -> Build:
    return lambda x: layers.Concatenate()([layers.GlobalAveragePooling1D()(build(x)) for build in builds.values()])


@pytest.mark.parametrize(
    "group", [CONVOLUTIONS, NORMALIZATIONS, ATTENTION, OPERATIONS], ids=["tcn", "norms", "attention", "ops"]
)
def test_openvino_runs_it_and_tensorrt_builds_it_in_float_and_in_half(group: dict[str, Build]) -> None:
    model = head_of(lambda x: classify(side_by_side(group)(x)))
    written = head_onnx(model)
    core = openvino.Core()
    run = core.compile_model(core.read_model(written.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, frames in ((1, 2), (3, 7)):
        features = np.random.default_rng(batch).normal(size=(batch, frames, DIM)).astype(np.float32)
        wanted = Reference(model, model).probabilities(features)["probabilities"]
        np.testing.assert_allclose(run(features)["probabilities"], wanted, atol=1e-5)
    pytest.importorskip("tensorrt_rtx")
    for half in (False, True):
        assert build_gate(written, profile=(2, 4, 8), half=half).plan_bytes > 10_000


REFUSED: dict[str, tuple[Build, str]] = {
    "a lambda": (lambda x: layers.Lambda(lambda y: y, name="code")(x), r"'code' \(Lambda\).*layers and keras.ops in its place"),
    "a mask": (lambda x: layers.Masking(name="pad")(x), r"'pad' \(Masking\).*no frame of a served clip is padding"),
    "a pool of another kind": (
        lambda x: layers.AdaptiveAveragePooling1D(2, name="odd")(x),
        r"'odd' \(AdaptiveAveragePooling1D\).*GlobalAveragePooling1D",
    ),
    "grouped queries": (lambda x: layers.GroupQueryAttention(3, 4, 2, name="g")(x, x), r"'g' \(Group\w+\).*MultiHeadAttention"),
    "a picture in the head": (
        lambda x: layers.Reshape((-1, DIM))(layers.RandomFlip(name="turn")(layers.Reshape((-1, DIM, 1))(x))),
        r"'turn' \(RandomFlip\).*put it before the features",
    ),
    "positions that are computed": (
        lambda x: x + layers.Embedding(9, DIM, name="table")(ops.cast(ops.sum(x, axis=-1), "float32")),
        r"'table' \(Embedding\).*ops.arange\(T\)",
    ),
    "clips that meet": (lambda x: ops.flip(x, axis=0), "leave the batch alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_with_what_to_use(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(ExportRefused, match=re.compile(message)):
        head_onnx(head_of(lambda x: last(build(x))))


def test_every_layer_of_keras_is_written_or_refused_in_a_sentence() -> None:
    """A layer that is new in Keras shows here, to be decided upon."""
    from models.export.nodes.graph import _LAYERS  # noqa: PLC0415 -- the registry itself
    from models.export.nodes.replacement import replacement  # noqa: PLC0415

    head_onnx(head_of(lambda x: last(x)))  # registers the writers
    never = {"Layer", "InputLayer", "Wrapper", "LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells"}
    undecided = []
    for name in sorted(set(dir(layers)) - never):
        kind = getattr(layers, name)
        if isinstance(kind, type) and issubclass(kind, keras.Layer) and kind not in _LAYERS:
            blank = kind.__new__(kind)
            if replacement(blank) is None:
                undecided.append(name)
    assert undecided == []
