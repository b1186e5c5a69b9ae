"""Clip networks over a real server: one network for the whole clip, in one run; and what says when and where."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
from onnx import helper

from service.bundle.manifest import Grid, Input, Network, Sampling, Step, Tensor
from service.bundle.store import Bundle, rewrite_bundle, sha256
from service.media.decode import decode_video
from service.media.frames import Windows
from service.media.limits import Limits
from service.postprocess import Crf
from tests.clip_bundle import LABELS, SIDE, make_clip_bundle, said
from tests.conftest import make_color_bundle

Make = Callable[..., bytes]
Answer = dict[str, Any]
GRID = Grid(rows=2, columns=2, order="boustrophedon", background="green")
CHAIN = Crf(1.0, np.zeros(5), 3 * np.eye(5))  # neighbours like to agree


@pytest.fixture(scope="module")
def served(serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """`motion` takes any length and says where; `fixed` takes four frames and says when; `still` takes one, images too;
    `steps` is an encoder and a head that says when; `where` is `motion` with a grid and a chain over its places.
    """
    folder = tmp_path_factory.mktemp("clips")
    bundles = [
        make_clip_bundle(folder / "motion", positions="places", int8=4, sampling=Sampling(frames=4, max_frames=32)),
        make_clip_bundle(folder / "fixed", name="fixed", frames=4, positions="steps"),
        make_clip_bundle(folder / "still", name="still", frames=3, tasks=("image",), positions="steps"),
        color_with_steps(folder / "steps"),
        make_clip_bundle(
            folder / "where",
            name="where",
            positions="places",
            network=Network(kind="clip", attention=True, positions=True, grid=GRID),
            postprocess=(Step(name="crf", parameters=CHAIN.parameters()),),
        ),
    ]
    with serve(*(str(bundle.path) for bundle in bundles)) as running:
        yield running


def color_with_steps(path: Path) -> Bundle:
    """The color bundle, whose head also says what it sees at each step."""
    made = make_color_bundle(path, name="steps", network=Network(feature_dim=3, attention=True, positions=True))
    head = onnx.load(made.file("head"))
    head.graph.node.extend(
        [
            helper.make_node("Mul", ["features", "sharpness"], ["each"]),
            helper.make_node("Softmax", ["each"], ["positions"], axis=-1),
        ]
    )
    head.graph.output.append(helper.make_tensor_value_info("positions", onnx.TensorProto.FLOAT, ["B", "T", 3]))
    data = head.SerializeToString()
    entry = made.manifest.artifacts["head"]
    outputs = (*entry.outputs, Tensor(name="positions", dtype="float32", shape=("B", "T", 3)))
    changed = entry.model_copy(update={"sha256": sha256(data), "bytes": len(data), "outputs": outputs})
    artifacts = {**made.manifest.artifacts, "head": changed}
    return rewrite_bundle(made, made.manifest.model_copy(update={"artifacts": artifacts}), {"head.onnx": data})


def frames_of(video: bytes, plan: Sampling | Windows) -> np.ndarray:
    """What the server's own decoder gives: `[T, 16, 16, 3]`."""
    return decode_video(video, spec=Input(height=SIDE, width=SIDE), plan=plan, limits=Limits()).clip.frames


def labels(answer: Answer) -> list[str]:
    return [found["label"] for found in answer["predictions"]]


def shares(answer: Answer, names: tuple[str, ...] = LABELS) -> list[float]:
    found = {each["label"]: each["probability"] for each in answer["predictions"]}
    return [found[name] for name in names]


def halves(left: str, right: str) -> bytes:
    """A picture of two colours."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, ("blue", "green", "red").index(left)] = 255
    pixels[:, 32:, ("blue", "green", "red").index(right)] = 255
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("model", ["motion", "fixed"])
def test_the_order_of_the_frames_is_seen(served, make_video: Make, model: str) -> None:
    for colors, expected in ((("red", "blue"), "turns blue"), (("blue", "red"), "was blue"), (("green",), "green")):
        response = served.post("/classify/video", make_video(*colors), model=model)
        assert response.status_code == 200, response.text
        assert labels(response.json())[0] == expected


def test_an_answer_has_the_networks_own_numbers_and_says_what_ran(served, make_video: Make) -> None:
    video = make_video("red", "blue")
    answer = served.post("/classify/video", video, model="fixed").json()
    expected = {name: rows[0] for name, rows in said(frames_of(video, Sampling(frames=4))[None]).items()}
    assert shares(answer) == pytest.approx(expected["probabilities"], abs=1e-4)
    weights = [frame["weight"] for frame in answer["sampling"]["frames"]]
    assert weights == pytest.approx(expected["attention"], abs=1e-4)
    assert answer["model"] | {"device": ""} == {
        "name": "fixed", "version": "1.0.0", "engine": "openvino", "precision": "fp32", "float_precision": "fp32", "device": "",
    }  # fmt: skip
    assert answer["batch_size"] == 4, "frames that ran together"
    assert answer["timings_ms"]["encode"] > 0
    assert answer["timings_ms"]["head"] == 0
    assert answer["warnings"] == []


def test_int8_is_what_runs_where_the_bundle_holds_it(served, make_video: Make) -> None:
    model = served.post("/classify/video", make_video("red"), model="motion").json()["model"]
    assert (model["precision"], model["float_precision"]) == ("int8", "fp32")


@pytest.mark.parametrize("model", ["fixed", "steps"])
def test_a_model_that_says_when_has_predictions_for_each_sampled_frame(served, make_video: Make, model: str) -> None:
    video = make_video("red", "green", "blue")
    answer = served.post("/classify/video", video, model=model).json()
    moments = answer["positions"]
    sampled = answer["sampling"]["frames"]
    assert [(each["index"], each["time_s"]) for each in moments] == [(f["index"], f["time_s"]) for f in sampled]
    assert set(moments[0]) == {"index", "time_s", "predictions"}
    if model == "steps":
        assert [labels(each)[0] for each in moments] == ["red", "green", "green", "blue"]
    else:
        rows = said(frames_of(video, Sampling(frames=4))[None])["positions"][0]
        assert [shares(each) for each in moments] == [pytest.approx(row, abs=1e-4) for row in rows]
    few = served.post("/classify/video", video, model=model, top_k=1).json()
    assert [len(each["predictions"]) for each in few["positions"]] == [1] * 4


@pytest.mark.parametrize("frames", [3, 4, 8])  # there are four places, too
def test_a_model_that_says_where_has_predictions_for_each_place(served, make_video: Make, frames: int) -> None:
    video = make_video("red", "blue")
    answer = served.post("/classify/video", video, model="motion", frames=frames).json()
    assert len(answer["sampling"]["frames"]) == frames
    rows = said(frames_of(video, Sampling(frames=frames))[None], where="places")["positions"][0]
    assert [set(each) for each in answer["positions"]] == [{"position", "predictions"}] * 4
    assert [each["position"] for each in answer["positions"]] == [0, 1, 2, 3]
    assert [shares(each) for each in answer["positions"]] == [pytest.approx(row, abs=0.02) for row in rows]


def test_an_image_is_a_clip_of_one_frame(served) -> None:
    answer = served.post("/classify/image", halves("red", "blue"), model="motion").json()
    assert answer["batch_size"] == 1
    assert shares(answer)[0] == pytest.approx(shares(answer)[2], abs=0.05)
    assert [labels(each)[0] for each in answer["positions"]] == ["red", "blue", "red", "blue"]
    assert not {"video", "sampling", "segments"} & set(answer)


def test_an_image_is_repeated_for_a_network_of_fixed_length_and_the_answer_says_so(served) -> None:
    answer = served.post("/classify/image", halves("green", "green"), model="still").json()
    frames = np.zeros((1, 3, SIDE, SIDE, 3), np.uint8)
    frames[..., 1] = 255
    assert shares(answer) == pytest.approx(said(frames)["probabilities"][0], abs=1e-4)
    assert answer["warnings"] == ["the model takes 3 frames and no other number: the image is repeated"]
    assert answer["batch_size"] == 3
    assert "positions" not in answer, "steps of one and the same frame"


def test_a_model_for_videos_takes_no_images_unless_its_manifest_says_so(served, make_picture: Make) -> None:
    refused = served.post("/classify/image", make_picture("red"), model="fixed")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
    assert "'fixed' does not classify images" in refused.json()["detail"]
    assert served.post("/classify/video", b"RIFF", model="still").status_code == 404


def test_a_network_of_fixed_length_takes_no_other_and_repeats_the_frames_of_a_short_clip(
    served, make_video: Make
) -> None:
    refused = served.post("/classify/video", make_video("red"), model="fixed", frames=8)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter")
    assert "takes 4 frames and no other number" in refused.json()["detail"]
    answer = served.post("/classify/video", make_video("red", "blue", frames=1), model="fixed").json()
    assert [frame["index"] for frame in answer["sampling"]["frames"]] == [0, 0, 1, 1]
    assert [moment["index"] for moment in answer["positions"]] == [0, 0, 1, 1]
    assert answer["warnings"] == ["the model takes 4 frames and no other number: the video's 2 frames are repeated"]
    assert labels(answer)[0] == "turns blue"


@pytest.mark.parametrize(("model", "frames"), [("motion", 5), ("fixed", None), ("steps", 5)])
def test_every_window_has_its_own_frames_and_no_positions(
    served, make_video: Make, model: str, frames: int | None
) -> None:
    video = make_video("red", "blue", "green", "blue", frames=5)
    asked = {"frames": frames} if frames else {}
    answer = served.post("/classify/video", video, model=model, window_s=1, stride_s=0.5, merge=False, **asked).json()
    plan = Windows(window_s=1, stride_s=0.5, frames=frames or 4)
    clip = decode_video(video, spec=Input(height=SIDE, width=SIDE), plan=plan, limits=Limits()).clip
    assert len(answer["segments"]) == len(clip.windows) == 3
    assert "positions" not in answer
    if model == "steps":
        assert [set(labels(segment)[:2]) for segment in answer["segments"]] == [
            {"red", "blue"},
            {"blue", "green"},
            {"green", "blue"},
        ]
        return
    whole = [clip.frames[window.first : window.first + window.count] for window in clip.windows]
    expected = [said(frames[None])["probabilities"][0] for frames in whole]
    found = [shares(segment) for segment in answer["segments"]]
    assert found == [pytest.approx(row, abs=0.02) for row in expected]
    assert shares(answer) == pytest.approx(np.mean(found, axis=0), abs=1e-4)


@pytest.mark.parametrize("model", ["motion", "fixed", "steps"])
def test_a_job_answers_what_the_same_windows_are_answered_at_once(served, make_video: Make, model: str) -> None:
    """Also where a window has fewer frames than the network's fixed length."""
    for video in (make_video("red", "blue", "green", "blue"), make_video("red", "blue", "green", frames=3, fps=3)):
        query = {"model": model, "window_s": 1, "stride_s": 0.5, "merge": False}
        at_once = served.post("/classify/video", video, **query).json()["segments"]
        job = served.post("/jobs", video, **query).headers["location"]
        while (answer := served.client.get(job).json())["state"] in ("queued", "running"):
            pass
        assert answer["state"] == "done", answer
        found = served.client.get(f"{job}/segments").json()["segments"]
        names = ("red", "green", "blue") if model == "steps" else LABELS
        assert len(found) == len(at_once) > 1
        assert [shares(each, names) for each in found] == [
            pytest.approx(shares(each, names), abs=1e-4) for each in at_once
        ]


def test_windows_of_too_few_frames_are_repeated_where_the_length_is_fixed(served, make_video: Make) -> None:
    video = make_video("red", "blue", "green", frames=3, fps=3)
    answer = served.post("/classify/video", video, model="fixed", window_s=1).json()
    assert [labels(segment)[0] for segment in answer["segments"]] == ["red", "blue", "green"]


def test_windows_of_different_lengths_come_back_in_their_order(served, make_video: Make) -> None:
    video = make_video("red", "green", "blue", frames=3, fps=3)
    answer = served.post("/classify/video", video, model="motion", window_s=1.1, stride_s=0.5, frames=8)
    assert answer.status_code == 200, answer.text
    seen = [labels(segment)[0] for segment in answer.json()["segments"]]
    assert seen[0] == "red"
    assert seen[-1] in ("blue", "turns blue")
    assert "green" in seen


def test_more_windows_than_a_request_may_ask_for_are_refused(served, make_video: Make) -> None:
    video = make_video("red", frames=1000)
    refused = served.post("/classify/video", video, model="motion", window_s=3.2, stride_s=0.1, frames=32)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter")
    assert "windows hold 31008 frames in all, 16384 are allowed; raise stride_s" in refused.json()["detail"]


async def test_clips_of_different_lengths_at_the_same_time_each_get_their_own_answer(served, make_video: Make) -> None:
    videos = {colors: make_video(*colors) for colors in (("red", "blue"), ("blue", "red"), ("green",), ("red",))}
    asked = list(itertools.islice(itertools.product(videos, (2, 3, 4, 8)), 16)) * 2
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    "/classify/video", files={"file": videos[colors]}, params={"model": "motion", "frames": frames}
                )
                for colors, frames in asked
            )
        )
    for (colors, frames), answer in zip(asked, answers, strict=True):
        expected = said(frames_of(videos[colors], Sampling(frames=frames))[None])["probabilities"][0]
        assert shares(answer.json()) == pytest.approx(expected, abs=0.02), (colors, frames)


def test_the_api_describes_positions(served) -> None:
    schemas = served.client.get("/openapi.json").json()["components"]["schemas"]
    for answer in ("VideoClassified", "ImageClassified"):
        positions = schemas[answer]["properties"]["positions"]
        assert "says when or where" in positions["description"]
        kinds = {kind["items"]["$ref"].rpartition("/")[2] for kind in positions["anyOf"] if kind["type"] == "array"}
        assert kinds == {"Moment", "Place"}
    assert set(schemas["Moment"]["properties"]) == {"index", "time_s", "predictions"}
    assert set(schemas["Place"]["properties"]) == {"position", "row", "column", "predictions"}


def test_a_model_with_a_grid_says_in_which_cell_each_place_lies_after_its_chain(served) -> None:
    picture = halves("red", "blue")
    answer = served.post("/classify/image", picture, model="where").json()
    assert answer["grid"] == {
        "rows": 2,
        "columns": 2,
        "order": "boustrophedon",
        "background": "green",
        "resize": "squash",
    }
    assert [(each["row"], each["column"]) for each in answer["positions"]] == [(0, 0), (0, 1), (1, 1), (1, 0)]
    pixels = cv2.resize(cv2.imdecode(np.frombuffer(picture, np.uint8), 1), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    network = said(pixels[None, None, ..., ::-1], where="places")
    chained = CHAIN.marginals(network["positions"])[0]
    assert np.abs(chained - network["positions"][0]).max() > 0.1
    for each, row in zip(answer["positions"], chained, strict=True):
        assert shares(each) == pytest.approx(row, abs=1e-4)
    assert shares(answer) == pytest.approx(network["probabilities"][0], abs=1e-4)
