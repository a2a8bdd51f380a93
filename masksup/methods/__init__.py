"""Training methods: an `nn.Module` whose `forward(batch)` gives `(loss, logs)` and `predict(images)` logits."""

from masksup.registry import Registry

METHODS = Registry(
    kind="method",
    key="method.name",
    entries={
        "baseline": "masksup.methods.baseline:Baseline",
        "mcar": "masksup.methods.mcar:MCAR",
        "masksup": "masksup.methods.masksup:MaskSup",
        "oass": "masksup.methods.oass:OASS",
        "puzzle": "masksup.methods.puzzle:Puzzle",
    },
)
