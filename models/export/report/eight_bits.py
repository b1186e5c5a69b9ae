"""Which nodes of a float graph are meant for INT8: what the quantizer takes, and what the report warns of.

Convolutions, products with weights, and the residual sums of either. What stays float, since 8 bits would cost accuracy there and save
little time: products of two activations (attention), sums that are no residual (a bias, the two halves of a written-out LayerNorm, the
carry of a ConvLSTM), convolutions over time alone.

# Note [Where a clip network ends]
A clip network has no head of its own that would stay float. Its products stay float from the first recurrent layer on, directly before
one, and where nothing with weights follows: the last Dense decides between classes and is small. The wide Dense layers of a C3D, three
quarters of its weights, are INT8. The same holds of an encoder that reads a picture as a sequence: its recurrent layer begins a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from models.export.report.cost import GATES, attribute, constants_of

NOTHING = "nothing in the network is meant for INT8: it has no convolution, and no product but those that decide between classes"
_PRODUCTS = {"Conv", "MatMul", "Gemm"}
_AFTER = {"Add", "Mul", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"}


def int8_nodes(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The names of these nodes, in the order of the graph; one that answers `probabilities` is a clip network, with a recurrent layer it counts as one."""
    return tuple(_Search(graph).nodes())


class _Search:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = constants_of(graph)
        self._made = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._decides = any(value.name == "probabilities" for value in graph.output) or any(
            node.op_type in GATES for node in graph.node
        )
        self._shared = self._used_several_times()

    def nodes(self) -> Iterator[str]:
        behind = self._behind_recurrence() if self._decides else set[str]()
        for node in self._graph.node:
            if node.output[0] in behind:
                continue
            if node.op_type == "Conv":
                if self._spatial(node):
                    yield node.name
            elif node.op_type in _PRODUCTS:
                if self._weights(node) and (not self._decides or self._followed(node)):
                    yield node.name
            elif node.op_type == "Add" and self._residual(node):
                yield node.name

    def _spatial(self, node: onnx.NodeProto) -> bool:
        """Over space, or space and time; but for groups of few channels over both, which OpenVINO runs wrong: Note [Four channels]."""
        kernel = next(iter(self._weights(node)), None)
        if kernel is None or len(kernel.dims) < 4:
            return False
        few = kernel.dims[1] > 1 and kernel.dims[1] % 4 > 0
        return not (len(kernel.dims) == 5 and attribute(node, "group", 1) > 1 and few)

    def _weights(self, node: onnx.NodeProto) -> tuple[onnx.TensorProto, ...]:
        """Of a product with one operand that no input reaches, what that was made of."""
        held = [self._constants[name] for name in node.input[:2] if name in self._constants]
        return held[0] if len(held) == 1 else ()

    def _residual(self, node: onnx.NodeProto) -> bool:
        """A sum with what a convolution or product gives, its bias added or not; but for a step of an unrolled recurrence."""
        if any(name in self._constants for name in node.input):
            return False
        makers = [self._without_bias(name) for name in node.input]
        return any(maker is not None and maker.op_type in _PRODUCTS for maker in makers) and not any(
            maker is not None and maker.output[0] in self._shared for maker in makers
        )

    def _without_bias(self, name: str) -> onnx.NodeProto | None:
        """What made `name`, but for a bias, a factor that is constant, and turns of the axes."""
        node = self._made.get(name)
        while node is not None and node.op_type in _AFTER:
            varying = [source for source in node.input if source not in self._constants]
            if len(varying) != 1:
                break
            node = self._made.get(varying[0])
        return node

    def _used_several_times(self) -> set[str]:
        """Convolutions and products whose weights others use, too: the steps of an unrolled recurrence."""
        users: dict[str, list[str]] = {}
        for node in self._graph.node:
            if node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in self._constants:
                users.setdefault(node.input[1], []).append(node.output[0])
        return {user for several in users.values() if len(several) > 1 for user in several}

    def _behind_recurrence(self) -> set[str]:
        """The nodes that read, however far off, what an LSTM, GRU or RNN gives."""
        names = {name for node in self._graph.node if node.op_type in GATES for name in node.output if name}
        found = set[str]()
        for node in self._graph.node:  # sorted: what makes a tensor stands before what reads it
            if names.intersection(node.input):
                found.add(node.output[0])
                names.update(name for name in node.output if name)
        return found

    def _followed(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution or product with weights reads what `node` gives, without a recurrent layer between them."""
        waiting, seen = list(node.output), set[str]()
        while waiting:
            name = waiting.pop()
            for reader in self._readers.get(name, []) if name not in seen else []:
                if reader.op_type in _PRODUCTS and self._weights(reader):
                    return True
                if reader.op_type not in GATES:
                    waiting.extend(reader.output)
            seen.add(name)
        return False
