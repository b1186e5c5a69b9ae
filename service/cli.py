"""`marey`: its commands; what they share is in console.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from service import __version__
from service.archive_command import classify_archive
from service.bench_command import bench
from service.bundle.describe import describe
from service.bundle.store import open_bundle
from service.classify_command import classify_command
from service.console import engine_option, one_sentence, precision_option, read, settings_of, status
from service.plan_command import plan
from service.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="marey")
def main() -> None:
    """Say what images and videos show, by Keras CNN-LSTM models turned into bundles (marey-build makes those)."""


@main.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on (default 127.0.0.1; 0.0.0.0 for every interface).")
@click.option("--port", type=int, help="Port to listen on (default 8000; 0 takes a free one).")
@engine_option
@precision_option
@click.option("--devices", help="GPUs to use, by CUDA's numbers, such as 0,1 (default: the first, where there is one).")
@click.option(
    "--ray", "on_ray", is_flag=True, help="Serve on Ray (extra scale), on the cluster that RAY_ADDRESS names."
)
@click.option("--ingress", help="With --ray: replicas that take requests and decode, such as 2, or 1:4 for 1 to 4.")
@click.option("--engines", help="With --ray: replicas that run networks, of each bundle, such as 2, or 1:4.")
@click.option("--engine-gpus", type=float, help="With --ray: share of a GPU for each engine, such as 0.5.")
@one_sentence
def serve(
    bundles: tuple[Path, ...],
    host: str | None,
    port: int | None,
    engine: str | None,
    precision: str | None,
    devices: str | None,
    on_ray: bool,
    ingress: str | None,
    engines: str | None,
    engine_gpus: float | None,
) -> int:
    """Serve BUNDLES over HTTP; without any, those that ship. Every setting can also come from MAREY_… variables."""
    settings = settings_of(bundles=bundles, host=host, port=port, engine=engine, precision=precision, devices=devices)
    spread = {"ingress": ingress, "engines": engines, "engine_gpus": engine_gpus}
    if on_ray:
        return _serve_on_ray(settings, spread)
    if given := next((name for name, value in spread.items() if value is not None), None):
        raise click.UsageError(f"--{given.replace('_', '-')} is for Ray's replicas; add --ray, or leave it out")
    from service import server  # noqa: PLC0415  # FastAPI and OpenCV take a second that no other command needs

    return server.run(settings)


def _serve_on_ray(settings: Settings, flags: dict[str, Any]) -> int:
    from service import scale  # noqa: PLC0415  # no other command needs it

    scale.prepare("marey serve --ray")
    from service.scale import run  # noqa: PLC0415
    from service.scale.spread import Spread  # noqa: PLC0415

    return run.run(settings, read(Spread, flags))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@one_sentence
def inspect(bundle: Path, as_json: bool) -> None:
    """Verify BUNDLE, every hash of it, and describe it."""
    opened = open_bundle(bundle)
    click.echo(opened.manifest.model_dump_json(indent=2, exclude_none=True) if as_json else describe(opened))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one document with everything that was found.")
@one_sentence
def doctor(as_json: bool) -> int:
    """Say what can run on this machine, what cannot, why, and the remedy. Exit code 0 if at least one engine runs.

    Each engine really runs; on a GPU, one that is not in the cache is built first, which can take minutes.
    """
    from service.doctor.examine import examine  # noqa: PLC0415  # no other command needs it
    from service.doctor.report import render  # noqa: PLC0415

    report = examine(progress=status)
    status("")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(report.model_dump_json(indent=2) if as_json else render(report, width=width))
    return 0 if report.ok else 1


@main.command("key")
@click.argument("name")
@click.option("--admin", is_flag=True, help="It may also load and unload models.")
@click.option("--rate", type=float, help="Requests a second of this key; default: MAREY_RATE_LIMIT.")
@click.option("--file", type=click.Path(path_type=Path), help="Where keys are kept, hashed; default: MAREY_KEYS.")
@click.option("--remove", is_flag=True, help="Take the key of NAME out of the file instead.")
@one_sentence
def key_command(name: str, admin: bool, rate: float | None, file: Path | None, remove: bool) -> None:
    """Make an API key for NAME, and print it: this once, because only its hash is kept.

    A running service takes what has changed within a second.
    """
    from service import keys  # noqa: PLC0415  # no other command needs it

    path = file or settings_of().keys
    if path is None:
        raise click.UsageError("name the file of keys with --file, or by MAREY_KEYS")
    if remove:
        keys.remove(path, name)
        return
    token = keys.add(path, name, role="admin" if admin else "user", rate=rate)
    click.echo(f"added to {path}; send it as Authorization: Bearer KEY, and keep it: it is not shown again", err=True)
    click.echo(token)


for command in (classify_command, classify_archive, bench, plan):
    main.add_command(command)
