"""`marey bench --url` and `--http`: what a service answers under load, its errors by code, and what it is measured against."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from service.bench.load import Address, ask, drive, request
from service.bench.loops import BareImages, DecodeEverything
from service.bench.samples import made_samples, read_samples
from service.bundle.store import Bundle
from service.cli import main
from service.engine.base import Place
from service.engine.select import open_engine
from service.errors import MareyError
from service.media.decode import decode_video
from service.media.limits import Limits
from tests.clip_bundle import make_clip_bundle, said

QUICK = ("--seconds", "0.4", "--rounds", "2")


def bench(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def picture(path: Path, *, size: int = 40) -> Path:
    cv2.imwrite(str(path), np.full((size, size, 3), (0, 0, 255), np.uint8))
    return path


def test_a_service_somewhere_is_measured_at_each_level(served: Any, tmp_path: Path) -> None:
    file = picture(tmp_path / "red.jpg")
    levels = ("--concurrency", 1, "--concurrency", 4)
    report = json.loads(bench("--url", served.url, "--file", file, *levels, *QUICK, "--json", "-").stdout)
    assert (report["kind"], report["task"], report["posted"]) == ("service", "image", "1 image of red.jpg")
    assert (report["model"]["name"], report["model"]["precision"]) == ("color", "fp32")
    assert [level["concurrency"] for level in report["levels"]] == [1, 4]
    for level in report["levels"]:
        times = level["milliseconds"]
        assert 0 < times["min"] <= times["p50"] <= times["p99"]
        assert level["requests_per_s"] > 0
        assert level["errors"] == {}
        assert {"read", "decode", "encode", "head", "total"} <= set(level["timings_ms"])
        assert level["timings_ms"]["total"] <= times["mean"] * 1.5, (
            "what it says of itself lies within what is waited for"
        )
    assert report["against"] is None


def test_what_is_refused_is_counted_by_its_code(served: Any) -> None:
    address, broken = Address.parse(served.url), picture_bytes()[:-2]
    mixed = [request(address, "/classify/image", file=data) for data in (picture_bytes(), broken)]
    load = asyncio.run(drive(address, mixed, concurrency=2, seconds=0.4))
    assert load.errors.keys() == {"decode_failed"}
    assert "breaks off" in load.details["decode_failed"]
    assert abs(load.errors["decode_failed"] - len(load.milliseconds)) <= 2


def picture_bytes() -> bytes:
    return made_samples("image").files[0]


async def test_the_rate_is_what_a_service_of_known_slowness_allows() -> None:
    """Four connections to a server that takes 100 ms for each answer: 40 a second, whatever the start and the end cost."""
    answer = json.dumps({"timings_ms": {"total": 20}, "model": {}, "batch_size": 1}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head_bytes := await reader.readuntil(b"\r\n\r\n"):
            length = int(head_bytes.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            await asyncio.sleep(0.1)
            writer.write(head + answer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answering(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(30), server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        load = await drive(address, [request(address, "/", file=b"x" * 100_000)], concurrency=4, seconds=0.95)
    assert 15 < load.per_s <= 41
    assert min(load.milliseconds) >= 99


def test_a_bundle_is_served_and_compared_with_a_bare_loop(color_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    picture(tmp_path / "red.jpg")
    levels = ("--concurrency", 2, "--concurrency", 8)
    result = bench(
        color_bundle.path,
        "--http",
        "--file",
        tmp_path / "red.jpg",
        *levels,
        *QUICK,
        "--threads",
        "1",
        "--engine",
        "openvino",
        "--json",
        file,
    )
    report = json.loads(file.read_text())
    against = report["against"]
    assert report["model"]["engine"] == "openvino"
    assert against["loop"] == "a bare loop: decode, preprocess, engine"
    assert against["concurrency"] == 8, "two at a time do not saturate it"
    assert against["ratio_range"][0] <= against["ratio"] <= against["ratio_range"][1]
    assert 0 < against["ratio"] < 1.5
    assert "in the service, median ms" in result.stdout
    assert f"ratio {against['ratio']:.2f}" in result.stdout


def test_the_bare_loop_runs_what_it_is_given(color_bundle: Bundle) -> None:
    opened = open_engine(color_bundle, name="onnxruntime", precision="fp32", place=Place(threads=1))
    with closing(opened.engine):
        assert BareImages(color_bundle, opened.engine, [picture_bytes()], threads=2).run(0.1) > 1
        with pytest.raises(MareyError, match="breaks off"):
            BareImages(color_bundle, opened.engine, [picture_bytes()[:-2]], threads=2).run(0.1)


def test_the_video_baseline_gives_what_the_service_gives(shipped: Bundle, tmp_path: Path) -> None:
    samples = made_samples("video")
    engine = open_engine(shipped, name="onnxruntime", precision="fp32", place=Place(threads=1)).engine
    clip = decode_video(
        samples.files[0], spec=shipped.manifest.input, plan=shipped.manifest.sampling, limits=Limits()
    ).clip
    features = engine.run("encoder", clip.frames)["features"]
    wanted = engine.run("head", features[None])["probabilities"]
    (tmp_path / "clip.mp4").write_bytes(samples.files[0])
    with closing(engine), closing(DecodeEverything(shipped, engine, samples.files)) as loop:
        np.testing.assert_allclose(loop.classify(tmp_path / "clip.mp4"), wanted, atol=1e-3)


def test_a_folder_gives_the_files_of_its_first_kind(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "more").mkdir()
    picture(tmp_path / "more" / "b.png")
    (tmp_path / "z.mp4").write_bytes(made_samples("video").files[0])
    samples = read_samples(tmp_path)
    assert (samples.task, len(samples.files)) == ("image", 2)
    assert read_samples(tmp_path / "z.mp4").task == "video"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--url", "PORT"), 1, "start one with marey serve"),
        (("--url", "https://127.0.0.1:1"), 1, "give one such as http://127.0.0.1:8000"),
        (("--url", "http://127.0.0.1:99999"), 1, "give one such as http://127.0.0.1:8000"),
        (("--url", "http://127.0.0.1:1", "BUNDLE"), 2, "not both"),
        (("BUNDLE", "--concurrency", "2"), 2, "give --http or --url"),
        (("BUNDLE", "--http", "--engine", "openvino", "--engine", "onnxruntime"), 2, "one engine at one precision"),
        (("BUNDLE", "--http", "--engine", "onnxruntime", "--precision", "int8"), 1, "the service did not start: "),
        (("BUNDLE", "--http", "--file", "EMPTY"), 1, "holds no file"),
    ],
)
def test_a_mistake_is_one_sentence(
    color_bundle: Bundle, tmp_path: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    known = {"BUNDLE": str(color_bundle.path), "PORT": f"http://127.0.0.1:{free_port()}", "EMPTY": str(tmp_path)}
    result = bench(*(known.get(each, each) for each in arguments), code=code)
    assert sentence in result.stderr
    if code == 1:
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("error: ")


def test_a_service_that_refuses_everything_is_told_as_it_says_it(served: Any, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(picture_bytes()[:-2])
    result = bench("--url", served.url, "--file", tmp_path / "cut.jpg", *QUICK, code=1)
    assert "answered none of the requests: decode_failed" in result.stderr


async def test_what_is_no_service_of_ours_is_told_apart() -> None:
    async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-hello\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with asyncio.timeout(30), server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(MareyError, match="does not answer as a Marey service does"):
            await ask(address, request(address, "/models"))


@pytest.mark.parametrize("frames", [None, 3])
def test_the_loops_answer_with_a_clip_network(tmp_path: Path, frames: int | None) -> None:
    bundle = make_clip_bundle(tmp_path / "motion", frames=frames, tasks=("image", "video"))
    with closing(open_engine(bundle, name="onnxruntime", place=Place(threads=1)).engine) as engine:
        assert BareImages(bundle, engine, [picture_bytes()], threads=1).run(0.1) > 1
        samples = made_samples("video")
        (tmp_path / "clip.mp4").write_bytes(samples.files[0])
        spec, sampling = bundle.manifest.input, bundle.manifest.sampling
        clip = decode_video(samples.files[0], spec=spec, plan=sampling, limits=Limits()).clip
        with closing(DecodeEverything(bundle, engine, samples.files)) as loop:
            found = loop.classify(tmp_path / "clip.mp4")
    np.testing.assert_allclose(found, said(clip.frames[None])["probabilities"], atol=1e-3)
