"""From a recipe to a bundle: the stages, what each hands to the next, and what need not be done again.

    work/train/model.keras → work/exported (float bundle) → work/quantized (with INT8) → out (judged)

Stages hand over files. Each notes the digest of all that it was made from; what has not changed is not made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from models.calibration import CalibrationFrames, from_dataset, trial_of
from models.data.dataset import Dataset
from models.errors import QuantizationRefused
from models.export.exporter import export_model
from models.export.half import widen
from models.export.report.eight_bits import NOTHING, int8_nodes
from models.files.load import load_keras
from models.judging.assess import assess, note, one_class_each, time_only
from models.judging.locate import located
from models.judging.report import Report
from models.provenance import file_sha256, packages
from models.quantize import Trial, quantize_bundle
from models.recipe import Recipe
from models.training.train import RUN, train
from service.bundle.manifest import Provenance
from service.bundle.store import MANIFEST, Bundle, open_bundle, rewrite_bundle, write_bundle

_log = logging.getLogger(__name__)

# Of the layers of a refused network, so many are named.
_WORST = 10
# Of run.json, what a table or a reader asks for.
_NOTED = ("seconds", "parameters", "trainable", "val", "machine", "stages")


def run(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    work: Path,
    max_drop: float,
    force: bool,
    pictures: bool = True,
    command: str,
    cache: Path | None = None,
    tensorboard: Path | None = None,
    base: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Bundle, Report]:
    """All of it; `base` and `overrides` say of which recipe that ships `recipe` is, and what was set otherwise. Raises QuantizationRefused where INT8 loses too much; the float bundle is in `work` then, `out` untouched."""
    dataset = recipe.dataset(data)
    _check_judged(dataset, recipe)
    model = train(recipe, data=data, out=work / "train", cache=cache or work.parent / "cache", tensorboard=tensorboard)
    made_from = [recipe.sha256, json.dumps(packages())]

    def export(target: Path) -> None:
        exported = export_model(
            model,
            out=target,
            name=recipe.name,
            version=recipe.version,
            description=recipe.description,
            labels=dataset.labels,
            input=recipe.input,
            sampling=recipe.sampling,
            tasks=recipe.tasks,
            weights=recipe.export.weights,
            provenance=_provenance(recipe, model, command),
        )
        if recipe.places is not None:
            note(*located(exported, recipe, load_keras(model), dataset=dataset))

    exported = _stage(work / "exported", [*made_from, file_sha256(model)], export)

    def quantize(target: Path) -> None:
        bundle = open_bundle(exported)
        if not _suits_int8(bundle):
            note(copy_bundle(bundle, target), {"quantization": {"refused": NOTHING}})
            return
        plan = recipe.calibration
        frames = from_dataset(dataset, bundle.manifest, split=plan.split, limit=plan.frames)
        trial = _trial(bundle, dataset, calibrated=plan.split, judged=recipe.data.assess)
        _quantize(bundle, frames, target, skip=plan.skip, trial=trial, max_drop=max_drop)

    quantized = _stage(work / "quantized", [*made_from, file_sha256(exported / MANIFEST), str(max_drop)], quantize)
    judged = copy_bundle(open_bundle(quantized), work / "judged")
    made: dict[str, Any] = {
        "base": base or recipe.name,
        "overrides": list(overrides),
        "architecture": recipe.architecture.name,
    }
    if recipe.data.motion is not None:
        made["motion"] = recipe.data.motion.model_dump()
    judged = note(judged, {"recipe": made, "training": training_of(recipe, work / "train")})
    bundle, report = assess(
        judged,
        dataset,
        split=recipe.data.assess,
        max_drop=max_drop,
        score=recipe.data.score,
        command=command,
        show_data=pictures,
    )
    return copy_bundle(accepted(bundle, report, force=force), out), report


def _check_judged(dataset: Dataset, recipe: Recipe) -> None:
    """Before anything is trained: the split that is judged in the end is there, and what it cannot show is said."""
    held = {sample.label for sample in dataset.split(recipe.data.assess)}
    missing = set(dataset.labels) - held - ({recipe.places.background} if recipe.places else set())
    if missing:
        names = ", ".join(sorted(missing)[:5])
        _log.warning("split %s has no samples of %s: its figures say nothing of them", recipe.data.assess, names)


def training_of(recipe: Recipe, folder: Path) -> Report:
    """What training noted for a reader: not the curves, which stay in `folder`. `none`: that nothing was trained, and why."""
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if recipe.training is None:
        weights = "as they came" if recipe.architecture.pretrained else "no weights"
        return {"none": f"not trained here: {weights}", "parameters": run["parameters"]}
    return {name: run[name] for name in _NOTED if name in run}


def quantize_judged(
    bundle: Bundle,
    *,
    calibration: CalibrationFrames,
    dataset: Dataset | None,
    split: str,
    max_drop: float,
    force: bool,
    pictures: bool = True,
    command: str,
    skip: Sequence[str] = (),
) -> tuple[Bundle, Report]:
    """Give `bundle` an INT8 encoder or clip network, and its report what was found and measured.

    With `dataset` it is judged first, and left as it was where INT8 loses too much; without, its engines are timed. Where nothing in the
    network is meant for INT8, the bundle stays in float, and the report says why.
    """
    if dataset is not None:
        one_class_each(bundle)
    staging = bundle.path.with_name(f".{bundle.path.name}.int8-{os.getpid()}")  # another run may be at the same bundle
    try:
        if _suits_int8(bundle):
            trial = (
                None if dataset is None else _trial(bundle, dataset, calibrated=calibration.source.split, judged=split)
            )
            changed = _quantize(bundle, calibration, staging, skip=skip, trial=trial, max_drop=max_drop)
        else:
            changed = note(copy_bundle(bundle, staging), {"quantization": {"refused": NOTHING}})
        if dataset is None:
            changed, report = time_only(changed, command=command)
        else:
            changed, report = assess(
                changed, dataset, split=split, max_drop=max_drop, command=command, show_data=pictures
            )
            changed = accepted(changed, report, force=force)
        return copy_bundle(changed, bundle.path), report
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _suits_int8(bundle: Bundle) -> bool:
    graph = onnx.load_from_string(bundle.file(bundle.manifest.network.stages[0]).read_bytes())
    return bool(int8_nodes(widen(graph).graph))


def accepted(bundle: Bundle, report: Report, *, force: bool) -> Bundle:
    """`bundle` as it may be published: raises QuantizationRefused where its INT8 was refused, unless forced; that is recorded."""
    verdict = report.get("verdict")
    if verdict is None or verdict["accepted"]:
        return bundle
    if not force:
        worst = report.get("quantization", {}).get("sensitivity", {}).get("rows", [])[:_WORST]
        table = "".join(
            f"\n  {row['kl']:.2g} nats  same top-1 {row['top1_agreement']:.1%}  {row['node']}" for row in worst
        )
        raise QuantizationRefused(
            f"{verdict['sentence']}; give more calibration frames, allow more with --max-drop, or insist with --force"
            + (f". What INT8 costs most in, each layer alone:{table}" if table else "")
        )
    calibration = bundle.manifest.calibration
    assert calibration is not None
    _log.warning("INT8 is kept by --force, and the manifest says so: %s", verdict["sentence"])
    forced = calibration.model_copy(update={"forced": verdict["sentence"]})
    report["verdict"] = verdict | {"sentence": f"{verdict['sentence']}; kept by --force"}
    kept = note(bundle, {"verdict": report["verdict"]})
    return rewrite_bundle(kept, kept.manifest.model_copy(update={"calibration": forced}), {})


def copy_bundle(bundle: Bundle, target: Path) -> Bundle:
    """The files of `bundle` at `target`, in one rename; a bundle that is there already is replaced."""
    files = {file.name: file.read_bytes() for file in bundle.path.iterdir() if file.is_file() and file.name != MANIFEST}
    return write_bundle(target, bundle.manifest, files)


def _trial(bundle: Bundle, dataset: Dataset, *, calibrated: str | None, judged: str) -> Trial | None:
    """Clips of val to choose the quantized network by; None where they gave the ranges, or are to judge it."""
    trial = None if "val" in (calibrated, judged) else trial_of(dataset, bundle.manifest)
    if trial is None:
        why = "it gave the ranges, or is judged" if "val" in (calibrated, judged) else f"{dataset.root.name} has none"
        _log.warning("INT8 is not searched, ranges are MinMax: that needs a split val of its own, and %s", why)
    return trial


def _quantize(
    bundle: Bundle,
    found: CalibrationFrames,
    out: Path,
    *,
    skip: Sequence[str],
    trial: Trial | None,
    max_drop: float,
) -> Bundle:
    return quantize_bundle(
        bundle,
        frames=found.frames,
        calibration=found.source,
        clip_frames=found.clip_frames,
        skip=skip,
        trial=trial,
        max_drop=max_drop,
        out=out,
    )


def _stage(target: Path, made_from: list[str], make: Callable[[Path], None]) -> Path:
    """Make `target` unless it was made from the very same before."""
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()
    note = target.with_suffix(".made-from")
    if target.is_dir() and note.is_file() and note.read_text() == key:
        return target
    note.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    make(target)
    note.write_text(key)
    return target


def _provenance(recipe: Recipe, model: Path, command: str) -> Provenance:
    return Provenance(
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        source_sha256=file_sha256(model),
        packages=packages(),
        data=recipe.data.folder,
        data_source=recipe.data.source,
        data_license=recipe.data.license,
        weights_source=recipe.weights.source if recipe.weights else None,
        weights_license=recipe.weights.license if recipe.weights else None,
        command=command,
    )
