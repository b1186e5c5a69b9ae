"""`marey classify-archive`: a folder, or a part of an object store, into one Parquet file."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.console import engine_option, one_sentence, precision_option, read, settings_of, status

if TYPE_CHECKING:
    from service.archive.run import Progress

# Failures beyond these are in the file only.
_SHOWN = 20
_EVERY_S = 10.0


@click.command("classify-archive")
@click.argument("source")
@click.option("--out", required=True, help="The Parquet file, or the place in a store: a row for each file.")
@click.option("--model", help="NAME or NAME:VERSION; default: the first that fits the file.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="A bundle, or a folder of them; default: those that ship."
)
@click.option("--top-k", type=click.IntRange(min=0), help="How many classes to keep; 0: all.")
@click.option("--frames", type=click.IntRange(min=1), help="Frames to look at in a video, or in each window of it.")
@click.option("--window-s", type=click.FloatRange(min=0.04), help="Cut videos into windows of so many seconds.")
@click.option("--stride-s", type=click.FloatRange(min=0.01), help="From one window to the next (default: --window-s).")
@click.option("--workers", default="1", show_default=True, help="Replicas that read and decode, such as 2, or 1:8.")
@click.option(
    "--engines", help="Replicas that run networks, apart from the workers; default: each worker runs its own."
)
@click.option("--engine-gpus", type=float, help="Share of a GPU for each engine, such as 0.5.")
@click.option(
    "--match", multiple=True, help="Only files with such a name, such as '*.mp4'; may be given several times."
)
@click.option("--retry", is_flag=True, help="Look again at the files that failed before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in the end.")
@engine_option
@precision_option
@one_sentence
def classify_archive(
    source: str,
    out: str,
    model: str | None,
    bundle: Path | None,
    top_k: int | None,
    frames: int | None,
    window_s: float | None,
    stride_s: float | None,
    workers: str,
    engines: str | None,
    engine_gpus: float | None,
    match: tuple[str, ...],
    retry: bool,
    as_json: bool,
    engine: str | None,
    precision: str | None,
) -> int:
    """Classify every image and video below SOURCE, a folder or s3://BUCKET/PREFIX, gs://… , on Ray (extra scale).

    Stopped, it goes on where it stood when it is started again; files that fail have a row that says why. On the cluster that
    RAY_ADDRESS names, or on this machine.
    """
    from service import scale  # noqa: PLC0415  # no other command needs it, nor what follows

    scale.prepare("marey classify-archive")
    from service.archive.run import Archive, classify  # noqa: PLC0415
    from service.archive.source import Location  # noqa: PLC0415
    from service.scale.spread import Spread  # noqa: PLC0415

    settings = settings_of(
        bundles=(bundle,) if bundle else (),
        engine=engine,
        precision=precision,
        log_level="warning",
        timeout_ms=600_000,
    )
    spread = read(Spread, {"ingress": workers, "engines": engines, "engine_gpus": engine_gpus})
    archive = Archive(
        source=Location.of(source),
        out=Location.of(out),
        settings=settings,
        spread=spread,
        wishes={"model": model, "top_k": top_k, "priority": "bulk"},
        looks={"frames": frames, "window_s": window_s, "stride_s": stride_s},
        workers=spread.ingress,
        match=match,
        apart=engines is not None,
        retry=retry,
    )
    try:
        with redirect_stdout(sys.stderr):  # Ray tells there what becomes of its machines
            done = classify(archive, told=_Telling())
    except KeyboardInterrupt:
        status("")
        click.echo("stopped; what was found is kept: start it again to go on", err=True)
        return 130
    status("")
    for path, error in done.failures[:_SHOWN]:
        click.echo(f"failed: {path}: {error}", err=True)
    if len(done.failures) > _SHOWN:
        click.echo(f"… and {len(done.failures) - _SHOWN} more: the column error of {out} has them all", err=True)
    told = {"out": out, "files": done.files, "new": done.new, "gone": done.gone, "failed": len(done.failures)}
    click.echo(
        json.dumps(told)
        if as_json
        else f"{out}: {done.files} files, {done.new} of them new, {done.gone} no longer there, {len(done.failures)} failed"
    )
    return 0


class _Telling:
    """How far it is: at once for who watches, every ten seconds for a log."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        rate = progress.done / max(progress.seconds, 1e-9)
        left_min = (progress.total - progress.done) / rate / 60
        text = (
            f"{progress.done} of {progress.total} files, {progress.failed} failed, {rate:.1f} a second, "
            f"{left_min:.0f} min left"
        )
        if sys.stderr.isatty():
            status(text)
        elif time.monotonic() - self._told >= _EVERY_S:
            self._told = time.monotonic()
            click.echo(text, err=True)
