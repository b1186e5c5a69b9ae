"""NVIDIA's own client against the service: what it asks is answered, and what it is refused it can read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray

from service.bundle.manifest import Input, Sampling
from service.media.decode import decode_video
from service.media.limits import Limits
from tests.clip_bundle import make_clip_bundle, said
from tests.conftest import color_probabilities


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., object], serve: Callable[..., object]
) -> Iterator[str]:
    """A server of the color bundle, of a clip network of any length and of one of five frames."""
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "color")
    make_clip_bundle(folder / "motion", positions="steps")
    make_clip_bundle(folder / "five", frames=5, name="five")
    with serve(str(folder)) as running:  # type: ignore[attr-defined]
        yield running.url.removeprefix("http://")


@pytest.fixture
def client(host: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(host, concurrency=8) as connected:
        yield connected


@pytest.fixture
async def aio(host: str) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(host) as connected:
        yield connected


def clips(count: int = 2, frames: int = 3, *, side: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(count * 100 + frames).integers(0, 256, (count, frames, side, side, 3), np.uint8)


def tensor(array: NDArray[np.generic], *, name: str = "clips", binary: bool = True) -> triton.InferInput:
    given = triton.InferInput(name, array.shape, "FP32" if array.dtype == np.float32 else "UINT8")
    return given.set_data_from_numpy(array, binary_data=binary)


def test_the_server_and_its_models_are_live_and_ready(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for name in ("color", "color.encoder", "color.head", "motion", "five"):
        assert client.is_model_ready(name)
    assert client.is_model_ready("color", "1.0.0")
    assert not client.is_model_ready("color", "9.9.9")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("motion.encoder")


def test_the_server_names_itself_and_what_it_can(client) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "marey"
    assert {"binary_tensor_data", "classification", "model_configuration", "schedule_policy", "statistics"} <= set(
        metadata["extensions"]
    )


def test_metadata_give_every_input_and_output_as_the_manifest_has_it(client) -> None:
    whole = client.get_model_metadata("color")
    assert (whole["name"], whole["versions"], whole["platform"]) == ("color", ["1.0.0"], "openvino_onnx")
    assert whole["inputs"] == [{"name": "clips", "datatype": "UINT8", "shape": [-1, -1, 16, 16, 3]}]
    assert whole["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "attention", "datatype": "FP32", "shape": [-1, -1]},
    ]
    encoder = client.get_model_metadata("color.encoder", "1.0.0")
    assert encoder["inputs"] == [{"name": "frames", "datatype": "UINT8", "shape": [-1, 16, 16, 3]}]
    assert encoder["outputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 3]}]
    assert client.get_model_metadata("color.head")["inputs"] == [
        {"name": "features", "datatype": "FP32", "shape": [-1, -1, 3]}
    ]
    assert client.get_model_metadata("five")["inputs"][0]["shape"] == [-1, 5, 16, 16, 3]


def test_the_configuration_says_how_to_make_a_frame_and_which_classes_there_are(client) -> None:
    config = client.get_model_config("color")
    assert config["max_batch_size"] == 1024
    assert config["input"] == [{"name": "clips", "data_type": "TYPE_UINT8", "dims": [-1, 16, 16, 3]}]
    told = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert json.loads(told["input"])["resize"] == {"rule": "squash"}
    assert json.loads(told["sampling"])["frames"] == 4
    assert told["labels"].split("\n") == ["red", "green", "blue"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_clips_are_answered_alike_in_words_and_in_bytes(client, binary_in: bool, binary_out: bool) -> None:
    given = clips()
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("attention", "probabilities")]
    result = client.infer("color", [tensor(given, binary=binary_in)], outputs=wanted, request_id="order 66")
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("order 66", "color", "1.0.0")
    assert answer["parameters"]["engine"] == "openvino"
    assert [output["name"] for output in answer["outputs"]] == ["attention", "probabilities"]
    np.testing.assert_allclose(result.as_numpy("probabilities"), color_probabilities(given), atol=1e-5)
    assert result.as_numpy("attention").shape == (2, 3)
    assert result.as_numpy("attention").dtype == np.float32


def test_every_output_comes_where_none_is_named(client) -> None:
    given = clips(count=3, frames=4)
    result = client.infer("motion", [tensor(given)])
    for name, expected in said(given).items():
        np.testing.assert_allclose(result.as_numpy(name), expected, atol=1e-5)


def test_encoder_and_head_together_are_the_whole(client) -> None:
    given = clips(count=2, frames=5)
    frames = tensor(given.reshape(-1, 16, 16, 3), name="frames")
    features = client.infer("color.encoder", [frames]).as_numpy("features")
    assert features.shape == (10, 3)
    apart = client.infer("color.head", [tensor(features.reshape(2, 5, 3), name="features")])
    whole = client.infer("color", [tensor(given)])
    for name in ("probabilities", "attention"):
        np.testing.assert_array_equal(apart.as_numpy(name), whole.as_numpy(name))


def test_more_rows_than_the_largest_batch_are_cut_and_joined(client) -> None:
    given = clips(count=100, frames=3)
    result = client.infer("color", [tensor(given)])
    np.testing.assert_allclose(result.as_numpy("probabilities"), color_probabilities(given), atol=1e-5)
    fixed = clips(count=70, frames=5)
    np.testing.assert_allclose(
        client.infer("five", [tensor(fixed)]).as_numpy("probabilities"), said(fixed)["probabilities"], atol=1e-5
    )


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(client, algorithm: str) -> None:
    given = clips(count=40, frames=8)
    result = client.infer(
        "color", [tensor(given)], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), color_probabilities(given), atol=1e-5)
    body, size = triton.InferenceServerClient.generate_request_body([tensor(given)])
    response = client._post(
        "v2/models/color/infer", body, {"Inference-Header-Content-Length": size, "Accept-Encoding": algorithm}, None
    )
    assert response.get("Content-Encoding") == algorithm


@pytest.mark.parametrize("binary", [True, False])
def test_the_classification_extension_gives_the_best_classes_with_their_labels(client, binary: bool) -> None:
    given = clips(count=2)
    given[0, ..., 2], given[1, ..., 0] = 255, 255
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    found = client.infer("color", [tensor(given)], outputs=[wanted]).as_numpy("probabilities")
    assert found.shape == (2, 2)
    words = [[item.decode() if binary else item for item in row] for row in found]
    expected = color_probabilities(given)
    for row, probabilities in zip(words, expected, strict=True):
        value, index, label = row[0].split(":")
        assert (int(index), label) == (probabilities.argmax(), ("red", "green", "blue")[probabilities.argmax()])
        assert float(value) == pytest.approx(probabilities.max(), abs=1e-5)
    many = triton.InferRequestedOutput("probabilities", class_count=99)
    assert client.infer("color", [tensor(given)], outputs=[many]).as_numpy("probabilities").shape == (2, 3)


def test_many_requests_at_once_get_each_its_own_answer(client) -> None:
    given = [clips(count=1 + number % 3, frames=1 + number % 5) for number in range(24)]
    pending = [client.async_infer("color", [tensor(each)]) for each in given]
    for each, request in zip(given, pending, strict=True):
        np.testing.assert_allclose(request.get_result().as_numpy("probabilities"), color_probabilities(each), atol=1e-5)


@pytest.mark.timeout(30)
async def test_the_asyncio_client_is_served_too(aio) -> None:
    assert await aio.is_server_ready()
    assert (await aio.get_model_metadata("color"))["name"] == "color"
    given = clips()
    for compression in (None, "gzip"):
        result = await aio.infer("color", [tensor(given)], request_compression_algorithm=compression)
        np.testing.assert_allclose(result.as_numpy("probabilities"), color_probabilities(given), atol=1e-5)
    with pytest.raises(triton.InferenceServerException, match="there is no model 'nothing'"):
        await aio.infer("nothing", [tensor(given)])


@pytest.mark.parametrize(
    ("model", "array", "name", "saying"),
    [
        ("color", clips(side=8), "clips", r"has the shape \[2, 3, 8, 8, 3\], this model takes \[-1, -1, 16, 16, 3\]"),
        ("color", clips()[0], "clips", r"has the shape \[3, 16, 16, 3\]"),
        ("color", clips(frames=9), "clips", "clips of 9 frames, this model takes up to 8"),
        ("five", clips(frames=4), "clips", r"has the shape \[2, 4, 16, 16, 3\], this model takes \[-1, 5, 16, 16, 3\]"),
        ("color", clips(), "frames", "the inputs are 'frames'; 'color' takes one, 'clips'"),
        ("color", clips().astype(np.float32), "clips", "datatype 'FP32'; send UINT8"),
        ("color.encoder", clips(), "frames", r"this model takes \[-1, 16, 16, 3\]"),
        ("color.head", np.zeros((1, 9, 3), np.float32), "features", "clips of 9 frames"),
        ("motion.head", clips(), "clips", "'motion' is one network, it has no head apart"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(client, model: str, array, name: str, saying: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=saying) as caught:
        client.infer(model, [tensor(array, name=name)])
    assert caught.value.status() in ("404", "422")


def test_unknown_outputs_versions_and_sequences_are_refused(client) -> None:
    for arguments, status, saying in (
        ({"outputs": [triton.InferRequestedOutput("logits")]}, "422", "'logits'; 'color' has probabilities, attention"),
        ({"model_version": "2"}, "404", "there is no model 'color:2'"),
        ({"sequence_id": 5}, "422", "no model here keeps state"),
        ({"timeout": 10**9}, "422", "send microseconds up to 600000000"),
    ):
        with pytest.raises(triton.InferenceServerException, match=saying) as caught:
            client.infer("color", [tensor(clips())], **arguments)
        assert caught.value.status() == status


def test_a_deadline_in_microseconds_is_kept_to(client) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("color", [tensor(clips())], timeout=1)
    assert caught.value.status() == "504"
    assert (
        client.infer("color", [tensor(clips())], timeout=10_000_000, priority=2).as_numpy("probabilities") is not None
    )


def test_statistics_count_requests_rows_and_batches(client) -> None:
    def counted() -> tuple[int, int, int, int]:
        (stats,) = client.get_inference_statistics("color.encoder", "1.0.0")["model_stats"]
        inside = stats["inference_stats"]
        assert inside["success"]["ns"] >= inside["queue"]["ns"] + inside["compute_infer"]["ns"]
        return stats["inference_count"], stats["execution_count"], inside["success"]["count"], inside["fail"]["count"]

    before = counted()
    for _ in range(2):
        client.infer("color.encoder", [tensor(clips()[0], name="frames")])
    with pytest.raises(triton.InferenceServerException):
        client.infer("color.encoder", [tensor(clips(), name="frames")])
    assert np.subtract(counted(), before).tolist() == [6, 2, 2, 1]
    everything = client.get_inference_statistics()["model_stats"]
    assert {stats["name"] for stats in everything} == {"color", "color.encoder", "color.head", "motion", "five"}


@pytest.fixture(scope="module")
def shipped(serve: Callable[..., object]) -> Iterator[object]:
    with serve() as running:  # type: ignore[attr-defined]
        yield running


@pytest.mark.data
def test_a_clip_that_was_decoded_elsewhere_gets_the_answer_that_its_file_gets(shipped, data: Path) -> None:
    """To the last bit, since both go through the same engine; the answer over JSON is rounded to six digits."""
    file = data / "surveillance_fight" / "videos" / "fight" / "fi031.mp4"
    manifest = shipped.client.get("/models/fight").json()["manifest"]
    decoded = decode_video(
        file.read_bytes(),
        spec=Input.model_validate(manifest["input"]),
        plan=Sampling.model_validate(manifest["sampling"]),
        limits=Limits(),
    )
    asked = shipped.post("/classify/video", file.read_bytes()).json()
    with triton.InferenceServerClient(shipped.url.removeprefix("http://")) as client:
        result = client.infer("fight", [tensor(decoded.clip.frames[None])])
    found = result.as_numpy("probabilities")[0]
    assert result.get_response()["parameters"]["precision"] == asked["model"]["precision"] == "int8"
    for prediction in asked["predictions"]:
        assert round(float(found[prediction["class_id"]]), 6) == prediction["probability"]


def test_nobody_waits_while_a_clip_in_words_is_read(shipped) -> None:
    """25 MB of numbers: parsed in one piece they would hold up everybody for a second."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 160, 224, 3), np.uint8)
    numbers = ",".join(map(str, pixels.ravel().tolist()))
    said = json.dumps({"name": "clips", "datatype": "UINT8", "shape": pixels.shape})
    body = f'{{"inputs": [{said[:-1]}, "data": [{numbers}]}}]}}'.encode()
    answers: list[httpx.Response] = []
    work = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{shipped.url}/v2/models/fight/infer", content=body, timeout=60))
    )
    shipped.client.get("/health/live")
    work.start()
    waits = []
    while work.is_alive():
        began = time.monotonic()
        assert shipped.client.get("/health/live").status_code == 200
        waits.append(time.monotonic() - began)
    work.join()
    with triton.InferenceServerClient(shipped.url.removeprefix("http://")) as client:
        expected = client.infer("fight", [tensor(pixels)]).as_numpy("probabilities")
    np.testing.assert_array_equal(np.array([answers[0].json()["outputs"][0]["data"]], np.float32), expected)
    # Against the time that reading took, which grows as they do where others keep the machine busy.
    read_ms = float(answers[0].headers["server-timing"].split("read;dur=")[1].split(",")[0])
    assert len(waits) > 20
    assert max(waits) < read_ms / 1000 / 2
