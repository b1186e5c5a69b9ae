"""Reports taken over from bundles, timed anew or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.judging.assess import time_only
from models.table.entry import write_entry
from models.table.made import entry_of
from service.bundle.store import find_bundles, open_bundle

# Of each network and precision; more than an assessment makes, for this is what the table shows.
RUNS = 30


def take_over(folder: Path, *, bundles: Sequence[Path], timed: Sequence[Path]) -> Iterator[Path]:
    """Write the entry of each bundle in or below `bundles` and `timed` into `folder`, one at a time; yields the files.

    Those in `timed` run first, float and INT8 in turn, and keep the times in their own report, too. Raises BundleError.
    """
    for path in find_bundles(tuple(timed)) if timed else ():
        yield write_entry(folder, entry_of(time_only(open_bundle(path), runs=RUNS)[0]))
    for path in find_bundles(tuple(bundles)) if bundles else ():
        yield write_entry(folder, entry_of(open_bundle(path)))
