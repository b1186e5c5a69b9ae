"""ONNX operators in torch, as far as exported graphs use them. Imported only where torch is.

Each takes the node's inputs and its attributes by name, and gives one tensor or a tuple of them. An absent optional input is
None. `STATIC` names the inputs that parameterise an operator: where they are constants of the graph they arrive as Python
numbers, so that nothing waits for a device to tell a shape.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from service.errors import EngineError

Call = Callable[..., Any]
# The last place of a slice where the graph means "to the end".
_FAR = 2**31 - 1

STATIC: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}


def numbers(value: Any) -> list[Any]:
    """A parameter as a list, whether it is a constant of the graph or was computed from a shape."""
    listed = value.tolist() if isinstance(value, torch.Tensor) else value
    return listed if isinstance(listed, list) else [listed]


def number(value: Any) -> Any:
    return None if value is None else numbers(value)[0]


def _activation(function: Call, **renamed: tuple[str, Any]) -> Call:
    """`function(x, …)` with attributes under torch's names: `onnx_name=(torch_name, default)`."""

    def call(x: Any, **given: Any) -> Any:
        return function(x, **{name: given.get(onnx, default) for onnx, (name, default) in renamed.items()})

    return call


def _divide(a: Any, b: Any) -> Any:
    return torch.div(a, b) if torch.is_floating_point(a) else torch.div(a, b, rounding_mode="trunc")


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    return x if low is None and high is None else torch.clamp(x, number(low), number(high))


def _pads(x: Any, kernel: Sequence[int], given: dict[str, Any]) -> list[int]:
    """Padding of the spatial axes as ONNX gives it, all starts and then all ends."""
    count, auto = len(kernel), given.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return list(given.get("pads", [0] * 2 * count)) if auto == "NOTSET" else [0] * 2 * count
    starts, ends = [], []
    strides, dilations = given.get("strides", [1] * count), given.get("dilations", [1] * count)
    for size, window, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        starts.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return starts + ends


def _padded(x: Any, pads: Sequence[int], *, value: float = 0.0) -> tuple[Any, list[int]]:
    """`x` and the padding that the operator itself can add: torch knows only the same on both sides."""
    count = len(pads) // 2
    starts, ends = list(pads[:count]), list(pads[count:])
    if starts == ends:
        return x, starts
    both = [part for pair in zip(reversed(starts), reversed(ends), strict=True) for part in pair]
    return F.pad(x, both, value=value), [0] * count


def _conv(x: Any, weight: Any, bias: Any = None, **given: Any) -> Any:
    count = weight.ndim - 2
    x, padding = _padded(x, _pads(x, weight.shape[2:], given))
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[count]
    strides, dilations = given.get("strides", [1] * count), given.get("dilations", [1] * count)
    return function(x, weight, bias, strides, padding, dilations, given.get("group", 1))


def _max_pool(x: Any, **given: Any) -> Any:
    kernel = given["kernel_shape"]
    count = len(kernel)
    x, padding = _padded(x, _pads(x, kernel, given), value=-torch.inf)
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[count]
    strides, dilations = given.get("strides", [1] * count), given.get("dilations", [1] * count)
    return function(x, kernel, strides, padding, dilations, ceil_mode=bool(given.get("ceil_mode", 0)))


def _average_pool(x: Any, **given: Any) -> Any:
    kernel = given["kernel_shape"]
    count = len(kernel)
    if any(dilation != 1 for dilation in given.get("dilations", ())):
        raise EngineError("torch averages without gaps only, and the graph holds an AveragePool with dilations")
    function = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[count]
    strides, ceil = given.get("strides", [1] * count), bool(given.get("ceil_mode", 0))
    pads, counts = _pads(x, kernel, given), bool(given.get("count_include_pad", 0))
    padded, padding = _padded(x, pads)
    if counts or padded is x:
        return function(padded, kernel, strides, padding, ceil, counts)
    # Padding on one side only: divide by how many real values each window holds.
    share = _padded(torch.ones_like(x[:1, :1]), pads)[0]
    return function(padded, kernel, strides, padding, ceil) / function(share, kernel, strides, padding, ceil)


def _global_pool(kind: str) -> Call:
    def call(x: Any) -> Any:
        return getattr(torch, kind)(x, dim=tuple(range(2, x.ndim)), keepdim=True)

    return call


def _batch_norm(x: Any, scale: Any, shift: Any, mean: Any, variance: Any, **given: Any) -> Any:
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=given.get("epsilon", 1e-5))


def _layer_norm(x: Any, scale: Any, shift: Any = None, **given: Any) -> Any:
    shape = x.shape[given.get("axis", -1) :]
    return F.layer_norm(x, list(shape), scale.expand(shape), shift, given.get("epsilon", 1e-5))


def _gemm(a: Any, b: Any, c: Any = None, **given: Any) -> Any:
    a, b = (each.transpose(0, 1) if given.get(name) else each for each, name in ((a, "transA"), (b, "transB")))
    alpha, beta = given.get("alpha", 1.0), given.get("beta", 1.0)
    return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)


def _reshape(x: Any, shape: Any, **given: Any) -> Any:
    sizes = numbers(shape)
    if not given.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(x: Any, **given: Any) -> Any:
    axis = given.get("axis", 1) % (x.ndim + 1)
    return x.reshape(reduce(operator.mul, x.shape[:axis], 1), -1)


def _squeeze(x: Any, axes: Any = None) -> Any:
    return x.squeeze() if axes is None else x.squeeze(tuple(numbers(axes)))


def _unsqueeze(x: Any, axes: Any) -> Any:
    wanted = numbers(axes)
    for axis in sorted(axis % (x.ndim + len(wanted)) for axis in wanted):
        x = x.unsqueeze(axis)
    return x


def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    first = numbers(starts)
    along = numbers(axes) if axes is not None else list(range(len(first)))
    by = numbers(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, numbers(ends), along, by, strict=True):
        size = x.shape[axis]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, min(end, _FAR), step),)]
        else:  # torch has no negative steps: the places, as Python counts them
            places = range(*slice(start, end if end > -_FAR else None, step).indices(size))
            x = x.index_select(axis, torch.tensor(list(places), device=x.device))
    return x


def _split(x: Any, sizes: Any = None, **given: Any) -> Any:
    axis = given.get("axis", 0)
    if sizes is not None:
        return torch.split(x, numbers(sizes), dim=axis)
    count = given["num_outputs"]
    return torch.split(x, -(-x.shape[axis] // count), dim=axis)


def _gather(x: Any, index: Any, **given: Any) -> Any:
    axis = given.get("axis", 0) % x.ndim
    flat = index.to(x.device).reshape(-1)
    chosen = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return chosen.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _expand(x: Any, shape: Any) -> Any:
    sizes = numbers(shape)
    lead = [1] * max(0, len(sizes) - x.ndim) + list(x.shape)
    wide = [1] * max(0, x.ndim - len(sizes)) + sizes
    # Either side may be the one that is 1: ONNX broadcasts both ways.
    return x.expand([have if want == 1 else want for have, want in zip(lead, wide, strict=True)])


def _pad(x: Any, pads: Any, value: Any = None, axes: Any = None, **given: Any) -> Any:
    amounts = numbers(pads)
    count = len(amounts) // 2
    along = [axis % x.ndim for axis in numbers(axes)] if axes is not None else list(range(count))
    sides = {axis: (amounts[place], amounts[place + count]) for place, axis in enumerate(along)}
    ordered = [side for axis in reversed(range(x.ndim)) for side in sides.get(axis, (0, 0))]
    while len(ordered) > 2 and ordered[-2:] == [0, 0]:
        ordered = ordered[:-2]
    mode = given.get("mode", "constant")
    if mode == "constant":
        return F.pad(x, ordered, value=number(value) or 0)
    return F.pad(x, ordered, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _reduction(function: Call) -> Call:
    def call(x: Any, axes: Any = None, **given: Any) -> Any:
        along = numbers(axes) if axes is not None else given.get("axes")
        keep = bool(given.get("keepdims", 1))
        if along is None and given.get("noop_with_empty_axes"):
            return x
        return function(x, tuple(range(x.ndim)) if along is None else tuple(along), keep)

    return call


def _product(x: Any, axes: tuple[int, ...], keep: bool) -> Any:  # noqa: FBT001  # as torch's own reductions take it
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _many(function: Call) -> Call:
    return lambda *parts: reduce(function, parts)


OPS: dict[str, Call] = {
    **{
        name: getattr(torch, name.lower())
        for name in (
            "Abs",
            "Ceil",
            "Cos",
            "Erf",
            "Exp",
            "Floor",
            "Log",
            "Neg",
            "Reciprocal",
            "Relu",
            "Round",
            "Sigmoid",
        )
    },
    **{name: getattr(torch, name.lower()) for name in ("Sign", "Sin", "Sqrt", "Tanh")},
    "Identity": lambda x: x,
    "Dropout": lambda x, *_: x,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Mish": F.mish,
    "HardSwish": F.hardswish,
    "Selu": lambda x, **given: (
        given.get("gamma", 1.0507009873554805) * F.elu(x, given.get("alpha", 1.6732632423543772))
    ),
    "Elu": _activation(F.elu, alpha=("alpha", 1.0)),
    "LeakyRelu": _activation(F.leaky_relu, alpha=("negative_slope", 0.01)),
    "HardSigmoid": lambda x, **given: torch.clamp(given.get("alpha", 0.2) * x + given.get("beta", 0.5), 0, 1),
    "Gelu": _activation(F.gelu, approximate=("approximate", "none")),
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Softmax": lambda x, **given: torch.softmax(x, given.get("axis", -1)),
    "LogSoftmax": lambda x, **given: torch.log_softmax(x, given.get("axis", -1)),
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Pow": torch.pow,
    "MatMul": torch.matmul,
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Sum": _many(torch.add),
    "Mean": lambda *parts: reduce(torch.add, parts) / len(parts),
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Not": torch.logical_not,
    "Where": torch.where,
    "Clip": _clip,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("amax"),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Gemm": _gemm,
    "Transpose": lambda x, **given: x.permute(given.get("perm", list(reversed(range(x.ndim))))),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": lambda x, repeats: x.repeat(numbers(repeats)),
    "Pad": _pad,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    # On the host: it is only ever read there.
    "Shape": lambda x, **given: torch.tensor(x.shape[given.get("start", 0) : given.get("end", x.ndim)]),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keep)),
}
