"""Judge a bundle on labelled clips, and write what was found into it: report.json, report.md, report.html, pictures, metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset, Sample, named_folder
from models.data.motion import Motion
from models.errors import DataError
from models.judging import latency
from models.judging.accept import Verdict, accept
from models.judging.compared import comparisons, reliabilities
from models.judging.confusion import confusion_entry, confusion_png
from models.judging.flips import PICTURE
from models.judging.judge import Judged, Runner, judge, runners_of
from models.judging.localise import picture_auc, where
from models.judging.metrics import Auc, agreement, auc, figures
from models.judging.report import Report
from models.judging.written import REPORT, write_report
from models.recipe import Score
from service.bundle.manifest import Manifest, Metric
from service.bundle.store import Bundle
from service.errors import EngineError


def assess(
    bundle: Bundle,
    dataset: Dataset,
    *,
    split: str = "test",
    runners: Sequence[Runner] | None = None,
    max_drop: float = 0.01,
    score: Score | None = None,
    command: str | None = None,
    show_data: bool = True,
) -> tuple[Bundle, Report]:
    """Judge every artifact (or the `runners`) on `split`, and INT8's agreement with float on val and `split` together.

    `score`: "auc" adds the area under the ROC curve; None keeps to what was asked for before. Without `show_data` no picture of the
    data is put into the bundle: for one that is handed on. Figures of other engines, precisions and splits stay beside the new ones.
    Raises DataError, EngineError or BundleError; the bundle is then as it was.
    """
    one_class_each(bundle)
    runners = runners or runners_of(bundle)
    # Of a network that says where, val also chooses from which probability on a place counts.
    splits = {split, "val"} if len(runners) > 1 or bundle.manifest.network.grid else {split}
    samples = [sample for sample in dataset.samples if sample.split in splits]
    dataset.split(split)  # an empty split is an error with a sentence of its own
    judged = judge(bundle, dataset, samples, runners=runners)
    verdict = (
        accept(judged, split=split, max_drop=max_drop)
        if {str(r) for r in runners} >= {"openvino fp32", "openvino int8"}
        else None
    )
    report = read_report(bundle)
    report |= _titled(bundle) | {"latency": _latency(bundle, runners, report)}
    if score is not None:
        report["score"] = score
    part = judged.part(split)
    said = answers(part.samples, part.truth, part.probabilities, root=dataset.root)
    known = report.setdefault("answers", {}).get(split)
    if known is not None and known["order"] == said["order"]:  # of other engines and precisions
        said["wrong"] = known["wrong"] | said["wrong"]
    report["answers"][split] = said
    if found := where(bundle, judged, dataset, split=split):
        report["localisation"] = _merged(
            report.get("localisation", []), found, by=("engine", "precision", "split", "by")
        )
    report["reliability"] = _merged(
        report.get("reliability", []), reliabilities(judged, split=split), by=("engine", "precision", "split")
    )
    rows, pictures = comparisons(bundle, judged, dataset, split=split, show_data=show_data)
    redrawn = bool(rows) or not show_data
    before = [row | {"pictured": row.get("pictured", False) and not redrawn} for row in report.get("comparison", [])]
    report["comparison"] = _merged(before, rows, by=("engine", "split"))
    changed = _noted(bundle, judged, report, split=split, verdict=verdict, command=command)
    pictures |= _confusions(bundle, judged, split=split)
    return write_report(bundle, changed, report, pictures=pictures, without=(PICTURE,) if redrawn else ()), report


def answers(
    samples: Sequence[Sample], truth: NDArray[np.int64], probabilities: Mapping[Any, NDArray[np.float32]], *, root: Path
) -> Report:
    """What each of `probabilities`, `[n, K]` by who gave them, said wrong: pairs of a sample's place in the split and the class said there.

    `order` tells one split from another.
    """
    order = hashlib.sha256()
    for sample, label in zip(samples, truth, strict=True):
        order.update(f"{sample.path.relative_to(root).as_posix()}\0{sample.key or ''}\0{label}\0".encode())
    wrong = {}
    for who, rows in probabilities.items():
        said = rows.argmax(axis=1)
        wrong[str(who)] = [[int(place), int(said[place])] for place in np.flatnonzero(said != truth)]
    return {"n": len(truth), "order": order.hexdigest(), "wrong": wrong}


def dataset_of(bundle: Bundle, data: Path) -> Dataset:
    """The labelled data at `data`, or in the folder there that is called as the bundle's own data; raises DataError.

    Read as those were: the bundle's labels in their order, images as its recipe reads them.
    """
    folder = named_folder(data, bundle.manifest.provenance.data)
    return Dataset.open(folder, labels=bundle.manifest.labels, motion=motion_of(bundle))


def motion_of(bundle: Bundle) -> Motion | None:
    """What its recipe made of still images, by the report."""
    found = read_report(bundle).get("recipe", {}).get("motion")
    return None if found is None else Motion.model_validate(found)


def one_class_each(bundle: Bundle) -> None:
    """Raise DataError for a multi-label bundle: a data set names one class of each clip."""
    if bundle.manifest.network.multi_label:
        raise DataError(
            f"bundle {bundle.manifest.name} is multi-label, and a data set names one class of each clip: its other labels would count as wrong; "
            "leave --data away: the report then says for how many labels of the calibration clips INT8 answers as float does"
        )


def time_only(bundle: Bundle, *, runs: int = 5, command: str | None = None) -> tuple[Bundle, Report]:
    """Where there are no labels: how large each artifact is and how fast, in the report. An engine that fails is told there, too."""
    report = read_report(bundle) | _titled(bundle)
    report.pop("not_timed", None)
    try:
        report["latency"] = _latency(bundle, runners_of(bundle), report, runs=runs)
    except EngineError as error:
        report["not_timed"] = str(error)
    if command is not None:
        report["command"] = command
    return write_report(bundle, bundle.manifest, report), report


def note(bundle: Bundle, found: Report) -> Bundle:
    """The bundle with `found` in its report, in place of what stood there by the same names."""
    return write_report(bundle, bundle.manifest, read_report(bundle) | found)


def read_report(bundle: Bundle) -> Report:
    """What export, quantize and earlier assessments have noted."""
    file = bundle.path / REPORT
    found: Report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _titled(bundle: Bundle) -> Report:
    return {
        "bundle": bundle.manifest.model_dump(mode="json", include={"name", "version", "description"}),
        "size_bytes": {role: artifact.bytes for role, artifact in bundle.manifest.artifacts.items()},
    }


def _latency(bundle: Bundle, runners: Sequence[Runner], report: Report, *, runs: int = 15) -> list[Report]:
    found = [each.model_dump(exclude_none=True) for each in latency.measure(bundle, runners, runs=runs)]
    return _merged(report.get("latency", []), found, by=("engine", "precision"))


def _confusions(bundle: Bundle, judged: Judged, *, split: str) -> dict[str, bytes]:
    """A picture for each runner, by its file's name."""
    part, manifest = judged.part(split), bundle.manifest
    pictures = {}
    for runner, rows in part.probabilities.items():
        found = figures(rows, part.truth)
        title = f"{manifest.name}, {runner}, {split}, n={found.n}"
        pictures[_confusion_file(runner, split)] = confusion_png(found.confusion, manifest.labels, title=title)
    return pictures


def _confusion_file(runner: Runner, split: str) -> str:
    return f"confusion-{runner.engine}-{runner.precision}-{split}.png"


def _noted(
    bundle: Bundle, judged: Judged, report: Report, *, split: str, verdict: Verdict | None, command: str | None
) -> Manifest:
    """What was found, put into `report`; the manifest with its metrics."""
    labels = bundle.manifest.labels
    part = judged.part(split)
    float_ = Runner("openvino", "fp32")
    metrics, confusion = [], {}
    for runner, rows in part.probabilities.items():
        found = figures(rows, part.truth)
        same = (
            None
            if runner == float_ or float_ not in judged.probabilities
            else agreement(judged.probabilities[float_], judged.probabilities[runner])[0]
        )
        area = _area(bundle, rows, part.truth) if report.get("score") == "auc" else None
        metrics.append(
            Metric(
                precision=runner.precision,
                engine=runner.engine,
                split=split,
                n=found.n,
                accuracy=found.accuracy,
                accuracy_interval=found.accuracy_interval,
                top5_accuracy=found.top5,
                macro_f1=found.macro_f1,
                auc=area.value if area else None,
                auc_interval=area.interval if area else None,
                agreement=same,
            )
        )
        confusion[f"{runner} {split}"] = confusion_entry(found.confusion, labels)
    figures_now = [metric.model_dump(mode="json", exclude_none=True) for metric in metrics]
    report |= {
        "accuracy": _merged(report.get("accuracy", []), figures_now, by=("engine", "precision", "split")),
        "confusion": report.get("confusion", {}) | confusion,
        "confusion_png": sorted(
            {*report.get("confusion_png", []), *(_confusion_file(each, split) for each in part.probabilities)}
        ),
    }
    if verdict is not None:
        report["verdict"] = {
            "accepted": verdict.accepted,
            "sentence": str(verdict),
            "loss": verdict.loss,
            "agreement": verdict.agreement,
            "agreement_n": verdict.agreement_n,
            "agreement_interval": verdict.agreement_interval,
        }
    if command is not None:
        report["command"] = command
    kept = tuple(Metric.model_validate(each) for each in report["accuracy"])
    return bundle.manifest.model_copy(update={"metrics": kept})


def _area(bundle: Bundle, rows: NDArray[np.float32], truth: NDArray[np.int64]) -> Auc:
    """Of a network that knows a background, something against nothing; else of the classes."""
    grid = bundle.manifest.network.grid
    if grid is None or grid.background is None:
        return auc(rows, truth)
    background = bundle.manifest.labels.index(grid.background)
    nothing = truth == background
    return picture_auc(rows, truth, background=background) if nothing.any() else auc(rows, truth)


def _merged(old: list[Report], new: list[Report], *, by: tuple[str, ...]) -> list[Report]:
    """`new`, and those of `old` that differ from all of them in `by`."""
    now = {tuple(row[name] for name in by) for row in new}
    return [row for row in old if tuple(row[name] for name in by) not in now] + new
