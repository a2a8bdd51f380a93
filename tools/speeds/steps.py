"""A training step over what one would write by hand, and the step of a method over a plain one."""

import argparse
from collections.abc import Iterator

from masksup.engine.precision import set_numerics
from tools.benchmark_methods import CLASSES, CONTENDERS, PLAIN, contender_config
from tools.benchmark_step import bare_step, step_config, trainer_step
from tools.speeds.measured import Figure, Setting, interleaved, median, noise, ratio
from tools.step_time import new_step

_METHODS = ("masksup, separate", "mcar, top 4")
_LIMITS = {"masksup, separate": 2.03, "mcar, top 4": 5 * 1.05}  # (1 + regions) x 1.05


def plain(setting: Setting) -> Iterator[Figure]:
    """The trainer's step over a bare loop with the same network, in channels-last and as torch has it by default."""
    words = _words(setting)
    config, nchw = step_config(words, 1), step_config(words, 1, channels_last=False)
    set_numerics(config.precision)
    bare = bare_step(config, words.batch)
    arms = {"ours": trainer_step(config, words.batch), "bare": bare, "bare again": bare,
            "bare, NCHW": bare_step(nchw, words.batch)}  # fmt: skip
    times = interleaved(arms, setting.rounds)
    floor = noise(times, "bare", "bare again")
    facts = {name: round(1000 * median(times, name), 1) for name in times}
    yield Figure("training step over a bare loop's", ratio(times, "ours", "bare"), "x", ("at most", 1.02), floor,
                 {"milliseconds": facts})  # fmt: skip
    yield Figure("bare loop in plain NCHW over the training step", ratio(times, "bare, NCHW", "ours"), "x",
                 ("at least", 1.5), floor)  # fmt: skip


def methods(setting: Setting) -> Iterator[Figure]:
    """Steps of MaskSup (two forwards) and MCAR (four regions) over a plain step."""
    words = _words(setting)
    configs = {name: contender_config(words, name) for name in (PLAIN, *_METHODS)}
    set_numerics(configs[PLAIN].precision)
    arms = {name: new_step(config, CLASSES) for name, config in configs.items()}
    times = interleaved({**arms, "plain again": arms[PLAIN]}, setting.rounds)
    floor = noise(times, PLAIN, "plain again")
    for name in _METHODS:
        milliseconds = {each: round(1000 * median(times, each), 1) for each in (name, PLAIN)}
        yield Figure(f"step of {name}, over a plain one", ratio(times, name, PLAIN), "x", ("at most", _LIMITS[name]),
                     floor, {"milliseconds": milliseconds, "gate": CONTENDERS[name][2]})  # fmt: skip


def _words(setting: Setting) -> argparse.Namespace:
    small = {"backbone": "test_resnet", "size": 32, "batch": 2}
    usual = {"backbone": "tf_efficientnet_lite0", "size": 224, "batch": 8}
    return argparse.Namespace(**(small if setting.tiny else usual), dtype="fp32", threads=1)
