"""What every architecture of the zoo is to a recipe: its parameters, and how it is built from them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import keras

from service.bundle.manifest import Frozen, Grid, Input

# The layer that holds a network's CNN: the CNN itself in a network of images, TimeDistributed over it in one of clips. What it
# gives may be computed once and kept, while it is frozen; a network without such a layer is trained as a whole.
ENCODE = "encode"


class Architecture(Frozen, ABC):
    """The `[architecture]` of a recipe: its fields are the parameters, `name` tells it from the others.

    Its weights are random at first, and trained, unless a class says otherwise.
    """

    name: str

    @property
    def pretrained(self) -> bool:
        """Whether weights come from elsewhere, whose source and licence the recipe must then name."""
        return False

    @property
    def trainable(self) -> bool:
        """Whether the recipe must say how it is trained."""
        return True

    @abstractmethod
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:  # noqa: A002 -- the manifest's own word
        """Clips `[B, T, H, W, C]`, or images `[B, H, W, C]`, of 0…255 → probabilities `[B, classes]`; raises RecipeError.

        `frames`: T, for a network that takes no other number. Beside the probabilities a network may give `attention` `[B, T]` and
        `positions` `[B, P, K]`, as a dict of outputs by these names. `seed` fixes the initial weights and the dropout.
        """


class Locating(Architecture):
    """An architecture whose networks give `positions` of the places of a grid."""

    @abstractmethod
    def grid(self, model: keras.Model) -> Grid:
        """The grid of the places that `model`, a network of this architecture, answers for."""
