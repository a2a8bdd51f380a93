"""From annotation files to batches: `prepare` writes an index, `dataset` reads samples by position."""

from masksup.registry import Registry

DATASETS = Registry(
    kind="data set",
    key="prepare",
    entries={
        "voc2007": "masksup.data.prepare.voc:prepare_voc2007",
        "voc2012": "masksup.data.prepare.voc:prepare_voc2012",
        "voc": "masksup.data.prepare.voc:prepare_voc",
        "coco2014": "masksup.data.prepare.coco:prepare_coco2014",
        "coco": "masksup.data.prepare.coco:prepare_coco",
        "wider": "masksup.data.prepare.wider:prepare_wider",
        "csv": "masksup.data.prepare.csv:prepare_csv",
        "shapes": "masksup.data.shapes:prepare_shapes",
    },
)
