"""What a bundle's report says beyond one figure of each precision: class by class, confidence, and where INT8 leaves float."""

from __future__ import annotations

from typing import Any

from models.data.dataset import Dataset
from models.judging import flips
from models.judging.judge import Judged, Runner
from models.judging.per_class import by_class
from models.judging.plots import flips_figure, png
from models.judging.reliability import reliability
from service.bundle.store import Bundle


def reliabilities(judged: Judged, *, split: str) -> list[dict[str, Any]]:
    """A row for each runner on `split`."""
    part = judged.part(split)
    return [
        {"engine": runner.engine, "precision": runner.precision, "split": split, **reliability(rows, part.truth)}
        for runner, rows in part.probabilities.items()
    ]


def comparisons(
    bundle: Bundle, judged: Judged, dataset: Dataset, *, split: str, show_data: bool
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """A row for each engine whose float was judged, and whose INT8 was where the bundle has one; and `flips.png`, if there is one to draw.

    Classes are those of `split`, flips those of everything judged. Raises DataError.
    """
    rows: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}
    labels, part = bundle.manifest.labels, judged.part(split)
    for engine in dict.fromkeys(runner.engine for runner in judged.probabilities):
        held = {runner.precision: runner for runner in judged.probabilities if runner.engine == engine}
        float_, int8 = held.get("fp32") or held.get("fp16"), held.get("int8")
        if float_ is None or (int8 is None and bundle.manifest.quantized):
            continue
        other = None if int8 is None else part.probabilities[int8]
        classes = by_class(part.truth, part.probabilities[float_], other, labels=labels)
        row: dict[str, Any] = {"engine": engine, "split": split, "classes": classes}
        if int8 is not None:
            row["difference"] = flips.compare(judged, float_, int8, root=dataset.root, labels=labels)
            if show_data and not pictures and row["difference"]["flips"]["count"]:
                pictures[flips.PICTURE] = _sheet(bundle, judged, dataset, row["difference"], pair=(float_, int8))
                row["pictured"] = True
        rows.append(row)
    return rows, pictures


def _sheet(
    bundle: Bundle, judged: Judged, dataset: Dataset, found: dict[str, Any], *, pair: tuple[Runner, Runner]
) -> bytes:
    manifest, listed = bundle.manifest, found["flips"]
    places = flips.flipped(judged, *pair)
    tiles = flips.tiles(
        judged, places, listed["listed"], dataset=dataset, spec=manifest.input, sampling=manifest.sampling
    )
    return png(flips_figure(tiles, count=listed["count"], n=found["n"]))
