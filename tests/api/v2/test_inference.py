"""What a body asks of a network: its priority, its time, and how names find networks."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from service.api.v2.inference import Inference, Wanted, read
from service.api.v2.network import Network, split
from service.bundle.store import Bundle
from service.errors import InvalidParameter, RequestError, UnknownModel
from tests.clip_bundle import make_clip_bundle


@pytest.fixture(scope="module")
def color(color_bundle: Bundle) -> Network:
    return Network.of(color_bundle.manifest, None)


def said(network: Network, shape: list[int], **fields: Any) -> Inference:
    tensor = np.zeros(shape, np.uint8)
    text = json.dumps(
        {
            "inputs": [
                {
                    "name": network.input.name,
                    "datatype": "UINT8",
                    "shape": shape,
                    "parameters": {"binary_data_size": tensor.nbytes},
                }
            ],
            **fields,
        }
    ).encode()
    return read(bytearray(text + tensor.tobytes()), header_bytes=len(text), network=network, max_rows=64)


@pytest.mark.parametrize(("priority", "expected"), [(0, None), (1, "interactive"), (2, "bulk"), (10**20, "bulk")])
def test_the_first_priority_is_interactive_and_all_below_it_bulk(
    color: Network, priority: int, expected: str | None
) -> None:
    assert said(color, [1, 2, 16, 16, 3], parameters={"priority": priority}).priority == expected
    assert said(color, [1, 2, 16, 16, 3]).priority is None


def test_a_timeout_is_in_microseconds_and_zero_is_none(color: Network) -> None:
    assert said(color, [1, 2, 16, 16, 3], parameters={"timeout": 1500}).timeout_s == 0.0015
    assert said(color, [1, 2, 16, 16, 3], parameters={"timeout": 0}).timeout_s is None


def test_what_triton_lets_clients_add_is_let_through(color: Network) -> None:
    assert said(color, [1, 1, 16, 16, 3], parameters={"mine": 42, "sequence_id": 0}, model_name="color").id is None


def test_outputs_are_in_words_unless_bytes_are_wanted(color: Network) -> None:
    assert said(color, [1, 1, 16, 16, 3]).outputs == (Wanted("probabilities", False), Wanted("attention", False))
    classes = [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": True}}]
    assert said(color, [1, 1, 16, 16, 3], outputs=classes).outputs == (Wanted("probabilities", True, 2),)


def test_a_request_weighs_its_frames_and_for_a_head_its_clips(color: Network, color_bundle: Bundle) -> None:
    assert said(color, [3, 2, 16, 16, 3]).rows == 6
    encoder = Network.of(color_bundle.manifest, "encoder")
    assert said(encoder, [5, 16, 16, 3]).rows == 5
    assert Network.of(color_bundle.manifest, "head").rows([5, 8, 3], limit=64) == 5
    with pytest.raises(InvalidParameter, match="72 rows for the device, 64 are allowed"):
        said(color, [9, 8, 16, 16, 3])


def test_a_clip_network_has_no_parts_and_may_have_one_length(tmp_path) -> None:
    manifest = make_clip_bundle(tmp_path / "five", frames=5).manifest
    whole = Network.of(manifest, None)
    assert whole.input.shape == (-1, 5, 16, 16, 3)
    assert [spec.name for spec in whole.outputs] == ["probabilities", "attention"]
    assert len(Network.all_of(manifest)) == 1
    with pytest.raises(UnknownModel, match="it has no encoder apart"):
        Network.of(manifest, "encoder")
    raw = np.zeros((5, 16, 16, 3), np.uint8).tobytes()
    assert read(bytearray(raw), header_bytes=0, network=whole, max_rows=64).tensor.shape == (1, 5, 16, 16, 3)


def test_classes_are_those_of_one_axis(tmp_path) -> None:
    manifest = make_clip_bundle(tmp_path / "places", positions="places").manifest
    with pytest.raises(InvalidParameter, match="of an output with two axes"):
        said(
            Network.of(manifest, None),
            [1, 2, 16, 16, 3],
            outputs=[{"name": "positions", "parameters": {"classification": 1}}],
        )


def test_a_model_may_be_called_as_a_part_is() -> None:
    assert split("fight.head", ["fight"]) == ("fight", "head")
    assert split("fight.head", ["fight", "fight.head"]) == ("fight.head", None)
    assert split("fight.head.encoder", ["fight.head"]) == ("fight.head", "encoder")
    assert split("fight.body", ["fight"]) == ("fight.body", None)


def test_damaged_bodies_are_read_or_refused_and_nothing_else(color: Network) -> None:
    """Bytes changed, cut out, doubled; and other values in the place of every field."""
    rng = np.random.default_rng(11)
    tensor = np.arange(2 * 16 * 16 * 3, dtype=np.uint8)
    words = json.dumps(
        {
            "id": "1",
            "parameters": {"timeout": 5, "binary_data_output": True},
            "inputs": [{"name": "clips", "datatype": "UINT8", "shape": [1, 2, 16, 16, 3], "data": tensor.tolist()}],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "attention"}],
        }
    ).encode()
    short = re.sub(rb'"data": \[.*?\]', b'"parameters": {"binary_data_size": 1536}', words, flags=re.DOTALL)
    values = [
        b"null",
        b"-1",
        b"1e400",
        b"true",
        b"[]",
        b"{}",
        b'"x"',
        b"[[1]]",
        b"9" * 400,
        b'"\\ud800"',
        b"[null]",
        b"NaN",
        b"0.5",
    ]
    outcomes = set()
    for number in range(3000):
        plain = number % 2
        text = bytearray(words if plain else short)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(text)))
            match rng.integers(4):
                case 0:
                    text[at] = int(rng.integers(256))
                case 1:
                    del text[at : at + int(rng.integers(1, 30))]
                case 2:
                    text[at:at] = text[at : at + int(rng.integers(1, 30))]
                case _:
                    spots = list(re.finditer(rb'(?<=: )("[^"]*"|[0-9]+|true|\[[^\[\]{}]*\])', text))
                    if spots:
                        spot = spots[int(rng.integers(len(spots)))]
                        text[spot.start() : spot.end()] = values[int(rng.integers(len(values)))]
        body = text if plain else text + tensor.tobytes()
        try:
            found = read(bytearray(body), header_bytes=None if plain else len(text), network=color, max_rows=64)
        except RequestError as error:
            outcomes.add(error.code)
        else:
            outcomes.add("read")
            assert found.tensor.shape == (1, 2, 16, 16, 3)
    assert outcomes == {"read", "malformed", "invalid_parameter"}
