"""A bundle that opens is whole; one that is not says what is wrong with it and what to do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.bundle.manifest import Input
from service.bundle.store import Bundle, find_bundles, open_bundle, rewrite_bundle, staging_folder, write_bundle
from service.errors import BundleError
from tests.clip_bundle import make_clip_bundle


@pytest.fixture
def copy(color_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(color_bundle.path, tmp_path / "copy"))


def edit(bundle: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def files(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.path.iterdir() if file.name != "manifest.json"}


def test_what_was_written_is_what_is_read(color_bundle: Bundle) -> None:
    opened = open_bundle(color_bundle.path)
    assert opened.manifest == color_bundle.manifest
    golden = opened.golden()
    assert golden.frames.shape == (3, 2, 16, 16, 3)
    assert golden.probabilities.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["encoder.onnx", "head.onnx", "golden.npz"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["encoder.onnx", "head.onnx", "golden.npz"])
def test_one_flipped_bit_is_found(copy: Path, name: str) -> None:
    damaged = bytearray((copy / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / name).write_bytes(damaged)
    with pytest.raises(BundleError, match=rf"{name} has sha256 .* changed or damaged"):
        open_bundle(copy)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        open_bundle(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(copy)


def test_a_newer_schema_asks_for_an_upgrade(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(schema_version=2))
    with pytest.raises(BundleError, match=r"schema_version 2, this Marey reads up to 1; upgrade"):
        open_bundle(copy)


def test_an_unknown_field_is_named(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["sampling"].update(frame=4))
    with pytest.raises(BundleError, match=r"sampling\.frame: Extra inputs"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "sharpen", "version": 1}, r"'sharpen' version 1 is unknown here \(known: clahe version 1.*upgrade marey"),
        ({"name": "clahe", "version": 2}, "'clahe' version 2 is unknown here"),
        ({"name": "clahe", "version": 1, "parameters": {"clip_limit": 1e9}}, "clip_limit = 1000000000.0: .* 100; change it"),
        ({"name": "clahe", "version": 1}, "8×8 tiles of an input of 16×16 have less than 4 pixels a side; give fewer tiles"),
    ],
)  # fmt: skip
def test_a_step_that_could_not_run_is_refused_when_the_bundle_is_opened(copy: Path, step: dict, message: str) -> None:
    edit(copy, lambda manifest: manifest["input"].update(preprocess=[step]))
    with pytest.raises(BundleError, match=rf"manifest\.json: preprocess step .*{message}"):
        open_bundle(copy)


def test_a_file_outside_the_bundle_is_refused(copy: Path) -> None:
    (copy.parent / "evil.onnx").write_bytes(b"")
    edit(copy, lambda manifest: manifest["artifacts"]["head"].update(file="../evil.onnx"))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(copy)


def test_a_golden_clip_of_another_size_is_refused(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"golden frames are \[3, 2, 16, 16, 3\], .* ask for \[3, 2, 24, 24, 3\]"):
        make_bundle(tmp_path / "other", input=Input(height=24, width=24))
    assert list(tmp_path.iterdir()) == [], "a refused write leaves nothing behind"


def test_labels_that_are_too_few_for_the_outputs_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"golden probabilities are \[3, 3\], .* ask for \[3, 2\]"):
        make_bundle(tmp_path / "other", labels=("red", "green"))


def test_a_bundle_is_replaced_whole_or_not_at_all(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "color")
    rewritten = rewrite_bundle(first, first.manifest.model_copy(update={"version": "2"}), {"report.md": b"better"})
    assert open_bundle(rewritten.path).manifest.version == "2"
    assert (rewritten.path / "report.md").read_bytes() == b"better"
    with pytest.raises(BundleError, match="sha256"):
        rewrite_bundle(rewritten, rewritten.manifest, {"head.onnx": b"broken"})
    assert open_bundle(rewritten.path).manifest.version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["color"]


def test_a_folder_that_is_no_bundle_is_not_overwritten(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"a cat")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        make_bundle(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"a cat"


@pytest.mark.parametrize(
    ("place", "saying"),
    [
        ("file", r"file cannot hold a bundle: \S+/file is a file; name another folder"),
        ("file/bundle", r"\S+/file is a file; name another folder, or remove the file"),
        ("file/new/bundle", r"\S+/file is a file; name another folder, or remove the file"),
        ("link", r"is a link to nothing; remove it"),
        ("new/" + "x" * 300, r"cannot be written \(File name too long\); name a folder"),
        ("/proc/new/bundle", r"^/proc/new/bundle cannot be written \("),
    ],
)
def test_a_place_that_can_hold_no_bundle_is_told_with_the_remedy_and_left_as_it_was(
    color_bundle: Bundle, tmp_path: Path, place: str, saying: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(BundleError, match=saying):
        write_bundle(tmp_path / place, color_bundle.manifest, files(color_bundle))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(color_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BundleError, match=r"no permission in \S+/locked; name another folder, or mend"):
        write_bundle(tmp_path / "locked" / "bundle", color_bundle.manifest, files(color_bundle))


def test_a_folder_that_does_not_exist_yet_is_made(color_bundle: Bundle, tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "some" / "where" / "color", color_bundle.manifest, files(color_bundle))
    assert open_bundle(made.path).manifest == color_bundle.manifest


def test_a_stage_leaves_nothing_behind_not_even_the_folders_above_it(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staging_folder(tmp_path / "some" / "where" / "color") as stage:
            (stage / "half").write_text("")
            assert stage.parent == tmp_path / "some" / "where"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_bundles_means_each_of_them(color_bundle: Bundle) -> None:
    assert find_bundles((color_bundle.path.parent,)) == (color_bundle.path,)
    assert find_bundles((color_bundle.path,)) == (color_bundle.path,)


def test_arrays_that_would_run_code_are_refused(copy: Path) -> None:
    np.savez(copy / "golden.npz", frames=np.array([print], dtype=object))
    edit(
        copy,
        lambda manifest: manifest["golden"].update(
            sha256=__import__("hashlib").sha256((copy / "golden.npz").read_bytes()).hexdigest()
        ),
    )
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        open_bundle(copy)


def test_another_programs_manifest_does_not_make_a_folder_a_bundle(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(BundleError, match="exists and is no bundle"):
        make_bundle(tmp_path / "app")
    assert (tmp_path / "app" / "manifest.json").read_text() == '{"name": "a web app"}'


def test_a_network_of_fixed_length_is_not_passed_off_as_one_of_any(tmp_path: Path) -> None:
    made = make_clip_bundle(tmp_path / "motion", frames=6)
    edit(made.path, lambda manifest: manifest["network"].pop("static_frames"))
    with pytest.raises(
        BundleError, match=r"clip\.onnx takes 6 frames and no other number, network\.static_frames says None"
    ):
        open_bundle(made.path)
    edit(made.path, lambda manifest: manifest["network"].update(static_frames=4))
    with pytest.raises(BundleError, match=r"network\.static_frames says 4"):
        open_bundle(made.path)
