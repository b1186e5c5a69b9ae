"""`marey plan measure`: decoding, networks and the service one after the other, on one machine, into one document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from service.bench.machine import this_machine
from service.bench.samples import Samples, read_samples
from service.bundle.store import Bundle
from service.engine.base import Choice, Place
from service.errors import MareyError
from service.plan.costs import clip_s
from service.plan.figures import Figures, Footage
from service.plan.footage import measure_footage
from service.plan.networks import measure_networks
from service.plan.served import measure_served


def measure_figures(
    bundle: Bundle,
    files: Sequence[Path],
    *,
    engine: str,
    precision: Choice,
    place: Place,
    concurrency: int,
    seconds: float,
    rounds: int,
    command: str,
    tell: Callable[[str], None],
) -> Figures:
    """`seconds` for each group of clips, each batch size, and five times as long for the service. Raises MareyError."""
    if "video" not in bundle.manifest.tasks:
        raise MareyError(f"the bundle {bundle.manifest.name} takes no videos; plan with one that does")
    machine, date = this_machine(), dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    samples = _clips(files)
    footage = measure_footage(samples.files, manifest=bundle.manifest, seconds=seconds, rounds=rounds, tell=tell)
    networks = measure_networks(
        bundle, engine=engine, precision=precision, place=place, seconds=seconds, rounds=rounds, tell=tell
    )
    options = (f"--engine={networks.engine}", f"--precision={networks.precision}")
    engine_s = clip_s(networks, networks.frames)
    decode_s = _mean_decode_s(footage, looked_at=networks.frames)

    def predicted(cores: float, request_s: float) -> float:
        """Clips a second of so many cores, which the networks share where there is no GPU."""
        if networks.unit == "gpu":
            return min(cores / (decode_s + request_s), 1 / engine_s)
        return cores / (decode_s + request_s + engine_s)

    served = measure_served(
        bundle,
        samples,
        options=options,
        threads=place.threads,
        concurrency=concurrency,
        seconds=5 * seconds,
        rounds=rounds,
        predicted=predicted,
        tell=tell,
    )
    return Figures(
        date=date,
        command=command,
        machine=machine,
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        footage=footage,
        networks=networks,
        served=served,
    )


def _clips(files: Sequence[Path]) -> Samples:
    """All videos of `files` and of the folders among them, those of several as one. Raises MareyError."""
    found = [read_samples(path) for path in files]
    if photos := [path for path, each in zip(files, found, strict=True) if each.task != "video"]:
        raise MareyError(f"--file {photos[0]} holds no video; name clips, or a folder of them")
    return Samples(
        "video", tuple(data for each in found for data in each.files), ", ".join(each.source for each in found)
    )


def _mean_decode_s(footage: Sequence[Footage], *, looked_at: int) -> float:
    """Core-seconds of a clip, in the mean over all that were posted in turn."""
    each = [
        group.frame.median * (frames := group.seconds * group.fps) + group.kept.median * min(looked_at, round(frames))
        for group in footage
        for _ in range(group.clips)
    ]
    return fmean(each)
