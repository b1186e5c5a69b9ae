"""From what is asked for to jobs a second and what each costs: by figures that one can add up by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from service.errors import MareyError
from service.plan.costs import Line, Video
from service.plan.figures import Figures
from service.plan.load import Cameras, Uploads, of_cameras, of_uploads

VIDEO = Video(1000, 100, 10.0, "h264")


def test_an_upload_costs_its_frames_those_looked_at_two_batches_and_the_head(figures: Figures) -> None:
    demand = of_uploads(figures, Uploads(864_000, 10, VIDEO, peak=3))
    assert (demand.mean_per_s, demand.per_s) == pytest.approx((10, 30))
    assert demand.decode_s == pytest.approx(100 * 0.001 + 8 * 0.002)
    assert demand.engine_s == pytest.approx(2 * 0.008 + 0.003)
    assert demand.service_s == pytest.approx(0.005)
    assert demand.core_s == pytest.approx(0.116 + 0.019 + 0.005)
    assert demand.bytes_in == pytest.approx(125_000)
    assert demand.bytes_across == 8 * 1000


def test_a_camera_faster_than_the_grid_has_its_other_frames_decoded_only(figures: Figures) -> None:
    """8 frames in 2 s are 4 of the 10 that come each second: one is looked at for 2.5 that are decoded."""
    demand = of_cameras(figures, Cameras(1000, VIDEO, window_s=2.0))
    assert demand.per_s == pytest.approx(4000)
    assert demand.decode_s == pytest.approx(2.5 * 0.002 + 0.001)
    assert demand.engine_s == pytest.approx(0.008 / 4 + 0.016 / 16), "the batches that are cheapest by the row"
    assert demand.service_s == pytest.approx(0.001)
    assert demand.bytes_in * demand.per_s == pytest.approx(1000 * 12_500)
    assert (demand.held, demand.held_bytes) == (1000, 2**29)


def test_a_camera_slower_than_the_grid_has_each_frame_looked_at_once(figures: Figures) -> None:
    demand = of_cameras(figures, Cameras(10, replace(VIDEO, fps=3.0), window_s=2.0))
    assert demand.per_s == pytest.approx(30)
    assert demand.frames_in == 1


def test_a_longer_stride_saves_heads_and_no_frames(figures: Figures) -> None:
    each, tenth = (of_cameras(figures, Cameras(1, VIDEO, stride_s=stride)) for stride in (None, 2.5))
    assert each.per_s == tenth.per_s
    assert each.engine_s - tenth.engine_s == pytest.approx(0.9 * 0.001)


def test_on_a_gpu_a_core_waits_while_it_works_and_the_networks_cost_no_core_else(
    figured: Callable[..., Figures],
) -> None:
    demand = of_uploads(figured(unit="gpu"), Uploads(86_400, 10, VIDEO))
    assert demand.unit == "gpu"
    assert demand.core_s == pytest.approx(0.116 + 0.005 + 0.019)


def test_a_network_of_clips_runs_once_for_each_answer(figured: Callable[..., Figures]) -> None:
    clips = figured(kind="clip")
    assert of_uploads(clips, Uploads(86_400, 10, VIDEO)).engine_s == pytest.approx(0.004)
    assert of_cameras(clips, Cameras(1, VIDEO, stride_s=2.5)).engine_s == pytest.approx(0.1 * 0.002)


def test_a_size_between_those_measured_lies_on_the_line_through_them_and_one_beyond_is_told(figures: Figures) -> None:
    between, beyond = (of_uploads(figures, Uploads(1, 10, replace(VIDEO, width=width))) for width in (1500, 4000))
    assert between.decode_s == pytest.approx(1.5 * 0.116)
    assert between.decoding.notes == ()
    assert "outside of what was measured (100,000 to 200,000 pixels)" in beyond.decoding.notes[0]


def test_a_bitrate_that_is_given_replaces_the_measured_one(figures: Figures) -> None:
    assert of_uploads(figures, Uploads(1, 10, replace(VIDEO, mbit=8.0))).bytes_in == pytest.approx(10e6)


def test_the_line_finds_what_is_fixed_and_what_grows() -> None:
    line = Line.through([(100, 0.005), (200, 0.007), (1000, 0.023)])
    assert (line.fixed, line.per_pixel, line.worst) == pytest.approx((0.003, 2e-5, 0), abs=1e-12)
    assert Line.through([(100, 0.004)]).at(200) == pytest.approx(0.008)
    falling = Line.through([(100, 0.004), (200, 0.001)])
    assert falling.per_pixel == 0
    assert falling.worst > 0.5


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (Uploads(0, 10, VIDEO), "uploads-per-day = 0: it has to be above 0"),
        (Uploads(1, -1, VIDEO), "clip-s = -1"),
        (Uploads(1, 10, VIDEO, peak=0.5), "peak = 0.5: the busiest hour is not below the mean"),
        (Uploads(1, 10, VIDEO, frames=0), "frames = 0"),
        (Uploads(1, 10, replace(VIDEO, fps=float("nan"))), "fps = nan"),
        (Uploads(1, 10, replace(VIDEO, codec="vp9")), "the figures are of h264; choose one"),
        (Cameras(-5, VIDEO), "cameras = -5"),
        (Cameras(1, VIDEO, window_s=0), "window-s = 0"),
        (Cameras(1, VIDEO, stride_s=-1), "stride-s = -1"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name_and_the_remedy(
    figures: Figures, load: Cameras | Uploads, said: str
) -> None:
    with pytest.raises(MareyError, match=said):
        of_cameras(figures, load) if isinstance(load, Cameras) else of_uploads(figures, load)


def test_figures_without_a_stream_know_no_cameras(figured: Callable[..., Figures]) -> None:
    with pytest.raises(MareyError, match="measure with a clip in MPEG-TS"):
        of_cameras(figured(live=False), Cameras(1, VIDEO))


def test_a_network_of_clips_takes_no_other_number_of_frames(figured: Callable[..., Figures]) -> None:
    with pytest.raises(MareyError, match="frames = 9: this network of clips was measured with 8"):
        of_uploads(figured(kind="clip"), Uploads(1, 10, VIDEO, frames=9))
