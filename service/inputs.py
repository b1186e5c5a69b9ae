"""How far the frames that enter an INT8 network lie from those that it was calibrated on.

# Note [What counts as one input]
Frames of one clip resemble each other: sixteen of them say little more than one. Were each counted, a thousand would be some 60
clips, of which the index is 0.15 by chance alone (nine over their number). The mean over a clip's frames varies less than
frames do, which are what the calibration knows, so that the index would rise where nothing has changed. So one frame stands for
a clip, the middle one, and costs a single measurement. Of live streams, of jobs and of videos cut into windows, it is one of
as many frames as a clip has, counted through all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.frame_statistics import measure
from service.bundle.manifest import Manifest
from service.drift import Shift
from service.media.sample import uniform

# Of what one call brings: enough to see a drift, and measured in well under a millisecond.
MOST = 16


class Inputs:
    """Of one model. Counted on the event loop, read from any thread; a model without statistics counts nothing."""

    def __init__(self, manifest: Manifest) -> None:
        known = manifest.calibration.statistics if manifest.calibration is not None else None
        self.shifts = (
            {"brightness": Shift(known.brightness), "contrast": Shift(known.contrast)} if known is not None else {}
        )
        self._clip = manifest.network.static_frames or manifest.sampling.frames
        self._passed = self._clip // 2

    def clips(self, clips: NDArray[np.uint8]) -> None:
        """Clips `[B, T, H, W, C]` uint8 entered the network."""
        if self.shifts:
            middle = clips[:, clips.shape[1] // 2]
            self._note(middle if len(middle) <= MOST else middle[list(uniform(len(middle), MOST))])

    def stretch(self, frames: NDArray[np.uint8]) -> None:
        """The next `frames` `[N, H, W, C]` of longer videos did."""
        if not self.shifts:
            return
        first = -self._passed % self._clip
        self._passed += len(frames)
        self._note(frames[first :: self._clip][:MOST])

    def _note(self, frames: NDArray[np.uint8]) -> None:
        if len(frames):
            for shift, values in zip(self.shifts.values(), measure(frames), strict=True):
                for value in values.tolist():
                    shift.note(value)
