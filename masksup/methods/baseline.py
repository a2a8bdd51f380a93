"""One view, one loss: what CSRA, ASL and ML-Decoder train with."""

from torch import Tensor

from masksup.methods.method import Method


class Baseline(Method):
    """`loss(network(image), target)`."""

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        features = batch.get("features")
        logits_BC = self.network(batch["image"]) if features is None else self.network.head(features)
        return self.loss(logits_BC, batch["target"]), {}
