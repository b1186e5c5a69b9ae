"""A bundle judged on frames turned and moved: beside its clean figures, never among them."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.judging.assess import assess, dataset_of, read_report
from models.judging.judge import Runner, judge
from models.judging.perturb import Perturbation
from models.judging.report import markdown
from models.judging.robustness import assess_robustness
from models.table.made import entry_of
from service.bundle.store import Bundle, open_bundle
from tests.conftest import make_color_bundle

RUNNERS = (Runner("openvino", "fp32"),)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Dataset]:
    """A bundle judged on eight noisy pictures whose labels are its own answers: it is right on all of them."""
    root = tmp_path_factory.mktemp("robustness")
    bundle = make_color_bundle(root / "bundle")
    rng = np.random.default_rng(0)
    rows = ["path,label,group,split"]
    said = dict(enumerate(bundle.manifest.labels))
    for number in range(8):
        picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / f"{number}.png"), picture)
        rows.append(f"{number}.png,{said[number % len(said)]},g{number},test")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    dataset = dataset_of(bundle, root)
    answers = judge(bundle, dataset, dataset.samples, runners=RUNNERS).probabilities[RUNNERS[0]].argmax(axis=1)
    rows[1:] = [f"{number}.png,{said[int(answer)]},g{number},test" for number, answer in enumerate(answers)]
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    dataset = dataset_of(bundle, root)
    return assess(bundle, dataset, runners=RUNNERS)[0], dataset


def test_figures_on_changed_frames_stand_by_themselves(judged: tuple[Bundle, Dataset]) -> None:
    bundle, dataset = judged
    before = read_report(bundle)
    changed, report = assess_robustness(
        bundle,
        dataset,
        split="test",
        runners=RUNNERS,
        perturbation=Perturbation(rotate=90, shift=20),
        command="made so",
    )
    assert {name: report[name] for name in before} == before
    assert open_bundle(changed.path).manifest.metrics == bundle.manifest.metrics
    (entry,) = report["robustness"]
    assert (entry["n"], entry["clean_accuracy"], entry["command"]) == (8, 1.0, "made so")
    assert entry["changed"] == "turned by up to ±90° and moved by up to ±20 pixels"
    assert entry["difference"] == pytest.approx(entry["accuracy"] - 1.0)
    low, high = entry["accuracy_interval"]
    assert low <= entry["accuracy"] <= high
    assert "## Turned and moved" in markdown(report)
    told = entry_of(changed)
    assert [(each.accuracy, each.n) for each in told.figures] == [(1.0, 8)]
    assert [(each.changed, each.accuracy) for each in told.robustness] == [(entry["changed"], entry["accuracy"])]


def test_what_is_asked_again_replaces_its_entry_and_nothing_changed_loses_nothing(
    judged: tuple[Bundle, Dataset],
) -> None:
    bundle, dataset = judged
    for seed in (0, 1, 0):
        bundle, report = assess_robustness(
            bundle, dataset, split="test", runners=RUNNERS, perturbation=Perturbation(seed=seed)
        )
    found = [entry for entry in report["robustness"] if entry["changed"] == "as they are"]
    assert sorted((entry["seed"], entry["accuracy"], entry["difference"]) for entry in found) == [(0, 1, 0), (1, 1, 0)]
    assert json.loads((bundle.path / "report.json").read_text(encoding="utf-8")) == report


def test_the_folder_of_data_sets_will_do_where_it_holds_the_bundles_own(
    judged: tuple[Bundle, Dataset], tmp_path: Path
) -> None:
    bundle, dataset = judged
    provenance = bundle.manifest.provenance.model_copy(update={"data": "noise"})
    told = Bundle(bundle.path, bundle.manifest.model_copy(update={"provenance": provenance}))
    shutil.copytree(dataset.root, tmp_path / "noise")
    for folder in (tmp_path, tmp_path / "noise"):
        assert dataset_of(told, folder).root == tmp_path / "noise"
