"""`marey plan`: a real measurement in seconds, the file between its two stages, the report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from service.bundle.store import Bundle
from service.cli import main
from service.plan.figures import Figures, Measured, read_figures
from service.plan.processes import children, family_s, main_thread_s, memory_bytes, process_s


def plan(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["plan", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def written(figures: Figures, tmp_path: Path) -> Path:
    path = tmp_path / "figures.json"
    path.write_text(figures.model_dump_json())
    return path


def clip(path: Path, *, size: tuple[int, int], codec: str) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25.0, size)
    rng = np.random.default_rng(0)
    for number in range(25):
        picture = np.full((size[1], size[0], 3), (0, number, 255), np.uint8)
        writer.write(picture - rng.integers(0, 20, picture.shape, np.uint8) // 2)
    writer.release()
    return path


def test_a_bundle_is_measured_here_and_a_plan_follows_from_it(color_bundle: Bundle, tmp_path: Path) -> None:
    files = [
        clip(tmp_path / "small.mp4", size=(64, 48), codec="mp4v"),
        clip(tmp_path / "large.mp4", size=(320, 240), codec="mp4v"),
        clip(tmp_path / "live.webm", size=(160, 120), codec="VP80"),
    ]
    out = tmp_path / "figures.json"
    named = [argument for file in files for argument in ("--file", file)]
    quick = ("--seconds", 0.2, "--rounds", 2, "--concurrency", 2, "--threads", 1)
    table = plan("measure", color_bundle.path, *named, *quick, "--out", out).stdout
    figures = read_figures(out)
    assert [(each.codec, each.width, each.clips) for each in figures.footage] == [
        ("mpeg4", 64, 1),
        ("vp8", 160, 1),
        ("mpeg4", 320, 1),
    ]
    small, live, large = figures.footage
    assert 0 < small.frame.median < large.frame.median < 0.1
    assert large.fps == pytest.approx(25, abs=0.1)
    assert live.live_frame is not None
    assert 0 < live.live_frame.median < 0.1
    assert small.live_frame is None
    assert all(0 < each.preprocess_share < 1 for each in figures.footage)
    networks, served = figures.networks, figures.served
    assert (networks.unit, networks.kind, networks.frame_bytes) == ("core", "encoder", 16 * 16 * 3)
    assert all(0 <= each.seconds.median < 0.1 for each in (*networks.entry, *networks.head))
    assert 0 < served.request.median < 0.5
    assert 0 < served.workers.median < 1
    assert served.answer is not None
    assert 0 < served.answer.median < 0.5
    assert 10 << 20 < served.worker_bytes < 1 << 30
    assert served.per_s.median > 0
    assert 0 < served.cores <= len(os.sched_getaffinity(0))
    assert "core-seconds of a decode worker" in table
    assert "clips/s measured" in table
    cameras = plan("nodes", out, "--cameras", 10, "--codec", "vp8", "--size", "160x120").stdout
    assert "10 cameras, 160×120, 25 frames/s, vp8" in cameras
    assert "streams a node: MAREY_MAX_STREAMS" in cameras


def test_what_was_measured_is_read_back_as_it_was(written: Path, figures: Figures) -> None:
    assert read_figures(written) == figures


def test_the_document_holds_what_the_table_says(written: Path) -> None:
    load = ("--uploads-per-day", 864_000, "--size", "1000x100", "--fps", 10)
    report = json.loads(plan("nodes", written, *load, "--node-price", 2, "--json").stdout)
    assert report["kind"] == "plan"
    assert report["demand"]["per_s"] == pytest.approx(30)
    assert report["total"] == report["nodes"] + 1
    assert report["cost_per_million"] == pytest.approx(report["total"] * 2 * 24 / 864_000 * 1e6)
    table = plan("nodes", written, *load, "--node-price", 2).stdout
    assert "at the peak 30.0 clips/s, 3 × the mean" in table
    assert report["nodes"] == 1
    assert f"1 node, by {report['bottleneck']}; 2 with 1 to lose" in table


def test_a_gpu_that_nobody_measured_is_named_as_assumed(written: Path) -> None:
    table = plan("nodes", written, "--cameras", 100, "--gpu-frame-ms", 0.15, "--gpu-head-ms", 0.4).stdout
    assert "assumed, not measured: a GPU of 0.15 ms a frame and 0.4 ms a head: 1.6 ms for a clip of 8 frames" in table
    assert "networks: assumed, see below" in table
    assert "one GPU is fed by" in table


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give --cameras or --uploads-per-day, and not both"),
        (("--cameras", 1, "--uploads-per-day", 1), 2, "and not both"),
        (("--cameras", 1, "--size", "big"), 2, "write width and height, such as 640x480"),
        (("--cameras", 1, "--gpu-frame-ms", 1), 2, "go together"),
        (("--cameras", 1, "--gpu-frame-ms", 1, "--gpu-head-ms", -1), 1, "gpu-head-ms = -1"),
        (("--cameras", 0), 1, "cameras = 0: it has to be above 0"),
        (("--cameras", 1, "--node-cores", 0), 1, "node-cores = 0: 1 or more"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_sentence(
    written: Path, arguments: tuple[object, ...], code: int, said: str
) -> None:
    assert said in plan("nodes", written, *arguments, code=code).output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: "no json", "holds no figures of this version: Invalid JSON"),
        (lambda text: text.replace('"schema_version":1', '"schema_version":9'), "schema_version = 9"),
        (lambda text: text.replace('"kind":"plan figures"', '"kind":"service"'), "kind = service"),
        (lambda text: text.replace('"frame_bytes":1000', '"frame_bytes":-1'), "networks.frame_bytes = -1"),
        (lambda text: text.replace('"concurrency":8,', ""), "served.concurrency"),
    ],
)
def test_a_file_that_holds_no_figures_says_which_field_and_how_to_make_one(
    written: Path, change: Callable[[str], str], said: str
) -> None:
    written.write_text(change(written.read_text()))
    output = plan("nodes", written, "--cameras", 1, code=1).output
    assert said in output
    assert "make it with marey plan measure" in output


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    assert (
        "cannot be read (No such file or directory)" in plan("nodes", tmp_path / "none", "--cameras", 1, code=1).output
    )


def test_photos_are_no_clips(color_bundle: Bundle, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), np.zeros((32, 32, 3), np.uint8))
    output = plan("measure", color_bundle.path, "--file", photo, "--out", tmp_path / "out.json", code=1).output
    assert "holds no video; name clips" in output


def test_a_median_has_its_spread_and_its_number() -> None:
    found = Measured.of([float(value) for value in range(1, 12)])
    assert (found.median, found.low, found.high, found.n) == (6, 2, 10, 11)
    assert Measured.of([-1.0, -2.0]).median == 0


def test_a_process_is_read_from_outside() -> None:
    before = main_thread_s(os.getpid()), process_s(os.getpid())
    until = time.thread_time() + 0.1
    while time.thread_time() < until:
        pass
    assert main_thread_s(os.getpid()) - before[0] >= 0.08
    assert process_s(os.getpid()) - before[1] >= 0.08
    assert family_s(os.getpid()) >= 0
    assert os.getpid() in children(os.getppid())
    assert memory_bytes(os.getpid()) > 1 << 20
