"""What the two endpoints answer, over a real server: the color bundle says what color it sees."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from service.bundle.manifest import Network, Sampling

Make = Callable[..., bytes]


@pytest.mark.parametrize("color", ["red", "green", "blue"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_an_image_is_seen_in_its_own_color(served, make_picture: Make, color: str, suffix: str) -> None:
    response = served.post("/classify/image", make_picture(color, suffix=suffix))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["predictions"][0]["label"] == color
    assert answer["predictions"][0]["probability"] > 0.9
    assert (answer["image"]["width"], answer["image"]["height"], answer["image"]["orientation"]) == (64, 48, 1)
    assert not {"video", "sampling", "segments"} & set(answer)


def test_an_answer_names_what_really_ran_and_where_the_time_went(served, make_picture: Make) -> None:
    response = served.post("/classify/image", make_picture("red"))
    answer = response.json()
    assert answer["model"] | {"device": ""} == {
        "name": "color",
        "version": "1.0.0",
        "engine": "openvino",
        "head_engine": "onnxruntime",
        "precision": "fp32",
        "float_precision": "fp32",
        "device": "",
    }
    assert answer["model"]["device"]
    assert set(answer["timings_ms"]) == {"read", "decode", "preprocess", "queue", "encode", "head", "total"}
    stages = sum(milliseconds for stage, milliseconds in answer["timings_ms"].items() if stage != "total")
    assert 0 < stages <= answer["timings_ms"]["total"] + 0.1
    assert answer["batch_size"] == 1
    assert response.headers["x-request-id"] == answer["request_id"]


def test_a_clients_own_request_id_is_kept(served, make_picture: Make) -> None:
    files = {"file": make_picture("red")}
    kept = served.client.post("/classify/image", files=files, headers={"X-Request-ID": "order-66"})
    assert kept.json()["request_id"] == kept.headers["x-request-id"] == "order-66"
    replaced = served.client.post("/classify/image", files=files, headers={"X-Request-ID": "a b\tc"})
    assert replaced.json()["request_id"] != "a b\tc"


def test_a_video_is_sampled_uniformly_over_its_whole_length(served, make_video: Make) -> None:
    response = served.post("/classify/video", make_video("green", frames=12))
    assert response.status_code == 200, response.text
    answer = response.json()
    # floor((i + 0.5) · n / T) with n = 12, T = 4
    assert [frame["index"] for frame in answer["sampling"]["frames"]] == [1, 4, 7, 10]
    assert [frame["time_s"] for frame in answer["sampling"]["frames"]] == pytest.approx([0.1, 0.4, 0.7, 1.0], abs=0.02)
    assert sum(frame["weight"] for frame in answer["sampling"]["frames"]) == pytest.approx(1, abs=1e-4)
    assert answer["sampling"]["strategy"] == "uniform"
    assert answer["video"] | {"duration_s": 0, "codec": ""} == {
        "duration_s": 0, "fps": 10.0, "width": 64, "height": 48, "codec": "", "frames_decoded": 12, "rotation": 0,
    }  # fmt: skip
    assert answer["video"]["duration_s"] == pytest.approx(1.2, abs=0.05)
    assert answer["video"]["codec"] == "mpeg4"
    assert answer["predictions"][0]["label"] == "green"
    assert "segments" not in answer
    assert answer["batch_size"] == 4


def test_every_part_of_a_video_counts(served, make_video: Make) -> None:
    shares = {
        p["label"]: p["probability"]
        for p in served.post("/classify/video", make_video("red", "blue")).json()["predictions"]
    }
    assert shares["red"] == pytest.approx(shares["blue"], abs=0.1)
    assert shares["green"] < 0.1


def test_a_client_chooses_how_many_frames(served, make_video: Make) -> None:
    answer = served.post("/classify/video", make_video("red", frames=12), frames=2).json()
    assert [frame["index"] for frame in answer["sampling"]["frames"]] == [3, 9]


def test_a_clip_shorter_than_asked_for_uses_each_frame_once(served, make_video: Make) -> None:
    answer = served.post("/classify/video", make_video("red", frames=3), frames=8).json()
    assert [frame["index"] for frame in answer["sampling"]["frames"]] == [0, 1, 2]


def test_windows_say_when_what_was_seen(served, make_video: Make) -> None:
    answer = served.post("/classify/video", make_video("red", "green", "blue"), window_s=1, frames=4).json()
    segments = answer["segments"]
    assert [segment["predictions"][0]["label"] for segment in segments] == ["red", "green", "blue"]
    assert all(
        later["start_s"] - earlier["start_s"] == pytest.approx(1, abs=0.01) for earlier, later in pairwise(segments)
    )
    assert answer["sampling"]["stride_s"] == 1
    assert answer["sampling"]["window_s"] == 1


def test_windows_that_say_the_same_are_one_segment_unless_every_window_is_asked_for(served, make_video: Make) -> None:
    video, query = make_video("red", "red", "blue", "blue"), {"window_s": 1, "stride_s": 0.5, "frames": 4}
    answer = served.post("/classify/video", video, **query).json()
    first, second = answer["segments"]
    assert (first["start_s"], second["end_s"]) == (0, pytest.approx(4, abs=0.01))
    assert first["end_s"] == second["start_s"]
    assert [each["predictions"][0]["label"] for each in (first, second)] == ["red", "blue"]
    # Windows begin at 0, 0.5 … 3; the one from 1.5 to 2.5 is half red and half blue.
    assert first["windows"] + second["windows"] == 7
    assert first["end_s"] in (pytest.approx(1.75, abs=0.01), pytest.approx(2.25, abs=0.01))
    every = served.post("/classify/video", video, merge=False, **query).json()
    assert [each["start_s"] for each in every["segments"]] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3], abs=0.01)
    assert {each["windows"] for each in every["segments"]} == {1}
    assert every["predictions"] == answer["predictions"]
    shares = [{each["label"]: each["probability"] for each in window["predictions"]} for window in every["segments"]]
    merged = {each["label"]: each["probability"] for each in first["predictions"]}
    reds = [window["red"] for window in shares[: first["windows"]]]
    assert merged["red"] == pytest.approx(sum(reds) / len(reds), abs=1e-5)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/vtt", "text/vtt; charset=utf-8"),
        ("application/json;q=0.5, text/csv", "text/csv; charset=utf-8; header=present"),
        ("text/*;q=0.9, text/csv;q=0.1", "text/vtt; charset=utf-8"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("text/vtt;q=0, */*", "application/json"),
        ("application/json;q=x, ;;q=, ,", "application/json"),
    ],
)
def test_the_client_says_which_form_it_would_rather_have(served, make_video: Make, accept: str, kind: str) -> None:
    files = {"file": make_video("red", "blue")}
    response = served.client.post("/classify/video?window_s=1", files=files, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == kind


def test_segments_can_be_had_as_webvtt_and_as_csv(served, make_video: Make) -> None:
    files = {"file": make_video("red", "blue")}
    vtt = served.client.post("/classify/video?window_s=1", files=files, headers={"Accept": "text/vtt"}).text
    blocks = vtt.rstrip("\n").split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert re.fullmatch(r"NOTE color 1\.0\.0 on openvino fp32, by Marey \S+", blocks[1])
    assert [block.split("\n")[0] for block in blocks[2:]] == [
        "00:00:00.000 --> 00:00:01.000",
        "00:00:01.000 --> 00:00:02.000",
    ]
    assert [block.split("\n")[1].split()[0] for block in blocks[2:]] == ["red", "blue"]
    text = served.client.post("/classify/video?top_k=2", files=files, headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["start_s"], row["end_s"], row["rank"]) for row in rows] == [
        ("0.0000", "2.0000", "1"),
        ("0.0000", "2.0000", "2"),
    ], "the whole video is one segment where no windows were asked for"
    assert {row["label"] for row in rows} == {"red", "blue"}


def test_a_refusal_is_a_problem_in_whatever_form_the_answer_was_wanted(served) -> None:
    response = served.client.post("/classify/video", files={"file": b"no video"}, headers={"Accept": "text/vtt"})
    assert (response.status_code, response.headers["content-type"]) == (415, "application/problem+json")


def test_the_stride_that_was_used_is_stated(served, make_video: Make) -> None:
    # Spacing is 1 s / 4 frames = 0.25 s: a stride of 0.6 s becomes 0.5 s.
    answer = served.post("/classify/video", make_video("red", "green"), window_s=1, frames=4, stride_s=0.6).json()
    assert answer["sampling"]["stride_s"] == 0.5


def test_top_k_limits_the_classes_and_zero_means_all(served, make_picture: Make) -> None:
    image = make_picture("red")
    assert [len(served.post("/classify/image", image, top_k=k).json()["predictions"]) for k in (0, 1, 2, 99)] == [
        3,
        1,
        2,
        3,
    ]
    assert len(served.post("/classify/image", image).json()["predictions"]) == 3


def test_a_model_is_named_with_or_without_its_version(served, make_picture: Make) -> None:
    for name in ("color", "color:1.0.0"):
        assert served.post("/classify/image", make_picture("red"), model=name).json()["model"]["name"] == "color"


def test_health_models_and_metrics_tell_what_runs(served, make_picture: Make) -> None:
    served.post("/classify/image", make_picture("red"))
    ready = served.client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["models"][0]["engine"] == "openvino"
    assert served.client.get("/health/live").json() == {"status": "live"}
    listed = served.client.get("/models").json()
    assert [model["name"] for model in listed["models"]] == ["color"]
    assert listed["limits"]["max_upload_bytes"] == 2**20
    whole = served.client.get("/models/color").json()
    assert whole["manifest"]["labels"] == ["red", "green", "blue"]
    assert whole["golden_difference"] <= 1e-4
    assert served.counted('marey_requests_total{code="ok",route="/classify/image",status="200"}') > 0
    assert served.counted('marey_stage_seconds_count{model="color",stage="encode"}') > 0
    assert served.counted("marey_ready") >= 1


def test_the_api_describes_itself(served) -> None:
    paths = served.client.get("/openapi.json").json()["paths"]
    assert {"/classify/image", "/classify/video", "/health/live", "/health/ready", "/models", "/models/{name}"} <= set(
        paths
    )
    body = paths["/classify/video"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["file"]["format"] == "binary"
    assert served.client.get("/docs").status_code == 200


async def test_clients_at_the_same_time_each_get_their_own_answer(served, make_picture: Make) -> None:
    colors = ["red", "green", "blue"] * 12
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post("/classify/image", files={"file": make_picture(color)}) for color in colors)
        )
    assert [answer.json()["predictions"][0]["label"] for answer in answers] == colors


def test_windows_of_a_video_with_few_frames_a_second_may_differ_in_length(served, make_video: Make) -> None:
    video = make_video("red", "green", "blue", frames=3, fps=3)
    answer = served.post("/classify/video", video, window_s=1.1, stride_s=0.5, frames=8)
    assert answer.status_code == 200, answer.text
    labels = [segment["predictions"][0]["label"] for segment in answer.json()["segments"]]
    assert labels[0] == "red"
    assert labels[-1] == "blue"
    assert "green" in labels


def test_a_window_longer_than_the_video_is_the_whole_video(served, make_video: Make) -> None:
    answer = served.post("/classify/video", make_video("red", frames=12), window_s=60, frames=4).json()
    assert [frame["index"] for frame in answer["sampling"]["frames"]] == [1, 4, 7, 10]
    (segment,) = answer["segments"]
    assert (segment["start_s"], segment["end_s"]) == (0, pytest.approx(1.2, abs=0.01))


def test_a_network_of_fixed_length_repeats_frames_and_says_so(
    make_bundle, serve, make_video: Make, tmp_path: Path
) -> None:
    fixed = make_bundle(
        tmp_path / "fixed",
        tasks=("video",),
        network=Network(feature_dim=3, attention=True, static_frames=4),
        sampling=Sampling(frames=4, short_clip="repeat"),
    )
    with serve(str(fixed.path)) as running:
        answer = running.post("/classify/video", make_video("red", frames=2)).json()
        assert [frame["index"] for frame in answer["sampling"]["frames"]] == [0, 0, 1, 1]
        refused = running.post("/classify/video", make_video("red"), frames=8)
        assert refused.status_code == 422
        assert "takes 4 frames and no other number" in refused.json()["detail"]
        windows = running.post("/classify/video", make_video("red", "blue", frames=3, fps=3), window_s=1)
        assert [each["predictions"][0]["label"] for each in windows.json()["segments"]] == ["red", "blue"]
