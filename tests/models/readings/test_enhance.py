"""Steps before the model, as the command line names them."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import ExportRefused
from models.readings.enhance import enhanced, parse_step
from models.readings.flags import Reading, input_of
from service.bundle.manifest import Input, Step


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("clahe", {}),
        ("clahe:clip_limit=2.5,tiles=8x4", {"clip_limit": 2.5, "tiles": [8, 4]}),
        ("denoise:kernel=5", {"kernel": 5}),
        ("vessels:kernel=7,replaces=blue", {"kernel": 7, "replaces": "blue"}),
    ],
)
def test_a_step_is_read_with_its_parameters(text: str, parameters: dict[str, Any]) -> None:
    assert parse_step(text) == Step(name=text.partition(":")[0], version=1, parameters=parameters)


def test_the_steps_of_the_flags_reach_the_input_in_their_order() -> None:
    spec = input_of((64, 64, 3), Reading(enhance=("denoise", "clahe:tiles=4x4")))
    assert [step.name for step in spec.preprocess] == ["denoise", "clahe"]
    assert spec.preprocess[1].parameters == {"tiles": [4, 4]}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["sharpen"], "--enhance sharpen: there is no step 'sharpen', only clahe, denoise, vessels; give one"),
        (["clahe:8x8"], "--enhance clahe:8x8 is not NAME or NAME:PARAMETER=VALUE"),
        (["clahe:"], "is not NAME or NAME:PARAMETER=VALUE"),
        (["clahe:clip_limit=1000"], r"--enhance: .*'clahe': clip_limit = 1000: .*less than or equal to 100; change it"),
        (["clahe:tiles=8"], "--enhance: .*'clahe': tiles = 8: "),
        (["denoise", "denoise"], "--enhance: .*'denoise' twice"),
    ],
)  # fmt: skip
def test_a_step_that_is_none_or_does_not_suit_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ExportRefused, match=message):
        enhanced(Input(height=64, width=64), texts)
