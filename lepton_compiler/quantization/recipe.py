"""What the user may say of a quantization: `int8`, `w4{group=128}`, `int8{observer=entropy,rounding=true}`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from lepton_compiler.calibration import OBSERVERS
from lepton_compiler.errors import UsageError
from lepton_compiler.passes.quantize import STATIC, Quantize, Scheme
from lepton_compiler.pipeline import build_pass

SCHEMES: tuple[str, ...] = get_args(Scheme)


@dataclass(frozen=True)
class Recipe(Quantize):
    """The options of the pass `quantize`, and of what is done before and after it.

    Attributes:
        observer: how ranges are chosen: `minmax`, `percentile` (or `percentile99.9`), `entropy`, `mse`; `auto` compares `minmax` with `mse`
            by the model's outputs.
        samples: how many samples are used at most.
        correct_bias: make up for the mean error of each channel: `on`, `off`, or `auto`, if the model's outputs get better by it.
        rounding: `nearest`, or `error`: of each layer's weights, choose the roundings together that change its results least.
        balance: static schemes: move factors between the channels of what depthwise convolutions read and their weights, see `balance`.
        equalize: move factors between the channels of neighbouring layers, so that one scale suits all of them.
        smooth: move factors from data of wide channels into the weights of the products that read it; 0 is none, 1 all, 0.5 half each.
        refine_samples: samples that biases and roundings are worked out with, if they fit in memory (see `held`).
        higher: what a layer that loses too much is computed in: `float32`, or `int16x8`, data of 16 bits where that is enough; `auto` is the
            latter where size counts, since such layers keep 8-bit weights and take about the time of floating point.
    """

    observer: str = "auto"
    samples: int = 512
    correct_bias: Literal["auto", "on", "off"] = "auto"
    rounding: Literal["nearest", "error"] = "error"
    balance: bool = True
    equalize: bool = False
    smooth: float = 0.0
    refine_samples: int = 32
    higher: Literal["auto", "float32", "int16x8"] = "auto"

    def __post_init__(self) -> None:
        name = self.observer.rstrip("0123456789.")
        if name not in (*OBSERVERS, "auto") or (name != self.observer and name != "percentile"):
            raise ValueError(f"no observer '{self.observer}'; known: auto, {', '.join(OBSERVERS)}")
        if not 0 <= self.smooth <= 1 or self.samples < 1 or self.refine_samples < 1 or self.group < 2:
            raise ValueError("smooth is a number from 0 to 1, samples and refine-samples at least 1, group at least 2")

    def __str__(self) -> str:
        """As the user writes it: the scheme, and the options that are not the default."""
        options = super().__str__().removeprefix(self.name).strip("{}").split(",")
        given = ",".join(option for option in options if option and not option.startswith("scheme="))
        return f"{self.scheme}{{{given}}}" if given else self.scheme

    @property
    def is_static(self) -> bool:
        """Whether the ranges of data are found with calibration data."""
        return self.scheme in STATIC

    @property
    def step(self) -> Quantize:
        """The pass alone."""
        return Quantize(self.scheme, self.profile, self.per_channel, self.group, self.keep, self.wide, self.ranges)


def parse_recipe(text: str) -> Recipe:
    """Read `SCHEME` or `SCHEME{option=value,...}`.

    Raises:
        UsageError: no such scheme or option.
    """
    match = re.fullmatch(r"([\w]+)\s*(?:\{(.*)\})?", text.strip(), re.DOTALL)
    if match is None or match[1] not in SCHEMES:
        raise UsageError(f"no quantization scheme '{text}'", hint=f"choose from {', '.join(SCHEMES)}; options follow in braces")
    return build_pass(Recipe, ",".join(filter(None, (f"scheme={match[1]}", match[2]))))


def parse_drop(text: str | float) -> float:
    """`1%` or `0.01` as a fraction.

    Raises:
        UsageError: neither.
    """
    try:
        shown = str(text).strip()
        value = float(shown.removesuffix("%")) / (100 if shown.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"'{text}' is no bound on the loss of accuracy", hint="write 1% or 0.01")
    return value
