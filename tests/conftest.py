"""What many tests need: the data sets, a bundle small enough to reason about, a real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx.parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.bundle.manifest import Artifact, Golden, Input, Manifest, Network, Sampling, Tensor
from service.bundle.store import Bundle, sha256, write_bundle

ROOT = Path(__file__).parents[1]

# A shell that runs the tests in the background lets them ignore Ctrl-C, and with them every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Features are a frame's mean red, green and blue; the head averages them over time: red frames are "red", and nothing else.
ENCODER = """
<ir_version: 10, opset_import: ["" : 18]>
encoder (uint8[N,16,16,3] frames) => (float[N,3] features) {
  values = Cast<to=1>(frames)
  axes = Constant<value = int64[2] {1, 2}>()
  means = ReduceMean<keepdims=0>(values, axes)
  scale = Constant<value = float {255.0}>()
  features = Div(means, scale)
}
"""
HEAD = """
<ir_version: 10, opset_import: ["" : 18]>
head (float[B,T,3] features) => (float[B,3] probabilities, float[B,T] attention) {
  time = Constant<value = int64[1] {1}>()
  means = ReduceMean<keepdims=0>(features, time)
  sharpness = Constant<value = float {8.0}>()
  logits = Mul(means, sharpness)
  probabilities = Softmax<axis=-1>(logits)
  channels = Constant<value = int64[1] {2}>()
  energy = ReduceSum<keepdims=0>(features, channels)
  attention = Softmax<axis=-1>(energy)
}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ray",
        action="store_true",
        help="Have Ray serve what it can, and run only the tests that ask a service of it.",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--ray"):
        chosen = [item for item in items if "on_ray" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of data sets; tests that ask for it are skipped where it is not."""
    folder = Path(os.environ.get("MAREY_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set MAREY_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_jobs_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs in this process, or is started by it, keeps its jobs where no test meets those of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def color_probabilities(frames: np.ndarray) -> np.ndarray:
    """What the color bundle answers to `[B, T, H, W, 3]` frames, by NumPy."""
    logits = frames.astype(np.float64).mean(axis=(1, 2, 3)) / 255 * 8
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def make_color_bundle(path: Path, **changes: object) -> Bundle:
    """Write the color bundle to `path`; `changes` replace fields of its manifest."""
    files = {
        f"{part}.onnx": onnx.parser.parse_model(text).SerializeToString()
        for part, text in (("encoder", ENCODER), ("head", HEAD))
    }
    frames = np.zeros((3, 2, 16, 16, 3), np.uint8)
    for channel in range(3):
        frames[channel, ..., channel] = 255
    np.savez_compressed(
        golden := path.parent / f"{path.name}.npz",
        frames=frames,
        features=frames.mean(axis=(2, 3), dtype=np.float32) / 255,
        probabilities=color_probabilities(frames),
    )
    files["golden.npz"] = golden.read_bytes()
    golden.unlink()
    tensors = {
        "encoder": (
            Tensor(name="frames", dtype="uint8", shape=("N", 16, 16, 3)),
            [Tensor(name="features", dtype="float32", shape=("N", 3))],
        ),
        "head": (
            Tensor(name="features", dtype="float32", shape=("B", "T", 3)),
            [
                Tensor(name="probabilities", dtype="float32", shape=("B", 3)),
                Tensor(name="attention", dtype="float32", shape=("B", "T")),
            ],
        ),
    }
    fields: dict[str, object] = {
        "name": "color",
        "version": "1.0.0",
        "tasks": ("image", "video"),
        "labels": ("red", "green", "blue"),
        "input": Input(height=16, width=16),
        "sampling": Sampling(frames=4, max_frames=8),
        "network": Network(feature_dim=3, attention=True),
        "artifacts": {
            part: Artifact(
                file=f"{part}.onnx",
                sha256=sha256(files[f"{part}.onnx"]),
                bytes=len(files[f"{part}.onnx"]),
                precision="fp32",
                weights="float32",
                opset=18,
                inputs=(source,),
                outputs=tuple(results),
            )
            for part, (source, results) in tensors.items()
        },
        "golden": Golden(sha256=sha256(files["golden.npz"]), tolerance={"fp32": 1e-4}),
    }
    return write_bundle(path, Manifest(**{**fields, **changes}), files)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def color_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_color_bundle(tmp_path_factory.mktemp("bundles") / "color")


class Served:
    """A real `marey serve` process and a client of it; `on_ray`: with several replicas behind Ray's proxy."""

    def __init__(self, process: subprocess.Popen[str], url: str, *, on_ray: bool = False) -> None:
        self.process = process
        self.url = url
        self.on_ray = on_ray
        self.client = httpx.Client(base_url=url, timeout=60)

    def counted(self, sample: str) -> float:
        """The value of a sample of /metrics, over all replicas; 0 where it has not been counted yet."""
        found = self.reads(sample)
        while self.on_ray:  # its replicas tell what they count every second
            time.sleep(1.5)
            before, found = found, self.reads(sample)
            if found == before:
                break
        return found

    def becomes(self, sample: str, value: float) -> bool:
        """Whether a sample has that value within 20 s."""
        until = time.monotonic() + 20
        while self.reads(sample) != value:
            if time.monotonic() > until:
                return False
        return True

    def reads(self, sample: str) -> float:
        (wanted,) = (each for family in text_string_to_metric_families(f"{sample} 0\n") for each in family.samples)
        told = text_string_to_metric_families(self.client.get("/metrics").text)
        return sum(
            each.value
            for family in told
            for each in family.samples
            if each.name == wanted.name
            and {name: value for name, value in each.labels.items() if name != "replica"} == wanted.labels
        )

    def post(self, path: str, content: bytes, *, field: str = "file", **query: object) -> httpx.Response:
        return self.client.post(path, params=query, files={field: ("upload", content)})


@contextmanager
def serving(*arguments: str, exit_code: int = 0, inside: Sequence[str] = (), **environment: str) -> Iterator[Served]:
    """Start `marey serve` on a free port, wait until it is ready; afterwards ask it to stop, and see how it exits.

    `inside`: what begins a command that is to run elsewhere.
    """
    command = [*inside, sys.executable, "-m", "service", "serve", "--port", "0", *arguments]
    jobs = tempfile.TemporaryDirectory(prefix="marey-jobs-")  # nobody's jobs but those of this server
    # Refusals under load are for the tests that ask for them: how busy the machine is must not decide about the others.
    usual = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "MAREY_JOBS": jobs.name, "MAREY_QUEUE_MS": "60000"}
    variables = {**os.environ, **usual, **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://\S+", line)
        assert match, f"marey serve said {line!r}"
        ready = process.stdout.readline()
        assert ready.startswith("marey is ready"), f"marey serve said {ready!r}"
        served = Served(process, match.group(), on_ray="--ray" in arguments)
        yield served
        served.client.close()
        if process.poll() is None:
            process.terminate()
        assert process.wait(timeout=60) == exit_code
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        jobs.cleanup()


@pytest.fixture(scope="session")
def on_ray(pytestconfig: pytest.Config) -> tuple[str, ...]:
    """Arguments of `marey serve`: with --ray, for two replicas of everything."""
    return ("--ray", "--ingress", "2", "--engines", "2") if pytestconfig.getoption("--ray") else ()


@pytest.fixture(scope="session")
def served(color_bundle: Bundle, on_ray: tuple[str, ...]) -> Iterator[Served]:
    """A server of the color bundle, shared by tests that leave it as they found it."""
    limits = {"MAREY_MAX_UPLOAD_BYTES": str(2**20), "MAREY_MAX_PIXELS": "1000000"}
    with serving(str(color_bundle.path), *on_ray, **limits) as running:
        yield running


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    return make_color_bundle


@pytest.fixture(scope="session")
def serve() -> Callable[..., object]:
    return serving
