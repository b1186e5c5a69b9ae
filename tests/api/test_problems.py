"""Every error code, raised by a real request against a real server, and the server alive after each."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.api.app import create_app
from service.api.state import State
from service.settings import Settings

Make = Callable[..., bytes]


def expect(response: httpx.Response, status: int, code: str, *, saying: str) -> None:
    """`response` is a whole RFC 9457 problem of that status and code, and its sentence says what a person needs."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id"}
    assert (body["status"], body["code"]) == (status, code)
    assert saying in body["detail"], body["detail"]
    assert response.headers["x-request-id"] == body["request_id"]
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1


@pytest.fixture(autouse=True)
def still_answers(served, make_picture: Make):
    """Whatever a test did, the server gives the right answer to the next request."""
    yield
    answer = served.post("/classify/image", make_picture("green"))
    assert answer.json()["predictions"][0]["label"] == "green"


def png(width: int, height: int) -> bytes:
    """A valid black PNG of any size, in a few KB: rows of one bit a pixel, compressed twice as well as it can be."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_body_that_is_no_form(served) -> None:
    text = {"content-type": "text/plain"}
    expect(served.client.post("/classify/image", content=b"x", headers=text), 400, "malformed", saying="curl -F file=@")


def test_a_form_that_breaks_off(served) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n\xff\xd8'
    expect(
        served.client.post("/classify/image", content=body, headers=headers),
        400,
        "malformed",
        saying="ends in the middle",
    )


def test_a_form_without_its_boundary(served) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = served.client.post("/classify/image", content=b"not a form at all", headers=headers)
    expect(response, 400, "malformed", saying="broken")


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """A multipart body with boundary `b` of parts, each (headers, content)."""
    return b"".join(b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--b--\r\n"


FILE = b'Content-Disposition: form-data; name="file"; filename="a"'
FORM = {"content-type": "multipart/form-data; boundary=b"}


def test_two_files_in_one_form(served, make_picture: Make) -> None:
    body = form((FILE, make_picture("red")), (FILE, make_picture("blue")))
    expect(
        served.client.post("/classify/image", content=body, headers=FORM), 400, "malformed", saying="two fields 'file'"
    )


def test_a_part_without_a_name_is_not_taken_for_the_file(served, make_picture: Make) -> None:
    picture = make_picture("red", suffix=".png", height=400, width=400)
    body = form((FILE, picture[: len(picture) // 2]), (b"X-A: b", picture[len(picture) // 2 :]))
    expect(served.client.post("/classify/image", content=body, headers=FORM), 422, "decode_failed", saying="")


def test_a_form_of_many_parts_is_refused_before_it_costs_anything(served) -> None:
    body = form(*[(b'Content-Disposition: form-data; name="a"', b"")] * 20_000)
    began = time.monotonic()
    expect(
        served.client.post("/classify/image", content=body, headers=FORM), 400, "malformed", saying="32 parts allowed"
    )
    assert time.monotonic() - began < 1


def test_a_client_that_hangs_up_is_no_fault_of_the_service(served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    head = (
        b"POST /classify/image HTTP/1.1\r\nHost: marey\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(head)
        assert served.becomes("marey_requests_active", 1)
    assert served.becomes("marey_requests_active", 0)
    assert 'status="500"' not in served.client.get("/metrics").text
    assert served.counted('marey_requests_total{code="client_gone",route="/classify/image",status="499"}') > 0


def test_the_wrong_field_name(served, make_picture: Make) -> None:
    response = served.post("/classify/image", make_picture("red"), field="image")
    expect(response, 422, "missing_file", saying="no field 'file', it has 'image'")


@pytest.mark.parametrize("path", ["/classify/image", "/classify/video"])
def test_an_empty_file(served, path: str) -> None:
    expect(served.post(path, b""), 400, "empty_file", saying="0 bytes")


@pytest.mark.parametrize("path", ["/classify/image", "/classify/video"])
def test_an_unknown_model(served, make_picture: Make, path: str) -> None:
    response = served.post(path, make_picture("red"), model="nonesuch")
    expect(response, 404, "unknown_model", saying="there is no model 'nonesuch'; those served are color:1.0.0")
    expect(served.post(path, make_picture("red"), model="color:9"), 404, "unknown_model", saying="color:1.0.0")
    expect(served.client.get("/models/nonesuch"), 404, "unknown_model", saying="nonesuch")


def test_paths_and_methods_that_do_not_exist(served) -> None:
    expect(served.client.get("/nowhere"), 404, "not_found", saying="/nowhere")
    expect(served.client.get("/classify/image"), 405, "method_not_allowed", saying="GET /classify/image")


@pytest.mark.parametrize(
    ("path", "query", "saying"),
    [
        ("/classify/image", {"top_k": -1}, "top_k = '-1': Input should be greater than or equal to 0"),
        ("/classify/image", {"top_k": "many"}, "top_k = 'many'"),
        ("/classify/image", {"timeout_ms": 0}, "timeout_ms = '0'"),
        ("/classify/image", {"priority": "urgent"}, "priority = 'urgent'"),
        ("/classify/video", {"frames": 0}, "frames = '0'"),
        ("/classify/video", {"frames": 9}, "frames = 9 exceeds this model's 8"),
        ("/classify/video", {"window_s": -1}, "window_s = '-1'"),
        ("/classify/video", {"window_s": "nan"}, "window_s"),
        ("/classify/video", {"window_s": "inf"}, "window_s"),
        ("/classify/video", {"window_s": 1e-320}, "window_s"),
        ("/classify/video", {"window_s": 1, "stride_s": 1e308}, "stride_s"),
        ("/classify/video", {"stride_s": 1}, "without window_s"),
    ],
)
def test_parameters_out_of_range(served, make_video: Make, path: str, query: dict[str, object], saying: str) -> None:
    expect(served.post(path, make_video("red"), **query), 422, "invalid_parameter", saying=saying)


def test_a_file_larger_than_allowed(served) -> None:
    expect(served.post("/classify/image", bytes(2**20 + 2**17)), 413, "file_too_large", saying="1048576 bytes allowed")


def test_a_file_larger_than_allowed_that_does_not_say_so(served) -> None:
    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for _ in range(40):
            yield bytes(2**16)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    expect(
        served.client.post("/classify/image", content=body(), headers=headers), 413, "file_too_large", saying="1048576"
    )


def test_ten_large_uploads_all_get_to_read_their_refusal(served) -> None:
    for _ in range(10):
        expect(served.post("/classify/video", bytes(40 * 2**20)), 413, "file_too_large", saying="send a smaller one")


def test_a_png_bomb_is_refused_by_its_header(served) -> None:
    bomb = png(30_000, 30_000)
    assert len(bomb) < 200_000
    expect(served.post("/classify/image", bomb), 413, "too_many_pixels", saying="30000")


def test_a_video_longer_than_allowed(color_bundle, serve, make_video: Make) -> None:
    with serve(str(color_bundle.path), MAREY_MAX_DURATION_S="0.5") as running:
        expect(running.post("/classify/video", make_video("red")), 413, "video_too_long", saying="0.5")
        assert running.post("/classify/video", make_video("red", frames=4)).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, whatever the name says",
        b"%PDF-1.7\n",
        b"GIF",
        b"\x00" * 64,
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n",
    ],
)
def test_what_is_no_media_is_refused_whatever_its_name(served, content: bytes) -> None:
    expect(served.post("/classify/image", content), 415, "unsupported_media", saying="JPEG")
    expect(served.post("/classify/video", content), 415, "unsupported_media", saying="")


def test_an_image_and_a_video_at_each_others_door_are_shown_the_right_one(
    served, make_picture: Make, make_video: Make
) -> None:
    expect(served.post("/classify/video", make_picture("red")), 415, "unsupported_media", saying="/classify/image")
    expect(served.post("/classify/image", make_video("red")), 415, "unsupported_media", saying="/classify/video")


@pytest.mark.data
@pytest.mark.parametrize(("name", "codec"), [("av1.mp4", "av1"), ("theora.ogv", "theora")])
def test_a_codec_that_this_build_cannot_decode_is_named(served, data: Path, name: str, codec: str) -> None:
    content = (data / "hostile_videos" / "made" / name).read_bytes()
    expect(served.post("/classify/video", content), 415, "unsupported_codec", saying=codec)


def test_a_truncated_image(served, make_picture: Make) -> None:
    for suffix in (".jpg", ".png"):
        whole = make_picture("red", suffix=suffix, height=400, width=400)
        expect(served.post("/classify/image", whole[: len(whole) // 2]), 422, "decode_failed", saying="")


def test_a_video_that_breaks_before_its_first_frame(served, make_video: Make) -> None:
    whole = bytearray(make_video("red"))
    start = whole.index(b"mdat") + 4
    whole[start : whole.index(b"moov") - 4] = bytes(whole.index(b"moov") - 4 - start)
    expect(served.post("/classify/video", bytes(whole)), 422, "decode_failed", saying="")


@pytest.mark.data
def test_a_decode_that_takes_too_long_costs_one_request(color_bundle, serve, data: Path, make_picture: Make) -> None:
    long = (data / "hostile_videos" / "made" / "long_110s.mp4").read_bytes()
    with serve(str(color_bundle.path), MAREY_DECODE_TIMEOUT_S="0.1") as running:
        expect(running.post("/classify/video", long), 422, "decode_limit", saying="0.1")
        assert running.post("/classify/image", make_picture("red")).status_code == 200


@pytest.mark.data
def test_a_deadline_that_passes(served, data: Path) -> None:
    long = (data / "hostile_videos" / "made" / "long_110s.mp4").read_bytes()
    expect(served.post("/classify/video", long, timeout_ms=20), 504, "deadline_exceeded", saying="timeout_ms = 20")


def test_more_requests_than_allowed(color_bundle, serve, make_picture: Make) -> None:
    with serve(str(color_bundle.path), MAREY_MAX_REQUESTS="1") as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            # A request whose body never ends holds the only place.
            slow.sendall(
                b"POST /classify/image HTTP/1.1\r\nHost: marey\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            while "marey_requests_active 1.0" not in running.client.get("/metrics").text:
                pass
            expect(running.post("/classify/image", make_picture("red")), 429, "overloaded", saying="the limit is 1")
        while "marey_requests_active 0.0" not in running.client.get("/metrics").text:
            pass
        assert running.post("/classify/image", make_picture("red")).status_code == 200


async def test_while_loading_failing_and_draining_requests_are_sent_elsewhere(color_bundle, make_picture: Make) -> None:
    app = create_app(Settings(bundles=(color_bundle.path,)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://marey") as client, asyncio.timeout(60):
        ask = {"url": "/classify/image", "files": {"file": make_picture("red")}}
        expect(await client.post(**ask), 503, "not_ready", saying="still being loaded")
        expect(await client.get("/health/ready"), 503, "not_ready", saying="still being loaded")
        for live in ("/health/live", "/v2/health/live"):
            assert (await client.get(live)).status_code == 200
        async with app.router.lifespan_context(app):
            await app.state.marey.loaded.wait()
            assert (await client.post(**ask)).status_code == 200
        expect(await client.post(**ask), 503, "draining", saying="stopping")
        expect(await client.get("/health/ready"), 503, "draining", saying="stopping")


async def test_a_service_without_a_usable_bundle_is_never_ready_and_says_why(tmp_path: Path) -> None:
    told: list[State] = []
    app = create_app(Settings(bundles=(tmp_path,)), on_loaded=told.append)
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://marey") as client,
        app.router.lifespan_context(app),
        asyncio.timeout(60),
    ):
        await app.state.marey.loaded.wait()
        expect(await client.get("/health/ready"), 503, "not_ready", saying=r"it has no manifest.json")
    assert [state.phase for state in told] == ["draining"], "told once"
