"""The kernels of LSTM and GRU as int8 with a scale a row, computed in float: what that saves, and what it changes in the answers.

# Note [Not kept]
Engines dequantize such kernels when they load, and compute as before: nothing is faster. A bundle needs its float head in any case, for fp32 and
for the golden clips, so that a second head makes it larger by a quarter of the first. Hence it is measured, told in the report, and not kept.
TensorRT-RTX 1.7.1 builds LSTMs so, and fails on Keras's GRU (`linear_before_reset`) where the kernel of its state is int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.export.graphs.finish import finish
from models.export.half import widen
from models.export.report.cost import GATES
from models.export.runtime import Runtime
from models.quantize.trial import Reference


def weights_in_int8(head: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of `head` with int8 kernels in its recurrent layers, one scale for each row of each gate; None where it has no such layer."""
    changed = widen(head)
    graph = changed.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    kernels = [name for node in graph.node if node.op_type in GATES for name in node.input[1:3] if name in held]
    back = []
    for name in dict.fromkeys(kernels):
        values = numpy_helper.to_array(held[name])  # [directions, gates x units, inputs]
        rows = values.reshape(-1, values.shape[-1])
        scale = np.maximum(np.abs(rows).max(axis=1), 1e-12).astype(np.float32) / 127
        levels = np.clip(np.round(rows / scale[:, None]), -127, 127).astype(np.int8)
        held[name].CopyFrom(numpy_helper.from_array(levels, f"{name}/int8"))
        graph.initializer.extend(
            [
                numpy_helper.from_array(scale, f"{name}/scale"),
                numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}/zero"),
                numpy_helper.from_array(np.array(values.shape, np.int64), f"{name}/shape"),
            ]
        )
        inputs = [f"{name}/int8", f"{name}/scale", f"{name}/zero"]
        back += [
            helper.make_node("DequantizeLinear", inputs, [f"{name}/rows"], name=f"{name}/DequantizeLinear", axis=0),
            helper.make_node("Reshape", [f"{name}/rows", f"{name}/shape"], [name], name=f"{name}/Reshape"),
        ]
    if not back:
        return None
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*back, *nodes])
    return finish(changed)


def weights_only(head: bytes, reference: Reference) -> dict[str, Any] | None:
    """What int8 kernels would save of the `head`, in bytes of the file and against float32, and change on the trial; None without a recurrent layer."""
    model = onnx.load_from_string(head)
    small = weights_in_int8(model)
    if small is None:
        return None
    data = small.SerializeToString(deterministic=True)
    whole = widen(model).SerializeToString(deterministic=True)
    run = Runtime(data)
    answers = np.concatenate([run(part[None])["probabilities"] for part in reference.parts])
    same = float((answers.argmax(axis=1) == reference.answers.argmax(axis=1)).mean())
    moved = float(np.abs(answers - reference.answers).max())
    drop = reference.accuracy - reference.right(answers)
    return {
        "bytes": len(data),
        "stored_bytes": len(head),
        "float_bytes": len(whole),
        "ratio": round(len(data) / len(whole), 4),
        "top1_agreement": same,
        "max_probability_difference": moved,
        "drop": drop,
        "sentence": f"With int8 kernels in its recurrent layers the head would take {len(data) / len(whole):.0%} of its float32 size "
        f"({len(data) / len(head):.0%} of its file), name the class of float for {same:.1%} of the clips and move no probability by more than {moved:.3f}. It is not "
        "kept: engines compute it in float either way, and the bundle needs its float head, too.",
    }
