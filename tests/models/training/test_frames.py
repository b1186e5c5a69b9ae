"""Frames in memory: those that the server would see, and views of them that depend on nothing else."""

import numpy as np
import pytest

from models.data.dataset import Dataset
from models.errors import BuildError
from models.schedule import Augmentation
from models.training.frames import Drawn, Frames
from service.bundle.manifest import Input, Sampling

COUNTS = {"long": 40, "middle": 9, "short": 3}
SPEC, SAMPLING = Input(height=6, width=8), Sampling(frames=5)
PLAN = Augmentation(crop=0.7, rotation=10, contrast=0.2, window=0.6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("data") / "clips"
    root.mkdir()
    rng = np.random.default_rng(0)
    np.savez(root / "c.npz", **{name: rng.integers(0, 256, (n, 6, 8, 3), np.uint8) for name, n in COUNTS.items()})
    rows = [f"c.npz,{name},{'a' if name == 'long' else 'b'},{name},train" for name in COUNTS]
    (root / "splits.csv").write_text("\n".join(["file,key,label,group,split", *rows]) + "\n", encoding="utf-8")
    return Dataset.open(root)


def held(dataset: Dataset, *, plan: Augmentation = PLAN, length: int | None = None, gib: float = 1.0) -> Drawn:
    frames = Frames(dataset=dataset, spec=SPEC, sampling=SAMPLING, length=length, augmentation=plan, memory_gib=gib)
    frames.prepare(dataset.samples)
    return frames.read(dataset.samples)


@pytest.mark.parametrize("plan", [PLAN, Augmentation(shift=False)])
def test_what_is_judged_are_the_very_frames_that_the_server_samples(dataset: Dataset, plan: Augmentation) -> None:
    """From a clip of three times as many frames and more, of some more, and of fewer than the network asks for."""
    rows = held(dataset, plan=plan)
    assert rows.lengths == [5, 5, 3]
    for i, sample in enumerate(dataset.samples):
        expected = dataset.load(sample, spec=SPEC, sampling=SAMPLING).frames
        assert np.array_equal(rows.plain(np.array([i]))[0], expected.astype(np.float32))


def test_a_network_of_fixed_length_sees_short_clips_repeated(dataset: Dataset) -> None:
    rows = held(dataset, length=5)
    assert rows.lengths == [5, 5, 5]
    assert rows.shown[2].tolist() == [0, 0, 1, 2, 2]


def test_an_epoch_draws_each_clip_by_its_name_and_not_by_its_place(dataset: Dataset) -> None:
    rows = held(dataset)
    rng = np.random.default_rng(0)
    together = next(rows.drawn([np.array([0, 1])], seed=(1, 4), rng=rng)).rows
    apart = [each.rows[0] for each in rows.drawn([np.array([1]), np.array([0])], seed=(1, 4), rng=rng)]
    assert together == pytest.approx(np.stack(apart[::-1]), abs=1e-3)
    later = next(rows.drawn([np.array([0, 1])], seed=(1, 5), rng=rng)).rows
    assert together.shape == later.shape == (2, 5, 6, 8, 3)
    assert abs(together - later).max() > 10


def test_frames_that_would_take_too_much_memory_are_refused_with_what_they_need(dataset: Dataset) -> None:
    with pytest.raises(
        BuildError, match=r"3 clips as decoded frames take .* GiB, above training\.memory_gib = 1e-06; raise"
    ):
        held(dataset, gib=1e-6)


def test_each_clip_is_decoded_once(dataset: Dataset) -> None:
    frames = Frames(dataset=dataset, spec=SPEC, sampling=SAMPLING, length=None, augmentation=PLAN, memory_gib=1.0)
    frames.prepare(dataset.samples[:2])
    before = frames.read(dataset.samples[:2]).clips[0]
    frames.prepare(dataset.samples)
    assert frames.read(dataset.samples).clips[0] is before
    assert frames.nbytes == sum(clip.nbytes for clip in frames.read(dataset.samples).clips)
