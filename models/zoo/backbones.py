"""The CNN under a classifier: EfficientNet-Lite0 of our own, or any network of keras.applications, each with its own normalisation."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import keras
from pydantic import BeforeValidator
from typing_extensions import override

from models.errors import RecipeError, WeightsError
from models.zoo.architecture import Architecture
from models.zoo.efficientnet_lite import TOP, efficientnet_lite0
from models.zoo.stem import MOMENTUM
from service.bundle.manifest import Input

OURS = "efficientnet_lite0"
# TOML has no null: a recipe says "none" where the weights are to be random.
PretrainedOn = Annotated[Literal["imagenet"] | None, BeforeValidator(lambda said: None if said == "none" else said)]


class OnBackbone(Architecture):
    """The parameters of every architecture whose CNN is a backbone: which, up to which of its blocks, with whose weights."""

    backbone: str = OURS
    until: str = TOP
    weights: PretrainedOn = "imagenet"

    @property
    @override
    def pretrained(self) -> bool:
        return self.weights is not None

    def network(self, input: Input) -> keras.Model:  # noqa: A002 -- the manifest's own word
        """Frames `[N, H, W, 3]` of 0…255 RGB → maps `[N, h, w, D]`; see `backbone`. Raises RecipeError and WeightsError."""
        if input.color != "rgb":
            raise RecipeError(
                f'backbone {self.backbone} reads colours, and input.color is "{input.color}"; make it "rgb": grey pictures then have three like channels'
            )
        return backbone(self.backbone, height=input.height, width=input.width, until=self.until, weights=self.weights)


def backbone(
    name: str = OURS, *, height: int = 224, width: int = 224, until: str = TOP, weights: str | None = "imagenet"
) -> keras.Model:
    """Frames `[N, height, width, 3]` of 0…255 RGB → feature maps `[N, h, w, D]`; what its authors do to pixels is inside.

    `name` is `efficientnet_lite0`, or a class of keras.applications such as `ResNet50`; `until` names the last block of the
    former or the last layer of the latter that is kept, `top` keeps all. Of keras.applications `weights="imagenet"` is
    downloaded by Keras; None leaves them random. Raises RecipeError and WeightsError.
    """
    if name == OURS:
        return efficientnet_lite0(height=height, width=width, until=until, weights=weights)
    build, preprocess = _application(name)
    frames = keras.Input((height, width, 3), name="frames")
    fed = preprocess(frames)
    try:
        # One flat graph, so that a stage of training may cut it after any layer.
        network = build(include_top=False, weights=weights, input_tensor=fed, input_shape=(height, width, 3))
    except ValueError as error:
        raise RecipeError(f"{name} of keras.applications does not take {height}×{width} pixels ({error})") from error
    except Exception as error:  # urllib's and Keras's own, none of them with a common class
        raise WeightsError(
            f"the ImageNet weights of {name} cannot be downloaded ({error}); connect to the network once, or choose "
            f'weights = "none", or backbone = "{OURS}", whose weights come with marey[build]'
        ) from error
    if weights is None:
        _made_for_few_steps(network)
    return keras.Model(frames, network.output if until == TOP else _inside(network, until), name=name.lower())


def _made_for_few_steps(network: keras.Model) -> None:
    """Let BatchNorm follow: MobileNetV2's forgets by a thousandth a step, so that after 3,000 of them its statistics were still the initial ones."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, MOMENTUM)


def _application(name: str) -> tuple[Callable[..., keras.Model], Callable[[Any], Any]]:
    """The class of that name with what its module calls `preprocess_input`."""
    build = getattr(keras.applications, name, None)
    if not inspect.isfunction(build) or "include_top" not in inspect.signature(build).parameters:
        known = ", ".join(sorted(part for part in dir(keras.applications) if part[:1].isupper()))
        raise RecipeError(f"there is no backbone {name!r}; choose {OURS}, or one of keras.applications: {known}")
    return build, importlib.import_module(build.__module__).preprocess_input


def _inside(network: keras.Model, until: str) -> Any:
    names = [layer.name for layer in network.layers]
    if until not in names:
        raise RecipeError(f"{network.name} has no layer {until!r}; choose {TOP}, or one of its own, as {names[-1]}")
    return network.get_layer(until).output
