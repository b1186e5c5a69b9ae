"""Who may open a stream, how many of them, and what is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from websockets.sync.client import connect

from service.keys import add
from tests.api.stream.client import end_of, heard, refusal, send, streaming

Make = Callable[..., bytes]


@pytest.mark.parametrize(
    ("query", "status", "code", "saying"),
    [
        ({"model": "nobody"}, 404, "unknown_model", "color"),
        ({"frames": 9}, 422, "invalid_parameter", "8"),
        ({"frames": "many"}, 422, "invalid_parameter", "frames"),
        ({"window_s": 0}, 422, "invalid_parameter", "window_s"),
        ({"stride_s": "nan"}, 422, "invalid_parameter", "stride_s"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_before_it_begins(served, query, status, code, saying) -> None:
    answer = refusal(served, **query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert saying in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_page_of_another_site_cannot_open_a_stream(served) -> None:
    answer = refusal(served, headers={"Origin": "https://elsewhere.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    with streaming(served, headers={"Origin": served.url}):
        pass


def test_a_full_house_refuses_with_429_and_a_stream_that_ends_makes_room(serve, color_bundle) -> None:
    with serve(str(color_bundle.path), MAREY_MAX_STREAMS="1") as running:
        with streaming(running):
            answer = refusal(running)
            assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
            assert int(answer.headers["retry-after"]) > 0
            assert running.counted("marey_streams_active") == 1
        while running.counted("marey_streams_active"):
            pass
        with streaming(running) as stream:
            running.process.terminate()
            code, _ = end_of(stream)
            assert code == 1012


def test_keys_open_streams_in_a_header_and_as_browsers_send_them(
    serve, color_bundle, make_picture: Make, tmp_path
) -> None:
    token = add(tmp_path / "keys", "camera")
    with serve(str(color_bundle.path), MAREY_KEYS=str(tmp_path / "keys")) as running:
        assert refusal(running).status_code == 401
        with streaming(running, headers={"Authorization": f"Bearer {token}"}):
            pass
        url = running.url.replace("http", "ws") + "/classify/stream"
        with connect(url, subprotocols=["marey", f"marey.key.{token}"], proxy=None) as stream:  # type: ignore[list-item]
            assert stream.subprotocol == "marey"
            assert heard(stream)["type"] == "ready"
            send(stream, make_picture("red"))
            assert heard(stream)["predictions"][0]["label"] == "red"
