"""What a user would say on the command line for each of the models, and what is expected to become of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import keras

from tests.users import models_of_clips as clips
from tests.users import models_of_frames as frames


@dataclass(frozen=True, slots=True)
class Case:
    """`static`: the T that the bundle is fixed to. `frames`: those sampled of a video."""

    build: Callable[[], keras.Model]
    kind: Literal["encoder_head", "clip"] = "encoder_head"
    preprocess: str = "none"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    activation: Literal["softmax", "sigmoid"] | None = None
    steps: Literal["mean", "last"] | None = None
    frames: int = 8
    static: int | None = None
    image: bool = False
    attention: bool = False
    positions: bool = False
    multi_label: bool = False


CASES: dict[str, Case] = {
    "lrcn": Case(frames.lrcn, preprocess="0/255", frames=6, static=6),
    "mobilenet_lstm": Case(frames.mobilenet_lstm, preprocess="tf"),
    "vgg_bilstm": Case(frames.vgg_bilstm, preprocess="caffe", color="bgr", frames=8, static=8),
    "video_transformer": Case(frames.video_transformer, frames=5, static=5),
    "cnn_bilstm_attention": Case(frames.cnn_bilstm_attention),
    "attention_output": Case(frames.attention_output, preprocess="torch", attention=True),
    "temporal_convolutions": Case(frames.temporal_convolutions, preprocess="0/255"),
    "multi_head": Case(frames.multi_head, preprocess="0/255"),
    "bidirectional_of_cells": Case(frames.bidirectional_of_cells, preprocess="0/255"),
    "simple_rnn_backwards": Case(frames.simple_rnn_backwards, preprocess="0/255"),
    "masked": Case(frames.masked, preprocess="0/255"),
    "each_step": Case(frames.each_step, preprocess="0/255", steps="mean", positions=True),
    "multi_label": Case(frames.multi_label, preprocess="0/255", multi_label=True),
    "logits": Case(frames.logits, preprocess="127.5/127.5", activation="softmax"),
    "subclassed": Case(frames.subclassed),
    "folded_by_hand": Case(frames.folded_by_hand, preprocess="0/255", frames=6, static=6),
    "preprocessing_inside": Case(frames.preprocessing_inside, color="gray"),
    "two_poolings": Case(frames.two_poolings),
    "flattened_time": Case(frames.flattened_time, preprocess="0/255", frames=4, static=4),
    "image_mobilenet": Case(frames.image_mobilenet, image=True),
    "image_cnn": Case(frames.image_cnn, color="gray", image=True),
    "c3d": Case(clips.c3d, "clip", frames=8, static=8),
    "two_plus_one": Case(clips.two_plus_one, "clip", frames=6, static=6),
    "resnet_3d": Case(clips.resnet_3d, "clip"),
    "convlstm": Case(clips.convlstm, "clip", preprocess="0/255", frames=4, static=4),
    "convlstm_anomaly": Case(clips.convlstm_anomaly, "clip", color="gray", frames=5, static=5),
    "conv3d_lstm": Case(clips.conv3d_lstm, "clip", frames=8, static=8),
    "scan_volume": Case(clips.scan_volume, "clip", color="gray", frames=8, static=8),
    "rows_as_steps": Case(clips.rows_as_steps, color="gray", image=True),
    "patches_bilstm": Case(clips.patches_bilstm, image=True),
}


def table() -> str:
    """For docs/bring-your-own-model.md: `python -m tests.users.cases` prints it."""
    rows = [
        f"| `{name}` | {' '.join((inspect.getdoc(case.build) or '').split())} | {_flags(case) or '–'} | {_becomes(case)} |"
        for name, case in CASES.items()
    ]
    return "\n".join(["| model | what it is | flags | becomes |", "| --- | --- | --- | --- |", *rows])


def _flags(case: Case) -> str:
    given = (
        ("preprocess", None if case.preprocess == "none" else case.preprocess),
        ("color", case.color if case.color == "bgr" and case.preprocess != "caffe" else None),
        ("activation", case.activation),
        ("steps", case.steps),
    )
    return " ".join(f"`--{flag} {value}`" for flag, value in given if value)


def _becomes(case: Case) -> str:
    """In words, with what else it answers."""
    what = "clip network" if case.kind == "clip" else "encoder and head"
    length = f"{case.static} frames" if case.static else "any number of frames"
    extra = [name for name in ("attention", "positions", "multi_label") if getattr(case, name)]
    return ", ".join([what, "single pictures" if case.image else length, *(name.replace("_", "-") for name in extra)])


if __name__ == "__main__":
    print(table())  # noqa: T201 -- what it is for
