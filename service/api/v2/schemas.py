"""The protocol's JSON, as `/openapi.json` shows it. The code reads bodies by itself: binary tensors may follow the JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from service.api.schemas import Problem, refusals

_MILLISECONDS = {"type": "integer", "minimum": 1, "maximum": 600_000}
_PARAMETERS = {"type": "object", "description": "KEY: VALUE; see the extensions in GET /v2"}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "Sent back."},
        "parameters": _PARAMETERS,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                    "parameters": _PARAMETERS,
                    "data": {"type": "array", "description": "Numbers, row by row, flat or nested."},
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
            },
        },
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST},
            "application/octet-stream": {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "JSON of Inference-Header-Content-Length bytes, and the tensors behind it.",
                }
            },
        },
    },
}


def asking(*more: str) -> dict[str, Any]:
    """The operation's parameters, of which `more` stand in the path beside the name, and its body."""
    path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in ("name", *more)]
    said = [
        _parameter("timeout_ms", "query", _MILLISECONDS, "As parameters.timeout, in ms."),
        _parameter("X-Timeout-Ms", "header", _MILLISECONDS, "As timeout_ms, which goes before it."),
        _parameter("priority", "query", {"enum": ["interactive", "bulk"]}, "As parameters.priority."),
        _parameter(
            "Inference-Header-Content-Length",
            "header",
            {"type": "integer", "minimum": 0},
            "Bytes of JSON before the tensors; without it the body is JSON, with 0 it is one tensor.",
        ),
    ]
    return {"parameters": [*path, *said], **_BODY}


def _parameter(name: str, where: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": where, "schema": schema, "description": text}


class Refused(Problem):
    """RFC 9457, and the protocol's own."""

    error: str = Field(description="The sentence in detail, where clients of the protocol look for it.")


PROBLEMS = refusals(400, 404, 408, 413, 415, 422, 429, 500, 503, 504, model=Refused)


class Server(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorSaid(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any length.")


class ModelSaid(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorSaid]
    outputs: list[TensorSaid]


class Ready(BaseModel):
    name: str
    ready: bool
