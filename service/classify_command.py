"""`marey classify`: files of images and videos, or one camera, with or without a server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.console import engine_option, one_sentence, precision_option, settings_of
from service.settings import Settings

if TYPE_CHECKING:
    from httpx import AsyncClient

    from service.client import Wishes


@click.command("classify")
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
@engine_option
@precision_option
@one_sentence
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
        return settings_of(
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
