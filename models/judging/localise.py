"""How well a network says *where*: its heat map against the masks or boxes of a split, pixel by pixel.

The heat of a place is the probability that it shows something, 1 − p(background), and between the centres of places it is
interpolated, up to the size of the network's input; there the masks and boxes are brought, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset, Sample
from models.data.places import NOWHERE, class_map
from models.judging.judge import Judged
from models.judging.metrics import Auc, auc
from service.bundle.manifest import Grid, Input
from service.bundle.store import Bundle
from service.postprocess import Postprocess

_BINS = 1000  # of the heat: thresholds are multiples of 1/1000
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Marked:
    """Pixels of pictures by heat: `inside` and `outside` `[n, bins]` count those that show something, and those that do not."""

    labels: tuple[str, ...]
    inside: NDArray[np.int64]
    outside: NDArray[np.int64]

    @property
    def known(self) -> int:
        """How many pictures have a pixel that is known."""
        return int(((self.inside + self.outside).sum(axis=1) > 0).sum())


@dataclass(frozen=True, slots=True)
class Localisation:
    """Of `n` pictures of which it is known where they show what they show, background included.

    `pixel_auc`: the area under the ROC curve over all of their pixels. `iou`: intersection over union of all pixels hotter than
    `threshold` with all that are marked, in all pictures together, and `iou_by_label` in those of a label. `threshold` has the best
    IoU on val. Intervals: 95 %, percentiles of 1,000 resamples of whole pictures within each label.
    """

    n: int
    pixel_auc: float
    pixel_auc_interval: tuple[float, float]
    iou: float
    iou_interval: tuple[float, float]
    threshold: float
    iou_by_label: dict[str, float]


def heat(
    positions: NDArray[np.float32], *, grid: Grid, background: int, height: int, width: int
) -> NDArray[np.float32]:
    """Probabilities `[P, K]` → `[height, width]`, 0 where nothing is shown, 1 where something is."""
    cells = np.empty((grid.rows, grid.columns), np.float32)
    rows, columns = np.array(grid.cells).T
    cells[rows, columns] = 1.0 - positions[:, background]
    spread: NDArray[np.float32] = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return spread


def marked_pixels(
    dataset: Dataset, samples: Sequence[Sample], positions: NDArray[np.float32], *, spec: Input, grid: Grid
) -> Marked:
    """What `positions` `[n, P, K]` say of the pixels of `samples`. Raises DataError where a mask cannot be read."""
    assert grid.background is not None
    background = dataset.labels.index(grid.background)
    counts = np.zeros((2, len(samples), _BINS), np.int64)
    for number, (sample, rows) in enumerate(zip(samples, positions, strict=True)):
        truth = class_map(dataset, sample, spec=spec, background=grid.background)
        hot = heat(rows, grid=grid, background=background, height=spec.height, width=spec.width)
        bins = np.minimum((hot * _BINS).astype(np.int64), _BINS - 1)
        shows, known = truth != background, truth != NOWHERE
        counts[0, number] = np.bincount(bins[shows & known], minlength=_BINS)
        counts[1, number] = np.bincount(bins[~shows & known], minlength=_BINS)
    return Marked(tuple(sample.label for sample in samples), counts[0], counts[1])


def localisation(found: Marked, *, val: Marked) -> Localisation:
    """The figures of `found`, the threshold by `val`."""
    cut = int(np.argmax(_ious(val.inside.sum(axis=0), val.outside.sum(axis=0))))
    inside, outside = found.inside.sum(axis=0), found.outside.sum(axis=0)
    labels = np.array(found.labels)
    rng = np.random.default_rng(0)
    draws = np.zeros((_RESAMPLES, len(labels)), np.int64)
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        draws[:, chosen] = rng.multinomial(len(chosen), np.full(len(chosen), 1 / len(chosen)), _RESAMPLES)
    drawn_in, drawn_out = draws @ found.inside, draws @ found.outside
    by_label = {}
    for label in np.unique(labels[found.inside.sum(axis=1) > 0]):
        of = labels == label
        by_label[str(label)] = float(_ious(found.inside[of].sum(axis=0), found.outside[of].sum(axis=0))[cut])
    return Localisation(
        n=found.known,
        pixel_auc=float(_area(inside, outside)),
        pixel_auc_interval=_middle(_area(drawn_in, drawn_out)),
        iou=float(_ious(inside, outside)[cut]),
        iou_interval=_middle(_ious(drawn_in, drawn_out)[:, cut]),
        threshold=cut / _BINS,
        iou_by_label=by_label,
    )


def where(bundle: Bundle, judged: Judged, dataset: Dataset, *, split: str) -> list[dict[str, Any]]:
    """For each runner the figures of `split`, the threshold by val: of the network alone, and with the bundle's postprocess if it has one.

    Empty where the bundle has no grid, or none with a background. `image_auc`: of pictures that show something against those that do
    not; None where the split holds only one kind. `judged` holds `split` and val.
    """
    manifest = bundle.manifest
    grid = manifest.network.grid
    if grid is None or grid.background is None:
        return []
    here, val = judged.part(split), judged.part("val")
    background, both = dataset.labels.index(grid.background), [("network", Postprocess())]
    if manifest.postprocess:
        both.append(("+".join(step.name for step in manifest.postprocess), bundle.postprocess()))
    rows = []
    for runner in judged.positions:
        kinds = len(np.unique(here.truth == background))
        area = picture_auc(here.probabilities[runner], here.truth, background=background) if kinds == 2 else None
        for by, steps in both:
            marked = [
                marked_pixels(
                    dataset, part.samples, steps.positions(part.positions[runner]), spec=manifest.input, grid=grid
                )
                for part in (here, val)
            ]
            found = localisation(marked[0], val=marked[1])
            row = {"engine": runner.engine, "precision": runner.precision, "split": split, "by": by, **asdict(found)}
            rows.append(row | {"image_auc": area and area.value, "image_auc_interval": area and area.interval})
    return rows


def picture_auc(probabilities: NDArray[np.float32], truth: NDArray[np.int64], *, background: int) -> Auc:
    """Of whole pictures `[n, K]`: something against nothing, by 1 − p(background)."""
    nothing = probabilities[:, background]
    return auc(np.stack([nothing, 1.0 - nothing], axis=1), (truth != background).astype(np.int64))


def _ious(inside: NDArray[np.int64], outside: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[…, bins]` → IoU by threshold, that of the lowest bin first."""
    hit, extra = (part[..., ::-1].cumsum(axis=-1)[..., ::-1] for part in (inside, outside))
    total = inside.sum(axis=-1, keepdims=True)
    found: NDArray[np.float64] = hit / np.maximum(total + extra, 1)
    return found


def _area(inside: NDArray[np.int64], outside: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of pairs of pixels in the right order, those of one bin counting half; `[…, bins]` → `[…]`."""
    below = outside.cumsum(axis=-1) - outside
    pairs = (inside * (below + outside / 2)).sum(axis=-1)
    total = inside.sum(axis=-1) * outside.sum(axis=-1).astype(np.float64)
    found: NDArray[np.float64] = pairs / np.maximum(total, 1)
    return found


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
