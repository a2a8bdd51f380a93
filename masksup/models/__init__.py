"""Networks: a timm backbone that gives a feature map, and a head that turns it into logits."""

from masksup.registry import Registry

# How many heads of CSRA have published temperatures; here, so that a configuration is checked without torch.
CSRA_HEADS = (1, 2, 4, 6, 8)

HEADS = Registry(
    kind="head",
    key="model.head.name",
    entries={
        "linear": "masksup.models.heads.linear:Linear",
        "csi": "masksup.models.heads.csi:CSI",
        "csra": "masksup.models.heads.csra:CSRA",
        "ml_decoder": "masksup.models.heads.ml_decoder:MLDecoder",
        "query2label": "masksup.models.heads.query2label:Query2Label",
    },
)
