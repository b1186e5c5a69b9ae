"""RESULTS.md, drawn from the committed reports alone: no figure in it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.errors import DataError
from models.recipe import RECIPES
from models.table.cells import paragraphs
from models.table.eight_bits import int8_table
from models.table.entry import Entry, Floor, read_entries, read_floors
from models.table.folds import CrossValidated, fold_tables, read_crossvals
from models.table.models import model_table, targets, without_weights
from models.table.pairs import floor_table, pair_table
from models.table.studies import place_table, study_table

_HEAD = """\
# What the models reach

Written by `marey-build results` from each model's `report.json`, `crossval*.json` and `floor.json`: change those, not this page. A report is made by
`marey-build run ID --data DATA --out BUNDLE --results RESULTS`.

Accuracy stands with Wilson's 95 % interval, AUC (the area under the ROC curve; with several classes the mean of each against the rest)
with that of a stratified bootstrap of 2,000 resamples. Each is of the split and the n beside it, which training has not seen;
where a choice was made after a look at it, the head of the recipe, `models/recipes/ID.toml`, says so."""

_FOLDS = """\
Every clip is judged once, by a model that saw no clip of its group. Accuracy ± the standard error over folds; spread: their standard deviation, in
points. The floor is a logistic regression on frozen EfficientNet-Lite0 features (mean, deviation and mean change over time), in the same folds;
the difference to it is that of the folds, ± its standard error."""

_PAIRS = """\
Both were asked about the very same samples, in float. The interval of the difference is Bonett and Price's (2012)."""

_FLOORS = """\
The floor is a logistic regression on frozen EfficientNet-Lite0 features, fitted on train: what is had without training a network. In float."""

_INT8 = """\
Ranges, repairs and the layers that stay in float are chosen on val, by the mean divergence of the probabilities from float (nats); the gate then judges
on test, and the agreement on val and test together. A loss above 0 is worse than float. Milliseconds: the quantized network alone, 16 frames or one clip."""

_PLACES = """\
The heat map of a network against masks or boxes, pixel by pixel. IoU: of all pixels above the threshold that is best on val, all pictures together.
Intervals by resampling whole pictures; n is without those of a defect that nobody marked."""

_NOT_BUILT = """\
- **Audio or text beside video**: no data set here has a sound track or captions with labels; a bundle takes frames only.
- **Volumes** (CT, MRI): no data. A stack of slices would go in as a clip: `cnn3d` and `cnn_lstm` read one.
- **Thyroid ultrasound, remote sensing**: no data with a licence that we could get; `cnn` and `cnn_seq_image` start from a folder of images per class."""


def write_page(folder: Path, out: Path) -> Path:
    """Write the page of the reports below `folder` to `out`; raises DataError, also where there are none."""
    entries, crossvals, floors = read_entries(folder), read_crossvals(folder), read_floors(folder)
    if not (entries or crossvals or floors):
        raise DataError(
            f"{folder} holds no report: */report.json, */crossval*.json, */floor.json; name the folder that --results wrote to"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(entries, crossvals, floors), encoding="utf-8")
    return out


def page(entries: Sequence[Entry], crossvals: Sequence[CrossValidated], floors: Sequence[Floor] = ()) -> str:
    """The whole page; a section without content is left out."""
    learned = [entry for entry in entries if not entry.without_weights]
    shipped = [entry for entry in learned if not entry.overrides]
    random = [entry for entry in entries if entry.without_weights]
    ours = any((RECIPES / f"{entry.base}.toml").is_file() for entry in entries)  # not a page of a user's own models
    sections = (
        ("Models", "", model_table(shipped)),
        ("What was wanted", "", targets(shipped)),
        ("INT8 against float", _INT8, int8_table(shipped)),
        ("Side by side on the same samples", _PAIRS, pair_table(shipped)),
        ("Beside the floor", _FLOORS, floor_table(floors, shipped)),
        ("Grouped cross-validation", _FOLDS, fold_tables(crossvals, entries)),
        ("Where, not only what", _PLACES, place_table(shipped)),
        ("Other settings, less data, changed images", "", study_table(learned)),
        ("Not trained here: no weights", "", without_weights(random)),
        ("Not built, and why", "", _NOT_BUILT.splitlines() if ours else []),
    )
    lines = [_HEAD]
    for title, intro, content in sections:
        if content:
            lines += ["", *paragraphs([f"## {title}"], [intro] if intro else [], content)]
    return "\n".join(lines) + "\n"
