"""An exported ONNX graph as a torch module: the same network, for torch to run as well as it can.

Imported only where torch and onnx are: `service.bench.torch_baseline` says what to install.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from service.bench.torch_ops import OPS, STATIC
from service.bench.torch_recurrent import recurrent
from service.errors import EngineError

_RECURRENT = {"LSTM", "GRU", "RNN"}
_WHOLE = {
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: `fixed` are inputs known when the graph was read, by place; `frees` are values that nobody reads later."""

    name: str
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    fixed: dict[int, Any]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    frees: tuple[str, ...] = ()

    def run(self, values: dict[str, Any]) -> None:
        given = [
            self.fixed[place] if place in self.fixed else values[name] if name else None
            for place, name in enumerate(self.inputs)
        ]
        found = self.call(*given, **self.attributes)
        values.update(zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=False))
        # Else every activation would live until the end, and each run begin by asking for fresh memory.
        for name in self.frees:
            del values[name]


class TorchGraph(nn.Module):  # type: ignore[misc]  # torch is not there to be typed
    """One input → the graph's outputs, float32, in the graph's order. Whatever is float inside is `dtype`.

    Raises EngineError naming the operator that it does not know.
    """

    def __init__(self, data: bytes, *, dtype: Any = torch.float32) -> None:
        super().__init__()
        graph = onnx.load_from_string(data).graph
        self._dtype = dtype
        self.outputs = tuple(value.name for value in graph.output)
        constants = {tensor.name: self._tensor(tensor) for tensor in graph.initializer}
        (self._input,) = (value.name for value in graph.input if value.name not in constants)
        steps = [step for node in graph.node if (step := self._step(node, constants)) is not None]
        self._steps = _freeing(steps, keep=set(self.outputs) | set(constants))
        read = {name for step in steps for place, name in enumerate(step.inputs) if place not in step.fixed}
        # Whole numbers stay on the host, where shapes are computed; what computes on a device moves there with the module.
        self._host = {
            name: value for name, value in constants.items() if name in read and not value.is_floating_point()
        }
        self._held: dict[str, str] = {}
        for name, value in constants.items():
            if name in read and value.is_floating_point():
                self._held[name] = f"constant_{len(self._held)}"
                # A convolution's kernel, in the order of the frames' own bytes.
                last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(value.ndim, torch.preserve_format)
                self.register_buffer(self._held[name], value.to(memory_format=last))

    def forward(self, x: Any) -> tuple[Any, ...]:
        values = dict(self._host)
        values.update({name: getattr(self, held) for name, held in self._held.items()})
        values[self._input] = x.to(self._dtype) if x.is_floating_point() else x
        for step in self._steps:
            step.run(values)
        return tuple(values[name].float() for name in self.outputs)

    def _step(self, node: Any, constants: dict[str, Any]) -> _Step | None:
        """The node as a step; None where all it reads is constant, and it is computed now."""
        kind, inputs, outputs = node.op_type, tuple(node.input), tuple(node.output)
        attributes = {part.name: _attribute(part) for part in node.attribute}
        if kind == "Constant":
            constants[outputs[0]] = self._constant(node)
            return None
        if kind in _RECURRENT:
            return self._recurrent(node, constants, attributes)
        if kind == "Cast":
            target = _WHOLE.get(attributes["to"], self._dtype)
            step = _Step(node.name, lambda x: x.to(target), inputs, {}, {}, outputs)
        elif kind in OPS and node.domain in ("", "ai.onnx"):
            fixed = {
                place: constants[name].tolist()
                for place in STATIC.get(kind, ())
                if place < len(inputs) and (name := inputs[place]) in constants
            }
            step = _Step(node.name, OPS[kind], inputs, fixed, attributes, outputs)
        else:
            raise EngineError(
                f"the torch baseline does not know the operator {kind} ({node.name!r}); leave it out: name the others by --engine"
            )
        if all(name in constants for name in inputs if name):
            with torch.no_grad():
                step.run(constants)
            return None
        return step

    def _recurrent(self, node: Any, constants: dict[str, Any], attributes: dict[str, Any]) -> _Step:
        sequence, *weights = node.input
        if any(weights[3:]) or not all(name in constants for name in weights[:3] if name):
            raise EngineError(
                f"the torch baseline runs a {node.op_type} from zero states over whole sequences with fixed weights, and "
                f"{node.name!r} has more inputs; leave it out: name the others by --engine"
            )
        held = [constants[name].float() for name in weights[:3] if name]
        module = recurrent(node.op_type, held, attributes).to(self._dtype).eval()
        self.add_module(f"recurrent_{len(self._modules)}", module)
        return _Step(node.name, module, (sequence,), {}, {}, tuple(node.output))

    def _tensor(self, tensor: Any) -> Any:
        array = numpy_helper.to_array(tensor)
        value = torch.from_numpy(np.array(array))  # a copy: the file's own bytes are read-only
        return value.to(self._dtype) if value.is_floating_point() else value

    def _constant(self, node: Any) -> Any:
        (part,) = node.attribute
        value = helper.get_attribute_value(part)
        if part.name == "value":
            return self._tensor(value)
        array = torch.tensor(value)
        return array.to(self._dtype) if array.is_floating_point() else array


def _attribute(part: Any) -> Any:
    value = helper.get_attribute_value(part)
    if isinstance(value, bytes):
        return value.decode()
    return [each.decode() if isinstance(each, bytes) else each for each in value] if part.type in _LISTS else value


_LISTS = {onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS}


def _freeing(steps: list[_Step], *, keep: set[str]) -> list[_Step]:
    """The same steps, each freeing what no later one reads."""
    done: list[_Step] = []
    needed = set(keep) | {""}
    for step in reversed(steps):
        seen = dict.fromkeys([*step.inputs, *step.outputs])
        frees = tuple(name for place, name in enumerate(seen) if name not in needed and name not in keep and name)
        needed.update(step.inputs)
        done.append(_Step(step.name, step.call, step.inputs, step.fixed, step.attributes, step.outputs, frees))
    return done[::-1]
