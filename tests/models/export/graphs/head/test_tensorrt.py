"""TensorRT builds every layer that the head writer knows."""

from __future__ import annotations

import re

import pytest
from keras import layers

from models.export.artifact import artifact
from models.export.gate import build_gate
from models.export.graphs.head import head_onnx
from service.bundle.store import find_bundles, open_bundle
from service.engine.profiles import profiles_of
from tests.models.export.graphs.head.cases import ACTIVATIONS, LAYER_ACTIVATIONS, RECURRENT, SEQUENCES, VECTORS
from tests.models.export.graphs.head.heads import Build, classify, head_of


def beside(builds: dict[str, Build]) -> Build:
    """Several layers over the same sequence, each averaged over time, side by side."""
    return lambda x: layers.Concatenate()([layers.GlobalAveragePooling1D()(build(x)) for build in builds.values()])


# All that the writer knows. Recurrent layers apart: TensorRT takes seconds for one, but minutes and 7 GB for ten abreast.
BUILT: dict[str, Build] = {
    "sequences": beside({name: build for name, build in SEQUENCES.items() if not re.search("lstm|bidirectional|repeated", name)}),
    "vectors": lambda x: layers.Concatenate()([build(x) for build in VECTORS.values()]),
    "activations": beside({str(each): layers.Dense(2, activation=each) for each in (*ACTIVATIONS, *LAYER_ACTIVATIONS)}),
    **{
        name: RECURRENT[name]
        for name in (
            "lstm of relu", "gru of hard_sigmoid", "gru that resets before", "simple rnn", "stacked", "bidirectional LSTM concat",
            "bidirectional GRU sum", "initial states of both directions", "encoder and decoder",
        )
    },
    "lstm backwards": lambda x: SEQUENCES["lstm backwards"](x)[:, 0],
}  # fmt: skip


@pytest.mark.parametrize("name", BUILT)
def test_tensorrt_builds_heads_of_all_layers_in_float_and_in_half(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    written = head_onnx(head_of(lambda x: classify(BUILT[name](x))))
    entry = artifact(written.SerializeToString(), "head.onnx", precision="fp32", weights="float32")
    manifest = open_bundle(find_bundles(())[0]).manifest
    profiles = profiles_of(manifest.model_copy(update={"artifacts": {**manifest.artifacts, "head": entry}}), "head")
    for half in (False, True):
        assert build_gate(written, profiles=profiles, half=half).plan_bytes > 10_000
