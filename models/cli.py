"""`marey-build`: train, export, quantize, engine, assess, crossval, run, tune, results."""

from __future__ import annotations

import json
import logging
import os
import shlex
from pathlib import Path
from typing import Any

import click

from models.console import (
    FILE,
    FOLDER,
    cache_option,
    command_line,
    data_option,
    engine_too,
    force_option,
    json_option,
    max_drop_option,
    one_sentence,
    out_option,
    set_option,
    split_option,
    tell,
    tensorboard_option,
    told_where,
)
from models.export_command import export
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
@click.argument("recipe")
@data_option
@out_option
@cache_option
@tensorboard_option
@set_option
@one_sentence
def train(
    recipe: str, data: Path, out: Path, cache: Path | None, tensorboard: Path | None, overrides: tuple[str, ...]
) -> None:
    """Train what RECIPE (a TOML file, or the name of one that ships) says; an interrupted training goes on where it was."""
    from models.recipe import Recipe
    from models.training.train import train as train_recipe

    read = Recipe.read(recipe, overrides=overrides)
    click.echo(f"wrote {train_recipe(read, data=data, out=out, cache=cache, tensorboard=tensorboard)}")
    told_where(tensorboard)


@main.command()
@click.argument("recipe")
@data_option
@click.option("--out", type=FILE, required=True, help="The JSON file for the figures.")
@cache_option
@click.option("--seeds", type=click.IntRange(min=1), help="Trainings per fold (default: the recipe's).")
@click.option("--no-floor", is_flag=True, help="Leave out the logistic regression, where another recipe's file has it.")
@click.option(
    "--beside",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Another recipe's JSON, judged in the same folds: its floor is taken over, and the paired difference added.",
)
@set_option
@one_sentence
def crossval(
    recipe: str,
    data: Path,
    out: Path,
    cache: Path | None,
    seeds: int | None,
    no_floor: bool,
    beside: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Judge RECIPE by grouped cross-validation, beside a logistic regression on frozen features in the same folds."""
    from models.recipe import Recipe
    from models.training.crossval import crossvalidate

    result = crossvalidate(
        Recipe.read(recipe, overrides=overrides),
        data=data,
        cache=cache,
        seeds=seeds,
        floor=not no_floor,
        beside=json.loads(beside.read_text(encoding="utf-8")) if beside else None,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result | {"command": command_line()}, indent=2) + "\n", encoding="utf-8")
    click.echo(f"wrote {out}")


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
        opened, dataset_of(opened, data), split=split, runners=runners, command=command_line()
    )
    tell(changed, report, as_json=as_json)


@main.command()
@click.argument("recipe")
@data_option
@out_option
@click.option(
    "--work",
    type=FOLDER,
    help="Where the stages keep what they made (default: runs/NAME); a second run goes on there.",
)
@click.option(
    "--results", type=FOLDER, help="Also write what RESULTS.md needs to RESULTS/NAME/report.json, as in models/results."
)
@set_option
@cache_option
@tensorboard_option
@max_drop_option
@force_option
@json_option
@one_sentence
def run(
    recipe: str,
    data: Path,
    out: Path,
    work: Path | None,
    results: Path | None,
    cache: Path | None,
    tensorboard: Path | None,
    overrides: tuple[str, ...],
    max_drop: float,
    force: bool,
    as_json: bool,
) -> None:
    """All of it: train RECIPE, export, calibrate, judge, and write the bundle."""
    from models.pipeline import run as run_recipe
    from models.provenance import run_again
    from models.recipe import Recipe

    read = Recipe.read(recipe, overrides=overrides)
    folder = work or Path("runs") / read.name
    bundle, report = run_recipe(
        read,
        data=data,
        out=out,
        work=folder,
        cache=cache,
        tensorboard=tensorboard,
        max_drop=max_drop,
        force=force,
        command=run_again(command_line()),
        base=Path(recipe).stem,
        overrides=overrides,
    )
    if results is not None:
        from models.table.entry import write_entry
        from models.table.made import entry_of

        click.echo(f"wrote {write_entry(results, entry_of(bundle))}", err=True)
    tell(bundle, report, as_json=as_json)
    told_where(tensorboard)
    engine_too(bundle)


@main.command()
@click.argument("recipe")
@data_option
@click.option("--trials", type=click.IntRange(min=1), help="How many to try [the recipe's tune.trials, else 20].")
@click.option("--out", type=FILE, help="The recipe that is written, the trials beside it [WORK/best.toml].")
@click.option(
    "--work", type=FOLDER, help="Where the trials are kept (default: runs/NAME-tune); a second search goes on there."
)
@one_sentence
def tune(recipe: str, data: Path, trials: int | None, out: Path | None, work: Path | None) -> None:
    """Search units, depth, length, cell, direction and attention of RECIPE, or what its [tune.space] names, judged on split val."""
    from models.recipe import Recipe
    from models.training.tune import tune as tune_recipe
    from models.training.tune import write_found

    folder = work or Path("runs") / f"{Recipe.read(recipe).name}-tune"
    found = tune_recipe(recipe, data=data, work=folder, trials=trials)
    best = out or folder / "best.toml"
    table = write_found(found, recipe, out=best, command=command_line())
    for trial in sorted(found.trials, key=lambda each: (each.val_loss is None, each.val_loss)):
        click.echo(str(trial))
    click.echo(
        f"wrote {best} and {table}; next: marey-build run {shlex.quote(str(best))} --data {shlex.quote(str(data))} --out BUNDLE"
    )


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


@main.command()
@click.argument("recipe")
@data_option
@out_option
@set_option
@split_option
@click.option("--count", type=click.IntRange(min=1), default=12, show_default=True, help="How many, over the split.")
@click.option("--exact", is_flag=True, help="Lossless .mkv in place of .mp4: the very pixels of training.")
@one_sentence
def clips(recipe: str, data: Path, out: Path, overrides: tuple[str, ...], split: str, count: int, exact: bool) -> None:
    """Write clips that RECIPE makes of still images (data.motion) as videos, one folder per class: to send them to a server."""
    from models.data.footage import write_footage
    from models.recipe import Recipe

    dataset = Recipe.read(recipe, overrides=overrides).dataset(data)
    written = write_footage(dataset, dataset.split(split), out=out, count=count, exact=exact)
    click.echo(f"wrote {len(written)} clips below {out}")


main.add_command(export)
