"""Open, verify and write bundles. A bundle that opens is whole: every file there, every hash as the manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.bundle.manifest import SCHEMA_VERSION, Artifact, Manifest, Role
from service.bundle.pixel_steps import pixel_steps
from service.errors import BundleError
from service.postprocess import Postprocess

MANIFEST = "manifest.json"
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "bundles"


@dataclass(frozen=True, slots=True)
class GoldenClips:
    """Seeded inputs and what the float reference answered: warm-up, readiness, and parity without TensorFlow."""

    frames: NDArray[np.uint8]  # [B, T, H, W, C]
    features: NDArray[np.float32] | None  # [B, T, D]; None for a clip network
    probabilities: NDArray[np.float32]  # [B, K]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its verified manifest."""

    path: Path
    manifest: Manifest

    def artifact(self, role: Role) -> Artifact:
        try:
            return self.manifest.artifacts[role]
        except KeyError:
            held = ", ".join(sorted(self.manifest.artifacts))
            raise BundleError(
                f"bundle {self.manifest.name} holds no {role!r}, only {held}; make it with marey-build quantize"
            ) from None

    def file(self, role: Role) -> Path:
        return self.path / self.artifact(role).file

    def postprocess(self) -> Postprocess:
        """What is done to `positions` after the network; raises BundleError where that is not known here."""
        grid = self.manifest.network.grid
        places = grid.places if grid else None
        return Postprocess.read(self.manifest.postprocess, classes=len(self.manifest.labels), places=places)

    def golden(self) -> GoldenClips:
        with np.load(self.path / self.manifest.golden.file, allow_pickle=False) as arrays:
            features = arrays.get("features")
            return GoldenClips(arrays["frames"], features, arrays["probabilities"])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_bundle(path: str | Path) -> Bundle:
    """Read, check and hash everything in the folder `path`; raises BundleError with the file at fault and the remedy."""
    folder = Path(path)
    manifest = read_manifest(folder)
    for name, digest in _hashes(manifest).items():
        file = folder / name
        if file.resolve().parent != folder.resolve():
            raise BundleError(
                f"{folder / MANIFEST} names {name!r}, which lies outside the bundle; export the bundle again"
            )
        if not file.is_file():
            raise BundleError(
                f"{file} is missing although the manifest lists it; copy the whole folder, or export the bundle again"
            )
        try:
            found = sha256(file.read_bytes())
        except OSError as error:
            raise BundleError(f"{file} cannot be read ({error.strerror}); mend its permissions") from None
        if found != digest:
            raise BundleError(
                f"{file} has sha256 {found[:12]}…, the manifest says {digest[:12]}…: changed or damaged; copy it again"
            )
    bundle = Bundle(folder, manifest)
    _check_golden(bundle)
    return bundle


@contextmanager
def staging_folder(target: str | Path) -> Iterator[Path]:
    """A hidden, empty folder beside `target`, gone when the block is left: what is made there can replace `target` in one rename.

    Folders above `target` are made if need be, and removed again if nothing came of it. Raises BundleError where no bundle can be
    put at `target`: it is a file, or a folder that holds something else, or the folder above cannot be made or written to.
    """
    target = Path(target)
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        if target.is_symlink() and not target.exists():
            raise BundleError(f"{target} is a link to nothing; remove it, or name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and any(target.iterdir()) and not _holds_bundle(target):
            raise BundleError(f"{target} exists and is no bundle; name another folder, or empty this one")
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        _remove_empty(missing)
        raise BundleError(_unwritable(target, error)) from None
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(missing)


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write the whole bundle beside `path`, verify it there, then put it in place in one rename: never half a bundle.

    Raises BundleError where it is not whole, or cannot be written there.
    """
    target = Path(path)
    with staging_folder(target) as staging:
        text = json.dumps(manifest.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False) + "\n"
        try:
            staging.chmod(0o755)
            for name, data in {**files, MANIFEST: text.encode()}.items():
                with (staging / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            open_bundle(staging)
            _swap(staging, target)
        except OSError as error:
            raise BundleError(_unwritable(target, error)) from None
    return Bundle(target, manifest)


def rewrite_bundle(bundle: Bundle, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Put `manifest` and `files` in the place of those that `bundle` holds; its other files stay."""
    kept = {file.name: file.read_bytes() for file in bundle.path.iterdir() if file.is_file() and file.name != MANIFEST}
    return write_bundle(bundle.path, manifest, {**kept, **files})


def find_bundles(paths: tuple[Path, ...], *, unreadable: Callable[[Path], None] | None = None) -> tuple[Path, ...]:
    """The bundle folders that `paths` mean: each is a bundle, or a folder with bundles anywhere below. None given: those that ship.

    Hidden folders are left out: there bundles are made. A path without any bundle is returned as it is: whoever opens it is told
    so. Folders that cannot be read are told to `unreadable`, where it is given, in place of that.
    """
    found: dict[Path, None] = {}
    for path in paths or (SHIPPED,):
        problems: list[Path] = []
        inside = list(_below(path, problems.append))
        if unreadable is not None:
            for problem in problems:
                unreadable(problem)
        found.update(dict.fromkeys(inside or ([] if problems and unreadable is not None else [path])))
    return tuple(found)


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, without a look at the files that it lists. Raises BundleError."""
    file = folder / MANIFEST
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is no bundle: it has no {MANIFEST}; name the folder that marey-build wrote"
        ) from None
    except (ValueError, OSError) as error:
        raise BundleError(f"{file} cannot be read ({error}); copy it again, or export the bundle again") from None
    schema = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise BundleError(f"{file} has schema_version {schema}, this Marey reads up to {SCHEMA_VERSION}; upgrade marey")
    try:
        manifest = Manifest.model_validate(raw)
        pixel_steps(manifest.input)
        Bundle(folder, manifest).postprocess()
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(
            f"{file}: {where}: {first['msg']} ({error.error_count()} in all); export the bundle again"
        ) from None
    return manifest


def _below(folder: Path, unreadable: Callable[[Path], None], above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Bundles in and under `folder`, by name; links are followed, but not in a circle."""
    try:
        real = folder.resolve()
        if real in above:
            return
        if (folder / MANIFEST).is_file():
            yield folder
            return
        with os.scandir(folder) as entries:
            folders = sorted(each.name for each in entries if not each.name.startswith(".") and each.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, RuntimeError):  # the latter is a link that leads to itself
        unreadable(folder)
        return
    for name in folders:
        yield from _below(folder / name, unreadable, above | {real})


def _holds_bundle(folder: Path) -> bool:
    """Other programs have a manifest.json, too: theirs must not be replaced."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and {"schema_version", "artifacts", "golden"} <= set(raw)


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _remove_empty(folders: Iterable[Path]) -> None:
    """The innermost first; what holds something stays."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _unwritable(target: Path, error: OSError) -> str:
    """Which part of the way to `target` is in the way, and the remedy."""
    file = next((part for part in (target, *target.parents) if part.exists() and not part.is_dir()), None)
    if file is not None:
        return f"{target} cannot hold a bundle: {file} is a file; name another folder, or remove the file"
    if isinstance(error, PermissionError):
        return f"{target} cannot be written: no permission in {_existing(target.parent)}; name another folder, or mend its permissions"
    reason = error.strerror or type(error).__name__
    return f"{target} cannot be written ({reason}); name a folder on a disk that can be written and has room"


def _existing(folder: Path) -> Path:
    return next(part for part in (folder, *folder.parents) if part.exists())


def _hashes(manifest: Manifest) -> dict[str, str]:
    return {artifact.file: artifact.sha256 for artifact in manifest.artifacts.values()} | {
        manifest.golden.file: manifest.golden.sha256
    }


def _check_golden(bundle: Bundle) -> None:
    manifest = bundle.manifest
    try:
        golden = bundle.golden()
        count, frames = golden.frames.shape[:2]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{bundle.path / manifest.golden.file} cannot be read ({error}); export the bundle again"
        ) from None
    wanted: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "frames": (
            golden.frames.shape,
            (count, frames, manifest.input.height, manifest.input.width, manifest.input.channels),
        ),
        "probabilities": (golden.probabilities.shape, (count, len(manifest.labels))),
    }
    if golden.features is not None:
        wanted["features"] = (golden.features.shape, (count, frames, manifest.network.feature_dim or 0))
    for name, (shape, expected) in wanted.items():
        if shape != expected:
            raise BundleError(
                f"golden {name} are {list(shape)}, the manifest's input, labels and feature_dim ask for {list(expected)}; export again"
            )
