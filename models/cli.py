"""`marey-build`: train, export, quantize, engine, assess, crossval, floor, run, tune, results."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import click

from models.console import (
    FILE,
    FOLDER,
    command_line,
    data_option,
    force_option,
    json_option,
    max_drop_option,
    one_sentence,
    pictures_option,
    split_option,
    tell,
)
from models.export_command import export
from models.recipe_commands import clips, crossval, floor, run, train, tune
from service import __version__
from service.bundle.manifest import Precision
from service.bundle.store import open_bundle


class _Commands(click.Group):
    """Ctrl-C ends a command as shells expect it, with 128 + SIGINT; click's own answer is 1, which here means refused."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="marey-build")
def main() -> None:
    """Turn Keras CNN-LSTM models into bundles that marey serves: train, export, calibrate, prove."""
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # or nothing is left for the TensorRT engine at the end
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings would stand before our sentences


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--calibration",
    type=FOLDER,
    required=True,
    help="Images or videos like those that will come; of a data set its train split.",
)
@click.option("--data", type=FOLDER, help="A labelled data set: INT8 must then keep its accuracy.")
@split_option
@max_drop_option
@force_option
@pictures_option
@click.option(
    "--skip",
    multiple=True,
    help="Repeatable: what stays in float, by node (block1/Conv), layer (block1) or pattern ('block1*').",
)
@json_option
@one_sentence
def quantize(
    bundle: Path,
    calibration: Path,
    data: Path | None,
    split: str,
    max_drop: float,
    force: bool,
    pictures: bool,
    skip: tuple[str, ...],
    as_json: bool,
) -> None:
    """Give BUNDLE an INT8 network. With --data it is judged first; where it loses too much, BUNDLE stays as it was (exit 1)."""
    from models.calibration import from_folder
    from models.judging.assess import dataset_of, motion_of
    from models.pipeline import quantize_judged

    opened = open_bundle(bundle)
    dataset = None if data is None else dataset_of(opened, data)
    frames = from_folder(calibration, opened.manifest, motion=motion_of(opened))
    changed, report = quantize_judged(
        opened,
        calibration=frames,
        dataset=dataset,
        split=split,
        max_drop=max_drop,
        force=force,
        pictures=pictures,
        command=command_line(),
        skip=skip,
    )
    tell(changed, report, as_json=as_json)


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["int8", "fp16", "fp32"]),
    help="Repeatable; default: int8 where the bundle holds it, else fp16.",
)
@click.option("--device", type=click.IntRange(min=0), default=0, show_default=True, help="The GPU, by CUDA's number.")
@click.option("--cache", type=FOLDER, envvar="MAREY_ENGINE_CACHE", help="Where engines are kept [MAREY_ENGINE_CACHE].")
@json_option
@one_sentence
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
@click.argument("bundle", type=FOLDER)
@data_option
@split_option
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "openvino", "onnxruntime"]),
    help="Default: whatever serves each artifact.",
)
@click.option("--precision", type=click.Choice(["int8", "fp16", "fp32"]), help="Default: all that the bundle holds.")
@click.option("--rotate", type=click.FloatRange(0, 180), default=0.0, help="Turn each clip by up to so many degrees.")
@click.option("--shift", type=click.FloatRange(min=0), default=0.0, help="Move it by up to so many of its pixels.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What --rotate and --shift draw by."
)
@pictures_option
@json_option
@one_sentence
def assess(
    bundle: Path,
    data: Path,
    split: str,
    engine: str | None,
    precision: Precision | None,
    rotate: float,
    shift: float,
    seed: int,
    pictures: bool,
    as_json: bool,
) -> None:
    """Judge BUNDLE on a labelled split: accuracy, top-5, macro-F1, confusion, latency; the report is written into it.

    With --rotate or --shift it is judged on frames changed so, beside the same as they are; its other figures stay.
    """
    from models.judging.assess import assess as assess_bundle
    from models.judging.assess import dataset_of
    from models.judging.judge import runners_of
    from models.judging.perturb import Perturbation
    from models.judging.robustness import assess_robustness

    opened = open_bundle(bundle)
    runners = runners_of(opened, engine=engine, precision=precision)
    if rotate or shift:
        changed, report = assess_robustness(
            opened,
            dataset_of(opened, data),
            split=split,
            runners=runners,
            perturbation=Perturbation(rotate, shift, seed),
            command=command_line(),
        )
        tell(changed, report, as_json=as_json)
        return
    changed, report = assess_bundle(
        opened, dataset_of(opened, data), split=split, runners=runners, command=command_line(), show_data=pictures
    )
    tell(changed, report, as_json=as_json)


@main.command()
@click.argument("folder", type=FOLDER, default=Path("models/results"))
@click.option("--out", type=FILE, help="The page [RESULTS.md beside FOLDER].")
@click.option(
    "--from",
    "bundles",
    type=FOLDER,
    multiple=True,
    help="Repeatable: take over the report of this bundle, or of all below.",
)
@click.option(
    "--time",
    "timed",
    type=FOLDER,
    multiple=True,
    help="Repeatable: time this bundle anew, or all below, one at a time; then as --from.",
)
@one_sentence
def results(folder: Path, out: Path | None, bundles: tuple[Path, ...], timed: tuple[Path, ...]) -> None:
    """Write RESULTS.md, the table of all models, from FOLDER/*/report.json and crossval*.json [models/results]."""
    from models.table.page import write_page

    if bundles or timed:
        from models.table.take import take_over

        for entry in take_over(folder, bundles=bundles, timed=timed):
            click.echo(f"wrote {entry}")
    click.echo(f"wrote {write_page(folder, out or folder.parent / 'RESULTS.md')}")


for command in (train, run, crossval, floor, tune, clips, export):
    main.add_command(command)
