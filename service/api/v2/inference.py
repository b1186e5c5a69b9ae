"""One request for inference, as its body says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.v2.literals import Numbers, parse
from service.api.v2.network import Network
from service.api.v2.tensors import Spec
from service.errors import InvalidParameter, Malformed
from service.priority import Priority

MAX_TIMEOUT_MS = 600_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output that was asked for; `classes`: as so many of its best classes, 0 for the numbers themselves."""

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Inference:
    """What is to be run and what to be answered; `rows` is its weight in the queue. None: the request did not say."""

    tensor: NDArray[np.generic]
    rows: int
    outputs: tuple[Wanted, ...]
    id: str | None = None
    timeout_s: float | None = None
    priority: Priority | None = None


def read(body: bytearray, *, header_bytes: int | None, network: Network, max_rows: int) -> Inference:
    """What `body` asks of `network`: `header_bytes` of JSON, and tensors behind it; None: all is JSON; 0: all is one tensor.

    May take as long as a large JSON takes. Raises Malformed, InvalidParameter or TooLarge.
    """
    view = memoryview(body)
    if header_bytes == 0:
        return _read_raw(view, network, max_rows)
    if header_bytes is not None and header_bytes > len(body):
        raise Malformed(
            f"Inference-Header-Content-Length is {header_bytes}, the body has {len(body)} bytes; say how long the JSON is"
        )
    said = parse(body if header_bytes is None else body[:header_bytes])
    if not isinstance(said, dict):
        raise Malformed('the body is JSON, but no object; send {"inputs": […]}')
    parameters = _parameters(said, "the request")
    if parameters.get("sequence_id", 0) not in (0, ""):
        raise InvalidParameter("sequence_id is given, and no model here keeps state between requests; leave it out")
    outputs = _outputs(said.get("outputs"), network, all_binary=_flag(parameters, "binary_data_output"))
    tensor, rows = _input(said.get("inputs"), view[header_bytes or len(body) :], network, max_rows)
    return Inference(
        tensor,
        rows,
        outputs,
        _text(said.get("id"), "id") if "id" in said else None,
        _timeout_s(parameters),
        _priority(parameters),
    )


def _read_raw(data: memoryview, network: Network, max_rows: int) -> Inference:
    """A body of nothing but the one input: a batch of one, whose length, where it may vary, follows from the bytes."""
    spec = network.input
    shape = [1, *spec.shape[1:]]
    if -1 in shape:
        row = spec.bytes_of([length for length in shape if length != -1])
        shape[shape.index(-1)] = len(data) // row
    if -1 in shape or spec.bytes_of(shape) != len(data) or not len(data):
        raise InvalidParameter(
            f"the body has {len(data)} bytes, which is no input {spec.name!r} of one row of {list(spec.shape)} {spec.datatype}; "
            "send exactly its bytes, or say its shape in JSON"
        )
    wanted = tuple(Wanted(each.name, binary=True) for each in network.outputs)
    return Inference(spec.from_bytes(data, shape), network.rows(shape, limit=max_rows), wanted)


def _input(inputs: object, data: memoryview, network: Network, max_rows: int) -> tuple[NDArray[np.generic], int]:
    spec = network.input
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        raise Malformed(f'the JSON has no list "inputs" of objects; send one with {spec.name!r}')
    names = [each.get("name") for each in inputs]
    if names != [spec.name]:
        shown = ", ".join("without a name" if name is None else repr(name)[:60] for name in names[:5]) or "none"
        raise InvalidParameter(f"the inputs are {shown}; {network.name!r} takes one, {spec.name!r}")
    said = inputs[0]
    parameters = _parameters(said, f"input {spec.name!r}")
    if "shared_memory_region" in parameters:
        raise InvalidParameter(f"input {spec.name!r} is in shared memory, which is not read here; send it in the body")
    shape = spec.refuse_unless_fits(said.get("datatype"), said.get("shape"))
    rows = network.rows(shape, limit=max_rows)
    if "binary_data_size" in parameters:
        return _binary(parameters["binary_data_size"], said, data, spec, shape), rows
    if len(data):
        raise Malformed(
            f"{len(data)} bytes follow the JSON, and input {spec.name!r} has no binary_data_size; say its size in its parameters"
        )
    numbers = said.get("data")
    if not isinstance(numbers, Numbers):
        what = "no data" if "data" not in said else "data that is no array of numbers"
        raise InvalidParameter(f"input {spec.name!r} has {what}; send its numbers, or binary_data_size and its bytes")
    count = spec.bytes_of(shape) // spec.bytes_of(())
    return numbers.read(spec.datatype, count, name=spec.name).reshape(shape), rows


def _binary(
    size: object, said: Mapping[str, Any], data: memoryview, spec: Spec, shape: tuple[int, ...]
) -> NDArray[np.generic]:
    needed = spec.bytes_of(shape)
    if "data" in said:
        raise InvalidParameter(f"input {spec.name!r} has both data and binary_data_size; send one of the two")
    if size != needed or type(size) is not int:
        raise InvalidParameter(
            f"input {spec.name!r} has binary_data_size = {str(size)[:40]}, its shape {list(shape)} of {spec.datatype} has {needed} bytes; "
            "send what the shape says"
        )
    if len(data) != needed:
        raise Malformed(
            f"{len(data)} bytes follow the JSON, input {spec.name!r} has {needed}; "
            "check Inference-Header-Content-Length and the tensor"
        )
    return spec.from_bytes(data, shape)


def _outputs(outputs: object, network: Network, *, all_binary: bool | None) -> tuple[Wanted, ...]:
    names = [spec.name for spec in network.outputs]
    if outputs is None or outputs == []:
        return tuple(Wanted(name, bool(all_binary)) for name in names)
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise Malformed('"outputs" is no list of objects; send one with the names of the outputs, or leave it out')
    asked = [each.get("name") for each in outputs]
    unknown = [name for name in asked if name not in names]
    if unknown or len(asked) != len(set(asked)):
        which = repr(unknown[0])[:60] if unknown else "the same output twice"
        raise InvalidParameter(f"the outputs name {which}; {network.name!r} has {', '.join(names)}, each once")
    return tuple(_wanted(each, network, all_binary=all_binary) for each in outputs)


def _wanted(said: Mapping[str, Any], network: Network, *, all_binary: bool | None) -> Wanted:
    spec = next(spec for spec in network.outputs if spec.name == said["name"])
    parameters = _parameters(said, f"output {spec.name!r}")
    if "shared_memory_region" in parameters:
        raise InvalidParameter(
            f"output {spec.name!r} is wanted in shared memory, which is not written here; leave it out"
        )
    own = _flag(parameters, "binary_data")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0 or (classes and len(spec.shape) != 2):
        raise InvalidParameter(
            f"output {spec.name!r} has classification = {str(classes)[:40]}; ask for a number of classes from 1, "
            "of an output with two axes"
        )
    return Wanted(spec.name, bool(all_binary if own is None else own), classes)


def _parameters(said: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    parameters = said.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Malformed(f'the parameters of {whose} are no object; send {{"NAME": VALUE}}, or leave them out')
    return parameters


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidParameter(f"{name} = {str(value)[:40]!r}; send true or false")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidParameter(f"{name} = {str(value)[:40]}; send a string")
    return value


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """In microseconds, as the schedule policy extension has it; 0 is the default."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value <= MAX_TIMEOUT_MS * 1000:
        raise InvalidParameter(
            f"timeout = {str(value)[:40]}; send microseconds up to {MAX_TIMEOUT_MS * 1000}, or 0 for the service's own"
        )
    return value / 1e6 if value else None


def _priority(parameters: Mapping[str, Any]) -> Priority | None:
    """Of the schedule policy extension: 1 is the highest, what is below it yields; 0 is the default."""
    value = parameters.get("priority", 0)
    if type(value) is not int or value < 0:
        raise InvalidParameter(f"priority = {str(value)[:40]}; send 1 for interactive, or 2 and more for bulk")
    return None if value == 0 else "interactive" if value == 1 else "bulk"
