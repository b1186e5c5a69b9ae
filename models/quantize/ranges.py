"""How much of each 8-bit range real frames use: what a float graph alone cannot show.

# Note [Wide ranges]
A tensor of rms σ and largest value m is stored with a noise of m / (127 √12): what counts is m / σ. Measured on EfficientNet-Lite0 and 150
ImageNet photos, with the calibrated ranges made wider: as calibrated, m / σ is 2 to 12, and INT8 names the class of float for 98 %. Of
one tensor alone, up to 77 costs at most 3 points, 110 to 310 up to 14. Of all at once, a median of 21 to 41 costs 3 points, 55 costs 11, 82 costs 29.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.export.half import widen
from models.export.runtime import Runtime

# See Note [Wide ranges].
WIDE_ONE, WIDE_ALL = 100.0, 40.0
_ROWS, _BATCH = 16, 4


def activation_ranges(
    model: onnx.ModelProto, quantized: onnx.ModelProto, rows: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """The quantized tensors, widest first: the nodes that read them, and their largest value over their rms in `model`, the float graph.

    Looked at on at most 16 of `rows`, frames or clips, spread over all.
    """
    readers = _readers(quantized.graph)
    wide = widen(model)
    given = {value.name for value in wide.graph.output}
    names = [name for name in readers if name not in given and any(name in node.output for node in wide.graph.node)]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    run = Runtime(wide)
    picked = rows[np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).round().astype(int))]
    batch = _BATCH if rows.ndim == 4 else 1
    largest, squares, count = (dict.fromkeys(names, 0.0) for _ in range(3))
    for start in range(0, len(picked), batch):
        found = run(picked[start : start + batch])
        for name in names:
            values = found[name]
            largest[name] = max(largest[name], float(np.abs(values).max()))
            squares[name] += float(np.square(values, dtype=np.float64).sum())
            count[name] += values.size
    table = [
        {
            "nodes": readers[name],
            "largest": largest[name],
            "over_rms": round(largest[name] / max((squares[name] / count[name]) ** 0.5, 1e-12), 1)
            if largest[name]
            else 0.0,
        }
        for name in names
    ]
    return sorted(table, key=lambda row: -row["over_rms"])


def range_warnings(table: list[dict[str, Any]]) -> list[str]:
    """A sentence for each tensor whose range alone is likely to cost accuracy, or one for all together."""
    if not table:
        return []
    median = float(np.median([row["over_rms"] for row in table]))
    if median > WIDE_ALL:
        return [
            f"of {len(table)} ranges half are more than {median:.0f} times as wide as what they hold (above {WIDE_ALL:.0f} INT8 begins to fail); "
            "train with ReLU6 or with weight decay, or serve this model in float"
        ]
    return [
        f"what {', '.join(repr(node) for node in row['nodes'])} reads reaches {row['largest']:.3g}, {row['over_rms']:.0f} times its rms (above {WIDE_ONE:.0f} INT8 "
        f"begins to fail): most of it falls on a few of the 256 levels; keep it in float with {' '.join(f'--skip {node}' for node in row['nodes'])}, or look for the frames that cause it"
        for row in table
        if row["over_rms"] > WIDE_ONE
    ]


def ranges_sentence(table: list[dict[str, Any]]) -> str:
    """What was measured, whether it is trouble or not."""
    median = float(np.median([row["over_rms"] for row in table]))
    return (
        f"Ranges on calibration frames: the widest of {len(table)} is {table[0]['over_rms']:.0f} times the rms of what it holds (before {table[0]['nodes'][0]}; "
        f"INT8 begins to fail above {WIDE_ONE:.0f}), the median is {median:.0f} times (above {WIDE_ALL:.0f})."
    )


def _readers(graph: onnx.GraphProto) -> dict[str, list[str]]:
    """For each tensor that is quantized, the nodes that read it in 8 bits."""
    back = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    padded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Pad"}  # by the quantizer itself
    found: dict[str, list[str]] = {}
    for pair in (node for node in graph.node if node.op_type == "QuantizeLinear"):
        last = back.get(pair.output[0])
        found.setdefault(padded.get(pair.input[0], pair.input[0]), []).extend(
            node.name for node in graph.node if last in node.input
        )
    return found
