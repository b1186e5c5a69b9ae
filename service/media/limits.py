"""What one upload may cost, and the refusals that say so."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import TooLong, TooManyPixels


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on one upload. Pixels are checked by the header before anything is decoded, and again on what was decoded.

    A video is measured by its presentation times and by its frames, never by the duration that its header claims.
    `max_grid_frames` bounds the frames of windowed sampling, all of which are held in memory at the network's size.
    """

    max_pixels: int = 50_000_000
    max_duration_s: float = 600.0
    max_decoded_frames: int = 72_000
    max_grid_frames: int = 1024

    def check_pixels(self, *, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise TooManyPixels(
                f"the picture is {width}×{height} = {width * height:,} pixels, at most {self.max_pixels:,} are taken; "
                "scale it down before posting it"
            )

    def check_duration(self, seconds: float) -> None:
        if seconds > self.max_duration_s:
            raise TooLong(
                f"the video runs for {seconds:.1f} s or more, at most {self.max_duration_s:g} s are taken; cut it into parts"
            )

    def check_decoded(self, frames: int) -> None:
        if frames > self.max_decoded_frames:
            raise TooLong(
                f"the video has {frames:,} frames or more, at most {self.max_decoded_frames:,} are decoded; "
                "cut it into parts, or lower its frame rate"
            )

    def check_grid(self, frames: int) -> None:
        if frames > self.max_grid_frames:
            raise TooLong(
                f"windows of this video need {frames:,} frames, at most {self.max_grid_frames:,} are held; "
                "ask for longer windows or fewer frames in each, or cut the video into parts"
            )
