"""The parts that can be chosen by name, on one page: to add one, write its file and add its line here.

`masksup/config/registry.py` says what a part's options are; CONTRIBUTING.md has an example of each kind. Nothing is
imported before it is used.
"""

from masksup.config.registry import Registry

HEADS = Registry(
    kind="head",
    key="model.head.name",
    entries={
        "linear": "masksup.models.heads.linear:Linear",
        "csi": "masksup.models.heads.csi:CSI",
        "csra": "masksup.models.heads.csra:CSRA",
        "attentive_probe": "masksup.models.heads.attentive_probe:AttentiveProbe",
        "ml_decoder": "masksup.models.heads.ml_decoder:MLDecoder",
        "query2label": "masksup.models.heads.query2label:Query2Label",
    },
)

# How many heads of CSRA have published temperatures; here, so that a configuration is checked without torch.
CSRA_HEADS = (1, 2, 4, 6, 8)

LOSSES = Registry(
    kind="loss",
    key="loss.name",
    entries={
        "bce": "masksup.losses.bce:BinaryCrossEntropy",
        "asl": "masksup.losses.asl:AsymmetricLoss",
        "focal": "masksup.losses.focal:FocalLoss",
    },
)

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

DATASETS = Registry(
    kind="data set",
    key="prepare",
    entries={
        "voc2007": "masksup.data.prepare.voc:prepare_voc2007",
        "voc2012": "masksup.data.prepare.voc:prepare_voc2012",
        "voc": "masksup.data.prepare.voc_own:prepare_voc",
        "coco2014": "masksup.data.prepare.coco:prepare_coco2014",
        "coco": "masksup.data.prepare.coco:prepare_coco",
        "wider": "masksup.data.prepare.wider:prepare_wider",
        "csv": "masksup.data.prepare.csv:prepare_csv",
        "long": "masksup.data.prepare.long:prepare_long",
        "folders": "masksup.data.prepare.folders:prepare_folders",
        "yolo": "masksup.data.prepare.yolo:prepare_yolo",
        "voc-lists": "masksup.data.prepare.voc_lists:prepare_voc_lists",
        "roboflow": "masksup.data.prepare.roboflow:prepare_roboflow",
        "cvat": "masksup.data.prepare.cvat:prepare_cvat",
        "labelme": "masksup.data.prepare.labelme:prepare_labelme",
        "via": "masksup.data.prepare.via:prepare_via",
        "nuswide": "masksup.data.prepare.nuswide:prepare_nuswide",
        "celeba": "masksup.data.prepare.celeba:prepare_celeba",
        "chestxray14": "masksup.data.prepare.chestxray14:prepare_chestxray14",
        "chexpert": "masksup.data.prepare.chexpert:prepare_chexpert",
        "shapes": "masksup.data.shapes:prepare_shapes",
    },
)

# An engine is a module that offers `make` and `check` (`masksup/engine/parallel/engine.py`).
ENGINES = {"ddp": "masksup.engine.parallel.ddp", "deepspeed": "masksup.engine.parallel.zero"}
