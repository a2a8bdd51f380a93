"""Class maps: what a head gives or looks at at every position, and the class activation maps (CAM) made of it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

# Shapes: B images, D feature width, H x W positions, C classes.

EPSILON = 1e-5


class MapHead(nn.Module, ABC):
    """A head with one linear classifier that can be applied at every position, and averaged over them."""

    @abstractmethod
    def with_maps(self, x_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features to (logits_BC, maps_BCHW), both float32; the logits are those of `forward`."""

    @abstractmethod
    def maps(self, x_BDHW: Tensor) -> Tensor:
        """The classifier's score of every class at every position, bias included: float32 maps_BCHW."""

    @abstractmethod
    def reset_classifier(self) -> None:
        """Draw the classifier of the maps again, from torch's generator."""


class AttentionHead(nn.Module, ABC):
    """A head whose classes look at the positions by attention."""

    @abstractmethod
    def attention_maps(self, x_BDHW: Tensor) -> Tensor:
        """Where every class looks: float32 shares_BCHW, at least 0, with a sum of 1 over the positions."""


def cam(maps_BCHW: Tensor) -> Tensor:
    """Class maps to class activation maps in [0, 1): negative scores cut off, divided by the largest (methods.md 5.1).

    A map without a positive score gives zeros.
    """
    positive_BCHW = maps_BCHW.relu()
    return (positive_BCHW - EPSILON).relu() / (positive_BCHW.amax((-2, -1), keepdim=True) + EPSILON)
