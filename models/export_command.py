"""`marey-build export`: a user's own model, whatever it was saved as, to a calibrated and proved bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import click

from models.console import (
    FILE,
    FOLDER,
    command_line,
    engine_too,
    force_option,
    json_option,
    max_drop_option,
    one_sentence,
    out_option,
    pictures_option,
    resources,
    split_option,
    tell,
)
from models.errors import DataError, ExportRefused
from models.labels import read_labels
from service.bundle.manifest import NAME, VERSION
from service.bundle.store import staging_folder

_Any = click.Path(path_type=Path)  # a SavedModel is a folder; what is no model is refused with its own sentence


@click.command()
@click.argument("model", type=_Any, required=False)
@click.option("--encoder", type=_Any, help="In place of MODEL: the CNN of single frames, with --head.")
@click.option("--head", type=_Any, help="What reads the features of --encoder, or of the encoder in --from-onnx.")
@click.option("--from-onnx", type=FILE, help="In place of MODEL: an ONNX graph, as torch.onnx.export writes it.")
@click.option(
    "--model-code",
    metavar="FILE.py[:FUNCTION]",
    help="Builds the model for a file of weights, or defines its layers' classes; needs --trust.",
)
@click.option("--trust", is_flag=True, help="Run the code in --model-code and in the model's file (Lambda layers).")
@click.option(
    "--calibration", type=FOLDER, required=True, help="Images or videos like those that will come; labels are ignored."
)
@click.option("--labels", type=FILE, required=True, help="One class name a line, in the order of the outputs.")
@out_option
@click.option("--name", help="Name of the bundle (default: that of the folder).")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--data", type=FOLDER, help="A labelled data set: INT8 must then keep its accuracy.")
@click.option(
    "--preprocess",
    help="Normalisation outside the model: none, caffe, tf, torch or MEAN/STD, as 0/255. Where the model has none of its own it "
    "must be given; without it the likeliest are shown.",
)
@click.option(
    "--color",
    type=click.Choice(["rgb", "bgr", "gray"]),
    help="What the model was trained on (default: rgb; gray for a model of one channel).",
)
@click.option("--size", metavar="HxW", help="Height and width, where the model takes any.")
@click.option("--resize", default="squash", show_default=True, help="squash, pad, or crop:SHORT_SIDE.")
@click.option(
    "--enhance",
    multiple=True,
    metavar="STEP",
    help="A step before the model, as in training: denoise, clahe or vessels, with parameters as clahe:clip_limit=2.0,tiles=8x8. "
    "Several run in the order given.",
)
@click.option(
    "--frames", type=click.IntRange(1), help="Frames of a clip (default: those that the model takes, else 16)."
)
@click.option("--max-frames", type=click.IntRange(1), help="Most frames that a client may ask for (default: 64).")
@click.option("--sampling", default="uniform", show_default=True, help="uniform, or fps:RATE.")
@click.option(
    "--activation",
    type=click.Choice(["softmax", "sigmoid", "none"]),
    help="What turns the model's scores into probabilities.",
)
@click.option(
    "--steps",
    type=click.Choice(["mean", "last"]),
    help="Of a model that answers for each step: what answers for the clip.",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How float weights are stored.",
)
@split_option
@max_drop_option
@force_option
@pictures_option
@json_option
@one_sentence
def export(
    model: Path | None,
    encoder: Path | None,
    head: Path | None,
    from_onnx: Path | None,
    model_code: str | None,
    trust: bool,
    calibration: Path,
    labels: Path,
    out: Path,
    name: str | None,
    version: str,
    data: Path | None,
    preprocess: str | None,
    color: Literal["rgb", "bgr", "gray"] | None,
    size: str | None,
    resize: str,
    enhance: tuple[str, ...],
    frames: int | None,
    max_frames: int | None,
    sampling: str,
    activation: Literal["softmax", "sigmoid", "none"] | None,
    steps: Literal["mean", "last"] | None,
    weights: Literal["float32", "float16"],
    split: str,
    max_drop: float,
    force: bool,
    pictures: bool,
    as_json: bool,
) -> None:
    """Export MODEL to a bundle, calibrate it with real frames, and prove it.

    MODEL is a .keras or .h5 file of Keras 3 or 2, a SavedModel folder of Keras 2, or weights with --model-code; what it is, is told by
    its content. Or give --encoder with --head, or --from-onnx.
    """
    _one_source(model, encoder, head, from_onnx)
    name = name or out.resolve().name
    _may_be_called(name, version)
    names = read_labels(labels)
    _holds_pictures(calibration)
    with staging_folder(out) as staging:  # `out` stays as it is until the bundle is whole and proved
        from models.data.dataset import Dataset

        dataset = None if data is None else Dataset.open(data, labels=names)

        from models.files.model_code import ModelCode
        from models.foreign import Source, export_foreign
        from models.pipeline import copy_bundle, quantize_judged
        from models.readings.flags import Reading

        code = None if model_code is None else ModelCode.parse(model_code, trust=trust)
        exported, frames_seen = export_foreign(
            Source(model, encoder, head, from_onnx, code, trust),
            Reading(preprocess, color, size, resize, frames, max_frames, sampling, activation, steps, enhance),
            out=staging / "bundle",
            name=name,
            version=version,
            labels=names,
            weights=weights,
            calibration=calibration,
            command=command_line(),
            tell=lambda line: click.echo(line, err=True),
        )
        judged, report = quantize_judged(
            exported,
            calibration=frames_seen,
            dataset=dataset,
            split=split,
            max_drop=max_drop,
            force=force,
            pictures=pictures,
            command=command_line(),
        )
        bundle = copy_bundle(judged, out)
    tell(bundle, report, as_json=as_json)
    click.echo(resources(), err=True)
    engine_too(bundle)


def _may_be_called(name: str, version: str) -> None:
    """Raise ExportRefused for a name or version that no manifest may hold."""
    for flag, what, value, pattern, allowed in (
        ("--name", "name", name, NAME, "'_', '.' and '-'"),
        ("--version", "version", version, VERSION, "'_', '.', '+' and '-'"),
    ):
        if not re.fullmatch(pattern, value):
            raise ExportRefused(
                f"{value!r} cannot be a bundle's {what}: letters A to Z, digits, {allowed} are allowed, 64 at most, a letter or digit first; "
                f"give another with {flag}"
            )


def _holds_pictures(calibration: Path) -> None:
    """Raise DataError where nothing in the folder can be calibrated on; how many frames there are is told once they are chosen."""
    from models.data.layout import is_dataset
    from models.data.load import IMAGES, VIDEOS

    if not calibration.is_dir():
        raise DataError(
            f"--calibration {calibration} is no folder; name one that holds images or videos like those that will be classified"
        )
    if is_dataset(calibration):
        return
    if not any(file.suffix.lower() in IMAGES | VIDEOS for file in calibration.rglob("*")):
        raise DataError(
            f"--calibration {calibration} holds no images or videos ({', '.join(sorted(IMAGES | VIDEOS))}); "
            "name a folder with some like those that will be classified"
        )


def _one_source(model: Path | None, encoder: Path | None, head: Path | None, from_onnx: Path | None) -> None:
    """Exactly one of MODEL, --encoder with --head, and --from-onnx; a wrong mix is a matter of the command line: exit code 2."""
    given = [name for name, value in (("MODEL", model), ("--encoder", encoder), ("--from-onnx", from_onnx)) if value]
    if len(given) != 1:
        raise click.UsageError(
            f"give one of MODEL, --encoder with --head, and --from-onnx; got {' and '.join(given) or 'none of them'}"
        )
    if encoder and not head:
        raise click.UsageError("--encoder needs the other half: give it with --head")
    if head and model:
        raise click.UsageError("--head belongs to --encoder or --from-onnx; MODEL is a whole model")
