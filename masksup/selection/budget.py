"""Whether there is time for a rung. Two are always tried: a head alone, and the first that trains the network."""

from masksup.base.log import log
from masksup.base.words import counted
from masksup.selection.cost import seconds_an_image, seconds_of_features
from masksup.selection.ladder import Rung
from masksup.selection.search import Climb


def too_much(search: Climb, rung: Rung) -> str | None:
    """Why a rung is not tried: what is left is too little for it and those that are always tried. None: it is tried,
    and the log says how long it will take where the time is limited."""
    ahead = [one for one in search.rungs if one.sure and one is not rung and one.name not in search.scores]
    if search.budget.trials is not None:
        return None if rung.sure else _too_many(search, ahead)
    if search.budget.minutes is None or rung.name in search.seconds:  # begun before
        return None
    limit, spent = 60 * search.budget.minutes, sum(search.seconds.values())
    needs = expected_seconds(search, rung)
    if rung.sure:
        _say_of_sure(rung, search.budget.minutes, needs, limit - spent)
        return None
    reserved = sum(expected_seconds(search, one) for one in ahead)
    if spent + needs + reserved <= limit:
        log.info(f"{rung.title}: about {about(needs)} with the training at the end")
        return None
    beside = f" beside {ahead[0].title}, which is always tried and needs {about(reserved)}" if ahead else ""
    return (
        f"it needs about {about(needs)} with the training at the end, and {about(max(limit - spent, 0))} are left"
        f"{beside}; --minutes {(spent + needs + reserved) / 60 + 1:.0f} would do"
    )


def _too_many(search: Climb, ahead: list[Rung]) -> str | None:
    """Of a rung that need not be tried, where trials are counted."""
    trials = search.budget.trials
    assert trials is not None
    if len(search.tried) + len(ahead) < trials:
        return None
    kept = f", one of them for {ahead[0].title}, which is always tried" if ahead else ""
    return f"--trials {trials} are used up{kept}"


def _say_of_sure(rung: Rung, minutes: float, needs: float, left: float) -> None:
    """What a rung that is always tried will take, and that it passes the limit where it does."""
    takes = f"{rung.title}: about {about(needs)} with the training at the end"
    if needs <= left:
        log.info(takes)
        return
    have = f"only {about(left)} are left" if left > 0 else "none is left"
    log.warning(
        f"{takes}, although of --minutes {minutes:g} {have}: a head alone and one training of the network are always "
        "tried"
    )


def expected_seconds(search: Climb, rung: Rung) -> float:
    """Of a rung and, should it win, of its training on all images."""
    heads = [one for one in search.tried if not one.passes]
    if not rung.passes and heads:  # features and all, as the head before it, whose images were smaller
        below = max(heads, key=lambda one: one.pixels)
        return search.seconds[below.name] * rung.pixels / below.pixels
    if rung.name not in search.expected:
        config, classes = search.fold(rung, 0), len(search.facts.positives_C)
        if rung.passes:  # of each fold all images but those held out, and of the end all
            images = search.facts.samples * rung.passes * search.facts.folds
            search.expected[rung.name] = images * seconds_an_image(config, classes)
        else:  # once for all folds
            views = 2 if config.augment.flip else 1
            search.expected[rung.name] = search.facts.samples * views * seconds_of_features(config, classes)
    return search.expected[rung.name]


def about(seconds: float) -> str:
    """As people say how long something takes."""
    if seconds < 90:
        return counted(max(round(seconds), 1), "second")
    return counted(round(seconds / 60), "minute") if seconds < 7200 else f"{seconds / 3600:.1f} hours"
