"""What every training method is."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from masksup.models.network import Network


class Method(nn.Module, ABC):
    """A network and a way to train it. DDP, DeepSpeed and torch.compile wrap it once, whatever it draws inside.

    A batch holds `image` (uint8 B3SS), or `features` (x_BDHW of a frozen backbone); `target` (int8 BC: 1 present,
    0 absent, -1 ignored); `sample` and `position` (int64 B); `progress` (float32 scalar: the share of the training's
    steps that is done).
    """

    def __init__(self, network: Network, loss: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def set_up(self, seed: int) -> None:
        """Make what training alone needs, such as masks: called once, before the run folder is touched.

        `seed` is the run's. Raises UserError naming the `method.` key that cannot be met.
        """

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch (a scalar), and scalars to log beside it."""

    def streams(self, images_B3SS: Tensor) -> tuple[Tensor, ...]:
        """Logits_BC in fp32 of each way the method looks at uint8 images, or float ones in 0..1.

        Each is supervised by all labels; a class is as likely as in the stream where it is likeliest.
        """
        logits_BC: Tensor = self.network(images_B3SS)
        return (logits_BC,)

    def predict(self, images_B3SS: Tensor) -> Tensor:
        """Logits_BC in fp32 of uint8 images, or float ones in 0..1."""
        return likeliest(self.streams(images_B3SS))

    def update(self, step: int) -> None:
        """Follow the weights after the optimiser step numbered `step` (from 0), as a teacher does."""

    def own_state(self) -> dict[str, Tensor]:
        """Tensors besides the network's that a resumed training needs; saved by name, and copied back in place."""
        return {}


def likeliest(streams: tuple[Tensor, ...]) -> Tensor:
    """The largest logit of each class over streams of logits_BC."""
    logits_BC = streams[0]
    for other_BC in streams[1:]:
        logits_BC = torch.maximum(logits_BC, other_BC)
    return logits_BC
