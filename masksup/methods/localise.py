"""Where a profile peaks, and the image there: MCAR's localisation and cropping, without asking the device (rule 9)."""

import math
from typing import Literal

import torch
from torch import Tensor

from masksup.models.heads.precision import at_least_float32

# Shapes: B images, N regions of each, K = any leading dimensions, n samples of a profile, S pixels.

Rule = Literal["none", "original"]


def normalise(profile_Kn: Tensor) -> Tensor:
    """Stretch every profile to [0, 1]; a constant one becomes all ones."""
    low_K1, high_K1 = profile_Kn.amin(-1, keepdim=True), profile_Kn.amax(-1, keepdim=True)
    range_K1 = high_K1 - low_K1
    flat_K1 = range_K1 == 0
    return torch.where(flat_K1, 1.0, (profile_Kn - low_K1) / torch.where(flat_K1, 1.0, range_K1))


def locate(profile_Kn: Tensor, threshold: float, rule: Rule = "none") -> tuple[Tensor, Tensor]:
    """[start, end) of the part of every profile that peaks highest: two int64 tensors of shape K; methods.md 4.1.

    The profile is cut where it crosses `threshold`. Of the parts the one with the highest maximum is taken, of equals
    the longer, then the first. A profile that never crosses gives its middle three quarters. The least width is
    ceil(n / 8): "none" grows a narrower part evenly on both sides and moves it inside.
    "original" repeats the published code: it cuts one sample early, so that a part loses its last sample to the next,
    looks at the last part before the inner ones, and widens by its own uneven rule.
    """
    n = profile_Kn.shape[-1]
    assert rule == "none" or n > 8, "the published code gives empty parts of so short a profile"
    position_n = torch.arange(n, device=profile_Kn.device)
    starts_Kn = _starts_original(profile_Kn, threshold) if rule == "original" else _starts(profile_Kn, threshold)
    starts_Kn[..., 0] = True
    start_Kn = torch.where(starts_Kn, position_n, 0).cummax(-1).values
    # A part ends where the next begins: the nearest beginning strictly to the right.
    next_Kn = torch.cat([torch.where(starts_Kn, position_n, n)[..., 1:], torch.full_like(start_Kn[..., :1], n)], -1)
    end_Kn = next_Kn.flip(-1).cummin(-1).values.flip(-1)

    # The part with the highest maximum is one of those that hold the maximum of the whole profile.
    peak_Kn = profile_Kn == profile_Kn.amax(-1, keepdim=True)
    order_Kn = n - start_Kn if rule == "none" else _order_original(start_Kn, end_Kn, profile_Kn, threshold)
    rank_Kn = torch.where(peak_Kn, (end_Kn - start_Kn) * (n + 2) + order_Kn, -1)
    best_K1 = rank_Kn.argmax(-1, keepdim=True)
    start_K, end_K = start_Kn.gather(-1, best_K1)[..., 0], end_Kn.gather(-1, best_K1)[..., 0]

    least = math.ceil(n / 8)
    uncut_K = ~_crossings(profile_Kn, threshold, rule).any(-1)
    if rule == "original":
        start_K, end_K = _widen_original(start_K, end_K, n, least)
    start_K = torch.where(uncut_K, least, start_K)
    end_K = torch.where(uncut_K, math.ceil(7 * n / 8), end_K)
    return (start_K, end_K) if rule == "original" else _widen(start_K, end_K, n, least)


def _crossings(profile_Kn: Tensor, threshold: float, rule: Rule) -> Tensor:
    """Whether the profile crosses between i and i + 1, for i below n - 1. A sample on the threshold is above it for
    "none"; for "original" it is on neither side and makes no crossing."""
    above_Kn = profile_Kn >= threshold
    if rule == "none":
        return above_Kn[..., 1:] != above_Kn[..., :-1]
    beyond_Kn, below_Kn = profile_Kn > threshold, ~above_Kn
    return (beyond_Kn[..., 1:] & below_Kn[..., :-1]) | (below_Kn[..., 1:] & beyond_Kn[..., :-1])


def _starts(profile_Kn: Tensor, threshold: float) -> Tensor:
    """Where parts begin: the sample after a crossing."""
    crossings = _crossings(profile_Kn, threshold, "none")
    return torch.cat([torch.zeros_like(profile_Kn[..., :1], dtype=torch.bool), crossings], -1)


def _starts_original(profile_Kn: Tensor, threshold: float) -> Tensor:
    """The same in the published code: the sample before a crossing."""
    crossings = _crossings(profile_Kn, threshold, "original")
    return torch.cat([crossings, torch.zeros_like(profile_Kn[..., :1], dtype=torch.bool)], -1)


def _order_original(start_Kn: Tensor, end_Kn: Tensor, profile_Kn: Tensor, threshold: float) -> Tensor:
    """The published code looks at the first part, then the last, then the inner ones from left to right.

    If the very first pair crosses, the first part is empty there and the one that begins at 0 is an inner one.
    """
    n = profile_Kn.shape[-1]
    at_once_K1 = _crossings(profile_Kn, threshold, "original")[..., :1]
    order_Kn = torch.where(end_Kn == n, n, n - 1 - start_Kn)
    return torch.where((start_Kn == 0) & ~at_once_K1, n + 1, order_Kn)


def _widen(start_K: Tensor, end_K: Tensor, n: int, least: int) -> tuple[Tensor, Tensor]:
    width_K = (end_K - start_K).clamp(min=least)
    start_K = (start_K - (width_K - (end_K - start_K)) // 2).clamp(min=0)
    start_K = torch.minimum(start_K, n - width_K)
    return start_K, start_K + width_K


def _widen_original(start_K: Tensor, end_K: Tensor, n: int, least: int) -> tuple[Tensor, Tensor]:
    """The three checks of the published code, one after the other on what the one before left."""
    pad_K = least - (end_K - start_K)
    narrow_K, half_K = pad_K >= 0, (pad_K + 1) // 2
    inside_K = narrow_K & (start_K > half_K) & (n - end_K > pad_K)
    start_K, end_K = torch.where(inside_K, start_K - half_K + 1, start_K), torch.where(inside_K, end_K + half_K, end_K)
    left_K = narrow_K & (start_K < half_K)
    start_K, end_K = torch.where(left_K, 0, start_K), torch.where(left_K, least, end_K)
    right_K = narrow_K & (n - end_K < half_K)
    return torch.where(right_K, n - least + 1, start_K), torch.where(right_K, n, end_K)


def crop_resize(images_B3SS: Tensor, boxes_BN4: Tensor) -> Tensor:
    """Every box of every image, stretched to the size of the image: (B N) 3 S S, the regions of an image together.

    `boxes_BN4`: int64 x1, y1, x2, y2 in pixels, ends excluded, at least one pixel wide. Bilinear with aligned corners:
    pixels at the box's corners become the corners of the result, and nothing outside the box takes part.
    """
    (b, _, height, width), regions = images_B3SS.shape, boxes_BN4.shape[1]
    x1_K, y1_K, x2_K, y2_K = boxes_BN4.flatten(0, 1).unbind(-1)
    image_K1 = torch.arange(b, device=boxes_BN4.device).repeat_interleave(regions)[:, None]
    pixels_BS3S = at_least_float32(images_B3SS).transpose(1, 2)
    above, below, share = _samples(y1_K, y2_K, height, pixels_BS3S.dtype)
    rows_KS3S = torch.lerp(pixels_BS3S[image_K1, above], pixels_BS3S[image_K1, below], share[:, :, None, None])
    left, right, share = _samples(x1_K, x2_K, width, pixels_BS3S.dtype)
    shape = (-1, height, images_B3SS.shape[1], width)
    left_KS3S, right_KS3S = (rows_KS3S.gather(-1, column[:, None, None, :].expand(shape)) for column in (left, right))
    crops = torch.lerp(left_KS3S, right_KS3S, share[:, None, None, :])
    return crops.transpose(1, 2).to(images_B3SS.dtype)


def _samples(start_K: Tensor, end_K: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """For n samples from the first to the last pixel of [start, end): the pixel at or before each, the pixel after it,
    and how far it lies between them, in `dtype`; each of shape K x n."""
    last_K1 = (end_K - start_K - 1)[:, None]
    place_Kn = torch.arange(n, device=start_K.device) * (last_K1.to(dtype) / max(n - 1, 1))
    before_Kn = torch.minimum(place_Kn.long(), last_K1)
    after_Kn = torch.minimum(before_Kn + 1, last_K1)
    return start_K[:, None] + before_Kn, start_K[:, None] + after_Kn, place_Kn - before_Kn
