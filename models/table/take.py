"""Reports taken over from bundles, timed anew or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import DataError
from models.judging.assess import time_only
from models.table.entry import write_entry
from models.table.made import entry_of
from service.bundle.store import Bundle, find_bundles, open_bundle

# Of each network and precision; more than an assessment makes, for this is what the table shows.
RUNS = 30


def take_over(folder: Path, *, bundles: Sequence[Path], timed: Sequence[Path]) -> Iterator[Path]:
    """Write the entry of each bundle in or below `bundles` and `timed` into `folder`, one at a time; yields the files.

    Those in `timed` run first, float and INT8 in turn, and keep the times in their own report, too. Raises BundleError, and DataError where two are called the same.
    """
    again = _opened(timed)
    as_they_are = _opened(bundles)
    _check_names(*again, *as_they_are)
    for bundle in again:
        yield write_entry(folder, entry_of(time_only(bundle, runs=RUNS)[0]))
    for bundle in as_they_are:
        yield write_entry(folder, entry_of(bundle))


def _opened(paths: Sequence[Path]) -> list[Bundle]:
    return [open_bundle(path) for path in find_bundles(tuple(paths))] if paths else []


def _check_names(*bundles: Bundle) -> None:
    """Two of one name would write one file."""
    named: dict[str, Path] = {}
    for bundle in bundles:
        other = named.setdefault(bundle.manifest.name, bundle.path)
        if other.resolve() != bundle.path.resolve():
            raise DataError(
                f"{other} and {bundle.path} are both called {bundle.manifest.name}, and there is one report of a name; take one of them"
            )
