"""How a bundle fares on frames that were turned and moved: figures beside the clean ones of the very same samples, never among them."""

from __future__ import annotations

from collections.abc import Sequence

from models.data.dataset import Dataset
from models.judging.assess import note, one_class_each, read_report
from models.judging.judge import Judged, Runner, judge
from models.judging.metrics import figures
from models.judging.paired import difference
from models.judging.perturb import Perturbation
from models.judging.report import Report
from service.bundle.store import Bundle

KEY = "robustness"
_ONE = ("engine", "precision", "split", "changed", "seed")


def assess_robustness(
    bundle: Bundle,
    dataset: Dataset,
    *,
    split: str,
    runners: Sequence[Runner],
    perturbation: Perturbation,
    command: str | None = None,
) -> tuple[Bundle, Report]:
    """Judge `bundle` on `split` as it is and changed; the report, and nothing else of the bundle, then holds what was found.

    The clean answers are asked for anew, so that `difference` is of pairs; entries of other engines, precisions, splits and
    changes stay. Raises DataError, EngineError or BundleError.
    """
    one_class_each(bundle)
    samples = dataset.split(split)
    clean = judge(bundle, dataset, samples, runners=runners)
    changed = judge(bundle, dataset, samples, runners=runners, perturbation=perturbation)
    found = [
        _entry(clean, changed, runner=runner, split=split, perturbation=perturbation, command=command)
        for runner in runners
    ]
    now = {tuple(row[name] for name in _ONE) for row in found}
    kept = [row for row in read_report(bundle).get(KEY, []) if tuple(row[name] for name in _ONE) not in now]
    noted = note(bundle, {KEY: [*kept, *found]})
    return noted, read_report(noted)


def _entry(
    clean: Judged,
    changed: Judged,
    *,
    runner: Runner,
    split: str,
    perturbation: Perturbation,
    command: str | None,
) -> Report:
    rows, truth = changed.probabilities[runner], changed.truth
    found = figures(rows, truth)
    right = clean.probabilities[runner].argmax(axis=1) == truth
    paired = difference(right, rows.argmax(axis=1) == truth)
    before = figures(clean.probabilities[runner], truth)
    return {
        "engine": runner.engine,
        "precision": runner.precision,
        "split": split,
        "n": found.n,
        "changed": str(perturbation),
        "rotate_degrees": perturbation.rotate,
        "shift_pixels": perturbation.shift,
        "border": "replicated",
        "seed": perturbation.seed,
        "accuracy": found.accuracy,
        "accuracy_interval": list(found.accuracy_interval),
        "macro_f1": found.macro_f1,
        "clean_accuracy": before.accuracy,
        "clean_accuracy_interval": list(before.accuracy_interval),
        "difference": paired.value,
        "difference_interval": list(paired.interval),
        "command": command,
    }
