"""What every training method is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from masksup.models.network import Network


class Method(nn.Module, ABC):
    """A network and a way to train it. DDP, DeepSpeed and torch.compile wrap it once, whatever it draws inside.

    A batch holds `image` (uint8 B3SS), or `features` (x_BDHW of a frozen backbone); `target` (int8 BC: 1 present,
    0 absent, -1 ignored); `sample` and `position` (int64 B).
    """

    def __init__(self, network: Network, loss: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def prepare(self, seed: int) -> None:
        """Make what training alone needs, such as masks: called once, before the run folder is touched.

        `seed` is the run's. Raises UserError naming the `method.` key that cannot be met.
        """

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch (a scalar), and scalars to log beside it."""

    @abstractmethod
    def predict(self, images_B3SS: Tensor) -> Tensor:
        """Logits_BC in fp32 of uint8 images."""
