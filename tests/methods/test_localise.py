"""MCAR's localisation beside a literal loop, and its crops beside torch's own interpolation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from masksup.methods.localise import crop_resize, locate, normalise

# Coarse values make ties and samples exactly on the threshold common; fine ones look like attention.
COARSE = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
FINE = st.floats(0, 1, width=32)
SIGNALS = st.one_of(*(st.lists(values, min_size=9, max_size=70) for values in (COARSE, FINE)))
THRESHOLDS = st.sampled_from([0.25, 0.3, 0.5, 0.75])


def pick(s, parts):
    best, value = None, -np.inf
    for a, b in parts:
        top = s[a:b].max()
        if top > value or (top == value and b - a > best[1] - best[0]):
            best, value = (a, b), top
    return best


def literal_clean(s, t):
    n, m = len(s), math.ceil(0.125 * len(s))
    cuts = [i + 1 for i in range(n - 1) if (s[i] >= t) != (s[i + 1] >= t)]
    if not cuts:
        return m, math.ceil(0.875 * n)
    start, end = pick(s, list(zip([0, *cuts], [*cuts, n])))
    if end - start < m:
        start = min(max(start - (m - (end - start)) // 2, 0), n - m)
        end = start + m
    return start, end


def literal_original(s, t):
    n, m = len(s), math.ceil(0.125 * len(s))
    z = [i for i in range(n - 1) if (s[i] > t and s[i + 1] < t) or (s[i] < t and s[i + 1] > t)]
    if not z:
        return m, math.ceil(0.875 * n)
    parts = [(0, z[0])] if z[0] > 0 else []
    parts.append((z[-1], n))
    parts += [(z[k], z[k + 1]) for k in range(len(z) - 1)]
    start, end = pick(s, parts)
    if end - start <= m:
        pad = m - (end - start)
        half = math.ceil(pad / 2)
        if start > half and n - end > pad:
            start, end = start - (half - 1), end + half
        if start < half:
            start, end = 0, m
        if n - end < half:
            start, end = n - m + 1, n
    return start, end


LITERAL = {"none": literal_clean, "original": literal_original}


@pytest.mark.parametrize("rule", LITERAL)
@given(signal=SIGNALS, threshold=THRESHOLDS)
def test_the_literal_loop_finds_the_same(rule, signal, threshold):
    s = np.array(signal, np.float32)
    start, end = locate(torch.from_numpy(s), threshold, rule)
    assert (int(start), int(end)) == LITERAL[rule](s, np.float32(threshold))


@pytest.mark.parametrize("rule", LITERAL)
@given(signal=SIGNALS, threshold=THRESHOLDS)
@example(signal=[0.0] * 14 + [1.0, 0.0, 0.5], threshold=0.25)  # the published rule widens no part this near to the end
def test_parts_lie_inside_and_are_wide_enough(rule, signal, threshold):
    n = len(signal)
    start, end = (int(x) for x in locate(torch.tensor(signal), threshold, rule))
    assert 0 <= start < end <= n
    assert rule == "original" or end - start >= math.ceil(n / 8)


@given(signal=SIGNALS, threshold=THRESHOLDS)
def test_the_part_holds_the_highest_sample_and_all_of_its_run(signal, threshold):
    s = torch.tensor(signal)
    above = s >= threshold
    if above.all() or not above.any():
        return
    start, end = (int(x) for x in locate(s, threshold))
    assert s[start:end].max() == s.max()
    assert start == 0 or end - start == math.ceil(len(s) / 8) or above[start - 1] != above[start]
    assert end == len(s) or end - start == math.ceil(len(s) / 8) or above[end - 1] != above[end]


@pytest.mark.parametrize("rule", LITERAL)
@given(data=st.data(), n=st.integers(9, 40))
def test_many_at_once_are_each_alone(rule, data, n):
    rows = data.draw(st.lists(st.lists(COARSE, min_size=n, max_size=n), min_size=4, max_size=4))
    many = torch.tensor(rows).reshape(2, 2, n)
    start, end = locate(many, 0.5, rule)
    assert start.shape == end.shape == (2, 2)
    for i in range(4):
        alone = locate(many[i // 2, i % 2], 0.5, rule)
        assert (start[i // 2, i % 2], end[i // 2, i % 2]) == alone


def test_a_spike_is_found_and_the_published_code_misses_it_to_the_left():
    s = torch.zeros(64)
    s[30] = 1
    assert [int(x) for x in locate(s, 0.5, "original")] == [30, 64]
    start, end = locate(s, 0.5)
    assert end - start == 8
    assert start <= 30 < end


def test_normalised_profiles_reach_from_0_to_1_and_constant_ones_are_1():
    profile = torch.tensor([[0.2, 0.6, 0.4], [0.3, 0.3, 0.3], [0.0, 0.0, 0.0]])
    assert torch.allclose(normalise(profile), torch.tensor([[0, 1, 0.5], [1, 1, 1], [1, 1, 1]]))


@given(seed=st.integers(0, 10**6), height=st.integers(2, 40), width=st.integers(2, 40))
def test_crops_are_those_of_torch(seed, height, width):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(2, 3, height, width)).astype(np.float32))
    x, y = (np.sort(rng.permuted(np.tile(np.arange(n + 1), (6, 1)), axis=1)[:, :2]) for n in (width, height))
    boxes = torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], -1)).reshape(2, 3, 4)
    crops = crop_resize(images, boxes)
    assert crops.shape == (6, 3, height, width)
    for k, (x1, y1, x2, y2) in enumerate(boxes.flatten(0, 1).tolist()):
        part = images[k // 3, :, y1:y2, x1:x2][None]
        wanted = F.interpolate(part, (height, width), mode="bilinear", align_corners=True)[0]
        assert torch.allclose(crops[k], wanted, atol=2e-5)


def test_nothing_outside_the_box_takes_part():
    images = torch.full((1, 3, 16, 16), torch.nan)
    images[:, :, 3:9, 5:7] = 2.0
    assert (crop_resize(images, torch.tensor([[[5, 3, 7, 9]]])) == 2.0).all()


def test_the_whole_image_is_itself_in_its_own_precision_and_layout():
    images = torch.randn(2, 3, 24, 24).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    crops = crop_resize(images, torch.tensor([[[0, 0, 24, 24]]] * 2))
    assert crops.dtype == torch.bfloat16
    assert torch.equal(crops, images)
