"""What a model costs, and who gives way."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import pytest

from service.bundle.store import find_bundles, open_bundle
from service.registry.memory import files, givers, taken
from tests.registry.conftest import House


def test_memory_that_is_taken_is_seen_and_so_is_that_which_is_given_back() -> None:
    before = taken(None)
    assert before is not None
    with mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * (64 * 2**20))
        during = taken(None)
    after = taken(None)
    assert during is not None
    assert after is not None
    assert during - before == pytest.approx(64 * 2**20, abs=8 * 2**20)
    assert during - after == pytest.approx(64 * 2**20, abs=8 * 2**20)


def test_what_malloc_kept_of_freed_memory_counts_for_nobody() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    before = taken(None)
    blocks = [libc.malloc(64 * 2**10) for _ in range(512)]  # small enough to lie on the heap, 32 MiB in all
    guard = libc.malloc(64 * 2**10)  # lies above them: without a trim they stay
    for block in blocks:
        ctypes.memset(block, 1, 64 * 2**10)
        libc.free(block)
    after = taken(None)
    libc.free(guard)
    assert before is not None
    assert after is not None
    assert after - before < 8 * 2**20


def test_a_bundle_costs_at_least_the_networks_that_it_runs_by() -> None:
    for path in find_bundles(()):
        manifest = open_bundle(path).manifest
        int8 = manifest.artifacts["encoder.int8"].bytes + manifest.artifacts["head"].bytes
        assert files(manifest) == int8
        floats = manifest.model_copy(
            update={"artifacts": {role: each for role, each in manifest.artifacts.items() if role != "encoder.int8"}}
        )
        assert files(floats) == manifest.artifacts["encoder"].bytes + manifest.artifacts["head"].bytes


async def test_the_least_recently_used_give_way_first_and_those_in_use_never(
    house: Callable[..., House], make_bundle
) -> None:
    here = house(cost=10)
    for version in ("1", "2", "3", "4"):
        make_bundle(here.folder / version, version=version)
    await here.watch.follow()
    first, second, third, fourth = here.served
    for model in here.served:
        assert model.held is not None
        model.held.nbytes = 10
    for model in (second, first, fourth, third):
        model.use()
    assert givers(here.served, over=0) == []
    assert givers(here.served, over=10) == [second]
    assert givers(here.served, over=11) == [second, first]
    assert second.held is not None
    with second.held.leased():
        first.waiting += 1
        assert givers(here.served, over=100) == [fourth, third]
