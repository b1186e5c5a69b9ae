"""From a network that answers by place to a bundle with a grid, a chain learned on train, and figures of where."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from models.data.dataset import Dataset
from models.errors import RecipeError
from models.judging.assess import assess
from models.judging.locate import located
from models.recipe import Recipe
from service.bundle.manifest import Network
from service.bundle.store import Bundle, open_bundle
from tests.clip_bundle import LABELS, SIDE, make_clip_bundle

_RECIPE = {
    "name": "patches",
    "version": "1.0.0",
    "description": "Which quarter is blue?",
    "tasks": ["image"],
    "data": {"folder": "patches", "source": "made here", "license": "none"},
    "input": {"height": SIDE, "width": SIDE},
    "sampling": {"frames": 1},
    "architecture": {
        "name": "defect_bilstm",
        "until": "block4",
        "weights": "none",
        "projection": 4,
        "units": 4,
        "order": "raster",  # as the clip bundle numbers its places
    },
    "places": {"background": "green", "crf": True},
    "training": {"stages": [{"cut": "frames", "epochs": 1, "rate": 1e-3}]},
    "sha256": "0" * 64,
}


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Green pictures, in half of them the left or the right side blue, and masks of where; noise lets some be mistaken."""
    root = tmp_path_factory.mktemp("data") / "patches"
    random = np.random.default_rng(0)
    rows = ["path,label,group,split"]
    for number in range(40):
        label = "blue" if number % 2 else "green"
        picture = random.integers(0, 90, (SIDE, SIDE, 3))
        picture[..., 1] += 60
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if number % 2:
            left = SIDE // 2 * (number // 8 % 2)  # in every split both sides: the splits go by number // 2 % 4
            picture[:, left : left + SIDE // 2] = random.integers(
                (60, 0, 0), (150, 90, 90), (SIDE, SIDE // 2, 3)
            )  # BGR
            mask[:, left : left + SIDE // 2] = 255
        for kind, pixels in (("images", picture), ("masks", mask)):
            (root / kind / label).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / kind / label / f"{number}.png"), pixels.astype(np.uint8))
        rows.append(
            f"images/{label}/{number}.png,{label},{number},{('train', 'val', 'train', 'test')[number // 2 % 4]}"
        )
    (root / "splits.csv").write_text("\n".join(rows) + "\n")
    return Dataset.open(root, labels=LABELS)


@pytest.fixture
def network(tmp_path: Path) -> Bundle:
    return make_clip_bundle(
        tmp_path / "network", positions="places", network=Network(kind="clip", attention=True, positions=True)
    )


def test_a_network_that_answers_by_place_gets_its_grid_and_a_chain_that_explains_val_better(
    network: Bundle, patches: Dataset
) -> None:
    recipe = Recipe.model_validate(_RECIPE)
    model = recipe.build(classes=len(LABELS))  # its map is 2×2, as that of the network at hand
    bundle, report = located(network, recipe, model, dataset=patches)
    grid = open_bundle(bundle.path).manifest.network.grid
    assert grid is not None
    assert (grid.rows, grid.columns, grid.order, grid.background) == (2, 2, "raster", "green")
    assert bundle.manifest.postprocess[0].name == "crf"
    assert report["crf"]["val_loss"] < report["crf"]["val_loss_alone"]
    assert (report["crf"]["train"], report["crf"]["val"]) == (20, 10)

    _, judged = assess(bundle, patches, split="test", score="auc")
    alone, chained = judged["localisation"]
    assert (alone["by"], chained["by"]) == ("network", "crf")
    assert (alone["n"], alone["image_auc"]) == (10, 1.0)
    assert alone["pixel_auc"] > 0.9
    assert chained["iou"] >= alone["iou"] > 0.5
    assert judged["accuracy"][0]["auc"] == alone["image_auc"]


def test_places_of_an_architecture_that_does_not_say_where_are_refused(network: Bundle, patches: Dataset) -> None:
    small = {"name": "small_cnn", "widths": [[4]]}
    recipe = Recipe.model_validate(_RECIPE | {"architecture": small, "places": None})
    with pytest.raises(RecipeError, match="which small_cnn does not"):
        located(network, recipe, recipe.build(classes=len(LABELS)), dataset=patches)
    # A parameter that is called grid makes no network one that says where.
    cells = {"name": "cnn_lstm", "until": "block0", "weights": "none", "grid": [2, 2]}
    with pytest.raises(ValidationError, match="which cnn_lstm does not; leave it out"):
        Recipe.model_validate(_RECIPE | {"architecture": cells})
