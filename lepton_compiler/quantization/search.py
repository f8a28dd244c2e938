"""Which layers stay in higher precision, so that a bound on the loss is met for the least time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lepton_compiler.quantization.candidate import Candidate
from lepton_compiler.quantization.recipe import Recipe

RETURNED = 5
"""Layers that are tried in low precision again, the slowest first, once the bound is met."""


@dataclass(frozen=True)
class Step:
    """A layer that is computed in higher precision than the rest: with data of 16 bits (`wide`), or in floating point."""

    layer: str
    wide: bool


@dataclass(frozen=True)
class Tried:
    """A candidate and what it loses, as a fraction; `steps` are those that make it."""

    steps: tuple[Step, ...]
    candidate: Candidate
    drop: float


def raised(recipe: Recipe, steps: Sequence[Step]) -> Recipe:
    """The recipe with some layers in higher precision; of two steps of a layer the last one counts."""
    last = {step.layer: step.wide for step in steps}
    keep = [name for name, wide in last.items() if not wide]
    wide = [name for name, is_wide in last.items() if is_wide]
    return replace(
        recipe,
        keep=tuple(dict.fromkeys((*recipe.keep, *keep))),
        wide=tuple(dict.fromkeys((*(w for w in recipe.wide if w not in keep), *wide))),
    )


def search(
    whole: Tried, bound: float, shares: Mapping[str, float], rungs: Sequence[bool], attempt: Callable[[Sequence[Step]], Tried]
) -> Tried:
    """The fewest steps that meet the bound: first as many as it takes in order of error per time, then without those that are not needed.

    The number of steps is found by doubling and bisection. After that, steps are taken back one by one, the slowest layers first.

    Args:
        whole: the candidate without steps.
        bound: on the loss.
        shares: the part of the error that each layer causes.
        rungs: the steps of a layer: `(False,)`, or `(True, False)` to try data of 16 bits first.
        attempt: makes and measures the candidate of some steps.

    Returns:
        The best candidate, or, where the bound cannot be met, the one with the most steps.
    """
    times = _times(whole.candidate)
    order = sorted((layer.name for layer in whole.candidate.layers), key=lambda name: -shares.get(name, 0.0) / times[name])
    steps = [Step(name, wide) for wide in rungs for name in order]
    low, high, most = 0, 1, len(steps) - 1
    best = attempt(steps[: min(high, most)]) if most else whole
    while best.drop > bound and high < most:
        low, high = high, min(2 * high, most)
        best = attempt(steps[:high])
    if best.drop > bound:
        return best
    while high - low > 1:
        middle = (low + high) // 2
        found = attempt(steps[:middle])
        if found.drop <= bound:
            high, best = middle, found
        else:
            low = middle
    return _without_needless(best, bound, times, attempt)


def _without_needless(best: Tried, bound: float, times: Mapping[str, float], attempt: Callable[[Sequence[Step]], Tried]) -> Tried:
    """Steps taken back where the bound is met without them; the last one is needed, since the bound was not met before it."""
    slowest = sorted(best.steps[:-1], key=lambda step: -times[step.layer])[:RETURNED]
    for step in slowest:
        found = attempt([s for s in best.steps if s != step])
        if found.drop <= bound:
            best = found
    return best


def _times(whole: Candidate) -> dict[str, float]:
    """About what each layer costs in higher precision, as a part of the model's multiplications, and a little for conversions."""
    total = sum(whole.work.values()) or 1
    return {layer.name: whole.work.get(layer.name, 0) / total + 0.01 for layer in whole.layers}
