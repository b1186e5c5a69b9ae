"""What lies in the folders, by real bundles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle.store import Bundle
from service.registry.catalogue import Catalogue, Look


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Look]:
    catalogue = Catalogue((tmp_path,))
    return lambda **served: catalogue.look(served=served.get("served", {}))


def test_bundles_lie_anywhere_below_and_several_versions_of_a_name_are_several_models(
    tmp_path: Path, make_bundle: Callable[..., Bundle], look: Callable[..., Look]
) -> None:
    (tmp_path / "color" / "old").mkdir(parents=True)
    make_bundle(tmp_path / "color" / "old" / "1", version="1")
    make_bundle(tmp_path / "color" / "2", version="2")
    make_bundle(tmp_path / "other", name="other")
    (tmp_path / ".staging").mkdir()
    make_bundle(tmp_path / ".staging" / "made", name="hidden")
    (tmp_path / "color" / "2" / "engines").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = look()
    assert {each.key for each in found.found} == {("color", "1"), ("color", "2"), ("other", "1.0.0")}
    assert found.broken == ()


def test_one_version_twice_is_refused_with_both_paths(
    tmp_path: Path, make_bundle: Callable[..., Bundle], look: Callable[..., Look]
) -> None:
    first, second = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b")
    found = look()
    assert [each.path for each in found.found] == [first.path]
    (broken,) = found.broken
    assert broken.path == second.path
    assert f"{second.path} and {first.path} are both color:1.0.0, and the second is served" in str(broken.error)
    # What is served already stays, wherever its twin turns up.
    found = look(served={("color", "1.0.0"): second.path})
    assert [each.path for each in found.found] == [second.path]
    assert [each.path for each in found.broken] == [first.path]


def test_a_folder_that_is_no_bundle_is_told_beside_those_that_are(
    tmp_path: Path, make_bundle: Callable[..., Bundle], look: Callable[..., Look]
) -> None:
    make_bundle(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{")
    found = look()
    assert [each.path.name for each in found.found] == ["good"]
    assert "bad/manifest.json cannot be read" in str(found.broken[0].error)


def test_any_file_that_the_manifest_lists_changes_the_stamp_and_no_other(
    tmp_path: Path, make_bundle: Callable[..., Bundle], look: Callable[..., Look]
) -> None:
    bundle = make_bundle(tmp_path / "color")

    def stamp() -> str:
        return look().found[0].stamp

    before = stamp()
    assert stamp() == before
    (bundle.path / "report.md").write_text("new")
    assert stamp() == before
    for name in ("encoder.onnx", "golden.npz", "manifest.json"):
        os.utime(bundle.path / name, ns=(1, 1))
        after = stamp()
        assert after != before, name
        before = after
    (bundle.path / "head.onnx").unlink()
    assert stamp() != before


def test_a_bundle_that_moves_is_the_same_elsewhere(
    tmp_path: Path, make_bundle: Callable[..., Bundle], look: Callable[..., Look]
) -> None:
    make_bundle(tmp_path / "here")
    before = look().found[0]
    (tmp_path / "here").rename(tmp_path / "there")
    after = look().found[0]
    assert (after.path.name, after.stamp) == ("there", before.stamp)


def test_a_bundle_that_is_replaced_by_another_version_is_read_anew(
    tmp_path: Path, make_bundle: Callable[..., Bundle], look: Callable[..., Look]
) -> None:
    make_bundle(tmp_path / "color", version="1")
    assert [each.key for each in look().found] == [("color", "1")]
    make_bundle(tmp_path / "color", version="2")
    assert [each.key for each in look().found] == [("color", "2")]
    shutil.rmtree(tmp_path / "color")
    found = look()
    assert found.found == ()
    assert f"{tmp_path} is no bundle" in str(found.broken[0].error)


def test_of_a_folder_that_cannot_be_read_nothing_is_concluded(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    found = Catalogue((loop,)).look(served={})
    assert found.hides(loop / "color")
    assert not found.hides(tmp_path / "color")
    assert "cannot be read at present" in str(found.broken[0].error)
