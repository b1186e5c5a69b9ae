"""Deadlines as clients state them, in a header or in the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

Make = Callable[..., bytes]


def test_the_deadline_may_stand_in_a_header_and_the_query_goes_before_it(served: Any, make_video: Make) -> None:
    content = make_video("red", frames=900)

    def ask(**query: object) -> httpx.Response:
        return served.client.post(  # type: ignore[no-any-return]
            "/classify/video", params=query, files={"file": content}, headers={"X-Timeout-Ms": "1"}
        )

    refused = ask()
    assert (refused.status_code, refused.json()["code"]) == (504, "deadline_exceeded"), refused.text
    assert "timeout_ms = 1" in refused.json()["detail"]
    assert ask(timeout_ms=20_000).status_code == 200
    described = served.client.get("/openapi.json").json()["paths"]["/classify/video"]["post"]["parameters"]
    assert "x-timeout-ms" in {each["name"].lower() for each in described}


@pytest.mark.parametrize("value", ["soon", "0", "600001", "1.5"])
def test_a_deadline_that_is_none_is_named(served: Any, make_picture: Make, value: str) -> None:
    response = served.client.post(
        "/classify/image", files={"file": make_picture("red")}, headers={"X-Timeout-Ms": value}
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")
    assert f"x-timeout-ms = '{value}'" in response.json()["detail"].lower()
