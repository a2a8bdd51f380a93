"""The networks of the original projects, written again from their description with their own names of tensors.

Plain torch and torchvision; nothing of masksup. Shapes: B images, D width, H x W positions, C classes.
"""

import math
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURES = {1: [1], 2: [1, 99], 4: [1, 2, 4, 99], 6: [1, 2, 3, 4, 5, 99], 8: [1, 2, 3, 4, 5, 6, 7, 99]}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of no particular meaning: statistics, biases and scales that a mistake in mapping cannot survive."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(value: Tensor, low: float, high: float) -> None:
        value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in net.modules():
            if getattr(module, "running_mean", None) is not None:
                uniform(module.running_mean, -0.1, 0.1)
                uniform(module.running_var, 0.3, 0.8)
                uniform(module.weight, 0.3, 0.9)
                module.weight[torch.rand(module.weight.shape, generator=generator) < 0.2] *= -1
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * math.sqrt(1.6 / fan_in))
            elif isinstance(module, nn.LayerNorm):
                uniform(module.weight, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                uniform(module.bias, -0.1, 0.1)
        for name, value in net.named_parameters():
            if name in ("cls_token", "pos_embed"):
                uniform(value, -0.5, 0.5)
    return net.eval()


class CSRAHead(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, classes, 1, bias=False)


class CSRAHeads(nn.Module):
    """methods.md 1.1, a class and a position at a time being one softmax."""

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.multi_head = nn.ModuleList(CSRAHead(width, classes) for _ in range(heads))

    def forward(self, x: Tensor, lam: float) -> Tensor:
        return sum(
            csra_logit(part.head(x) / part.head.weight.flatten(1).norm(dim=1).view(1, -1, 1, 1), temperature, lam)
            for part, temperature in zip(self.multi_head, TEMPERATURES[len(self.multi_head)])
        )


def csra_logit(score: Tensor, temperature: float, lam: float) -> Tensor:
    score = score.flatten(2)
    attention = score.amax(2) if temperature == 99 else (score * (score * temperature).softmax(2)).sum(2)
    return score.mean(2) + lam * attention


class CSRAResNet(torchvision.models.ResNet):
    def __init__(self, depths: list[int], classes: int, heads: int) -> None:
        super().__init__(torchvision.models.resnet.Bottleneck, depths)
        del self.fc
        self.classifier = CSRAHeads(2048, classes, heads)

    def features(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor, lam: float) -> Tensor:
        return self.classifier(self.features(x), lam)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, D // 64, 64).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.transpose(-1, -2) / 8).softmax(-1) @ v).transpose(1, 2).reshape(B, L, D))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, 1e-6), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width, 1e-6), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CSRAViT(nn.Module):
    """`heads` None: the layout of the COCO file at 448 px, head1 to head8 and head, with biases."""

    def __init__(self, width: int, depth: int, size: int, classes: int, heads: int | None) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // 16) ** 2, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 16, 16)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)
        if heads is not None:
            self.classifier = CSRAHeads(width, classes, heads)
            return
        self.head = nn.Linear(width, 1000)
        for number in range(1, 9):
            setattr(self, f"head{number}", nn.Linear(width, classes))

    def features(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))[:, 1:]
        side = math.isqrt(tokens.shape[1])
        return tokens.transpose(1, 2).reshape(len(x), -1, side, side)

    def forward(self, x: Tensor, lam: float) -> Tensor:
        x = self.features(x)
        if hasattr(self, "classifier"):
            return self.classifier(x, lam)
        total = 0
        for number, temperature in enumerate(TEMPERATURES[8], 1):
            linear = getattr(self, f"head{number}")
            score = F.conv2d(x, linear.weight[:, :, None, None], linear.bias)
            total = total + csra_logit(score / linear.weight.norm(dim=1).view(1, -1, 1, 1), temperature, lam)
        return total


class ABN(nn.Module):
    """InPlace-ABN: scales by |weight| + eps, then a leaky ReLU of `slope`, or nothing (None)."""

    def __init__(self, width: int, slope: float | None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight.abs() + 1e-5, self.bias, eps=1e-5)
        return x if self.slope is None else F.leaky_relu(x, self.slope)


class Blur(nn.Module):
    """[1, 2, 1] over 4 in both directions, every second position, edges reflected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(line, line).expand(width, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def conv_abn(before: int, after: int, side: int, slope: float | None) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, side, padding=side // 2, bias=False), ABN(after, slope))


def strided(before: int, after: int, stride: int) -> nn.Sequential:
    pair = conv_abn(before, after, 3, 1e-3)
    return pair if stride == 1 else nn.Sequential(pair, Blur(after))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, reduced, 1), nn.Conv2d(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class TBlock(nn.Module):
    """The basic block of stages 1 and 2, the bottleneck of stages 3 and 4."""

    def __init__(self, before: int, planes: int, stride: int, stage: int) -> None:
        super().__init__()
        after = planes * (4 if stage > 2 else 1)
        if stage > 2:
            self.conv1 = conv_abn(before, planes, 1, 1e-3)
            self.conv2 = strided(planes, planes, stride)
            self.conv3 = conv_abn(planes, after, 1, None)
        else:
            self.conv1 = strided(before, planes, stride)
            self.conv2 = conv_abn(planes, planes, 3, None)
        if stage < 4:
            self.se = SqueezeExcite(planes, {1: 64, 2: 64, 3: 128}[stage])
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), conv_abn(before, after, 1, None)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.conv2(self.conv1(x))
        x = self.se(x) if hasattr(self, "se") else x
        x = self.conv3(x) if hasattr(self, "conv3") else x
        return F.relu(x + shortcut)


class TResNetM(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.conv1 = conv_abn(48, 64, 3, 1e-2)
        before = 64
        for stage, (planes, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 11, 3)), 1):
            layers = []
            for number in range(blocks):
                layers.append(TBlock(before, planes, 2 if stage > 1 and number == 0 else 1, stage))
                before = planes * (4 if stage > 2 else 1)
            setattr(self.body, f"layer{stage}", nn.Sequential(*layers))
        self.head = nn.Module()
        self.head.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        x = x.view(B, C, H // 4, 4, W // 4, 4).permute(0, 3, 5, 1, 2, 4).reshape(B, 16 * C, H // 4, W // 4)
        x = self.body.conv1(x)
        for stage in (1, 2, 3, 4):
            x = getattr(self.body, f"layer{stage}")(x)
        return self.head.fc(x.mean((2, 3)))


def conv_bn(before: int, after: int, side: int, stride: int, groups: int = 1, relu: bool = True) -> list[nn.Module]:
    layers = [nn.Conv2d(before, after, side, stride, side // 2, groups=groups, bias=False), nn.BatchNorm2d(after)]
    return [*layers, nn.ReLU6()] if relu else layers


class InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        layers = conv_bn(before, hidden, 1, 1) if expansion > 1 else []
        layers += conv_bn(hidden, hidden, 3, stride, groups=hidden) + conv_bn(hidden, after, 1, 1, relu=False)
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """d-li14's, width 1.0: `features` of 18, `conv`, `classifier`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, 3, 2))]
        before = 32
        for expansion, after, blocks, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                                                 (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):  # fmt: skip
            for number in range(blocks):
                layers.append(InvertedResidual(before, after, stride if number == 0 else 1, expansion))
                before = after
        self.features = nn.Sequential(*layers)
        self.conv = nn.Sequential(*conv_bn(320, 1280, 1, 1))
        self.classifier = nn.Linear(1280, 1000)


class MCARNet(nn.Module):
    """`features`: the children of a trunk in a list; `convclass`: the classifier of both streams."""

    def __init__(self, trunk: str, classes: int) -> None:
        super().__init__()
        if trunk == "mobilenetv2":
            net = MobileNetV2()
            self.features, width = nn.Sequential(net.features, net.conv), 1280
        else:
            resnet = getattr(torchvision.models, trunk)(weights=None)
            self.features, width = nn.Sequential(*list(resnet.children())[:-2]), 2048
        self.convclass = nn.Conv2d(width, classes, 1)

    def scores(self, maps: Tensor, pool: str) -> Tensor:
        mean, largest = maps.mean((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        return self.convclass({"avg": mean, "max": largest, "gwp": (mean + largest) / 2}[pool])[:, :, 0, 0]

    def forward(self, x: Tensor, pool: str, top: int, threshold: float, locate: Any) -> Tensor:
        """methods.md 4.1: logits of both streams together; `locate(profile, threshold)` gives [start, end)."""
        maps = self.features(x)
        g = self.scores(maps, pool)
        attention = self.convclass(maps).sigmoid()
        attention = F.interpolate(attention, x.shape[2:], mode="bilinear", align_corners=True)
        fused = []
        for i in range(len(x)):
            crops = []
            for c in g[i].argsort(descending=True)[:top].tolist():
                (x1, x2), (y1, y2) = (
                    locate(stretched(attention[i, c].amax(side)).tolist(), threshold) for side in (0, 1)
                )
                crop = x[i : i + 1, :, y1:y2, x1:x2]
                crops.append(F.interpolate(crop, x.shape[2:], mode="bilinear", align_corners=True))
            fused.append(torch.maximum(g[i], self.scores(self.features(torch.cat(crops)), pool).amax(0)))
        return torch.stack(fused)


def stretched(profile: Tensor) -> Tensor:
    low, high = profile.min(), profile.max()
    return profile / high if low == high else (profile - low) / (high - low)


def cam(scores: Tensor) -> Tensor:
    """methods.md 5.1: ReLU, divided by the maximum of each image and class, 1e-5 above and below."""
    positive = F.relu(scores)
    return F.relu(positive - 1e-5) / (positive.amax((2, 3), keepdim=True) + 1e-5)


class Puzzle(nn.Module):
    """The trunk twice, as `model` and as `stage1` to `stage5`; `csi`: OASS's norm and convolution of each class."""

    def __init__(self, classes: int = 20, *, csi: bool) -> None:
        super().__init__()
        self.model = torchvision.models.resnet50(weights=None)
        del self.model.fc
        for layer in (self.model.layer4[0].conv2, self.model.layer4[0].downsample[0]):
            layer.stride = (1, 1)
        net = self.model
        self.stage1 = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        for stage in (2, 3, 4, 5):
            setattr(self, f"stage{stage}", nn.Sequential(getattr(net, f"layer{stage - 1}")))
        self.classifier = nn.Conv2d(2048, classes, 1, bias=False)
        if csi:
            self.BN = nn.ModuleList(nn.BatchNorm2d(2048) for _ in range(classes))
            self.stage6 = nn.ModuleList(nn.Conv2d(2048, 1, 1, bias=False) for _ in range(classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage5(self.stage4(self.stage3(self.stage2(self.stage1(x)))))
        scores = self.classifier(x)
        if not hasattr(self, "BN"):
            return scores.mean((2, 3))
        cams = cam(scores)
        parts = [conv(norm(x * cams[:, v : v + 1])) for v, (norm, conv) in enumerate(zip(self.BN, self.stage6))]
        return torch.cat(parts, 1).mean((2, 3))
