"""`marey-build`: train, export, quantize, engine, assess, crossval, run."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Literal, ParamSpec

import click

from models.report import Report, markdown
from service import __version__
from service.bundle.manifest import Precision
from service.bundle.store import Bundle, open_bundle
from service.errors import EngineError, MareyError

P = ParamSpec("P")
Channels = Literal["rgb", "bgr", "gray"]
_Folder = click.Path(path_type=Path, file_okay=False)
_File = click.Path(path_type=Path, dir_okay=False)


def _one_sentence(command: Callable[P, None]) -> Callable[P, None]:
    """What Marey raises on purpose is one line on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except MareyError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return run


_data = click.option("--data", type=_Folder, required=True, help="The data set, or the folder that holds it.")
_out = click.option("--out", type=_Folder, required=True, help="Where the result goes.")
_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
_split = click.option("--split", default="test", show_default=True, help="The split to judge on.")
_max_drop = click.option(
    "--max-drop", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Accuracy that INT8 may lose."
)
_force = click.option("--force", is_flag=True, help="Keep an INT8 encoder that loses more; the manifest records it.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="marey-build")
def main() -> None:
    """Turn Keras CNN-LSTM models into bundles that marey serves: train, export, calibrate, prove."""
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # or nothing is left for the TensorRT engine at the end
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings would stand before our sentences


@main.command()
@click.argument("recipe")
@_data
@_out
@_one_sentence
def train(recipe: str, data: Path, out: Path) -> None:
    """Train what RECIPE (a TOML file, or the name of one that ships) says; an interrupted training goes on where it was."""
    from models.recipe import Recipe
    from models.train import train as train_recipe

    click.echo(f"wrote {train_recipe(Recipe.read(recipe), data=data, out=out)}")


@main.command()
@click.argument("recipe")
@_data
@click.option("--out", type=_File, required=True, help="The JSON file for the figures.")
@click.option(
    "--cache", type=_Folder, help="Keeps the frozen CNN's activations: runs/NAME/train/cache shares those of a run."
)
@_one_sentence
def crossval(recipe: str, data: Path, out: Path, cache: Path | None) -> None:
    """Judge RECIPE by grouped cross-validation, beside a logistic regression on frozen features in the same folds."""
    from models.crossval import crossvalidate
    from models.recipe import Recipe

    result = crossvalidate(Recipe.read(recipe), data=data, cache=cache)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(f"wrote {out}")


@main.command()
@click.argument("model", type=_File)
@click.option(
    "--calibration", type=_Folder, required=True, help="Images or videos like those that will come; labels are ignored."
)
@click.option("--labels", type=_File, required=True, help="One class name a line, in the order of the outputs.")
@_out
@click.option("--name", help="Name of the bundle (default: that of the folder).")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--data", type=_Folder, help="A labelled data set: INT8 must then keep its accuracy.")
@click.option("--preprocess", help="Normalisation outside the model: none, caffe, tf, torch or MEAN/STD, as 0/255.")
@click.option(
    "--color",
    type=click.Choice(["rgb", "bgr", "gray"]),
    default="rgb",
    show_default=True,
    help="What the model was trained on.",
)
@click.option("--resize", default="squash", show_default=True, help="squash, pad, or crop:SHORT_SIDE.")
@click.option("--frames", type=click.IntRange(1), default=16, show_default=True, help="Frames of a clip.")
@click.option(
    "--max-frames", type=click.IntRange(1), default=64, show_default=True, help="Most frames that a client may ask for."
)
@click.option("--sampling", default="uniform", show_default=True, help="uniform, or fps:RATE.")
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How float weights are stored.",
)
@_split
@_max_drop
@_force
@_json
@_one_sentence
def export(
    model: Path,
    calibration: Path,
    labels: Path,
    out: Path,
    name: str | None,
    version: str,
    data: Path | None,
    preprocess: str | None,
    color: Channels,
    resize: str,
    frames: int,
    max_frames: int,
    sampling: str,
    weights: Literal["float32", "float16"],
    split: str,
    max_drop: float,
    force: bool,
    as_json: bool,
) -> None:
    """Export MODEL (a .keras file) to a bundle, calibrate it with real frames, and prove it."""
    from models.calibration import from_folder
    from models.dataset import Dataset
    from models.foreign import Reading, export_foreign
    from models.pipeline import quantize_judged

    bundle = export_foreign(
        model,
        Reading(preprocess, color, resize, frames, max_frames, sampling),
        out=out,
        name=name or out.resolve().name,
        version=version,
        labels=labels,
        weights=weights,
        calibration=calibration,
        command=_command(),
    )
    dataset = None if data is None else Dataset.open(data, labels=bundle.manifest.labels)
    bundle, report = quantize_judged(
        bundle,
        calibration=from_folder(calibration, bundle.manifest),
        dataset=dataset,
        split=split,
        max_drop=max_drop,
        force=force,
        command=_command(),
    )
    _tell(bundle, report, as_json=as_json)
    _engine_too(bundle)


@main.command()
@click.argument("bundle", type=_Folder)
@click.option(
    "--calibration",
    type=_Folder,
    required=True,
    help="Images or videos like those that will come; of a data set its train split.",
)
@click.option("--data", type=_Folder, help="A labelled data set: INT8 must then keep its accuracy.")
@_split
@_max_drop
@_force
@_json
@_one_sentence
def quantize(
    bundle: Path, calibration: Path, data: Path | None, split: str, max_drop: float, force: bool, as_json: bool
) -> None:
    """Give BUNDLE an INT8 encoder. With --data it is judged first; where it loses too much, BUNDLE stays as it was (exit 1)."""
    from models.calibration import from_folder
    from models.dataset import Dataset
    from models.pipeline import quantize_judged

    opened = open_bundle(bundle)
    dataset = None if data is None else Dataset.open(data, labels=opened.manifest.labels)
    frames = from_folder(calibration, opened.manifest)
    changed, report = quantize_judged(
        opened, calibration=frames, dataset=dataset, split=split, max_drop=max_drop, force=force, command=_command()
    )
    _tell(changed, report, as_json=as_json)


@main.command()
@click.argument("bundle", type=_Folder)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["int8", "fp16", "fp32"]),
    help="Repeatable; default: int8 where the bundle holds it, else fp16.",
)
@click.option("--device", type=click.IntRange(min=0), default=0, show_default=True, help="The GPU, by CUDA's number.")
@click.option("--cache", type=_Folder, envvar="MAREY_ENGINE_CACHE", help="Where engines are kept [MAREY_ENGINE_CACHE].")
@_json
@_one_sentence
def engine(bundle: Path, precisions: tuple[Precision, ...], device: int, cache: Path | None, as_json: bool) -> None:
    """Build the TensorRT engine of BUNDLE for the GPU at hand, prove it on the golden clips, and keep it for marey serve.

    One that fits is not built again.
    """
    from models.engine import build_engines

    built = build_engines(open_bundle(bundle), precisions=precisions, device=device, cache=cache)
    if as_json:
        click.echo(json.dumps([each.model_dump() for each in built], indent=2))
        return
    for each in built:
        click.echo(each.sentence)


@main.command()
@click.argument("bundle", type=_Folder)
@_data
@_split
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "openvino", "onnxruntime"]),
    help="Default: whatever serves each artifact.",
)
@click.option("--precision", type=click.Choice(["int8", "fp16", "fp32"]), help="Default: all that the bundle holds.")
@_json
@_one_sentence
def assess(
    bundle: Path, data: Path, split: str, engine: str | None, precision: Precision | None, as_json: bool
) -> None:
    """Judge BUNDLE on a labelled split: accuracy, top-5, macro-F1, confusion, latency; the report is written into it."""
    from models.assess import assess as assess_bundle
    from models.dataset import Dataset
    from models.judge import runners_of

    opened = open_bundle(bundle)
    runners = runners_of(opened, engine=engine, precision=precision)
    dataset = Dataset.open(data, labels=opened.manifest.labels)
    changed, report = assess_bundle(opened, dataset, split=split, runners=runners, command=_command())
    _tell(changed, report, as_json=as_json)


@main.command()
@click.argument("recipe")
@_data
@_out
@click.option(
    "--work",
    type=_Folder,
    help="Where the stages keep what they made (default: runs/NAME); a second run goes on there.",
)
@_max_drop
@_force
@_json
@_one_sentence
def run(recipe: str, data: Path, out: Path, work: Path | None, max_drop: float, force: bool, as_json: bool) -> None:
    """All of it: train RECIPE, export, calibrate, judge, and write the bundle."""
    from models.pipeline import run as run_recipe
    from models.recipe import Recipe

    read = Recipe.read(recipe)
    folder = work or Path("runs") / read.name
    bundle, report = run_recipe(
        read, data=data, out=out, work=folder, max_drop=max_drop, force=force, command=_command()
    )
    _tell(bundle, report, as_json=as_json)
    _engine_too(bundle)


def _command() -> str:
    """The command line, as it can be typed again; a bundle travels, so folders of this machine are named by their last part."""
    return shlex.join(
        ["marey-build", *(Path(each).name if Path(each).is_absolute() else each for each in sys.argv[1:])]
    )


def _engine_too(bundle: Bundle) -> None:
    """Where there is a GPU and a TensorRT, the engine is built at once; else the line says how, on stderr beside any JSON."""
    from models.engine import build_engines

    cache = os.environ.get("MAREY_ENGINE_CACHE")
    try:
        for built in build_engines(bundle, cache=Path(cache) if cache else None):
            click.echo(built.sentence, err=True)
    except EngineError as error:  # the bundle is whole all the same
        click.echo(f"no TensorRT engine here: {error}", err=True)
        click.echo(f"on the GPU host: marey-build engine {shlex.quote(str(bundle.path))}", err=True)


def _tell(bundle: Bundle, report: Report | None, *, as_json: bool) -> None:
    from models.assess import read_report

    report = report or read_report(bundle)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    click.echo(markdown(report))
    click.echo(f"wrote {bundle.path}")
