"""Figures for people: what a video-minute and a frame cost, with spread and number, and the model against the service."""

from __future__ import annotations

from service.bench.report import aligned, heading
from service.plan.figures import Figures, Measured


def figures_table(figures: Figures) -> str:
    """The machine, decoding by size, networks by batch, the service; and clips a second as predicted and as measured."""
    networks, served = figures.networks, figures.served
    parts = [
        heading(figures.machine, date=figures.date, command=figures.command),
        f"bundle {figures.bundle}, clips of {networks.frames} frames; median (10th to 90th percentile, n)",
        "\ndecoding, core-seconds of a decode worker",
    ]
    rows = [
        [
            "video",
            "frames/s",
            "clips",
            "s",
            "Mbit/s",
            "a video-minute",
            "ms a frame",
            "ms looked at",
            "preprocess",
            "live, ms a frame",
            "ms looked at",
        ]
    ]
    for each in figures.footage:
        live = [_ms(each.live_frame), _ms(each.live_kept)] if each.live_frame and each.live_kept else ["-", "-"]
        rows.append(
            [
                f"{each.codec} {each.container} {each.width}×{each.height}",
                f"{each.fps:.3g}",
                str(each.clips),
                f"{each.seconds:.3g}",
                f"{each.bytes_per_s * 8 / 1e6:.2f}",
                f"{each.frame.median * each.fps * 60:.3g} s",
                _ms(each.frame),
                _ms(each.kept),
                f"{each.preprocess_share:.0%}",
                *live,
            ]
        )
    parts.append(aligned(rows, left=1))
    engine = f"{networks.engine} {networks.precision}+{networks.float_precision}, {networks.device}"
    parts.append(f"\nnetworks: {engine}, {networks.threads} threads; {networks.unit}-milliseconds")
    rows = [["", "rows", "of the batch", "of a row"]]
    for name, batches in ((networks.kind, networks.entry), ("head", networks.head)):
        rows += [
            [
                name,
                str(each.rows),
                _ms(each.seconds),
                f"{each.seconds.median / each.rows * 1e3:.3g}",
            ]
            for each in batches
        ]
    parts.append(aligned(rows, left=1))
    rows = [
        ["event loop, a request", f"{_ms(served.request)} ms"],
        ["other threads (networks), a request", f"{_ms(served.device)} ms"],
        ["decode workers, a request", f"{_ms(served.workers)} ms"],
        ["event loop, an answer of a stream", f"{_ms(served.answer)} ms" if served.answer else "-"],
        ["memory of the service", _mib(served.process_bytes)],
        ["memory of a decode worker", _mib(served.worker_bytes)],
        ["memory of a stream's decoder", _mib(served.stream_bytes)],
    ]
    parts.append(f"\nmarey serve, {served.concurrency} uploads at a time\n" + aligned(rows, left=1))
    ratio = served.per_s.median / served.predicted_per_s
    parts.append(
        f"\n{served.per_s.median:.4g} clips/s measured ({served.per_s.low:.4g} to {served.per_s.high:.4g}, n {served.per_s.n}), "
        f"{served.predicted_per_s:.4g} predicted for {served.cores:.2f} cores, which the load generator left: ratio {ratio:.2f}"
    )
    return "\n".join(parts)


def _ms(found: Measured | None) -> str:
    if found is None:
        return "-"
    median, low, high = (value * 1e3 for value in (found.median, found.low, found.high))
    return f"{median:.3g} ({low:.3g} to {high:.3g}, {found.n})"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f} MiB"
