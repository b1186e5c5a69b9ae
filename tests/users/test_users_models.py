"""Thirty models as the field's users write them: each exported, equal to Keras, built by TensorRT, and served; or refused with the way out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import onnx
import pytest

from models.export.exporter import export_model
from models.export.gate import build_gate
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.synthetic import synthetic_clips
from service.bundle.manifest import Input, Resize, Sampling
from service.bundle.store import Bundle
from service.media.decode import decode_video
from service.media.limits import Limits
from tests.users.cases import CASES, Case
from tests.users.decisive import make_decisive

VIDEOS, LENGTH, SIDE = 6, 20, 96


def keras_says(case: Case, model: keras.Model, clips: np.ndarray) -> np.ndarray:
    """What the user's own code makes of `[B, T, H, W, C]` uint8, as probabilities of the bundle's classes."""
    fed = Normalization.parse(case.preprocess, color=case.color).apply(clips)
    fed = fed.reshape(-1, *clips.shape[2:]) if case.image else fed
    with warnings.catch_warnings():
        # Attention over the one frame of an image: Keras takes it for a mistake.
        warnings.filterwarnings("ignore", message=".*You are using a softmax over axis", category=UserWarning)
        rows = np.asarray(keras.tree.flatten(model(fed, training=False))[0])
    rows = rows.reshape(*clips.shape[:2], -1).mean(axis=1) if case.image else rows
    rows = rows.mean(axis=1) if case.steps == "mean" else rows
    rows = np.asarray(keras.ops.softmax(rows)) if case.activation == "softmax" else rows
    return np.concatenate([1 - rows, rows], axis=-1) if rows.shape[-1] == 1 else rows


@dataclass(frozen=True, slots=True)
class Exported:
    case: Case
    model: keras.Model
    bundle: Bundle

    def keras_says(self, clips: np.ndarray) -> np.ndarray:
        return keras_says(self.case, self.model, clips)

    def bundle_says(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        run = {role: Runtime(onnx.load(self.bundle.file(role))) for role in self.bundle.manifest.artifacts}
        if "clip" in run:
            return run["clip"](clips)
        features = run["encoder"](clips.reshape(-1, *clips.shape[2:]))["features"]
        return run["head"](features.reshape(*clips.shape[:2], -1))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six clips of no one's, as MPEG-4."""
    folder = tmp_path_factory.mktemp("videos")
    files = [folder / f"{number}.mp4" for number in range(VIDEOS)]
    clips = synthetic_clips(count=VIDEOS, frames=LENGTH, height=SIDE, width=SIDE, channels=3, seed=21)
    for file, clip in zip(files, clips, strict=True):
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (SIDE, SIDE))
        assert writer.isOpened()
        for frame in clip:
            writer.write(frame[..., ::-1])
        writer.release()
    return files


def frames_of(file: Path, spec: Input, plan: Sampling) -> np.ndarray:
    """As the server samples and resizes them."""
    return decode_video(file.read_bytes(), spec=spec, plan=plan, limits=Limits()).clip.frames


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, videos: list[Path]) -> Callable[[str], Exported]:
    """Each model is made and exported once, when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("users"), dict[str, Exported]()

    def export(name: str) -> Exported:
        if name not in made:
            made[name] = _export(name, folder / name, videos)
        return made[name]

    return export


def _export(name: str, out: Path, videos: list[Path]) -> Exported:
    case = CASES[name]
    keras.utils.set_random_seed(sum(map(ord, name)))
    model = case.build()
    shape = getattr(model, "input_shape", None) or (None, None, 32, 32, 3)
    height, width = shape[-3:-1]
    spec = Input(height=height, width=width, color="gray" if case.color == "gray" else "rgb", resize=Resize())
    plan = Sampling(frames=case.frames, short_clip="repeat" if case.static else "as_is")
    normalization = Normalization.parse(case.preprocess, color=case.color)
    seen = normalization.apply(np.stack([frames_of(file, spec, plan) for file in videos]))
    given = shape[1] if len(shape) == 5 else None
    make_decisive(model, seen.reshape(-1, *seen.shape[2:]) if case.image else seen[:, :given])
    classes = keras_says(case, model, np.zeros((1, given or 2, *seen.shape[2:]), np.uint8)).shape[-1]
    bundle = export_model(
        model, out=out, name=name, version="1", labels=[f"class {number}" for number in range(classes)], input=spec, sampling=plan,
        normalization=normalization, activation=case.activation, steps=case.steps,
    )  # fmt: skip
    return Exported(case, model, bundle)


@pytest.mark.parametrize("name", CASES)
def test_the_bundle_answers_as_keras_does(name: str, exported: Callable[[str], Exported], videos: list[Path]) -> None:
    made = exported(name)
    manifest, case = made.bundle.manifest, made.case
    network = manifest.network
    assert (network.kind, network.static_frames) == (case.kind, case.static)
    assert (network.attention, network.positions, network.multi_label) == (
        case.attention, case.positions, case.multi_label,
    )  # fmt: skip
    decoded = np.stack([frames_of(file, manifest.input, manifest.sampling) for file in videos])
    own = getattr(made.model, "input_shape", None)
    length = own[1] if own and len(own) == 5 else None  # Keras itself takes no other, even where the bundle does
    answers = []
    for batch, time in ((1, 1), (2, 7), (6, case.frames)):
        clips = decoded[:batch, : length or time]
        if clips.shape[1] < (length or time):
            clips = np.resize(decoded[:batch], (batch, length or time, *decoded.shape[2:]))
        found, wanted = made.bundle_says(clips)["probabilities"], made.keras_says(clips)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        answers.append(found)
    assert np.ptp(answers[-1], axis=0).max() > 0.2, "answers that do not differ between clips would prove nothing"


@pytest.mark.parametrize("name", CASES)
def test_no_graph_holds_a_loop_and_tensorrt_builds_them(name: str, exported: Callable[[str], Exported]) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = exported(name).bundle
    for role in bundle.manifest.artifacts:
        graph = onnx.load(bundle.file(role))
        assert not {"Loop", "Scan", "If"} & {node.op_type for node in graph.graph.node}
        for half in (False, True):
            assert build_gate(graph, profile=(1, 4, 8), half=half).layers > 0


@pytest.fixture(scope="module")
def server(exported: Callable[[str], Exported], serve: Callable[..., object]) -> Iterator[object]:
    folders = [str(exported(name).bundle.path) for name in CASES]
    with serve(*folders, "--precision", "fp32") as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_what_is_served_is_what_keras_says(name: str, exported: Callable[[str], Exported], server, videos) -> None:
    made = exported(name)
    manifest = made.bundle.manifest
    labels = list(manifest.labels)
    for file in videos[:2]:
        answer = server.post("/classify/video", file.read_bytes(), model=name, top_k=0).json()
        found = {each["label"]: each["probability"] for each in answer["predictions"]}
        clip = frames_of(file, manifest.input, manifest.sampling)[None]
        own = getattr(made.model, "input_shape", None)
        if own and len(own) == 5 and own[1] not in (None, clip.shape[1]):
            wanted = made.bundle_says(clip)["probabilities"][0]  # Keras takes no such number of frames
        else:
            wanted = made.keras_says(clip)[0]
        np.testing.assert_allclose([found[label] for label in labels], wanted, atol=1e-3)
        assert (
            len(answer["positions"]) == manifest.sampling.frames if made.case.positions else "positions" not in answer
        )
        weights = [frame.get("weight") for frame in answer["sampling"]["frames"]]
        assert (None not in weights) == made.case.attention
