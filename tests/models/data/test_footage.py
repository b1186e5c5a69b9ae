"""Clips of still images become videos that the service sees as training did."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.data.dataset import Dataset
from models.data.footage import write_footage
from models.data.motion import Motion
from models.errors import DataError
from service.bundle.manifest import Input, Sampling
from service.media.decode import decode_video
from service.media.limits import Limits

SPEC = Input(height=32, width=32)
SAMPLING = Sampling(frames=6)


@pytest.fixture
def tiles(tmp_path: Path) -> Dataset:
    """Five images of each of two classes: smooth shades, of a size that is odd."""
    rng = np.random.default_rng(0)
    for label in ("good", "bad"):
        for number in range(5):
            file = tmp_path / "tiles" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (81, 97)))
    return Dataset.open(tmp_path / "tiles", motion=Motion(frames=6, window=0.6))


@pytest.mark.parametrize(("exact", "allowed"), [(True, 0.0), (False, 4.0)])
def test_what_is_written_is_decoded_as_the_clips_of_training(
    tiles: Dataset, tmp_path: Path, exact: bool, allowed: float
) -> None:
    written = write_footage(tiles, tiles.samples, out=tmp_path / "out", count=4, exact=exact)
    assert [file.parent.name for file in written] == ["bad", "bad", "good", "good"]
    stems = {(sample.label, sample.path.stem): sample for sample in tiles.samples}
    for file in written:
        served = decode_video(file, spec=SPEC, plan=SAMPLING, limits=Limits()).clip
        ours = tiles.load(stems[file.parent.name, file.stem], spec=SPEC, sampling=SAMPLING)
        assert served.indices == ours.indices == tuple(range(6))
        assert np.abs(served.frames.astype(float) - ours.frames).mean() <= allowed


def test_a_data_set_that_is_read_as_it_lies_has_nothing_to_write(tiles: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"without data\.motion: send its own files"):
        write_footage(Dataset.open(tiles.root), tiles.samples, out=tmp_path / "out", count=1)
