"""What a service with INT8 says of the frames that come, whichever way they come: against those that INT8 was calibrated on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from service.bundle.frame_statistics import FrameStatistics, statistics_of
from service.bundle.manifest import Calibration, Golden, Network, Sampling
from service.bundle.store import Bundle, rewrite_bundle
from service.drift import ENOUGH
from tests.api.stream.client import end_of, send, streaming
from tests.clip_bundle import make_clip_bundle
from tests.conftest import Served, make_color_bundle

Make = Callable[..., bytes]

# Of the service's pictures and videos, which are of one level of 90, the calibration knew none.
DARK = np.random.default_rng(1).integers(0, 60, (300, 16, 16, 3), np.uint8)
# A name for each way, so that each counts for itself.
WAYS = ("image", "video", "windows", "stream", "job", "clips", "encoder")


def calibrated(statistics: FrameStatistics | None) -> Calibration:
    return Calibration(
        data="dark", data_sha256="0", frames=300, method="MinMax", quantizer="none", statistics=statistics
    )


def quantized(bundle: Bundle, statistics: FrameStatistics | None) -> Bundle:
    """`bundle` with its encoder under the name of an INT8 encoder; every frame of a stretch counts, as a clip has one."""
    manifest, encoder = bundle.manifest, bundle.manifest.artifacts["encoder"]
    named = encoder.model_copy(update={"file": "encoder.int8.onnx", "precision": "int8"})
    changes = {
        "artifacts": {**manifest.artifacts, "encoder.int8": named},
        "golden": Golden(sha256=manifest.golden.sha256, tolerance={"fp32": 1e-4, "int8": 0.05}),
        "calibration": calibrated(statistics),
        "sampling": Sampling(frames=1, max_frames=8),
    }
    return rewrite_bundle(
        bundle, manifest.model_copy(update=changes), {named.file: bundle.file("encoder").read_bytes()}
    )


@pytest.fixture(scope="module")
def served(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`before` was calibrated before there were statistics, `float` runs in float, `net` is a clip network."""
    folder, known = tmp_path_factory.mktemp("inputs"), statistics_of(DARK)
    bundles = [quantized(make_color_bundle(folder / way, name=way), known) for way in WAYS]
    bundles += [
        quantized(make_color_bundle(folder / "before", name="before"), None),
        make_color_bundle(folder / "float", name="float", calibration=calibrated(known)),
        make_clip_bundle(
            folder / "net",
            name="net",
            int8=4,
            calibration=calibrated(known),
            sampling=Sampling(frames=4, max_frames=32),
            network=Network(kind="clip", attention=True),
        ),
    ]
    with serve(*(str(bundle.path) for bundle in bundles), MAREY_MAX_REQUESTS="1000") as running:
        yield running


def told(served: Served, model: str) -> dict[str, float]:
    """The index and the share outside of both measures; nothing of a model that knows nothing."""
    text = served.client.get("/metrics").text
    pattern = rf'^marey_input_(drift_psi|outside_ratio){{model="{model}",of="(\w+)",version="1.0.0"}} (\S+)$'
    return {f"{of} {what}": float(value) for what, of, value in re.findall(pattern, text, re.MULTILINE)}


def infer(served: Served, model: str, tensor: np.ndarray) -> None:
    name = "frames" if model.endswith(".encoder") else "clips"
    said = {"name": name, "datatype": "UINT8", "shape": tensor.shape, "data": tensor.tolist()}
    response = served.client.post(f"/v2/models/{model}/infer", content=json.dumps({"inputs": [said]}))
    assert response.status_code == 200, response.text


def posted(served: Served, path: str, content: bytes, times: int, **query: object) -> None:
    for _ in range(times):
        response = served.post(path, content, **query)
        assert response.status_code == 200, response.text


def by_stream(served: Served, image: bytes) -> None:
    with streaming(served, model="stream", window_s=0.1, frames=1, drop="false") as stream:
        for number in range(ENOUGH):
            send(stream, image, number / 10, 0.1)
        stream.send('{"end": true}')
        assert end_of(stream)[0] == 1000


def by_job(served: Served, video: bytes) -> None:
    response = served.post("/jobs", video, model="job", window_s=0.1, frames=1)
    assert response.status_code == 202, response.text
    while (state := served.client.get(response.headers["location"]).json()["state"]) in ("queued", "running"):
        pass
    assert state == "done"


@pytest.mark.parametrize("way", WAYS)
def test_frames_that_int8_was_not_calibrated_on_are_seen_whichever_way_they_come(
    served: Served, make_video: Make, make_picture: Make, way: str
) -> None:
    bright = np.full((16, 1, 16, 16, 3), 90, np.uint8)
    rounds = -(-ENOUGH // 16)
    if way == "image":
        posted(served, "/classify/image", make_picture("red"), ENOUGH - 1, model=way)
        assert told(served, way) == {}, "so few say nothing"
        posted(served, "/classify/image", make_picture("red"), 1, model=way)
    elif way == "video":
        posted(served, "/classify/video", make_video("red", frames=2), ENOUGH, model=way)
    elif way == "windows":
        wishes = {"window_s": 0.1, "frames": 1}
        posted(served, "/classify/video", make_video("red", frames=40), rounds, model=way, **wishes)
    elif way == "stream":
        by_stream(served, make_picture("red"))
    elif way == "job":
        by_job(served, make_video("red", frames=ENOUGH + 50))
    else:
        for _ in range(rounds):
            infer(served, *((way, bright) if way == "clips" else ("encoder.encoder", bright[:, 0])))
    found = told(served, way)
    assert found["brightness outside_ratio"] == found["contrast outside_ratio"] == 1
    assert min(found["brightness drift_psi"], found["contrast drift_psi"]) > 2


def test_a_clip_network_counts_one_frame_of_each_clip_and_frames_as_it_knew_them_are_no_drift(served: Served) -> None:
    frames = np.random.default_rng(2).integers(0, 60, (ENOUGH, 16, 16, 3), np.uint8)
    clips = np.full((ENOUGH, 3, 16, 16, 3), 200, np.uint8)
    clips[:, 1] = frames
    for start in range(0, ENOUGH, 16):
        assert told(served, "net") == {}, "a frame of a clip counts, not each"
        infer(served, "net", clips[start : start + 16])
    found = told(served, "net")
    assert max(found["brightness drift_psi"], found["contrast drift_psi"]) < 0.15
    assert max(found["brightness outside_ratio"], found["contrast outside_ratio"]) < 0.05


@pytest.mark.parametrize("model", ["before", "float"])
def test_nothing_is_said_of_a_model_without_statistics_or_in_float(served: Served, model: str) -> None:
    for _ in range(-(-ENOUGH // 16)):
        infer(served, model, np.full((16, 1, 16, 16, 3), 90, np.uint8))
    assert told(served, model) == {}


def test_what_is_said_of_inputs_leaves_with_the_model_and_begins_anew(served: Served) -> None:
    for _ in range(-(-ENOUGH // 16)):
        infer(served, "clips", np.full((16, 1, 16, 16, 3), 90, np.uint8))
    assert told(served, "clips")
    for what, status in (("unload", 200), ("load", 200)):
        assert served.client.post(f"/v2/repository/models/clips/{what}").status_code == status
        assert told(served, "clips") == {}
