"""One view, one loss: what CSRA, ASL and ML-Decoder train with."""

from typing import cast

from torch import Tensor, nn

from masksup.models.network import Network


class Baseline(nn.Module):
    """`loss(network(image), target)`.

    A batch holds `image` (uint8 B3SS), or `features` (x_BDHW of a frozen backbone), and `target` (int8 BC).
    """

    def __init__(self, network: Network, loss: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch (a scalar) and what to log beside it."""
        features = batch.get("features")
        logits_BC = self.network(batch["image"]) if features is None else self.network.head(features)
        loss = cast(Tensor, self.loss(logits_BC, batch["target"]))
        return loss, {}

    def predict(self, images: Tensor) -> Tensor:
        """Logits_BC in fp32 of uint8 images_B3SS."""
        return cast(Tensor, self.network(images))
