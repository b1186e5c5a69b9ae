"""The entry of a bundle, of those that ship and of one without INT8."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.errors import DataError
from models.judging.assess import note, time_only
from models.table.entry import read_entries, write_entry
from models.table.made import entry_of
from models.table.take import take_over
from service.bundle.store import SHIPPED, open_bundle


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle that ships, its times taken anew."""
    copy = tmp_path_factory.mktemp("bundles") / "fight"
    shutil.copytree(SHIPPED / "fight", copy)
    time_only(open_bundle(copy), runs=1)
    return copy


def test_a_bundle_that_ships_gives_a_row_with_everything_that_its_report_and_graphs_hold(timed: Path) -> None:
    entry = entry_of(open_bundle(timed))
    assert (entry.id, entry.base, entry.overrides, entry.unit, entry.classes) == ("fight", "fight", (), "clip", 2)
    assert entry.command == "marey-build run fight --data DATA --out BUNDLE"
    manifest = open_bundle(timed).manifest
    assert entry.float_bytes == manifest.artifacts["encoder"].bytes + manifest.artifacts["head"].bytes
    assert entry.int8_bytes == manifest.artifacts["encoder.int8"].bytes + manifest.artifacts["head"].bytes
    assert entry.int8_share is not None
    assert 0.9 < entry.int8_share < 1, "all but the head and five convolutions"
    for precision in ("fp32", "int8"):
        figure = entry.figure(precision)
        metric = next(each for each in manifest.metrics if each.precision == precision)
        assert figure is not None
        assert (figure.accuracy, figure.n, figure.split) == (metric.accuracy, 55, "test")
    assert entry.timing is not None
    assert entry.timing.frames == 32
    assert entry.timing.int8_ms is not None
    assert entry.timing.load is not None


def test_what_nothing_was_trained_for_has_no_accuracy_to_show(timed: Path, tmp_path: Path) -> None:
    shutil.copytree(timed, tmp_path / "fight")
    bundle = note(open_bundle(tmp_path / "fight"), {"training": {"none": "not trained here: no weights"}})
    assert entry_of(bundle).figures, "its weights came from elsewhere, and the manifest says from where"
    provenance = bundle.manifest.provenance.model_copy(update={"weights_source": None})
    object.__setattr__(bundle, "manifest", bundle.manifest.model_copy(update={"provenance": provenance}))
    entry = entry_of(bundle)
    assert entry.without_weights
    assert (entry.figures, entry.verdict) == ((), None)


def test_an_entry_is_read_as_it_was_written_and_is_small(timed: Path, tmp_path: Path) -> None:
    entry = entry_of(open_bundle(timed))
    file = write_entry(tmp_path, entry)
    assert read_entries(tmp_path) == (entry,)
    assert file.stat().st_size < 20_000
    assert str(timed.parent) not in file.read_text(encoding="utf-8")


def test_bundles_below_a_folder_are_taken_over_timed_or_not(timed: Path, tmp_path: Path) -> None:
    before = open_bundle(timed).path.joinpath("report.json").read_bytes()
    (file,) = take_over(tmp_path, bundles=[timed.parent], timed=[])
    assert file == tmp_path / "fight" / "report.json"
    assert open_bundle(timed).path.joinpath("report.json").read_bytes() == before


def test_two_bundles_of_one_name_are_refused_before_a_report_is_written(timed: Path, tmp_path: Path) -> None:
    shutil.copytree(timed, tmp_path / "bundles" / "other")
    with pytest.raises(DataError, match="are both called fight, and there is one report of a name"):
        list(take_over(tmp_path / "results", bundles=[timed.parent, tmp_path / "bundles"], timed=[]))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("{", "is no JSON"),
        ('{"id": "fight", "colour": "red"}', "base: Field required; write it again with marey-build results --from"),
    ],
)
def test_a_report_that_is_none_is_named(tmp_path: Path, text: str, saying: str) -> None:
    (tmp_path / "fight").mkdir()
    (tmp_path / "fight" / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=saying):
        read_entries(tmp_path)


def test_a_report_in_the_folder_of_another_is_refused(timed: Path, tmp_path: Path) -> None:
    write_entry(tmp_path, entry_of(open_bundle(timed))).parent.rename(tmp_path / "other")
    with pytest.raises(DataError, match="is of fight; a report lies in the folder of its id"):
        read_entries(tmp_path)
