"""Looks at every file that has no row yet, keeps rows as they come, and joins them in the end."""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray import serve
from ray.exceptions import RayError

from service.archive.source import File, Location
from service.archive.table import Results, known
from service.archive.worker import Worker
from service.client import Wishes
from service.errors import EngineError, MareyError
from service.registry.catalogue import Found
from service.scale.application import engines, whole
from service.scale.cluster import cluster, deployed, is_own, short
from service.scale.names import ENGINES
from service.scale.spread import Replicas, Spread, everywhere
from service.settings import Settings

# What is looked at again after a crash: the files of so many seconds, or so many files, whichever comes first.
_KEEP_S = 5.0
_KEEP_ROWS = 1000
# Files that a worker is given at a time, where there are enough for all.
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` files, `failed` among them, `seconds` after the start."""

    done: int
    failed: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the whole result: its files; of them, those that are new in this run, that are no longer there, and that failed, with why."""

    files: int
    new: int
    gone: int
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Archive:
    """What to look at, how, and where to keep what was found.

    `workers`: replicas that read and decode, and also run the networks, unless `apart`: then `spread.engines` do. `retry`: look
    again at what failed before. `match`: of the names that count, such as *.mp4; default: all.
    """

    source: Location
    out: Location
    settings: Settings
    spread: Spread
    wishes: Wishes
    looks: Wishes
    workers: Replicas = (1, 1)
    match: tuple[str, ...] = ()
    apart: bool = False
    retry: bool = False


def classify(archive: Archive, *, told: Callable[[Progress], None] = lambda _progress: None) -> Summary:
    """The rows of all files, in `archive.out`. Stopped by whatever it may be, it goes on where it stood when called again.

    Raises MareyError where files cannot be listed or rows written, or where Ray does not run; of a file that fails a row says why.
    """
    others = archive.spread.engines[0] if archive.apart else archive.workers[0]
    settings = everywhere(archive.settings, engines=others if is_own() else 1)
    bundles = whole(settings)
    there = archive.source.files(match=archive.match, but=(archive.out,))
    if not there:
        called = f" called {' or '.join(archive.match)}" if archive.match else ""
        raise MareyError(f"there is no file{called} below {archive.source.path}; name another SOURCE or --match")
    with closing(Results(archive.out, _asked(archive, settings, bundles))) as results:
        seen = known(results.open(), retry=archive.retry)
        files = [file for file in there if file not in seen]
        if files:
            try:
                _keep(_rows(archive, settings, bundles, files), results, total=len(files), told=told)
            except RayError as error:
                raise EngineError(
                    f"Ray gave up: {short(error)}; what was found is kept, start it again to go on"
                ) from error
        rows = results.finish()
        failed = rows.filter(pc.is_valid(rows.column("error"))).select(["path", "error"]).to_pylist()
        gone = len(set(rows.column("path").to_pylist()) - {file.path for file in there})
        return Summary(len(rows), len(files), gone, tuple((each["path"], each["error"]) for each in failed))


def _asked(archive: Archive, settings: Settings, bundles: Sequence[Found]) -> dict[str, Any]:
    """What must be the same for all rows of one result."""
    return {
        "bundles": {":".join(found.key): _hash(found) for found in bundles},
        "engine": settings.engine,
        "precision": settings.precision,
        **{name: value for name, value in {**archive.wishes, **archive.looks}.items() if value is not None},
    }


def _hash(found: Found) -> str:
    """Of the networks of a bundle."""
    hashes = sorted(each.sha256 for each in found.manifest.artifacts.values())
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _keep(found: Iterable[pa.Table], results: Results, *, total: int, told: Callable[[Progress], None]) -> None:
    """Everything `found`, as it comes; what came before an end of any kind is kept."""
    began = kept = time.monotonic()
    done = failed = 0
    waiting: list[pa.Table] = []
    try:
        for rows in found:
            waiting.append(rows)
            done += len(rows)
            failed += len(rows) - rows.column("error").null_count
            told(Progress(done, failed, total, time.monotonic() - began))
            if time.monotonic() - kept >= _KEEP_S or sum(map(len, waiting)) >= _KEEP_ROWS:
                results.add(pa.concat_tables(waiting))
                waiting, kept = [], time.monotonic()
    finally:
        if waiting:
            results.add(pa.concat_tables(waiting))


def _rows(archive: Archive, settings: Settings, bundles: Sequence[Found], files: Sequence[File]) -> Iterator[pa.Table]:
    """The rows of all files, in no order, some at a time."""
    spread, (fewest, most) = archive.spread, archive.workers
    keys = [found.key for found in bundles] if archive.apart else None
    engine_cores, engine_gpus = spread.of_engine(settings), spread.engine_gpus
    own = {"num_cpus": spread.of_ingress(settings)}
    if keys is None:
        own = {"num_cpus": spread.of_ingress(settings) + engine_cores, "num_gpus": engine_gpus}
        if engine_gpus:
            settings = settings.model_copy(update={"devices": (0,)})
    cores = most * own["num_cpus"] + (len(bundles) * spread.engines[1] * engine_cores if archive.apart else 0)
    block = max(1, min(_BLOCK, len(files) // (2 * most)))
    with cluster(cores=cores + 1, gpus=engine_gpus, log_level=settings.log_level), ExitStack() as stack:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own, which keeps nothing
        if keys is not None:
            if is_own():
                serve.start(proxy_location="Disabled")  # nobody asks over HTTP
            application = engines(settings, spread, bundles)
            stack.enter_context(deployed(application, name=ENGINES, route=None, log_level=settings.log_level))
        ray.data.DataContext.get_current().enable_progress_bars = False
        # It tells of a plan that is not the user's, and of bars that are ours.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        listed = ray.data.from_items(
            [asdict(file) for file in files], override_num_blocks=math.ceil(len(files) / block)
        )
        looked = listed.map_batches(
            Worker,
            fn_constructor_args=(archive.source, settings, archive.wishes, archive.looks, keys),
            compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
            batch_size=None,
            batch_format="pyarrow",
            **own,
        )
        yield from looked.iter_batches(batch_size=None, batch_format="pyarrow")
