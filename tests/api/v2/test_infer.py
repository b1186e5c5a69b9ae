"""Requests as any HTTP client may send them, hostile ones among them: what is wrong is said, in both forms of an error."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import color_probabilities

CLIPS = np.random.default_rng(2).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)


def asking(**changes: Any) -> dict[str, Any]:
    """A request in words for both of CLIPS; `changes` replace fields of its input."""
    given = {"name": "clips", "datatype": "UINT8", "shape": list(CLIPS.shape), "data": CLIPS.tolist(), **changes}
    return {"inputs": [{name: value for name, value in given.items() if value is not None}]}


def in_bytes(said: dict[str, Any], tensor: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of JSON with a tensor behind it, and its header."""
    text = json.dumps(said).encode()
    return text + tensor, {"Inference-Header-Content-Length": str(len(text))}


def refused(response: httpx.Response, status: int, code: str, saying: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), response.text[:500]
    assert saying in problem["detail"]
    assert problem["error"] == problem["detail"]
    assert response.headers["content-type"] == "application/problem+json"


def infer(served, content: bytes | dict[str, Any], *, model: str = "color", **headers: str) -> httpx.Response:
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    return served.client.post(f"/v2/models/{model}/infer", content=body, headers=headers)


def probabilities(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text[:500]
    found: list[float] = response.json()["outputs"][0]["data"]
    return found


def test_a_request_in_words_is_answered_in_words(served) -> None:
    response = infer(served, {"id": "7", **asking()})
    answer = response.json()
    assert response.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in response.headers
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "color", "1.0.0")
    assert [(each["name"], each["datatype"], each["shape"]) for each in answer["outputs"]] == [
        ("probabilities", "FP32", [2, 3]),
        ("attention", "FP32", [2, 3]),
    ]
    np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (2, 3)), color_probabilities(CLIPS), atol=1e-5)


def test_an_id_that_was_not_given_is_not_made_up(served) -> None:
    assert "id" not in infer(served, asking()).json()


def test_no_outputs_asked_for_means_all(served) -> None:
    assert len(infer(served, {**asking(), "outputs": []}).json()["outputs"]) == 2
    only = {**asking(), "outputs": [{"name": "attention"}]}
    assert [each["name"] for each in infer(served, only).json()["outputs"]] == ["attention"]


def test_what_is_wanted_in_bytes_may_differ_by_output(served) -> None:
    said = {
        **asking(),
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "attention"}],
    }
    response = infer(served, said)
    length = int(response.headers["inference-header-content-length"])
    words, binary = json.loads(response.content[:length])["outputs"]
    assert len(words["data"]) == 6
    assert binary["parameters"] == {"binary_data_size": 24} == {"binary_data_size": len(response.content) - length}
    assert response.headers["content-type"] == "application/octet-stream"


def test_a_body_that_is_one_tensor_is_a_batch_of_one(served) -> None:
    raw = {"Inference-Header-Content-Length": "0"}
    response = infer(served, CLIPS[0].tobytes(), **raw)
    length = int(response.headers["inference-header-content-length"])
    assert json.loads(response.content[:length])["outputs"][0]["shape"] == [1, 3]
    found = np.frombuffer(response.content[length : length + 12], np.float32)
    np.testing.assert_allclose(found, color_probabilities(CLIPS[:1])[0], atol=1e-5)
    frame = infer(served, CLIPS[0, 0].tobytes(), model="color.encoder", **raw)
    assert frame.status_code == 200
    for wrong in (CLIPS[0].tobytes()[:-1], b""):
        refused(infer(served, wrong, **raw), 422, "invalid_parameter", f"the body has {len(wrong)} bytes")
    refused(infer(served, CLIPS[0].tobytes(), model="color.encoder", **raw), 422, "invalid_parameter", "one row")


@pytest.mark.parametrize(
    "compress", [gzip.compress, zlib.compress, lambda body: gzip.compress(body[:99]) + gzip.compress(body[99:])]
)
def test_compressed_bodies_are_read_by_what_they_are(served, compress) -> None:
    """Some clients call gzip deflate, or the other way round; files of gzip may stand one after the other."""
    body = compress(json.dumps(asking()).encode())
    expected = probabilities(infer(served, asking()))
    for coding in ("gzip", "deflate"):
        assert probabilities(infer(served, body, **{"Content-Encoding": coding})) == expected


@pytest.mark.parametrize(
    ("body", "coding", "status", "code", "saying"),
    [
        (b"{}", "br", 415, "unsupported_media", "encoded as 'br'; send it as it is, or with gzip or deflate"),
        (b"{}", "gzip", 400, "malformed", "the body is not what Content-Encoding says"),
        (gzip.compress(b"{}" * 99)[:-9], "gzip", 400, "malformed", "the compressed body ends in the middle"),
        (gzip.compress(b"{}") + b"junk", "gzip", 400, "malformed", "not what Content-Encoding says"),
        (gzip.compress(bytes(2**30)), "gzip", 413, "file_too_large", "more than the 1048576 bytes allowed"),
        (zlib.compress(bytes(2**30)), "deflate", 413, "file_too_large", "MAREY_MAX_UPLOAD_BYTES"),
        (gzip.compress(b"") * 50_000, "gzip", 400, "malformed", "more than the 16 members allowed"),
    ],
    ids=["unknown", "none", "cut", "junk", "bomb", "deflated bomb", "members"],
)
def test_broken_and_bloated_bodies_are_refused(
    served, body: bytes, coding: str, status: int, code: str, saying: str
) -> None:
    began = time.monotonic()
    response = infer(served, body, **{"Content-Encoding": coding})
    assert time.monotonic() - began < 2
    refused(response, status, code, saying)


def test_bodies_that_are_too_large_are_refused_with_and_without_their_length(served) -> None:
    refused(infer(served, bytes(2**20 + 1)), 413, "file_too_large", "send fewer frames a request")

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(2**16)

    response = served.client.post("/v2/models/color/infer", content=pieces())
    refused(response, 413, "file_too_large", "more than the 1048576 bytes allowed")


@pytest.mark.parametrize(
    ("body", "saying"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[]", "the body is JSON, but no object"),
        (b'{"inputs": {}}', 'no list "inputs"'),
        (b'{"inputs": [5]}', 'no list "inputs"'),
        (b'{"outputs": []}', 'no list "inputs"'),
        (json.dumps({**asking(), "outputs": [5]}).encode(), '"outputs" is no list of objects'),
        (json.dumps({**asking(), "parameters": [5]}).encode(), "the parameters of the request are no object"),
        (json.dumps(asking(parameters="x")).encode(), "the parameters of input 'clips' are no object"),
    ],
)
def test_what_is_no_request_is_malformed(served, body: bytes, saying: str) -> None:
    refused(infer(served, body), 400, "malformed", saying)


@pytest.mark.parametrize(
    ("said", "saying"),
    [
        ({"inputs": []}, "the inputs are none; 'color' takes one, 'clips'"),
        ({"inputs": [{}]}, "the inputs are without a name; 'color' takes one, 'clips'"),
        ({"inputs": asking()["inputs"] * 2}, "the inputs are 'clips', 'clips'; 'color' takes one"),
        (asking(name=["clips"]), "takes one, 'clips'"),
        (asking(datatype="INT8"), "datatype 'INT8'; send UINT8: pixels"),
        (asking(datatype="U8"), "none of the protocol's"),
        (asking(datatype=None), "datatype 'None'"),
        (asking(shape=None), "the shape of input 'clips' is 'None'"),
        (asking(shape=[2, 3, 16, 16]), "has the shape [2, 3, 16, 16], this model takes [-1, -1, 16, 16, 3]"),
        (asking(shape=[10**30, 1, 16, 16, 3]), "4096 are allowed in one request; send several"),
        (asking(shape=[513, 8, 16, 16, 3]), "has 4104 rows for the device, 4096 are allowed"),
        (asking(shape=[2, 9, 16, 16, 3]), "clips of 9 frames, this model takes up to 8"),
        (asking(shape=[3, 3, 16, 16, 3]), "4608, fewer numbers than the 6912 of its shape"),
        (asking(data=None), "input 'clips' has no data"),
        (asking(data=["a"]), "data that is no array of numbers"),
        (asking(parameters={"shared_memory_region": "a"}), "shared memory, which is not read here"),
        (asking(parameters={"binary_data_size": 4608}), "both data and binary_data_size"),
        ({**asking(), "id": 7}, "id = 7; send a string"),
        ({**asking(), "outputs": [{"name": "x"}]}, "'x'; 'color' has probabilities, attention, each once"),
        ({**asking(), "outputs": [{"name": ["x"]}]}, "each once"),
        ({**asking(), "outputs": [{"name": "attention"}] * 2}, "the same output twice"),
        ({**asking(), "outputs": [{"name": "attention", "parameters": {"classification": -1}}]}, "classification = -1"),
        ({**asking(), "outputs": [{"name": "attention", "parameters": {"binary_data": 1}}]}, "send true or false"),
        (
            {**asking(), "outputs": [{"name": "attention", "parameters": {"shared_memory_region": "a"}}]},
            "not written here",
        ),
        ({**asking(), "parameters": {"timeout": -1}}, "timeout = -1; send microseconds"),
        ({**asking(), "parameters": {"timeout": True}}, "send microseconds"),
        ({**asking(), "parameters": {"priority": -1}}, "priority = -1"),
        ({**asking(), "parameters": {"sequence_id": 3}}, "no model here keeps state"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(served, said: dict[str, Any], saying: str) -> None:
    refused(infer(served, said), 422, "invalid_parameter", saying)


@pytest.mark.parametrize(
    ("size", "tensor", "length", "status", "saying"),
    [
        (4608, CLIPS.tobytes()[:-1], None, 400, "4607 bytes follow the JSON, input 'clips' has 4608"),
        (4608, CLIPS.tobytes() + b"x", None, 400, "4609 bytes follow the JSON"),
        (4607, CLIPS.tobytes()[:-1], None, 422, "binary_data_size = 4607, its shape [2, 3, 16, 16, 3] of UINT8 has 4608 bytes"),
        ("4608", CLIPS.tobytes(), None, 422, "binary_data_size = 4608"),
        (4608, CLIPS.tobytes(), "99999", 400, "Inference-Header-Content-Length is 99999, the body has"),
        (4608, CLIPS.tobytes(), "5", 400, "the body is not JSON"),
        (4608, CLIPS.tobytes(), "-1", 400, "Inference-Header-Content-Length is '-1'; send the number of bytes"),
        (4608, CLIPS.tobytes(), "9" * 5000, 400, "send the number of bytes of JSON"),
        (None, CLIPS.tobytes(), None, 400, "4608 bytes follow the JSON, and input 'clips' has no binary_data_size"),
    ],
)  # fmt: skip
def test_bytes_must_be_as_many_as_was_said(
    served, size: object, tensor: bytes, length: str | None, status: int, saying: str
) -> None:
    parameters = None if size is None else {"binary_data_size": size}
    body, header = in_bytes(asking(data=None, parameters=parameters), tensor)
    header = header if length is None else {"Inference-Header-Content-Length": length}
    refused(infer(served, body, **header), status, "malformed" if status == 400 else "invalid_parameter", saying)


def test_an_answer_that_json_cannot_say_is_refused_and_comes_as_bytes(served) -> None:
    features = np.full((1, 2, 3), np.nan, np.float32)
    said = {
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 2, 3], "parameters": {"binary_data_size": 24}}]
    }
    body, header = in_bytes(said, features.tobytes())
    refused(infer(served, body, model="color.head", **header), 422, "invalid_parameter", "which JSON cannot say")
    body, header = in_bytes({**said, "parameters": {"binary_data_output": True}}, features.tobytes())
    assert infer(served, body, model="color.head", **header).status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "saying"),
    [
        (
            "/v2/models/nothing/infer",
            {},
            404,
            "unknown_model",
            "there is no model 'nothing'; those served are color:1.0.0",
        ),
        ("/v2/models/color/versions/2/infer", {}, 404, "unknown_model", "there is no model 'color:2'"),
        ("/v2/models/color.tail/infer", {}, 404, "unknown_model", "there is no model 'color.tail'"),
        ("/v2/models/color/infer", {"priority": "high"}, 422, "invalid_parameter", "interactive or bulk"),
        ("/v2/models/color/infer", {"timeout_ms": "0"}, 422, "invalid_parameter", "send milliseconds from 1 to 600000"),
        ("/v2/models/color/infer", {"timeout_ms": "1.5"}, 422, "invalid_parameter", "timeout_ms = '1.5'"),
        ("/v2/models/color/generate", {}, 404, "not_found", "/v2/models/color/generate"),
        ("/v2/systemsharedmemory/region/a/register", {}, 404, "not_found", "Not Found"),
        ("/v2/models/color", {}, 405, "method_not_allowed", "Method Not Allowed"),
    ],
)
def test_addresses_and_parameters_that_are_wrong_are_named(
    served, path: str, query: dict[str, str], status: int, code: str, saying: str
) -> None:
    refused(served.client.post(path, params=query, json=asking()), status, code, saying)


def test_deadline_and_priority_may_stand_beside_the_body(served) -> None:
    for query, headers in (({"timeout_ms": 20_000, "priority": "bulk"}, {}), ({}, {"X-Timeout-Ms": "20000"})):
        response = served.client.post("/v2/models/color/infer", params=query, headers=headers, json=asking())
        assert response.status_code == 200
    late = served.client.post("/v2/models/color/infer", json={**asking(), "parameters": {"timeout": 1}})
    refused(late, 504, "deadline_exceeded", "no answer within 1 µs; raise timeout_ms")


def test_other_errors_do_not_carry_the_member_of_this_protocol(served) -> None:
    assert "error" not in served.client.get("/nowhere").json()


def test_health_and_metadata_need_no_client_of_triton(served) -> None:
    assert served.client.get("/v2/health/live").json() == {"live": True}
    assert served.client.get("/v2/health/ready").json() == {"ready": True}
    assert served.client.get("/v2").json()["name"] == "marey"
    assert served.client.get("/v2/models/color/ready").json() == {"name": "color", "ready": True}
    refused(served.client.get("/v2/models/color/versions/3/ready"), 404, "unknown_model", "'color:3'")
    labelled = served.client.get("/openapi.json").json()["paths"]["/v2/models/{name}/infer"]["post"]
    assert {"application/json", "application/octet-stream"} == set(labelled["requestBody"]["content"])
