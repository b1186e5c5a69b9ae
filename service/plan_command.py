"""`marey plan`: figures measured on one machine, and how many nodes a load needs by them."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from service.console import engine_option, one_sentence, precision_option, settings_of, status

_SIZE = re.compile(r"(\d{1,5})[x×](\d{1,5})")


@click.group("plan")
def plan() -> None:
    """Measure what a clip costs here (measure), and compute the nodes for cameras or uploads by it (nodes)."""


@plan.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Clips, or folders of them; repeatable. Several sizes; for cameras MPEG-TS or WebM among them.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the figures go, as JSON.")
@engine_option
@precision_option
@click.option("--threads", type=click.IntRange(min=1), help="Engine threads (default: all cores of this process).")
@click.option("--device", type=click.IntRange(min=0), default=0, help="GPU, by its number.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=8, show_default=True, help="Uploads at a time.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=4.0,
    show_default=True,
    help="For each size and each batch; five times as long for the service.",
)
@click.option(
    "--rounds", type=click.IntRange(min=2), default=6, show_default=True, help="Turns that these are cut into."
)
@one_sentence
def measure(
    bundle: Path,
    files: tuple[Path, ...],
    out: Path,
    engine: str | None,
    precision: str | None,
    threads: int | None,
    device: int,
    concurrency: int,
    seconds: float,
    rounds: int,
) -> None:
    """Measure BUNDLE on this machine: decoding of clips, its networks, and a service under load."""
    from service.bundle.store import open_bundle  # noqa: PLC0415  # the other commands do without
    from service.engine.base import Place  # noqa: PLC0415
    from service.plan.figures_table import figures_table  # noqa: PLC0415
    from service.plan.measure import measure_figures  # noqa: PLC0415

    settings = settings_of(threads=threads, log_level="error", engine=engine, precision=precision)
    try:  # before minutes are spent on figures that could not be kept
        target = out.open("w", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--out {out}: {error.strerror}; name a file that can be written") from None
    with target:
        figures = measure_figures(
            open_bundle(bundle),
            files,
            engine=settings.engine,
            precision=settings.precision,
            place=Place(threads=settings.threads, device=device, engine_cache=settings.engine_cache),
            concurrency=concurrency,
            seconds=seconds,
            rounds=rounds,
            command=_command(),
            tell=status,
        )
        target.write(figures.model_dump_json(indent=2) + "\n")
    status("")
    click.echo(figures_table(figures))


@plan.command()
@click.argument("figures", type=click.Path(path_type=Path))
@click.option("--cameras", type=int, help="Live streams, day and night.")
@click.option("--uploads-per-day", type=float, help="Clips in a day.")
@click.option("--clip-s", type=float, default=10.0, show_default=True, help="Length of an upload.")
@click.option("--size", default="640x480", show_default=True, help="Of the video that comes in.")
@click.option("--fps", type=float, default=25.0, show_default=True, help="Its frames a second.")
@click.option("--codec", default="h264", show_default=True, help="Its codec, one of the figures'.")
@click.option(
    "--mbit", type=float, help="Its bits a second, in millions (default: as the measured clip nearest in size)."
)
@click.option("--frames", type=int, help="Frames of a clip or window (default: the model's).")
@click.option("--window-s", type=float, default=2.0, show_default=True, help="Cameras: length of the rolling window.")
@click.option("--stride-s", type=float, help="Cameras: from one answer to the next (default: one for each frame).")
@click.option("--peak", type=float, help="Busiest hour over the day's mean (default: uploads 3, cameras 1).")
@click.option("--utilization", type=float, default=0.6, show_default=True, help="To what share a node is filled.")
@click.option(
    "--wait-ms", type=float, default=100.0, show_default=True, help="MAREY_QUEUE_MS: who waits longer is refused."
)
@click.option("--late", type=float, default=0.01, show_default=True, help="Share that may be.")
@click.option("--spare", type=int, default=1, show_default=True, help="Nodes that may be lost.")
@click.option("--node-cores", type=int, default=16, show_default=True)
@click.option("--node-gpus", type=int, help="Where the figures are of a GPU (default 1 there).")
@click.option("--network-gbit", type=float, default=10.0, show_default=True, help="What comes into a node.")
@click.option("--node-memory-gib", type=float, default=64.0, show_default=True)
@click.option("--node-price", type=float, help="Of one hour: gives the cost of a million clips.")
@click.option("--gpu-frame-ms", type=float, help="Assume a GPU in place of the measured engine: of one frame …")
@click.option("--gpu-head-ms", type=float, help="… and of the head, for each answer.")
@click.option("--json", "as_json", is_flag=True, help="Print one document.")
@one_sentence
def nodes(figures: Path, as_json: bool, **wishes: Any) -> None:
    """How many nodes --cameras or --uploads-per-day need by FIGURES, what they lack first, and where that moves."""
    from service.plan.assumed import with_gpu  # noqa: PLC0415  # no other command needs it
    from service.plan.costs import Video  # noqa: PLC0415
    from service.plan.figures import read_figures  # noqa: PLC0415
    from service.plan.load import Cameras, Uploads, of_cameras, of_uploads  # noqa: PLC0415
    from service.plan.nodes import Margins, Node  # noqa: PLC0415
    from service.plan.report import plan as planned  # noqa: PLC0415
    from service.plan.report import plan_table  # noqa: PLC0415

    if (wishes["cameras"] is None) == (wishes["uploads_per_day"] is None):
        raise click.UsageError("give --cameras or --uploads-per-day, and not both")
    if (wishes["gpu_frame_ms"] is None) != (wishes["gpu_head_ms"] is None):
        raise click.UsageError("--gpu-frame-ms and --gpu-head-ms go together")
    size = _SIZE.fullmatch(wishes["size"])
    if size is None:
        raise click.UsageError(f"--size {wishes['size']!r}: write width and height, such as 640x480")
    assumed: tuple[str, ...] = ()
    found = read_figures(figures)
    if wishes["gpu_frame_ms"] is not None:
        found, assumed = with_gpu(found, frame_ms=wishes["gpu_frame_ms"], head_ms=wishes["gpu_head_ms"])
    video = Video(int(size[1]), int(size[2]), wishes["fps"], wishes["codec"], wishes["mbit"])
    frames, peak = wishes["frames"], wishes["peak"]
    load: Cameras | Uploads
    if wishes["cameras"] is not None:
        load = Cameras(
            wishes["cameras"], video, frames, wishes["window_s"], wishes["stride_s"], 1.0 if peak is None else peak
        )
        demand = of_cameras(found, load)
    else:
        load = Uploads(wishes["uploads_per_day"], wishes["clip_s"], video, frames, 3.0 if peak is None else peak)
        demand = of_uploads(found, load)
    gpus = wishes["node_gpus"] if wishes["node_gpus"] is not None else int(demand.unit == "gpu")
    node = Node(wishes["node_cores"], gpus, wishes["network_gbit"], wishes["node_memory_gib"], wishes["node_price"])
    margins = Margins(wishes["utilization"], wishes["wait_ms"], wishes["late"], wishes["spare"])
    report = planned(found, load, demand, node=node, margins=margins, command=_command(), assumed=assumed)
    click.echo(report.model_dump_json(indent=2) if as_json else plan_table(report))


def _command() -> str:
    return shlex.join(["marey", *sys.argv[1:]])
