"""MCAR (arXiv 2007.01755): a second look, through the same network, at the regions where the first saw its classes."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.methods.localise import crop_resize, locate, normalise
from masksup.methods.method import Method
from masksup.models.heads.linear import Linear
from masksup.models.heads.precision import at_least_float32, full_precision
from masksup.models.network import Network

# Shapes: B images, N = `top` regions of each, D feature width, H x W positions, S x S pixels, C classes.


@dataclass(frozen=True)
class Regions:
    """What MCAR looked at. `boxes_BN4`: int64 x1, y1, x2, y2 in pixels of the network's input, ends excluded.
    `classes_BN`: the class that each box was cut out for, highest global logit first."""

    global_BC: Tensor
    fused_BC: Tensor
    boxes_BN4: Tensor
    classes_BN: Tensor


class MCAR(Method):
    """Loss of the whole image plus loss of the maximum over its regions; both through one trunk and one classifier.

    top: regions an image, each of another class: those of its highest global scores.
    threshold: where the profile of a class's attention map, stretched to [0, 1], is cut.
    compat: `original` localises as the published code does, which cuts one pixel early (methods.md 4.1).
    The head has to be `linear`: attention is its classifier, bias included, at every position.
    The batch norms of the trunk see images and regions in two batches, as in the published code.
    """

    def __init__(
        self,
        network: Network,
        loss: nn.Module,
        *,
        top: int = 4,
        threshold: float = 0.5,
        compat: Literal["none", "original"] = "none",
    ) -> None:
        super().__init__(network, loss)
        if not isinstance(network.head, Linear):
            raise UserError(
                f"model.head.name: found a {type(network.head).__name__} head, expected linear: method mcar needs a "
                "classifier that it can apply at every position"
            )
        classes = network.head.fc.out_features
        if not 1 <= top <= classes:
            raise UserError(f"method.top: found {top}, expected 1 to {classes}, the number of classes")
        if not 0 < threshold < 1:
            raise UserError(f"method.threshold: found {threshold}, expected above 0 and below 1")
        self.top = top
        self.threshold = threshold
        self.compat = compat

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        global_BC, local_BC = self.streams(batch["image"])
        # The loss of the largest probability is the loss of the largest logit: sigmoid keeps order.
        whole, regions = self.loss(global_BC, batch["target"]), self.loss(local_BC, batch["target"])
        return whole + regions, {"loss_global": whole.detach(), "loss_local": regions.detach()}

    def streams(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        global_BC, local_BC, _, _ = self._look_twice(images_B3SS)
        return global_BC, local_BC

    def predict_regions(self, images_B3SS: Tensor) -> Regions:
        """Logits of the whole image, of both streams together, and the regions, of uint8 images."""
        global_BC, local_BC, boxes_BN4, classes_BN = self._look_twice(images_B3SS)
        return Regions(global_BC, torch.maximum(global_BC, local_BC), boxes_BN4, classes_BN)

    def _look_twice(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(global logits BC, local logits BC, boxes BN4, classes BN)."""
        network = self.network
        images_B3SS = network.normalize(images_B3SS)
        x_BDHW = network.backbone(images_B3SS)
        global_BC = network.head(x_BDHW)
        with torch.no_grad():
            classes_BN = global_BC.topk(self.top).indices
            boxes_BN4 = self._boxes(x_BDHW, classes_BN, images_B3SS.shape[-2:])
            regions_K3SS = crop_resize(images_B3SS, boxes_BN4)
        local_KC = network.head(network.backbone(regions_K3SS))
        return global_BC, local_KC.reshape(-1, self.top, local_KC.shape[1]).amax(1), boxes_BN4, classes_BN

    def _boxes(self, x_BDHW: Tensor, classes_BN: Tensor, size: torch.Size) -> Tensor:
        """Where the attention of the given classes lies: boxes_BN4 in pixels of an input of `size`."""
        with full_precision(x_BDHW):
            attention_BNHW = F.interpolate(
                self._attention(x_BDHW, classes_BN), size, mode="bilinear", align_corners=True
            )
            x1_BN, x2_BN = locate(normalise(attention_BNHW.amax(2)), self.threshold, self.compat)
            y1_BN, y2_BN = locate(normalise(attention_BNHW.amax(3)), self.threshold, self.compat)
        return torch.stack([x1_BN, y1_BN, x2_BN, y2_BN], -1)

    def _attention(self, x_BDHW: Tensor, classes_BN: Tensor) -> Tensor:
        """Probability of the given classes at every position of the feature map."""
        assert isinstance(self.network.head, Linear)
        classifier = self.network.head.fc
        weight_BND = at_least_float32(classifier.weight)[classes_BN]
        logits_BNP = weight_BND @ at_least_float32(x_BDHW).flatten(2)
        if classifier.bias is not None:
            logits_BNP = logits_BNP + at_least_float32(classifier.bias)[classes_BN][..., None]
        return logits_BNP.sigmoid().reshape(*classes_BN.shape, *x_BDHW.shape[2:])


def find_mcar(method: nn.Module) -> MCAR | None:
    """The MCAR in a method: itself, or what another one looks at its views through."""
    return next((module for module in method.modules() if isinstance(module, MCAR)), None)
