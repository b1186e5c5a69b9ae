"""Models by version and share, and their control by Triton's own client, over a real server."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

Make = Callable[..., bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_bundle) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder / "v9", version="1.9", description="the older one")
    make_bundle(folder / "v10", version="1.10")
    make_bundle(folder / "twin", version="1.10")
    make_bundle(folder / "clips", name="clips", version="1", tasks=("video",))
    return folder


@pytest.fixture(scope="module")
def several(serve, folder: Path) -> Iterator[object]:
    with serve(str(folder), MAREY_DECODE_WORKERS="1") as running:
        yield running


@pytest.fixture
def triton(several) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(several.url.removeprefix("http://")) as client:
        yield client


def states(client: InferenceServerClient) -> dict[str, str]:
    return {f"{each['name']}:{each['version']}": each["state"] for each in client.get_model_repository_index()}


def test_every_version_is_listed_with_its_state_share_and_cost(several, folder: Path) -> None:
    told = several.client.get("/models").json()
    assert [(each["name"], each["version"], each["default"], each["share"]) for each in told["models"]] == [
        ("clips", "1", True, 1.0),
        ("color", "1.10", True, 1.0),
        ("color", "1.9", False, 0.0),
    ]
    for each in told["models"]:
        assert (each["state"], each["reason"], each["in_memory"], each["engine"]) == ("READY", "", True, "openvino")
        assert each["memory_bytes"] > 500
    (broken,) = told["broken"]
    assert broken["bundle"] == "v10"
    assert f"{folder / 'v10'} and {folder / 'twin'} are both color:1.10" in broken["error"]


def test_a_use_is_counted_and_dated(several, make_picture: Make) -> None:
    def used() -> dict[str, object]:
        return next(each for each in several.client.get("/models").json()["models"] if each["version"] == "1.9")

    before = used()
    several.post("/classify/image", make_picture("red"), model="color:1.9")
    after = used()
    assert after["requests"] == before["requests"] + 1
    assert after["last_used"] > (before["last_used"] or "")


def test_one_model_tells_its_manifest_and_its_versions(several) -> None:
    told = several.client.get("/models/color").json()
    assert (told["version"], told["manifest"]["version"]) == ("1.10", "1.10")
    assert [each["version"] for each in told["versions"]] == ["1.10", "1.9"]
    assert told["golden_difference"] < 1e-4
    assert several.client.get("/models/color:1.9").json()["manifest"]["description"] == "the older one"
    missing = several.client.get("/models/color:7")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_model")


def test_shares_are_changed_while_it_serves_and_the_answer_names_who_ran(several, make_picture: Make) -> None:
    image = make_picture("red")

    def versions(count: int, **query: str) -> Counter[str]:
        return Counter(several.post("/classify/image", image, **query).json()["model"]["version"] for _ in range(count))

    assert versions(5) == {"1.10": 5}
    answer = several.client.put("/models/color/weights", json={"1.10": 1, "1.9": 3})
    assert (answer.status_code, answer.json()) == (200, {"shares": {"1.10": 0.25, "1.9": 0.75}})
    drawn = versions(60)
    assert set(drawn) == {"1.9", "1.10"}
    assert drawn["1.9"] > drawn["1.10"]
    assert versions(5, model="color:1.10") == {"1.10": 5}
    assert several.client.get("/models/color").json()["version"] == "1.9"
    assert 'marey_model_share{model="color",version="1.9"} 0.75' in several.client.get("/metrics").text
    assert several.client.put("/models/color/weights", json={}).json() == {"shares": {"1.10": 1, "1.9": 0}}
    assert versions(5) == {"1.10": 5}


@pytest.mark.parametrize(
    ("name", "weights", "status", "code", "saying"),
    [
        ("color", {"2": 1}, 422, "invalid_parameter", "color has no version '2'; there are 1.10, 1.9"),
        ("color", {"1.9": -1}, 422, "invalid_parameter", "the share of color:1.9 is -1"),
        ("color", {"1.9": 0}, 422, "invalid_parameter", "the shares of color are 0 in all"),
        ("color", {"1.9": "much"}, 422, "invalid_parameter", "1.9"),
        ("colour", {"1.9": 1}, 404, "unknown_model", "there is no model 'colour'"),
    ],
)
def test_shares_that_mean_nothing_change_nothing(several, name, weights, status: int, code: str, saying: str) -> None:
    answer = several.client.put(f"/models/{name}/weights", json=weights)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert saying in answer.json()["detail"]
    assert several.client.get("/models/color").json()["version"] == "1.10"


def test_triton_s_client_sees_loads_and_unloads_models(several, triton, make_picture: Make) -> None:
    assert states(triton) == {
        "clips:1": "READY",
        "color:1.10": "READY",
        "color:1.9": "READY",
        "v10:": "UNAVAILABLE",
    }
    triton.unload_model("color:1.10")
    assert triton.is_model_ready("color")
    assert not triton.is_model_ready("color", "1.10")
    assert several.post("/classify/image", make_picture("red")).json()["model"]["version"] == "1.9"
    gone = several.post("/classify/image", make_picture("red"), model="color:1.10")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_model")
    assert "model color:1.10 is not loaded" in gone.json()["detail"]
    metrics = several.client.get("/metrics").text
    assert 'version="1.9"' in metrics
    assert 'version="1.10"' not in metrics
    triton.unload_model("color", unload_dependents=True)
    assert not triton.is_model_ready("color")
    assert triton.is_server_ready()
    assert several.client.get("/health/ready").status_code == 200
    assert 'model="color"' not in several.client.get("/metrics").text
    triton.load_model("color")
    assert triton.is_model_ready("color", "1.10")
    frames = InferInput("frames", [1, 16, 16, 3], "UINT8")
    frames.set_data_from_numpy(np.full((1, 16, 16, 3), (255, 0, 0), np.uint8))
    features = triton.infer("color.encoder", [frames]).as_numpy("features")
    assert features.round(2).tolist() == [[1, 0, 0]]
    assert several.post("/classify/image", make_picture("red")).json()["model"]["version"] == "1.10"
    assert states(triton)["color:1.10"] == "READY"


def test_what_is_new_in_the_folder_is_listed_and_loaded_by_name(several, triton, folder: Path, make_bundle) -> None:
    make_bundle(folder / "later", name="later", version="3")
    assert states(triton)["later:3"] == "UNAVAILABLE"
    assert not triton.is_model_ready("later")
    triton.load_model("later")
    assert triton.is_model_ready("later", "3")
    shutil.rmtree(folder / "later")
    with pytest.raises(InferenceServerException, match=r"later is no bundle"):
        triton.load_model("later")
    assert triton.is_model_ready("later"), "what was served before still is"
    (entry,) = [each for each in triton.get_model_repository_index() if each["name"] == "later"]
    assert (entry["state"], "is no bundle" in entry["reason"]) == ("READY", True)
    told = several.client.get("/models").json()
    assert any("later is no bundle" in each["error"] for each in told["broken"])
    triton.unload_model("later")


def test_what_cannot_be_loaded_is_told_in_the_words_that_triton_s_client_shows(triton) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'nothing'") as error:
        triton.load_model("nothing")
    assert error.value.status() == "404"
    with pytest.raises(InferenceServerException, match="loaded from its folder as it is, without 'config'"):
        triton.load_model("color", config="{}")
    with pytest.raises(InferenceServerException, match="there is no model 'nothing'"):
        triton.unload_model("nothing")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("index", b"[]", 400, "malformed"),
        ("index", b"{", 400, "malformed"),
        ("index", b"\xff", 400, "malformed"),
        ("index", b'{"ready": 1}', 422, "invalid_parameter"),
        ("index", b'{"raedy": true}', 422, "invalid_parameter"),
        ("models/color/load", b'{"parameters": []}', 422, "invalid_parameter"),
        ("models/color/unload", b'{"parameters": {"now": true}}', 422, "invalid_parameter"),
        ("models/color/load", b" " * (2**20 + 1), 413, "file_too_large"),
    ],
)
def test_bodies_that_mean_nothing_are_refused(several, path: str, body: bytes, status: int, code: str) -> None:
    answer = several.client.post(f"/v2/repository/{path}", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["error"] == answer.json()["detail"]


def test_the_index_can_be_of_those_that_are_ready_alone(several) -> None:
    index = several.client.post("/v2/repository/index", content=json.dumps({"ready": True})).json()
    assert {each["state"] for each in index} == {"READY"}


def test_only_admins_change_what_is_served(several, make_picture: Make) -> None:
    stranger = {"X-Forwarded-For": "203.0.113.7"}
    for method, path in (
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/color/load"),
        ("POST", "/v2/repository/models/color/unload"),
        ("PUT", "/models/color/weights"),
    ):
        answer = several.client.request(method, path, json={}, headers=stranger)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), path
    assert several.client.get("/models", headers=stranger).status_code == 200
    assert several.post("/classify/image", make_picture("red")).status_code == 200


@pytest.mark.parametrize(
    ("body", "saying"),
    [
        ("x", "the body is no JSON (Expecting value at character 0); send JSON"),
        ('{"1.9": ', "the body is no JSON (Expecting value at character 8)"),
        ("[]", "the body = []: Input should be a valid dictionary"),
        ("", "the body is missing: Field required"),
        ('{"1.9": "x"}', "1.9 = 'x': Input should be a valid number"),
    ],
)
def test_weights_that_are_none_are_called_what_they_are(several, body: str, saying: str) -> None:
    answer = several.client.put(
        "/models/color/weights", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert answer.json()["detail"].startswith(saying)


def test_weights_of_the_settings_are_used_from_the_start(serve, folder: Path, make_picture: Make) -> None:
    arguments = (str(folder / "v9"), str(folder / "v10"))
    with serve(*arguments, MAREY_WEIGHTS="color:1.9=1", MAREY_DECODE_WORKERS="1") as running:
        assert running.post("/classify/image", make_picture("red")).json()["model"]["version"] == "1.9"
        assert httpx.get(f"{running.url}/models/color").json()["version"] == "1.9"
