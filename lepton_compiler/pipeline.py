"""Passes and pipelines: what a pass is, how a list of them is written, and how it runs.

A pass is a frozen dataclass whose fields are its options; its name is its class name in kebab case. The text form of a
pipeline, `fold-constants,fuse{depth=3}`, is read and written by reflection on those fields.
"""

from __future__ import annotations

import importlib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, TypeVar, Union

from lepton_compiler.errors import UsageError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.registry import kebab
from lepton_compiler.rewrite.trace import Tracer
from lepton_compiler.target import Target, parse_target


@dataclass(frozen=True)
class Pass:
    """Base of all passes. Contract: `run` takes a valid graph and leaves a valid graph that computes the same.

    Attributes:
        name: how pipelines call the pass.
        approximate: whether results may change by more than rounding, as they do when numbers are stored in fewer bits.
    """

    name: ClassVar[str] = "pass"
    approximate: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.name = kebab(cls.__name__)

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Change `graph` in place; nested graphs are this method's business too, see `Graph.graphs`."""
        raise NotImplementedError(f"{self.name}.run")

    def __str__(self) -> str:
        return format_pipeline([self])


class Instrument:
    """The one seam between passes and tooling: told about each pass of a pipeline. The base does nothing, so override what you need.

    Instruments nest: the first of several sees `before` first and `after` last.
    """

    def before(self, step: Pass, graph: Graph) -> None:
        """`step` is about to run."""

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:
        """`step` has run; `changed` says whether it edited the graph."""

    def failed(self, step: Pass, graph: Graph, error: Exception) -> None:
        """`step`, or an instrument after it, raised `error`; the graph may be in any state."""


@dataclass(frozen=True)
class PassContext:
    """What passes may know beyond the graph.

    Attributes:
        target: the machine to compile for.
        level: the optimisation level, `O0` ... `O3`, `Os`.
        instruments: told before and after each pass.
        tracer: collects near misses of rewrite rules, when somebody wants them.
        bounds: by name of a source node, the largest size that its result of data-dependent size takes.
    """

    target: Target = field(default_factory=lambda: parse_target("x86_64"))
    level: str = "O2"
    instruments: tuple[Instrument, ...] = ()
    tracer: Tracer | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)


AnyPass = TypeVar("AnyPass", bound=Pass)


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes."""

    passes: tuple[Pass, ...]

    def run(self, graph: Graph, ctx: PassContext | None = None) -> Graph:
        """Run the passes on `graph`, in place, and return it. Whether one changed it is read from its edit counter."""
        ctx = ctx or PassContext()
        for step in self.passes:
            for instrument in ctx.instruments:
                instrument.before(step, graph)
            edits = graph.edits
            try:
                step.run(graph, ctx)
                for instrument in reversed(ctx.instruments):
                    instrument.after(step, graph, graph.edits != edits)
            except Exception as error:
                for instrument in ctx.instruments:
                    instrument.failed(step, graph, error)
                raise
        return graph

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __str__(self) -> str:
        return format_pipeline(self.passes)


def format_pipeline(passes: Sequence[Pass]) -> str:
    """The text form: options that have their default values are left out."""
    return ",".join(step.name + _format_options(step) for step in passes)


def parse_pipeline(text: str) -> Pipeline:
    """Read `name,name{option=value,...},...`.

    Raises:
        UsageError: an unknown pass or option, or a value of the wrong type; the message says what would do.
    """
    registry = importlib.import_module("lepton_compiler.passes").registry  # by name: passes stand above this module
    steps = []
    for item in _split(text):
        match = re.fullmatch(r"([\w-]+)\s*(?:\{(.*)\})?", item, re.DOTALL)
        if match is None:
            raise UsageError(f"'{item}' is not a pass", hint="write name or name{option=value,...}, separated by commas")
        steps.append(build_pass(registry.get(match[1]), match[2] or ""))
    return Pipeline(tuple(steps))


def build_pass(cls: type[AnyPass], options: str) -> AnyPass:
    """A pass from its class and its options as text, `option=value,...`.

    Raises:
        UsageError: an unknown option, or a value of the wrong type; the message says what would do.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name.replace("_", "-"): f for f in fields(cls)}
    given: dict[str, Any] = {}
    for option in _split(options):
        key, separator, value = (part.strip() for part in option.partition("="))
        key = key.replace("_", "-")
        if key not in known:
            close = get_close_matches(key, known, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"its options: {', '.join(known) or 'none'}"
            raise UsageError(f"pass '{cls.name}' has no option '{key}'", hint=hint)
        name = known[key].name
        try:
            given[name] = _value(value if separator else "true", hints[name])
        except ValueError as error:
            raise UsageError(f"'{value}' is not a value for option '{key}' of pass '{cls.name}': {error}") from error
    missing = [k for k, f in known.items() if f.default is MISSING and f.default_factory is MISSING and f.name not in given]
    if missing:
        raise UsageError(f"pass '{cls.name}' needs option '{missing[0]}'", hint=f"write {cls.name}{{{missing[0]}=...}}")
    try:
        return cls(**given)
    except ValueError as error:
        raise UsageError(f"pass '{cls.name}': {error}") from error


def _value(text: str, hint: Any) -> Any:
    """`text` as a value of the annotated type: bool, int, float, str, Literal, optional ones, tuples as `a+b+c`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in arguments:
            return None
        return _value(text, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        if text not in map(str, arguments):
            raise ValueError(f"choose from {', '.join(map(str, arguments))}")
        return next(a for a in arguments if str(a) == text)
    if origin is tuple:
        return tuple(_value(part, arguments[0]) for part in text.split("+") if part)
    if hint is bool:
        if text.lower() not in ("true", "false", "1", "0", "on", "off"):
            raise ValueError("expected true or false")
        return text.lower() in ("true", "1", "on")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"expected {'an integer' if hint is int else 'a number'}") from None
    return text


def _format_options(step: Pass) -> str:
    shown = []
    for f in fields(step):
        value = getattr(step, f.name)
        if f.default is MISSING or value != f.default:
            text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
            shown.append(f"{f.name.replace('_', '-')}={text}")
    return f"{{{','.join(shown)}}}" if shown else ""


def _split(text: str) -> Iterator[str]:
    """The items between commas that are not inside braces."""
    depth, item = 0, ""
    for char in text + ",":
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            if item.strip():
                yield item.strip()
            item = ""
        else:
            item += char
    if depth or item.strip():
        raise UsageError(f"'{text}' has unbalanced braces", hint="write name{option=value,...}")
