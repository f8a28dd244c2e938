"""What makes a library fit for firmware: no C library, no variables, and known sizes of flash, arena and stack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_compiler.analysis.memory import Plan
from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm.package import libm
from lepton_compiler.binary import Object, read_object, stack_bound
from lepton_compiler.errors import Diagnostic, OverBudgetError, UnsupportedError
from lepton_compiler.toolchain import Toolchain

PROVIDED = re.compile(r"mem(cpy|set|move)|__aeabi_\w+|__\w+[sdthi][fi]\d?|__gnu_[fh]2[hf]_ieee|__\w+hf\w*")
"""What the compiler's own library and every C library has: memory, integer division, numbers without an FPU."""


HALF_SECTION = ".text.tvm.fp16.conv"
HALF_FUNCTIONS = frozenset({"__truncsfhf2", "__extendhfsf2", "__gnu_f2h_ieee", "__gnu_h2f_ieee"})


@dataclass(frozen=True)
class Footprint:
    """What a library takes of a microcontroller, in bytes.

    Attributes:
        code: instructions.
        constants: tables and weights.
        stack: bound of a call of `NAME_run`.
    """

    code: int
    constants: int
    stack: int

    @property
    def flash(self) -> int:
        """Code and constants."""
        return self.code + self.constants


def support(tools: Toolchain, folder: Path, objects: Sequence[str], name: str) -> list[str]:
    """Compile the functions that `objects` want and no compiler brings along; returns the objects to add.

    Raises:
        UnsupportedError: kernels call functions of a C library that are not here, or keep variables.
    """
    read = _read(folder, objects)
    missing = undefined(read)
    text = libm.source(missing)
    added: list[str] = []
    if text:
        (folder / f"{name}_support.c").write_text(text)
        added = [tools.compile(folder, f"{name}_support.c", "-O2", "-ffreestanding", "-fno-builtin")]
    strange = sorted(s for s in missing - libm.FUNCTIONS.keys() if not PROVIDED.fullmatch(s))
    if strange:
        raise UnsupportedError(
            f"kernels call {', '.join(strange)}, which firmware does not have", hint="compile for a target with an operating system"
        )
    variables = sorted(v for o in read for v in o.writable)
    if variables:
        raise UnsupportedError(f"kernels keep variables: {', '.join(variables)}", hint="report the model")
    return added


def undefined(objects: Iterable[Object]) -> set[str]:
    """Symbols that none of the objects defines."""
    read = list(objects)
    defined = {name for o in read for name in o.defined}
    return {name for o in read for name in o.undefined} - defined


def footprint(folder: Path, objects: Sequence[str], name: str) -> Footprint:
    """The sizes of a library of these objects."""
    read = _read(folder, objects)
    return Footprint(sum(_code_bytes(o) for o in read), sum(o.constant_bytes for o in read), stack_bound(read, f"{name}_run"))


def _code_bytes(code: Object) -> int:
    """Bytes of instructions without TVM's conversions of float16, which come with every kernel and which a linker drops if nothing calls them."""
    called = {name for k, section in enumerate(code.sections) if section.name != HALF_SECTION for _, name in code.references(k)}
    half = [s for s in code.sections if s.name == HALF_SECTION]
    return code.code_bytes - (0 if called & HALF_FUNCTIONS else sum(s.size for s in half))


def check_budget(size: Footprint, plan: Plan, options: BuildOptions) -> None:
    """Refuse an artefact that is larger than the user's microcontroller.

    Raises:
        OverBudgetError: it does not fit; the message says by how much, and what takes the most.
    """
    problems = []
    ram = plan.arena_bytes + size.stack
    too_much = options.ram is not None and ram > options.ram
    if options.ram is not None and too_much:
        peak = ", ".join(f"'{p}'" for p in plan.peak)
        problems.append(
            Diagnostic(
                f"it needs {ram:,} bytes of RAM, {ram - options.ram:,} more than there are: arena {plan.arena_bytes:,}, stack {size.stack:,}",
                f"arena where {peak} are alive" if peak else "",
                "the arena's lower bound for this order of layers is "
                + f"{plan.lower_bound:,} bytes; use a smaller input, fewer channels or int8",
            )
        )
    if options.flash is not None and size.flash > options.flash:
        problems.append(
            Diagnostic(
                f"it needs {size.flash:,} bytes of flash, {size.flash - options.flash:,} more than there are: "
                f"code {size.code:,}, constants {size.constants:,}",
                "",
                "quantize the weights to int8, prune the model, or compile with -Os",
            )
        )
    if problems:
        raise OverBudgetError(problems, ram if too_much else None)


def _read(folder: Path, objects: Sequence[str]) -> list[Object]:
    return [read_object((folder / file).read_bytes()) for file in objects]
