"""A user's own ONNX file, from PyTorch or elsewhere: read, checked, brought to a known opset, its layout told from its shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.nodes.graph import OPSET
from models.export.runtime import Runtime
from models.files.kind import kind_of

Layout = Literal["NHWC", "NCHW", "BTHWC", "BTCHW", "BCTHW"]
# From frames [N, H, W, C] or clips [B, T, H, W, C] to each layout.
TURN: dict[Layout, tuple[int, ...]] = {
    "NHWC": (0, 1, 2, 3),
    "NCHW": (0, 3, 1, 2),
    "BTHWC": (0, 1, 2, 3, 4),
    "BTCHW": (0, 1, 4, 2, 3),
    "BCTHW": (0, 4, 1, 2, 3),
}
PREFIX = "user/"
_CHANNELS = (1, 3)
_NEWEST = 21  # what the server's casts to half precision and TensorRT 10.13 know
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}  # fmt: skip
_REMEDY = "export it again, with torch.onnx.export(model, (example,), path, dynamic_axes={'x': {0: 'batch', 1: 'time'}}) for one"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """One float graph with one input of pixels or features.

    `layout` is None for a head, whose input is `[B, T, D]`. `batch` and `frames` are None where they are dynamic.
    """

    model: onnx.ModelProto
    name: str
    layout: Layout | None
    shape: tuple[int | None, ...]

    @classmethod
    def read(cls, path: str | Path) -> OnnxFile:
        """Raises ExportRefused for what is no ONNX file, is quantized already, is not float32, or needs more than ONNX's own operators."""
        path = Path(path)
        try:
            model = onnx.load(path)
        except Exception as error:  # protobuf and onnx raise many kinds, with the bytes in the text
            raise ExportRefused(_unread(path, error)) from error
        if not model.graph.node:
            raise ExportRefused(_other(path))
        _check(model, path.name)
        model = _at_opset(model, path.name)
        initial = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in initial]
        if len(inputs) != 1:
            raise ExportRefused(
                f"{path.name} takes {len(inputs)} inputs ({', '.join(value.name for value in inputs)}); Marey feeds one, the frames: export a model of one input"
            )
        kind = inputs[0].type.tensor_type
        shape = tuple(part.dim_value if part.HasField("dim_value") else None for part in kind.shape.dim)
        if kind.elem_type != onnx.TensorProto.FLOAT:
            found = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise ExportRefused(
                f"input {inputs[0].name!r} of {path.name} is {found}; export the float32 model, Marey makes the rest of it"
            )
        # Or a tensor could have a name that one of ours will have.
        model = onnx.compose.add_prefix(model, PREFIX, rename_nodes=False)
        return cls(model, path.name, _layout(shape, path.name), shape)

    def sized(self, height: int, width: int) -> OnnxFile:
        """With height and width where the file leaves them open; raises ExportRefused where it has others."""
        layout, own = self.layout or "", self.frame_shape
        if own[0] not in (None, height) or own[1] not in (None, width):
            raise ExportRefused(
                f"{self.name} takes frames of {own[0]}×{own[1]}, asked for are {height}×{width}; leave --size out"
            )
        given = {"H": height, "W": width}
        shape = tuple(size or given.get(letter) for letter, size in zip(layout, self.shape, strict=True))
        return replace(self, shape=shape)

    @property
    def input(self) -> str:
        initial = {tensor.name for tensor in self.model.graph.initializer}
        name: str = next(value.name for value in self.model.graph.input if value.name not in initial)
        return name

    @property
    def batch(self) -> int | None:
        return self.shape[0]

    @property
    def frames(self) -> int | None:
        """T of clips, None where it is dynamic or there is none."""
        return self._axis("T")

    @property
    def frame_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels."""
        channels = self._axis("C")
        assert channels is not None
        return self._axis("H"), self._axis("W"), channels

    @property
    def takes_clips(self) -> bool:
        return self.layout is not None and "T" in self.layout

    def _axis(self, letter: str) -> int | None:
        return self.shape[self.layout.index(letter)] if self.layout and letter in self.layout else None


class Original:
    """The user's graph as it came, run by onnxruntime: what every export of it is compared with."""

    def __init__(self, file: OnnxFile) -> None:
        self._run, self._batch = Runtime(file.model), file.batch

    def __call__(self, rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Rows in the graph's own layout; a batch that is fixed is filled up with the last row."""
        size = self._batch or len(rows)
        parts = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            parts.append({name: array[: len(part)] for name, array in self._run(full).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _unread(path: Path, error: Exception) -> str:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001 -- as it was the first time
        return _other(path)
    if not model.graph.node:
        return _other(path)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{path} keeps its weights in a file beside it that cannot be read ({reason}); copy that one into the same folder"


def _other(path: Path) -> str:
    """What a file that is no ONNX graph is."""
    if not path.exists():
        return f"{path}: no such file; give one as torch.onnx.export writes it"
    try:
        kind = kind_of(path)
    except ExportRefused as refused:
        return f"--from-onnx: {refused}"
    if kind == "weights":
        return f"{path} holds the weights of a Keras model; give it as MODEL, without --from-onnx, and its code with --model-code"
    return (
        f"{path} is a Keras model and no ONNX graph; give it as MODEL, or as --encoder or --head, without --from-onnx"
    )


def _check(model: onnx.ModelProto, name: str) -> None:
    for node in model.graph.node:
        where = f"node {node.name or node.output[0]!r} ({node.op_type})"
        if node.op_type in _QUANTIZED:
            raise ExportRefused(
                f"{name} is quantized already: {where}; export the float model, Marey calibrates and quantizes it itself"
            )
        if node.op_type in ("Loop", "Scan", "If"):
            raise ExportRefused(
                f"{where} of {name} is control flow, which the engines cannot run fast; export the model without it (nn.LSTM and nn.GRU need none)"
            )
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            raise ExportRefused(
                f"{where} of {name} is no operator of ONNX (domain {node.domain!r}); export the model with ONNX's own operators"
            )


def _at_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if OPSET <= version <= _NEWEST:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's own class is not public
        raise ExportRefused(
            f"{name} is of opset {version} and cannot be brought to {OPSET} ({str(error).strip().splitlines()[0]}); export it with opset_version={OPSET}"
        ) from error


def _layout(shape: tuple[int | None, ...], name: str) -> Layout | None:
    """Told by where the 1 or 3 channels are; raises ExportRefused where they could be in two places."""
    if len(shape) == 3:
        if shape[2] is None:
            raise ExportRefused(
                f"{name} takes features {_text(shape)}; their number, the last of these, must be fixed: {_REMEDY}"
            )
        return None
    places: dict[Layout, int] = {"NCHW": 1, "NHWC": 3} if len(shape) == 4 else {"BTCHW": 2, "BCTHW": 1, "BTHWC": 4}
    fits: list[Layout] = [
        layout for layout, place in places.items() if len(shape) > place and shape[place] in _CHANNELS
    ]
    if len(shape) not in (4, 5) or len(fits) != 1:
        raise ExportRefused(
            f"{name} takes {_text(shape)}, in which the 1 or 3 channels are {'in more than one place' if fits else 'not to be found'}; expected frames [N, C, H, W] or "
            f"[N, H, W, C], clips [B, T, C, H, W], [B, C, T, H, W] or [B, T, H, W, C], or features [B, T, D]: {_REMEDY}"
        )
    return fits[0]


def _text(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
