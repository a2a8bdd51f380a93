"""Every method and head, and each kind of backbone: the combinations that the check goes through."""

from dataclasses import dataclass, field
from typing import Any

from masksup.config.components import HEADS, METHODS
from masksup.config.schema import Config
from tools.gpu_checks.setting import Setting, configure

CNN, VIT = "resnet18", "vit_tiny_patch16_224"
_NARROW = {"embedding": 64, "heads": 4, "feedforward": 64}  # the published widths would take the time of the check
_HEADS: dict[str, dict[str, Any]] = {"csra": {"heads": 4}, "ml_decoder": _NARROW, "query2label": _NARROW}
_FEW: dict[str, dict[str, Any]] = {"mcar": {"top": 2}, "masksup": {"bank": 20}}


@dataclass(frozen=True)
class Combination:
    method: dict[str, Any]
    head: str = "linear"
    backbone: str = CNN
    precision: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        kind = [str(value) for key, value in self.method.items() if key in ("views", "strategy", "tile")]
        base = [f"over {self.method['base']['name']}"] if "base" in self.method else []
        return " / ".join((" ".join([self.method["name"], *kind, *base]), self.head, self.backbone))

    def config(self, setting: Setting, dtype: str, batch: int) -> Config:
        small = {CNN: "test_resnet", VIT: "test_vit"}
        backbone = small.get(self.backbone, self.backbone) if setting.tiny else self.backbone
        size = 64 if setting.tiny and self.backbone in small else 224 if "224" in self.backbone else 128
        return configure(
            setting, backbone, size, batch, model={"head": {"name": self.head, **_HEADS.get(self.head, {})}},
            method=self.method, precision={"dtype": dtype, **self.precision},
        )  # fmt: skip


def _method(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, **_FEW.get(name, {}), **options}


def one_of_each(backbone: str = CNN) -> list[Combination]:
    """Every head, and every method."""
    heads = [Combination(_method("baseline"), head, backbone) for head in HEADS.entries]
    return heads + [Combination(_method(name), backbone=backbone) for name in METHODS.entries if name != "baseline"]


def all_combinations() -> list[Combination]:
    """One of each, what methods do in several ways, and the kinds of backbone."""
    ways = [_method("masksup", views=views) for views in ("separate", "concat")]
    ways += [_method("masksup", base={"name": "mcar", "top": 2})]
    ways += [_method("oass", strategy=strategy) for strategy in ("cmax", "ctopk", "ctopk_w")]
    more = [Combination(_method(name), "csi") for name in ("puzzle", "oass")]
    more += [Combination(_method(name), "csra", VIT) for name in ("baseline", "masksup")]
    trunks = ("swin_tiny_patch4_window7_224", "tresnet_m", "convnext_atto")
    return [
        *one_of_each(),
        *map(Combination, ways),
        *more,
        *(Combination(_method("baseline"), "linear", t) for t in trunks),
    ]
