"""`marey`: serve, classify, inspect."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click
from pydantic import BaseModel, ValidationError

from service import __version__, logs
from service.bundle.describe import describe
from service.bundle.store import open_bundle
from service.engine.buckets import BUCKETS
from service.errors import MareyError
from service.settings import Settings

if TYPE_CHECKING:
    from httpx import AsyncClient

    from service.client import Wishes

P = ParamSpec("P")


def _one_sentence(command: Callable[P, int | None]) -> Callable[P, None]:
    """End with the command's exit code; what Marey raises on purpose is one line on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except MareyError as error:
            click.echo(f"error: {error}", err=True)
            code = 1
        sys.exit(code or 0)

    return run


def _settings(**flags: Any) -> Settings:
    """The environment with the flags that were given laid over it; a bad value ends the command with exit code 2."""
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value not in (None, ())})
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        where = f"--{name}" if name in flags else f"MAREY_{name.upper()}"
        raise click.UsageError(f"{where} = {fault.get('input')!r}: {fault['msg']}") from None
    logs.configure(level=settings.log_level, form=settings.log_format)
    return settings


_engine = click.option(
    "--engine",
    type=click.Choice(["auto", "tensorrt", "openvino", "onnxruntime"]),
    help="What runs the networks; a named one runs or fails.",
)
_precision = click.option("--precision", type=click.Choice(["auto", "int8", "fp16", "fp32"]), help="Of the encoder.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="marey")
def main() -> None:
    """Say what images and videos show, by Keras CNN-LSTM models turned into bundles (marey-build makes those)."""


@main.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on (default 127.0.0.1; 0.0.0.0 for every interface).")
@click.option("--port", type=int, help="Port to listen on (default 8000; 0 takes a free one).")
@_engine
@_precision
@click.option("--devices", help="GPUs to use, by CUDA's numbers, such as 0,1 (default: the first, where there is one).")
@_one_sentence
def serve(
    bundles: tuple[Path, ...],
    host: str | None,
    port: int | None,
    engine: str | None,
    precision: str | None,
    devices: str | None,
) -> int:
    """Serve BUNDLES over HTTP; without any, those that ship. Every setting can also come from MAREY_… variables."""
    from service import server  # noqa: PLC0415  # FastAPI and OpenCV take a second that no other command needs

    return server.run(
        _settings(bundles=bundles, host=host, port=port, engine=engine, precision=precision, devices=devices)
    )


@main.command("classify")
@click.argument("files", nargs=-1, required=True, metavar="FILE|CAMERA ...")
@click.option("--model", help="NAME or NAME:VERSION; default: the first that fits the file.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle that is not served; runs in this process.")
@click.option("--url", help="Ask the service there, such as http://127.0.0.1:8000; else this process does the work.")
@click.option("--key", envvar="MAREY_KEY", help="API key for --url; better from the variable MAREY_KEY than here.")
@click.option("--top-k", type=click.IntRange(min=0), help="How many classes to show; 0: all.")
@click.option("--frames", type=click.IntRange(min=1), help="Frames to look at in a video, or in each window of it.")
@click.option("--window-s", type=click.FloatRange(min=0.04), help="Cut videos into windows of so many seconds.")
@click.option("--stride-s", type=click.FloatRange(min=0.01), help="From one window to the next (default: --window-s).")
@click.option("--vtt", "kind", flag_value="text/vtt", help="Print WebVTT, captions for a player, of one video.")
@click.option("--csv", "kind", flag_value="text/csv", help="Print CSV, rows for a spreadsheet, of one video.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON array of the service's answers; of a camera one a line."
)
@_engine
@_precision
@_one_sentence
def classify_command(
    files: tuple[str, ...],
    model: str | None,
    bundle: Path | None,
    url: str | None,
    key: str | None,
    top_k: int | None,
    frames: int | None,
    window_s: float | None,
    stride_s: float | None,
    kind: str | None,
    as_json: bool,
    engine: str | None,
    precision: str | None,
) -> int:
    """Classify images and videos, with or without a server. Exit code 1 if any of them failed.

    Or one CAMERA, until Ctrl-C: webcam, webcam:1, rtsp://…, rtmp://…, http://… (MJPEG), or - for WebM or MPEG-TS on stdin.
    """
    from service.client import captioned, connect, in_process  # noqa: PLC0415  # likewise, and httpx
    from service.media.address import is_live  # noqa: PLC0415

    if url is not None and (bundle or engine or precision):
        raise click.UsageError(
            "--url asks a service that has its own bundles and engine; leave --bundle, --engine and --precision out"
        )

    def settings() -> Settings:
        return _settings(
            bundles=(bundle,) if bundle else (),
            engine=engine,
            precision=precision,
            log_level="warning",
            timeout_ms=600_000,
        )

    if any(map(is_live, files)):
        if len(files) > 1:
            raise click.UsageError("a camera is watched until Ctrl-C, and so alone; start one command for each source")
        query = {name: value for name, value in {"model": model, "top_k": top_k}.items() if value is not None}
        return _watch(files[0], url=url, key=key, settings=settings, query=query, as_json=as_json)

    wishes: Wishes = {"model": model, "top_k": top_k}
    looks: Wishes = {"frames": frames, "window_s": window_s, "stride_s": stride_s}
    service = connect(url, key=key) if url is not None else in_process(settings())
    if kind is None:
        return asyncio.run(_classify(service, files, wishes=wishes, looks=looks, as_json=as_json))
    if as_json or len(files) > 1:
        raise click.UsageError("--vtt and --csv print one file of one video; leave --json and other files out")
    click.echo(asyncio.run(captioned(service, Path(files[0]), kind=kind, wishes={**wishes, **looks})), nl=False)
    return 0


async def _classify(
    service: AbstractAsyncContextManager[AsyncClient],
    files: tuple[str, ...],
    *,
    wishes: Wishes,
    looks: Wishes,
    as_json: bool,
) -> int:
    from service.client import classify  # noqa: PLC0415

    results = []
    async with service as asked:
        async for result in classify(asked, map(Path, files), wishes=wishes, looks=looks):
            results.append(result)
            if not as_json:
                click.echo(_lines(result))
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    return 1 if any("error" in result for result in results) else 0


def _watch(
    source: str,
    *,
    url: str | None,
    key: str | None,
    settings: Callable[[], Settings],
    query: dict[str, Any],
    as_json: bool,
) -> int:
    from service.watch import Unread, at, in_process, watch  # noqa: PLC0415

    label, answers, dropped = "", 0, 0

    def say(message: dict[str, Any]) -> None:
        nonlocal label, answers, dropped
        best, answers, dropped = message["predictions"][0], answers + 1, message["dropped"]
        if as_json:
            click.echo(json.dumps(message, ensure_ascii=False))
        elif best["label"] != label:
            click.echo(f"{datetime.now().astimezone():%H:%M:%S}  {best['probability']:7.2%}  {best['label']}")
        label = best["label"]
        sys.stdout.flush()

    service = in_process(settings()) if url is None else at(url, key=key)
    try:
        asyncio.run(watch(source, service, query=query, say=say, note=lambda text: click.echo(text, err=True)))
    except Unread:
        # What is still in the buffer goes nowhere: Python would complain at its end that it could not be written.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    lost = f", {dropped} frames dropped" if dropped else ""
    click.echo(f"{answers} answers{lost}", err=True)
    return 0


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@_one_sentence
def inspect(bundle: Path, as_json: bool) -> None:
    """Verify BUNDLE, every hash of it, and describe it."""
    opened = open_bundle(bundle)
    click.echo(opened.manifest.model_dump_json(indent=2, exclude_none=True) if as_json else describe(opened))


@main.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--url", help="Measure the service there under load, such as http://127.0.0.1:8000.")
@click.option(
    "--http", is_flag=True, help="Serve BUNDLE and measure that, against a loop in one process on the same cores."
)
@click.option(
    "--file", type=click.Path(exists=True, path_type=Path), help="What to post: an image, a video or a folder of them."
)
@click.option(
    "--concurrency", "levels", multiple=True, type=click.IntRange(1, 1024), help="Requests at a time; repeatable."
)
@click.option(
    "--overload",
    type=click.FloatRange(min=0.1),
    help="Ask the service at --url for so many times its capacity, whether or not it keeps up; exit code 1 where it fails.",
)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Likewise, so many requests a second.")
@click.option("--engine", "engines", multiple=True, help="Only this one; repeatable. torch: the same network in torch.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["int8", "fp16", "fp32"]),
    help="Only this; repeatable.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.Choice([str(rows) for rows in BUCKETS]),
    help="Frames in one run of the encoder, or clips of a clip network, repeatable; default: all up to the largest that pays.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.05), help="For each configuration (default 2; for each level of load 12)."
)
@click.option(
    "--rounds", type=click.IntRange(min=2), default=6, show_default=True, help="Turns that these are cut into."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (default: all that this process may use).")
@click.option("--device", type=click.IntRange(min=0), default=0, help="GPU, by its number.")
@click.option(
    "--torch-mode",
    type=click.Choice(["auto", "eager", "default", "reduce-overhead", "max-autotune"]),
    default="auto",
    help="auto: max-autotune on a GPU, eager on a CPU.",
)
@click.option("--json", "json_to", metavar="FILE|-", help="Also write the figures as JSON; - prints them and no table.")
@_one_sentence
def bench(
    bundle: Path | None,
    url: str | None,
    http: bool,
    file: Path | None,
    levels: tuple[int, ...],
    overload: float | None,
    rate: float | None,
    json_to: str | None,
    **wishes: Any,
) -> int:
    """Measure BUNDLE on every engine that runs here, at every precision, beside torch; or a service under load.

    All that is compared is measured in turns within one run; the noise is what the rounds differ by.
    """
    from service.bench.command import of_bundle, of_overload, of_service  # noqa: PLC0415  # the other commands do without

    if (bundle is None) == (url is None):
        raise click.UsageError("name the BUNDLE to measure, or the --url of a service, and not both")
    if url is None and not http and (file or levels):
        raise click.UsageError("--file and --concurrency are for a service; give --http or --url with them")
    if (rate or overload) and (url is None or (rate and overload)):
        raise click.UsageError("--rate and --overload are for a service at --url, and one of the two is enough")
    settings = _settings(threads=wishes["threads"], log_level="error")  # what does not run is in the table
    command = shlex.join(["marey", *sys.argv[1:]])
    try:  # before minutes are spent on figures that could not be kept
        target = None if json_to in (None, "-") else Path(str(json_to)).open("w", encoding="utf-8")  # noqa: SIM115  # written below
    except OSError as error:
        raise click.UsageError(f"--json {json_to}: {error.strerror}; name a file that can be written") from None
    report: BaseModel
    met = True
    if url is not None and (rate or overload):
        report, table = of_overload(
            url, rate=rate, overload=overload, file=file, levels=levels, wishes=wishes, command=command, tell=_status
        )
        met = report.met
    elif url is not None or http:
        report, table = of_service(
            bundle, url=url, file=file, levels=levels, wishes=wishes, settings=settings, command=command, tell=_status
        )
    else:
        assert bundle is not None
        report, table = of_bundle(bundle, wishes=wishes, settings=settings, command=command, tell=_status)
    _status("")
    document = report.model_dump_json(indent=2) + "\n"
    if json_to == "-":
        click.echo(document, nl=False)
    else:
        click.echo(table)
    if target is not None:
        with target:
            target.write(document)
    return 0 if met else 1


def _status(text: str) -> None:
    """One line that overwrites itself, for who watches; a file gets none of it."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one document with everything that was found.")
@_one_sentence
def doctor(as_json: bool) -> int:
    """Say what can run on this machine, what cannot, why, and the remedy. Exit code 0 if at least one engine runs.

    Each engine really runs; on a GPU, one that is not in the cache is built first, which can take minutes.
    """
    from service.doctor.examine import examine  # noqa: PLC0415  # no other command needs it
    from service.doctor.report import render  # noqa: PLC0415

    report = examine(progress=_status)
    _status("")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(report.model_dump_json(indent=2) if as_json else render(report, width=width))
    return 0 if report.ok else 1


@main.command("key")
@click.argument("name")
@click.option("--admin", is_flag=True, help="It may also load and unload models.")
@click.option("--rate", type=float, help="Requests a second of this key; default: MAREY_RATE_LIMIT.")
@click.option("--file", type=click.Path(path_type=Path), help="Where keys are kept, hashed; default: MAREY_KEYS.")
@click.option("--remove", is_flag=True, help="Take the key of NAME out of the file instead.")
@_one_sentence
def key_command(name: str, admin: bool, rate: float | None, file: Path | None, remove: bool) -> None:
    """Make an API key for NAME, and print it: this once, because only its hash is kept.

    A running service takes what has changed within a second.
    """
    from service import keys  # noqa: PLC0415  # no other command needs it

    path = file or _settings().keys
    if path is None:
        raise click.UsageError("name the file of keys with --file, or by MAREY_KEYS")
    if remove:
        keys.remove(path, name)
        return
    token = keys.add(path, name, role="admin" if admin else "user", rate=rate)
    click.echo(f"added to {path}; send it as Authorization: Bearer KEY, and keep it: it is not shown again", err=True)
    click.echo(token)


def _lines(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['file']}: error: {result['error']['detail']}"
    model = result["model"]
    head = f"{result['file']}: {model['name']} on {model['engine']} {model['precision']}, {result['timings_ms']['total']:.0f} ms"
    rows = [f"  {found['probability']:7.2%}  {found['label']}" for found in result["predictions"]]
    for segment in result.get("segments", ()):
        best = segment["predictions"][0]
        rows.append(
            f"  {segment['start_s']:9.2f} to {segment['end_s']:9.2f} s  {best['probability']:7.2%}  {best['label']}"
        )
    return "\n".join([head, *rows, *(f"  warning: {text}" for text in result["warnings"])])
