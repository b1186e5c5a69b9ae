"""`GET /limits` against what the service really does."""

import io
import re

import pytest
from PIL import Image

from service import errors
from service.api.limits import limits_of
from service.api.state import State
from service.settings import Settings


def test_every_limit_names_a_setting_that_exists_and_a_refusal_of_the_tree(served) -> None:
    listed = served.client.get("/limits").json()["limits"]
    codes = {
        (kind.status, kind.code) for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")
    }
    settings = {f"MAREY_{name.upper()}" for name in Settings.model_fields}
    assert len({limit["name"] for limit in listed}) == len(listed) > 15
    for limit in listed:
        assert (limit["status"], limit["code"]) in codes, limit
        assert limit["setting"] is None or limit["setting"] in settings, limit
        assert limit["unit"]
        assert limit["per"]
        assert limit["remedy"]


def test_no_setting_that_limits_a_client_is_left_out() -> None:
    """A setting that says what happens beyond it ("else 413", "then 504", "refused with 429") is a limit."""
    said = {
        name
        for name, field in Settings.model_fields.items()
        if re.search(r"\b(?:413|422|429|504|507)\b", field.description or "")
    }
    listed = {limit.setting for limit in limits_of(State(Settings())).limits}
    assert {f"MAREY_{name.upper()}" for name in said} <= listed


def test_limits_are_those_in_force_and_models_tell_them_in_short(served) -> None:
    listed = {limit["name"]: limit for limit in served.client.get("/limits").json()["limits"]}
    assert (listed["max_upload_bytes"]["value"], listed["max_upload_bytes"]["setting"]) == (
        2**20,
        "MAREY_MAX_UPLOAD_BYTES",
    )
    assert listed["rate_limit"]["value"] is None
    assert served.client.get("/models").json()["limits"] == {name: limit["value"] for name, limit in listed.items()}


def large_picture() -> bytes:
    """A million pixels and a thousand more, in 200 bytes."""
    Image.new("1", (1001, 1000)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"), [("max_upload_bytes", bytes(2**20 + 1)), ("max_pixels", large_picture())], ids=lambda _: ""
)
def test_a_refusal_has_the_status_and_the_code_that_are_listed(served, name: str, content: bytes) -> None:
    listed = next(limit for limit in served.client.get("/limits").json()["limits"] if limit["name"] == name)
    answer = served.post("/classify/image", content)
    assert (answer.status_code, answer.json()["code"]) == (listed["status"], listed["code"]), answer.text
