"""The service as a user runs it: the shipped bundles, a real process, real and hostile files."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles

import httpx
import psutil
import pytest

from tests.calm import fairly


@pytest.fixture(scope="module")
def shipped(serve: Callable[..., object]) -> Iterator[object]:
    with serve() as running:  # type: ignore[attr-defined]
        yield running


def memory(process: subprocess.Popen[str]) -> int:
    """Bytes that the server and its decoders hold for themselves."""
    root = psutil.Process(process.pid)
    return sum(each.memory_full_info().uss for each in [root, *root.children(recursive=True)])


def test_both_shipped_bundles_run_in_int8_and_prove_their_golden_clips(shipped) -> None:
    models = {model["name"]: model for model in shipped.client.get("/models").json()["models"]}
    assert set(models) == {"fight", "imagenet"}
    for name, model in models.items():
        assert (model["engine"], model["precision"]) == ("openvino", "int8")
        whole = shipped.client.get(f"/models/{name}").json()
        assert whole["golden_difference"] <= whole["manifest"]["golden"]["tolerance"]["int8"]


def test_the_service_is_ready_within_five_seconds(serve) -> None:
    def start() -> str:
        began = time.monotonic()
        with serve():
            spent = time.monotonic() - began
        return "" if spent < 5 else f"ready after {spent:.1f} s"

    fairly(start)


@pytest.mark.data
def test_photos_are_recognised(shipped, data: Path) -> None:
    for name, label in (("n01443537_goldfish", "goldfish"), ("n01491361_tiger_shark", "tiger shark")):
        content = (data / "imagenet_photos" / "images" / f"{name}.jpg").read_bytes()
        answer = shipped.post("/classify/image", content, top_k=1).json()
        assert answer["predictions"][0]["label"] == label
        assert answer["model"]["name"] == "imagenet"
    assert len(shipped.post("/classify/image", content).json()["predictions"]) == 5
    assert len(shipped.post("/classify/image", content, top_k=0).json()["predictions"]) == 1000


@pytest.mark.data
def test_a_video_goes_to_fight_by_default_and_to_imagenet_by_name(shipped, data: Path) -> None:
    content = (data / "surveillance_fight" / "videos" / "fight" / "fi031.mp4").read_bytes()
    answer = shipped.post("/classify/video", content).json()
    assert answer["model"]["name"] == "fight"
    assert {each["label"] for each in answer["predictions"]} == {"fight", "no_fight"}
    assert sum(each["probability"] for each in answer["predictions"]) == pytest.approx(1, abs=1e-3)
    other = shipped.post("/classify/video", content, model="imagenet", frames=4).json()
    assert other["model"]["name"] == "imagenet"
    assert len(other["sampling"]["frames"]) == 4


@pytest.mark.data
def test_a_job_answers_of_a_real_clip_what_the_same_windows_are_answered_at_once(shipped, data: Path) -> None:
    content = (data / "hostile_videos" / "made" / "long_110s.mp4").read_bytes()
    query = {"model": "fight", "window_s": 2, "stride_s": 1, "frames": 8}
    at_once = shipped.post("/classify/video", content, **query).json()
    job = shipped.post("/jobs", content, **query).headers["location"]
    while (answer := shipped.client.get(job).json())["state"] in ("queued", "running"):
        pass
    assert answer["state"] == "done", answer
    found = shipped.client.get(f"{job}/result").json()
    assert found["video"] == at_once["video"]
    assert len(found["segments"]) == len(at_once["segments"]) > 1
    for mine, theirs in zip(found["segments"], at_once["segments"], strict=True):
        assert [mine[name] for name in ("start_s", "end_s", "windows")] == [
            theirs[name] for name in ("start_s", "end_s", "windows")
        ]
        for one, other in zip(mine["predictions"], theirs["predictions"], strict=True):
            assert one["label"] == other["label"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


@pytest.mark.data
def test_the_service_stays_alive_and_quick_while_a_long_video_is_classified(shipped, data: Path) -> None:
    content = (data / "hostile_videos" / "made" / "long_110s.mp4").read_bytes()

    def ask_all_the_while() -> str:
        answers: list[httpx.Response] = []
        # Its own client: httpx.Client shares one pool, and this test measures the server.
        work = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{shipped.url}/classify/video", files={"file": content}, timeout=60)
            )
        )
        shipped.client.get("/health/live")
        work.start()
        waits = []
        while work.is_alive():
            began = time.monotonic()
            assert shipped.client.get("/health/live").status_code == 200
            waits.append(time.monotonic() - began)
        work.join()
        assert answers[0].json()["video"]["frames_decoded"] == 3348
        assert len(waits) > 20
        slow = quantiles(waits, n=100)[98]
        return "" if slow < 0.05 else f"99 % of the answers came within {slow * 1000:.0f} ms"

    fairly(ask_all_the_while, ours=[shipped.process.pid])


@pytest.mark.data
@pytest.mark.parametrize(
    ("query", "saying"),
    [
        (
            {"window_s": 1, "frames": 8, "stride_s": 0.125, "top_k": 0, "merge": False},
            "10000 are allowed in one answer",
        ),
        ({"window_s": 8, "frames": 64, "stride_s": 0.125}, "16384 are allowed"),
    ],
)
def test_answers_that_would_hold_up_everybody_else_are_refused(shipped, data: Path, query, saying: str) -> None:
    content = (data / "hostile_videos" / "made" / "long_110s.mp4").read_bytes()
    response = shipped.post("/classify/video", content, model="imagenet", **query)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter"), response.text[:300]
    assert saying in response.json()["detail"]


@pytest.mark.data
@pytest.mark.timeout(600)
def test_every_hostile_video_in_a_row_draws_no_5xx_and_no_memory(shipped, data: Path) -> None:
    folder = data / "hostile_videos"
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shipped.post("/classify/video", (folder / "made" / "h264.mp4").read_bytes())
    before = memory(shipped.process)
    for row in rows:
        response = shipped.post("/classify/video", (folder / row["path"]).read_bytes())
        decodable = int(row["cv_frames"]) > 0 and row["path"] != "made/jpeg_named.mp4"
        assert response.status_code == 200 if decodable else 400 <= response.status_code < 500, (
            row["path"],
            response.text,
        )
        if response.status_code == 200:
            assert response.json()["video"]["frames_decoded"] == int(row["cv_frames"]), row["path"]
        else:
            assert response.headers["content-type"] == "application/problem+json"
    assert memory(shipped.process) - before < 200 * 2**20
    assert shipped.post("/classify/video", (folder / "made" / "h264.mp4").read_bytes()).status_code == 200


@pytest.mark.data
def test_sigterm_answers_what_was_accepted_and_exits_with_zero(serve, data: Path) -> None:
    content = (data / "hostile_videos" / "made" / "long_110s.mp4").read_bytes()
    answers: list[httpx.Response] = []
    with serve() as running:
        work = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{running.url}/classify/video", files={"file": content}, timeout=60)
            )
        )
        work.start()
        while "marey_requests_active 1.0" not in running.client.get("/metrics").text:
            pass
        running.process.send_signal(signal.SIGTERM)
        work.join()
        assert running.process.wait(timeout=30) == 0
    assert answers[0].status_code == 200


def test_ctrl_c_is_an_orderly_stop_too(serve) -> None:
    with serve() as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=30) == 0


def test_a_stopped_server_leaves_no_process_behind(serve) -> None:
    with serve() as running:
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_decoders_do_not_outlive_a_killed_server(serve) -> None:
    with serve(exit_code=-signal.SIGKILL) as running:
        children = psutil.Process(running.process.pid).children(recursive=True)
        running.process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def marey(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.data
def test_files_are_classified_without_a_server_and_with_one_alike(shipped, data: Path) -> None:
    photo = data / "imagenet_photos" / "images" / "n01443537_goldfish.jpg"
    clip = data / "surveillance_fight" / "videos" / "fight" / "fi031.mp4"
    alone, asked = (
        marey("classify", photo, clip, "--json"),
        marey("classify", photo, clip, "--json", "--url", shipped.url),
    )
    assert alone.returncode == asked.returncode == 0, alone.stderr + asked.stderr
    for mine, theirs in zip(json.loads(alone.stdout), json.loads(asked.stdout), strict=True):
        assert mine["predictions"] == theirs["predictions"]
        assert mine["model"] == theirs["model"]
    assert "goldfish" in marey("classify", photo).stdout


@pytest.mark.data
def test_a_video_is_told_in_windows_as_captions_and_as_a_table(shipped, data: Path) -> None:
    clip = data / "surveillance_fight" / "videos" / "fight" / "fi031.mp4"
    asked = ("--url", shipped.url, "--window-s", 1, "--frames", 8)
    vtt, table, text = (marey("classify", clip, *asked, *kind) for kind in (("--vtt",), ("--csv",), ()))
    assert vtt.stdout.startswith("WEBVTT\n\nNOTE fight ")
    assert "00:00:00.000 --> 00:00:0" in vtt.stdout
    rows = list(csv.DictReader(table.stdout.splitlines()))
    assert {row["label"] for row in rows} == {"fight", "no_fight"}
    assert (rows[0]["start_s"], rows[0]["rank"]) == ("0.0000", "1")
    assert " 0.00 to " in text.stdout
    refused = marey("classify", clip, clip, "--vtt", *asked)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "one file of one video" in refused.stderr


def test_files_at_fault_are_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    result = marey("classify", tmp_path / "text.jpg", tmp_path / "missing.png")
    assert result.returncode == 1
    assert "text.jpg: error: " in result.stdout
    assert "missing.png cannot be read: No such file" in result.stdout


def test_usage_errors_are_one_sentence_and_exit_code_two() -> None:
    for arguments, saying in (
        (("serve", "--port", "99999"), "less than or equal to 65535"),
        (("classify",), "FILE|CAMERA"),
        (("classify", "x", "--url", "http://127.0.0.1:1", "--engine", "openvino"), "leave --bundle, --engine"),
        (("serve", "--engine", "tensorflow"), "tensorflow"),
    ):
        result = marey(*arguments)
        assert result.returncode == 2, result
        assert saying in result.stderr
        assert "Traceback" not in result.stderr


def test_what_cannot_be_served_ends_with_exit_code_one_and_the_reason(tmp_path: Path) -> None:
    result = marey("serve", tmp_path, "--port", "0")
    assert result.returncode == 1
    assert "is no bundle: it has no manifest.json" in result.stderr
    named = marey("serve", "--engine", "onnxruntime", "--precision", "int8", "--port", "0")
    assert named.returncode == 1
    assert "onnxruntime runs the float graphs only, not int8" in named.stderr


def test_a_service_that_is_not_there_is_said_to_be_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    result = marey("classify", tmp_path / "a.jpg", "--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "no service answers at http://127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["imagenet", "fight"])
def test_a_shipped_bundle_can_be_inspected(name: str) -> None:
    folder = Path(__file__).parents[2] / "models" / "bundles" / name
    result = marey("inspect", folder)
    assert result.returncode == 0, result.stderr
    assert "every hash verified" in result.stdout
    assert "encoder.int8" in result.stdout
    assert json.loads(marey("inspect", folder, "--json").stdout)["name"] == name
