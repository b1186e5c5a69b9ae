"""Float and INT8 of one bundle on the same clips: how far apart they are, and the clips on which they name different classes.

`flips.png` shows frames of the data that were judged. It is drawn into the bundle of whoever holds the data, and only there: the
bundles that ship are made without it (`assess(…, show_data=False)`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset
from models.export.report.table import markdown_table
from models.judging.judge import Judged, Runner
from service.bundle.manifest import Input, Sampling

PICTURE = "flips.png"
SHOWN = 12
# A report stays small.
_LISTED = 50
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Tile:
    """A clip's middle frame `[H, W, C]` uint8 as the network sees it, and its entry in the report's list of flips."""

    frame: NDArray[np.uint8]
    flip: Mapping[str, Any]


def compare(judged: Judged, float_: Runner, int8: Runner, *, root: Path, labels: Sequence[str]) -> dict[str, Any]:
    """What both say of all clips of `judged`.

    `largest_difference` in probability, of any class of any clip; `mean_difference`: the mean over clips of each one's largest;
    `mean_kl`: of KL(float‖INT8) in nats. `flips`: clips on which they name different classes, with those that only float (`lost`) or
    only INT8 (`gained`) has right; `listed` are 50 of them at most, those whose probabilities move most first, paths within `root`.
    """
    ours, theirs = (judged.probabilities[runner].astype(np.float64) for runner in (float_, int8))
    moved = np.abs(ours - theirs).max(axis=1)
    ratio = np.log(np.maximum(ours, _TINY)) - np.log(np.maximum(theirs, _TINY))
    named, other = ours.argmax(axis=1), theirs.argmax(axis=1)
    places = flipped(judged, float_, int8)
    listed = []
    for place in places[:_LISTED]:
        sample, said, says = judged.samples[place], named[place], other[place]
        row = {"file": sample.path.relative_to(root).as_posix()}
        listed.append(
            row
            | ({} if sample.key is None else {"key": sample.key})
            | {
                "split": sample.split,
                "truth": labels[judged.truth[place]],
                "float": labels[said],
                "float_probability": round(float(ours[place, said]), 4),
                "int8": labels[says],
                "int8_probability": round(float(theirs[place, says]), 4),
            }
        )
    return {
        "n": len(judged.truth),
        "splits": sorted({str(sample.split) for sample in judged.samples}),
        "largest_difference": float(moved.max()),
        "mean_difference": float(moved.mean()),
        "mean_kl": float((ours * ratio).sum(axis=1).mean()),
        "flips": {
            "count": len(places),
            "lost": sum(int(named[place] == judged.truth[place]) for place in places),
            "gained": sum(int(other[place] == judged.truth[place]) for place in places),
            "listed": listed,
        },
    }


def flipped(judged: Judged, float_: Runner, int8: Runner) -> list[int]:
    """The places of the clips on which the two name different classes, those whose probabilities move most first."""
    ours, theirs = judged.probabilities[float_], judged.probabilities[int8]
    moved = np.abs(ours - theirs).max(axis=1)
    places = np.flatnonzero(ours.argmax(axis=1) != theirs.argmax(axis=1))
    return [int(place) for place in places[np.argsort(-moved[places], kind="stable")]]


def tiles(
    judged: Judged,
    places: Sequence[int],
    listed: Sequence[Mapping[str, Any]],
    *,
    dataset: Dataset,
    spec: Input,
    sampling: Sampling,
) -> list[Tile]:
    """The first 12 of `listed`, which stand at `places` of `judged`, with their pictures. Raises DataError."""
    found = []
    for place, flip in list(zip(places, listed, strict=False))[:SHOWN]:
        frames = dataset.load(judged.samples[place], spec=spec, sampling=sampling).frames
        found.append(Tile(frames[len(frames) // 2], flip))
    return found


def flip_lines(found: Mapping[str, Any], *, pictured: bool) -> list[str]:
    """The section for a person, by what `compare` found."""
    flips = found["flips"]
    where = " and ".join(found["splits"])
    lines = [
        f"Over {found['n']} samples ({where}) a probability moves by at most {found['largest_difference']:.3f}, and by "
        f"{found['mean_difference']:.3f} in the mean of each sample's largest; KL(float‖INT8) is {found['mean_kl']:.2g} nats in the mean.",
        "",
    ]
    if not flips["count"]:
        return [*lines, "INT8 names the same class as float for every one of them."]
    neither = flips["count"] - flips["lost"] - flips["gained"]
    lines += [
        f"INT8 names another class for {flips['count']} of them: {flips['lost']} that float has right, {flips['gained']} that INT8 has right, "
        f"{neither} that neither has.",
        "",
    ]
    rows = [
        [
            _code(flip["file"] + (f":{flip['key']}" if "key" in flip else "")),
            flip["split"],
            flip["truth"],
            f"{flip['float']} ({flip['float_probability']:.2f})",
            f"{flip['int8']} ({flip['int8_probability']:.2f})",
        ]
        for flip in flips["listed"][:SHOWN]
    ]
    lines += markdown_table(["sample", "split", "truth", "float", "INT8"], rows)
    if flips["count"] > SHOWN:
        kept = f"; report.json lists {len(flips['listed'])}" if len(flips["listed"]) > SHOWN else ""
        lines += ["", f"Those {SHOWN} of {flips['count']} whose probabilities move most{kept}."]
    return [*lines, "", f"![The flips, as the network sees them]({PICTURE})"] if pictured else lines


def _code(text: str) -> str:
    return f"`{text.replace('`', '´')}`"
