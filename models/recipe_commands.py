"""`marey-build train | crossval | floor | run | tune | clips`: what begins with a recipe."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

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
    pictures_option,
    set_option,
    split_option,
    tell,
    tensorboard_option,
    told_where,
)


@click.command()
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


@click.command()
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
    ours, plain = result["ours"], result["floor"]
    floor_too = f", the floor {plain['accuracy']:.1%} ± {plain['standard_error']:.1%}" if plain else ""
    click.echo(
        f"{ours['accuracy']:.1%} ± {ours['standard_error']:.1%} of {result['n']} over {len(result['fold_sizes'])} folds{floor_too}; wrote {out}"
    )


@click.command()
@click.argument("recipe")
@data_option
@click.option(
    "--results",
    type=FOLDER,
    default=Path("models/results"),
    show_default=True,
    help="Write RESULTS/NAME/floor.json.",
)
@click.option("--cache", type=FOLDER, help="Where frozen features are kept (default: runs/cache).")
@set_option
@one_sentence
def floor(recipe: str, data: Path, results: Path, cache: Path | None, overrides: tuple[str, ...]) -> None:
    """Judge a logistic regression on frozen features on RECIPE's own split: what a trained network should be above."""
    from models.judging.floor import floor as judged_floor
    from models.provenance import run_again
    from models.recipe import Recipe
    from models.table.entry import Floor, write_floor

    read = Recipe.read(recipe, overrides=overrides)
    found = judged_floor(read, data=data, cache=cache or Path("runs/cache"))
    told = Floor.model_validate(found | {"command": run_again(command_line())})
    click.echo(f"{told.accuracy:.1%} of {told.n} on {told.split}; wrote {write_floor(results, read.name, told)}")


@click.command()
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
@pictures_option
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
    pictures: bool,
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
        pictures=pictures,
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


@click.command()
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


@click.command()
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
