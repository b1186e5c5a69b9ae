"""Clip networks over a real server: one network for the whole clip, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.clip_bundle import make_clip_bundle

Make = Callable[..., bytes]


@pytest.fixture(scope="module")
def served(serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A server of clip networks: `motion` of any length, `fixed` of four frames."""
    folder = tmp_path_factory.mktemp("clips")
    bundles = [
        make_clip_bundle(folder / "motion", positions="places"),
        make_clip_bundle(folder / "fixed", name="fixed", frames=4, positions="steps"),
    ]
    with serve(*(str(bundle.path) for bundle in bundles)) as running:
        yield running


def best(answer: dict) -> str:
    return answer["predictions"][0]["label"]


def test_a_clip_network_sees_the_order_of_the_frames(served, make_video: Make) -> None:
    answers = [served.post("/classify/video", make_video(*colors)) for colors in (("red", "blue"), ("blue", "red"))]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert [best(answer.json()) for answer in answers] == ["turns blue", "was blue"]
