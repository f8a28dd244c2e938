"""TIR expressions as C99.

Integers wrap: sums, differences and products are of unsigned numbers, except in indices, which never overflow. An expression that
binds names becomes statements before the one that it is in; those of a branch stay in that branch, so that no load leaves its guard.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.c99.support import C_TYPES, Support
from lepton_compiler.errors import UnsupportedError

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""

ARITHMETIC = {tirx.Add: "+", tirx.Sub: "-", tirx.Mul: "*"}
COMPARE = {tirx.LT: "<", tirx.LE: "<=", tirx.GT: ">", tirx.GE: ">=", tirx.EQ: "==", tirx.NE: "!="}
LOGIC = {tirx.And: "&&", tirx.Or: "||"}
BITWISE = {prim.BitwiseAnd: "&", prim.BitwiseOr: "|", prim.BitwiseXor: "^"}
FENCES = ("llvm.arithmetic.fence",)
"""Functions whose result is their operand: here every operation is rounded anyway."""
PLAIN = {"fabs": "fabs", "sqrt": "sqrt", "nearbyint": "rint", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "round"}
"""Operators of one number in the bodies of outlined functions, and C's functions."""
FLOOR = {
    "floordiv": "(a / b) - ((a % b != 0) && ((a < 0) != (b < 0)))",
    "floormod": "a % b + (a % b != 0 && ((a < 0) != (b < 0)) ? b : 0)",
}


ONLY_NAMED = re.compile(r"\s*const \w+ (\w+) = .*;")


def pruned(lines: list[str]) -> list[str]:
    """The lines without names that nobody reads."""
    words = [re.findall(r"[A-Za-z_]\w*", line) for line in lines]
    count = Counter(word for line in words for word in line)
    kept = [True] * len(lines)
    for k in reversed(range(len(lines))):
        found = ONLY_NAMED.fullmatch(lines[k])
        if found and count[found[1]] == 1:
            kept[k] = False
            count.subtract(words[k])
    return [line for line, keep in zip(lines, kept, strict=True) if keep]


def element_kind(x: Expr) -> str:
    """The type of an expression, or of a vector's elements."""
    return str(x.ty).partition("x")[0]


def lanes(x: Expr) -> int:
    """Number of elements of a vector; 1 for others."""
    return int(str(x.ty).partition("x")[2] or 1)


def bare(text: str) -> str:
    """An expression without the brackets around the whole of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for k, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[1:-1] if k == len(text) - 1 else text
    return text


def width(kind: str) -> int:
    """Bits of a type."""
    return int("".join(filter(str.isdigit, kind)) or 8)


class Scope:
    """Names of one function, and the statements of the block that is being written."""

    def __init__(self, support: Support, where: str) -> None:
        self.support, self.where = support, where
        self.names: dict[int, str] = {}
        self.taken: dict[str, int] = {}
        self.used: set[str] = set()
        self.lines: list[str] = []
        self.depth = 1

    def name(self, wish: str) -> str:
        """A new identifier."""
        base = "".join(c if c.isalnum() else "_" for c in wish) or "v"
        self.taken[base] = self.taken.get(base, -1) + 1
        return base if not self.taken[base] else self.name(f"{base}_{self.taken[base]}")

    def emit(self, text: str) -> None:
        """Write a line into the current block."""
        self.lines.append("  " * self.depth + text)

    def block(self, write: Callable[[], Any]) -> tuple[list[str], Any]:
        """The lines that `write` emits, one level deeper, and its result."""
        outer, self.lines = self.lines, []
        self.depth += 1
        try:
            result = write()
            return self.lines, result
        finally:
            self.lines = outer
            self.depth -= 1

    def refuse(self, what: str) -> UnsupportedError:
        """The error for what has no C text."""
        return UnsupportedError(f"{what} has no portable C in {self.where}", hint="--emit lib or static compiles it for one machine")


class Expressions(Scope):
    """Writes expressions; loads are what the derived class makes of them."""

    plain = False
    """Whether integers are indices, which never overflow."""
    lane = ""
    """The variable that counts the elements of a vector, within a loop over them."""

    def load(self, x: Any) -> str:
        """The element that a load reads."""
        raise self.refuse("a load outside of a kernel")

    def index(self, x: Expr) -> str:
        """An index, an extent or a bound."""
        outer, self.plain = self.plain, True
        try:
            return bare(self.value(x))
        finally:
            self.plain = outer

    def type(self, x: Expr) -> str:
        """C's type of an expression."""
        kind = element_kind(x)
        if kind not in C_TYPES or (lanes(x) > 1 and not self.lane):
            raise self.refuse(f"an expression of type {x.ty}")
        return C_TYPES[kind]

    def value(self, x: Expr) -> str:
        """The text of an expression, in brackets unless it binds tighter than any operator."""
        if isinstance(x, tirx.FloatImm | tirx.IntImm):
            return self.constant(x)
        if isinstance(x, tirx.Var):
            return self.variable(x)
        if isinstance(x, TensorLoad):
            return self.load(x)
        if isinstance(x, tirx.Let):
            self.bind(x.var, x.value)
            return self.value(x.body)
        if isinstance(x, tirx.Cast):
            return self.cast(x)
        if isinstance(x, tirx.Select):
            return self.choice(x.condition, x.true_value, x.false_value, x)
        if isinstance(x, tirx.Not):
            return f"(!{self.value(x.a)})"
        if isinstance(x, Call):
            return self.call(x)
        if isinstance(x, tirx.Broadcast) and self.lane:
            return self.value(x.value)
        if isinstance(x, tirx.Ramp) and self.lane:
            return f"({self.value(x.base)} + {self.lane} * {self.value(x.stride)})"
        if isinstance(x, tirx.BitwiseNot):
            return self.narrowed(f"(~{self.value(x.a)})", element_kind(x))
        return self.binary(x)

    def variable(self, x: Any) -> str:
        """A name that is read."""
        name = self.names[hash(x)]
        self.used.add(name)
        return name

    def bind(self, variable: Any, value: Expr) -> None:
        """Let a variable have a value from here on."""
        text = bare(self.value(value))
        self.names[hash(variable)] = name = self.name(str(variable.name))
        self.emit(f"const {self.type(value)} {name} = {text};")

    def constant(self, x: Any) -> str:
        """A number."""
        kind = element_kind(x)
        if kind == "bool":
            return "true" if int(x.value) else "false"
        if kind == "float16":
            return f"0x{struct.unpack('<H', struct.pack('<e', float(x.value)))[0]:04X}u"
        if kind in ("float32", "float64"):
            return self.real(kind, float(x.value))
        self.type(x)
        return integer(kind, int(x.value))

    def real(self, kind: str, value: float) -> str:
        """A number with the digits that it takes to tell it from its neighbours; by its bits if it is none."""
        code, whole = ("<f", "<I") if kind == "float32" else ("<d", "<Q")
        if not math.isfinite(value):
            bits = struct.unpack(whole, struct.pack(code, value))[0]
            word = "uint32" if kind == "float32" else "uint64"
            return f"{self.support.bits(word, kind)}({integer(word, bits)})"
        from numpy import float32, float64

        text = str(float32(value)) + "f" if kind == "float32" else str(float64(value))
        return f"({text})" if text.startswith("-") else text

    def choice(self, condition: Expr, yes: Expr, no: Expr, x: Expr) -> str:
        """One of two values, of which only that one is computed."""
        test = self.value(condition)
        (before_yes, first), (before_no, second) = self.block(lambda: self.value(yes)), self.block(lambda: self.value(no))
        if not before_yes and not before_no:
            return f"({test} ? {first} : {second})"
        name = self.name("chosen")
        self.used.add(name)
        self.emit(f"{self.type(x)} {name};")
        inner = "  " * (self.depth + 1)
        self.emit(f"if ({bare(test)}) {{")
        self.lines += [*before_yes, f"{inner}{name} = {bare(first)};"]
        self.emit("} else {")
        self.lines += [*before_no, f"{inner}{name} = {bare(second)};"]
        self.emit("}")
        return name

    def logic(self, x: Expr) -> str:
        """`and`, `or`: the second operand is only looked at where the first does not decide."""
        first = self.value(x.a)
        before, second = self.block(lambda: self.value(x.b))
        if before:
            yes, no = (x.b, tirx.const(False, "bool")) if isinstance(x, tirx.And) else (tirx.const(True, "bool"), x.b)
            return self.choice(x.a, yes, no, x)
        return f"({first} {LOGIC[type(x)]} {second})"

    def binary(self, x: Expr) -> str:
        """An operator of two operands."""
        kind = type(x)
        if kind in LOGIC:
            return self.logic(x)
        if kind in COMPARE:
            return f"({self.compared(x.a)} {COMPARE[kind]} {self.compared(x.b)})"
        if not isinstance(x, prim.BinaryOpExpr) and kind not in BITWISE and kind not in (prim.LShift, prim.RShift):
            raise self.refuse(f"'{kind.__name__}'")
        self.computes(x)
        c, element = self.type(x), element_kind(x)
        if kind in ARITHMETIC:
            return self.arithmetic(x, element, c)
        if kind in (tirx.Min, tirx.Max):
            sign, name = ("<", "min") if kind is tirx.Min else (">", "max")
            return f"{self.support.two(name, element, f'a {sign} b ? a : b')}({bare(self.value(x.a))}, {bare(self.value(x.b))})"
        if kind in BITWISE:
            return self.narrowed(f"({self.value(x.a)} {BITWISE[kind]} {self.value(x.b)})", element)
        if kind is prim.LShift:
            return f"({c}){self.shifted(x, element)}"
        if kind is prim.RShift:
            return self.narrowed(f"({self.value(x.a)} >> {self.value(x.b)})", element)
        if kind is tirx.Div or (kind is tirx.Mod and not element.startswith("float")):
            return self.narrowed(f"({self.value(x.a)} {'/' if kind is tirx.Div else '%'} {self.value(x.b)})", element)
        if kind in (tirx.FloorDiv, tirx.FloorMod) and not element.startswith("float"):
            name = "floordiv" if kind is tirx.FloorDiv else "floormod"
            return f"{self.support.two(name, element, FLOOR[name])}({bare(self.value(x.a))}, {bare(self.value(x.b))})"
        raise self.refuse(f"'{kind.__name__}' of {element}")

    def compared(self, x: Expr) -> str:
        """An operand of a comparison; numbers of 16 bits are compared as longer ones."""
        return f"{self.support.known('from_half')}({bare(self.value(x))})" if element_kind(x) == "float16" else self.value(x)

    def computes(self, x: Expr) -> None:
        """Refuse arithmetic on numbers that C does not have."""
        if element_kind(x) == "float16":
            raise self.refuse("arithmetic in float16")

    def arithmetic(self, x: Expr, element: str, c: str) -> str:
        """A sum, difference or product; those of integers wrap."""
        sign = ARITHMETIC[type(x)]
        if element.startswith("float") or self.plain or element in ("uint32", "uint64"):
            return f"({self.value(x.a)} {sign} {self.value(x.b)})"
        if element in ("int32", "int64"):
            return f"({c}){self.unsigned(x, element)}"
        if element == "uint16":
            return f"(uint16_t)((uint32_t){self.value(x.a)} {sign} {self.value(x.b)})"
        return f"({c})({self.value(x.a)} {sign} {self.value(x.b)})"

    def unsigned(self, x: Expr, element: str) -> str:
        """An integer of 32 or 64 bits as an unsigned one."""
        if type(x) in ARITHMETIC:
            return f"({self.unsigned(x.a, element)} {ARITHMETIC[type(x)]} {self.unsigned(x.b, element)})"
        if isinstance(x, tirx.IntImm):
            return integer(f"u{element}", int(x.value) & ((1 << width(element)) - 1))
        return f"(uint{width(element)}_t){self.value(x)}"

    def shifted(self, x: Expr, element: str) -> str:
        """A shift to the left, as an unsigned number."""
        wide = "uint64_t" if width(element) == 64 else "uint32_t"
        return f"(({wide}){self.value(x.a)} << {self.value(x.b)})"

    def narrowed(self, text: str, element: str) -> str:
        """The result of an operator of types that C computes as int."""
        return f"({C_TYPES[element]}){text}" if element in ("int8", "int16", "uint8", "uint16", "bool") else text

    def cast(self, x: Any) -> str:
        """A conversion of numbers."""
        source, target = element_kind(x.value), element_kind(x)
        if source == target:
            return self.value(x.value)
        if source == "float16":
            text = f"{self.support.known('from_half')}({bare(self.value(x.value))})"
            return text if target == "float32" else f"({self.type(x)}){text}"
        if target == "float16":
            if source == "float64":
                raise self.refuse("a conversion of float64 to float16")
            number = bare(self.value(x.value)) if source == "float32" else f"(float){self.value(x.value)}"
            return f"{self.support.known('to_half')}({number})"
        return f"({self.type(x)}){self.value(x.value)}"

    def call(self, x: Any) -> str:
        """A call of an operator or a function."""
        operator = str(getattr(x.op, "name", x.op))
        short = operator.rpartition(".")[2]
        if short in ("call_pure_extern", "call_extern"):
            return self.foreign(str(x.args[0].value), x.args[1:], x)
        if short == "call_llvm_pure_intrin":
            name = intrinsic(x)
            if name in FENCES:
                return self.value(x.args[1])
            raise self.refuse(f"the instruction {name}")
        if operator.startswith(outline.PREFIX):
            return self.outlined(operator.removeprefix(outline.PREFIX), list(x.args))
        if operator == outline.NEAREST:
            return f"{self.support.known(f'nearest_{element_kind(x.args[0])}')}({bare(self.value(x.args[0]))})"
        if operator == outline.SATURATED:
            bounds = ", ".join(str(int(n.value)) for n in x.args[1:])
            return f"{self.support.known('saturated')}({bare(self.value(x.args[0]))}, {bounds})"
        if short == "if_then_else":
            return self.choice(x.args[0], x.args[1], x.args[2], x)
        if short == "reinterpret":
            source, target = element_kind(x.args[0]), element_kind(x)
            if lanes(x) != lanes(x.args[0]):
                raise self.refuse(f"a reinterpretation of {x.args[0].ty} as {x.ty}")
            self.type(x), self.type(x.args[0])
            return f"{self.support.bits(source, target)}({bare(self.value(x.args[0]))})" if source != target else self.value(x.args[0])
        if short == "isnan":
            return f"{self.support.is_nan(element_kind(x.args[0]))}({bare(self.value(x.args[0]))})"
        if short in PLAIN:
            return self.library(PLAIN[short] + ("f" if element_kind(x) == "float32" else ""), list(x.args), x)
        if (made := _operators(short, x)) is not None:
            return self.value(made)
        raise self.refuse(f"'{operator}' of {x.ty}")

    def foreign(self, name: str, arguments: Any, x: Expr) -> str:
        """A call of a function by its name: one of ours, or of a C library."""
        if name.startswith("lepton_fn_"):
            return self.outlined(name.removeprefix("lepton_fn_").rpartition("_")[0], list(arguments))
        return self.library({"nearbyintf": "rintf", "nearbyint": "rint"}.get(name, name), list(arguments), x)

    def library(self, name: str, arguments: list[Expr], x: Expr) -> str:
        """A call of a function of the C library that is here."""
        self.computes(x)
        try:
            known = self.support.known(name)
        except KeyError:
            raise self.refuse(f"the C library's {name}") from None
        return f"{known}({', '.join(bare(self.value(a)) for a in arguments)})"

    def outlined(self, key: str, arguments: list[Expr]) -> str:
        """A call of an outlined function, which is written once."""
        name = self.support.function(f"lepton_fn_{key}", lambda support: function_text(key, self.another(support)))
        return f"{name}({', '.join(bare(self.value(a)) for a in arguments)})"

    def another(self, support: Support) -> Expressions:
        """A writer for the body of a function."""
        return Expressions(support, self.where)


def function_text(key: str, writer: Expressions) -> str:
    """The C function of an outlined body, by a fresh writer."""
    parameters, body = outline.body_of(key)
    for k, parameter in enumerate(parameters):
        writer.names[hash(parameter)] = writer.name(f"x{k}")
    result = bare(writer.value(body))
    formals = ", ".join(f"{writer.type(p)} {writer.names[hash(p)]}" for p in parameters)
    lines = pruned([*writer.lines, f"  return {result};"])
    unused = [f"  (void){n};" for n in (writer.names[hash(p)] for p in parameters) if n not in writer.used]
    head = f"static inline {writer.type(body)} lepton_fn_{key}({formals}) {{"
    return "\n".join([head, *unused, *lines, "}", ""])


def integer(kind: str, value: int) -> str:
    """An integer constant of a type."""
    if kind == "int64":
        return (
            "(-INT64_C(9223372036854775807) - 1)" if value == -(1 << 63) else f"(-INT64_C({-value}))" if value < 0 else f"INT64_C({value})"
        )
    if kind == "uint64":
        return f"UINT64_C({value})"
    if kind == "uint32":
        return f"{value}u"
    if value == -(1 << 31):
        return "(-2147483647 - 1)"
    return f"({value})" if value < 0 else str(value)


def intrinsic(x: Any) -> str:
    """LLVM's name of the function that a call is of."""
    from tvm.target import codegen

    first = x.args[0]
    return (
        str(first.value)
        if hasattr(first, "value") and isinstance(first.value, str)
        else str(codegen.llvm_get_intrinsic_name(int(first.value)))
    )


def _operators(short: str, x: Any) -> Expr | None:
    """The operator that a call by name stands for."""
    makers = {
        "shift_left": prim.LShift, "shift_right": prim.RShift, "bitwise_and": prim.BitwiseAnd,
        "bitwise_or": prim.BitwiseOr, "bitwise_xor": prim.BitwiseXor,
    }  # fmt: skip
    return makers[short](x.args[0], x.args[1]) if short in makers else None
