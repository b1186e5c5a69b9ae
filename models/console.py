"""What all commands of `marey-build` share: options, errors as one sentence, the report, the engine at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import click
import psutil

from models.judging.report import Report, markdown
from service.bundle.store import Bundle
from service.errors import EngineError, EngineUnavailable, MareyError

P = ParamSpec("P")
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def one_sentence(command: Callable[P, None]) -> Callable[P, None]:
    """What Marey raises on purpose is one line on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except MareyError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except OSError as error:  # a disk that is full, a folder that is a file, or that nobody may write to
            if error.filename is None:
                raise  # not of a file: a fault of ours, which its traceback tells best
            click.echo(f"error: {error.filename}: {error.strerror}; name another place, or mend this one", err=True)
            sys.exit(1)

    return run


data_option = click.option("--data", type=FOLDER, required=True, help="The data set, or the folder that holds it.")
out_option = click.option("--out", type=FOLDER, required=True, help="Where the result goes.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Repeatable: an entry of the recipe in place of what its file says, as in --set architecture.units=64.",
)
cache_option = click.option(
    "--cache",
    type=FOLDER,
    help="Where activations of frozen CNNs are kept, for all recipes that share one (run: runs/cache).",
)
tensorboard_option = click.option(
    "--tensorboard",
    type=FOLDER,
    help="Also write loss, accuracy, rate and gradient norm of every epoch there, for TensorBoard.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
split_option = click.option("--split", default="test", show_default=True, help="The split to judge on.")
max_drop_option = click.option(
    "--max-drop", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Accuracy that INT8 may lose."
)
force_option = click.option(
    "--force", is_flag=True, help="Keep an INT8 encoder that loses more; the manifest records it."
)
pictures_option = click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Show clips on which INT8 leaves float in the report: pictures of your data, that travel with the bundle.",
)


def command_line() -> str:
    """The command line, as it can be typed again; a bundle travels, so folders of this machine are named by their last part."""
    return shlex.join(
        ["marey-build", *(Path(each).name if Path(each).is_absolute() else each for each in sys.argv[1:])]
    )


def engine_too(bundle: Bundle) -> None:
    """Where there is a GPU and a TensorRT, the engine is built at once; else the line says how, on stderr beside any JSON."""
    from models.engine import build_engines

    cache = os.environ.get("MAREY_ENGINE_CACHE")
    there = f"on the GPU host: marey-build engine {shlex.quote(str(bundle.path))}"
    try:
        for built in build_engines(bundle, cache=Path(cache) if cache else None):
            click.echo(built.sentence, err=True)
    except EngineUnavailable:  # most machines that export have no GPU: nothing failed
        click.echo(f"engine: none is built here (no NVIDIA GPU with TensorRT and pycuda); {there}", err=True)
    except EngineError as error:  # the bundle is whole all the same
        click.echo(f"engine: it could not be built here: {error}", err=True)
        click.echo(there, err=True)


def told_where(curves: Path | None) -> None:
    """How to look at `curves`, on stderr; where the viewer is missing, how to get it."""
    if curves is None:
        return
    missing = importlib.util.find_spec("tensorboard") is None
    how = f"tensorboard --logdir {shlex.quote(str(curves))}"
    click.echo(f"curves: {'pip install tensorboard, then ' if missing else ''}{how}", err=True)


def resources() -> str:
    """What this process took so far, for a person: seconds since it was started, memory at its peak."""
    seconds = time.time() - psutil.Process().create_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return f"took {seconds:.0f} s and {peak / 1e9:.1f} GB of memory at most"


def tell(bundle: Bundle, report: Report | None, *, as_json: bool) -> None:
    from models.judging.assess import read_report

    report = report or read_report(bundle)
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    click.echo(markdown(report))
    click.echo(f"wrote {bundle.path}")
