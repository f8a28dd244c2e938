"""Functions of one element as operators of their own, which become LLVM functions that are inlined.

TVM's analyses put the value of a name back into every place that uses it. An expression whose functions use their argument
several times (a polynomial, `x < 0 ? 0 : x`) then costs a power of the length of the chain. Here a function's body is kept
out of TVM's sight: the tree holds `f(x)`, the body is written as LLVM IR, once per number of lanes, and linked when
code is generated. Nothing of it stays in the object.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Any

from tvm import te, tirx
from tvm.ir import Call, Op, PrimType, StringImm
from tvm.ir.op import register_op_attr
from tvm.ir.prim import expr as prim

from lepton_compiler.backends.tvm.naming import in_sequence
from lepton_compiler.backends.tvm.nearest import NEAREST_LIMIT
from lepton_compiler.backends.tvm.pack_bytes import pack_bytes

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""

PREFIX = "tirx.lepton_fn_"
PURE = 1
_bodies: dict[str, tuple[tuple[Any, ...], Expr]] = {}
_used: set[tuple[str, int]] = set()

LLVM_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
    "int8": "i8",
    "int16": "i16",
    "uint8": "i8",
    "uint16": "i16",
    "uint32": "i32",
    "uint64": "i64",
    "float16": "half",
}
FLOAT_OPS = {tirx.Add: "fadd contract", tirx.Sub: "fsub contract", tirx.Mul: "fmul contract", tirx.Div: "fdiv"}
INT_OPS = {tirx.Add: "add", tirx.Sub: "sub", tirx.Mul: "mul"}
COMPARE = {
    tirx.LT: ("olt", "slt", "ult"), tirx.LE: ("ole", "sle", "ule"), tirx.GT: ("ogt", "sgt", "ugt"), tirx.GE: ("oge", "sge", "uge"),
    tirx.EQ: ("oeq", "eq", "eq"), tirx.NE: ("une", "ne", "ne"),
}  # fmt: skip
"""Conditions of floats, signed integers, and unsigned integers (truth values too)."""
LOGIC = {tirx.And: "and", tirx.Or: "or"}
BITWISE = {prim.RShift: "ashr", prim.LShift: "shl", prim.BitwiseAnd: "and", prim.BitwiseOr: "or", prim.BitwiseXor: "xor"}
FENCE = "tirx.call_llvm_pure_intrin"
"""The one LLVM function that bodies call by name is the fence of `scalar.rounded`."""
INTRINSICS = {"tirx.fabs": "fabs", "tirx.sqrt": "sqrt", "tirx.nearbyint": "rint", "tirx.floor": "floor", "prim.ceil": "ceil"}
EXTERN = ("tirx.call_extern", "tirx.call_pure_extern")
FUNCTIONS = frozenset(
    "exp exp2 exp10 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh erf rsqrt pow".split()
)
"""Functions that machines with a mathematical library of their own call."""
RARELY = "prim.if_then_else"
NEAREST = "tirx.lepton_nearest"
register_op_attr(NEAREST, "TCallEffectKind", PURE)
SATURATED = "tirx.lepton_saturated"
register_op_attr(SATURATED, "TCallEffectKind", PURE)
NARROWED = "tirx.lepton_narrowed"
register_op_attr(NARROWED, "TCallEffectKind", PURE)
WHOLE, WHOLE_BITS = 1.5 * 2**23, 0x4B400000
"""A float32 in whose neighbourhood, 2^22 either way, there are whole numbers only, and its bits."""
HELIUM_LANES = 4
"""Floats in a vector of Cortex-M."""
CVTPS2DQ = {
    16: ("llvm.x86.avx512.mask.cvtps2dq.512", True),
    8: ("llvm.x86.avx.cvt.ps2dq.256", False),
    4: ("llvm.x86.sse2.cvtps2dq", False),
}
"""LLVM's names of the instruction, by lanes, and whether it takes a mask."""
SUFFIXES = {"float": "f32", "i32": "i32"}
"""Of LLVM's names of functions on vectors of a type."""
SELDOM = "!7001"
"""Metadata: a branch that is hardly ever taken, so that LLVM does not compute what lies behind it in advance."""


def outlined(build: Callable[..., Expr], *arguments: Expr) -> Expr:
    """`build(*arguments)`, as one call; `build` gets a variable per argument and may use it as often as it likes.

    Equal bodies are one function. Bodies consist of arithmetic, comparisons, `Select`, `Let`, casts and reinterpretation. Arguments are
    elements, or vectors of the same number of them. Integers wrap around, which TVM's own expressions of 32 bits and more must not.
    """
    operands = [a.asobject() if isinstance(a, te.TensorSlice) else a for a in arguments]
    elements, _, lanes = zip(*(str(a.ty).partition("x") for a in operands), strict=True)
    parameters = tuple(tirx.Var(f"x{k}", element) for k, element in enumerate(elements))
    body = in_sequence(lambda: build(*parameters))
    text = _Writer(parameters, 1, foreign=True).function("f", body)
    kinds = [str(v.ty) for v in (*parameters, body)]  # LLVM's types have no sign
    key = hashlib.sha256(f"{text}{kinds}".encode()).hexdigest()[:12]
    if key not in _bodies:
        _bodies[key] = (parameters, body)
        name = PREFIX + key
        register_op_attr(name, "TCallEffectKind", PURE)
        register_op_attr(name, "TVectorizable", True)
        register_op_attr(name, "TScriptPrinterName", f"lepton_fn_{key}")
        register_op_attr(name, "default.FLowerIntrinsic", lambda call: _lowered(call, key))
    return Call(Op.get(PREFIX + key), operands, ret_ty=PrimType(f"{body.ty}x{lanes[0]}") if lanes[0] else body.ty)


def rarely(condition: Expr, rare: Callable[..., Expr], usual: Callable[..., Expr], *arguments: Expr) -> Expr:
    """`rare(*arguments)` where the condition holds, else `usual(*arguments)`; the rare one costs a jump as long as no lane needs it.

    To be used inside the body of an outlined function. The usual one is computed in any case.
    """
    return tirx.if_then_else(condition, outlined(rare, *arguments), outlined(usual, *arguments))


def nearest(x: Expr) -> Expr:
    """float32 or float64 rounded to the nearest integer, ties to even, as int32: at most `NEAREST_LIMIT` either way, 0 for NaN.

    To be used inside the body of an outlined function.
    """
    return Call(Op.get(NEAREST), [x], ret_ty=PrimType("int32"))


def saturated(x: Expr, zero: int, low: int, high: int) -> Expr:
    """float32 rounded to the nearest integer, ties to even, plus `zero`, at least `low` and at most `high`, as int32; NaN counts as 0.

    To be used inside the body of an outlined function. Only the lower 16 bits mean something. `zero` lies between `low` and `high`, and all of them have 16 bits.
    """
    return Call(Op.get(SATURATED), [x, *(tirx.const(n, "int32") for n in (zero, low, high))], ret_ty=PrimType("int32"))


def narrowed(x: Expr, zero: int, kind: str) -> Expr:
    """float32 rounded to the nearest integer, ties to even, plus `zero`, saturated to `kind`, int8 or uint8, whose number `zero` is.

    To be used inside the body of an outlined function. x is at most 2^30 either way, and no NaN.
    """
    return Call(Op.get(NARROWED), [x, tirx.const(zero, "int32")], ret_ty=PrimType(kind))


def is_outlined(call: Any) -> bool:
    """Whether a call is one of ours."""
    return isinstance(call.op, Op) and str(call.op.name).startswith(PREFIX)


def body_of(key: str) -> tuple[tuple[Any, ...], Expr]:
    """Parameters and body of the function with this key."""
    return _bodies[key]


def weight(call: Any) -> int:
    """Number of instructions in the body of an outlined call."""
    parameters, body = _bodies[str(call.op.name)[len(PREFIX) :]]
    writer = _Writer(parameters, 1)
    writer.value(body)
    return len(writer.lines)


def take_definitions(vcvtr: bool = False, helium: bool = False, x86: int = 0) -> str:
    """LLVM IR of the functions that were lowered since the last call.

    Args:
        vcvtr: whether the target has ARM's instruction of that name.
        helium: whether it has the vectors of Cortex-M.
        x86: how many floats there are in its widest vectors, if it is an x86.
    """
    chosen = sorted(_used)
    _used.clear()
    writers = [(_Writer(_bodies[key][0], lanes, vcvtr, helium, x86), key, lanes) for key, lanes in chosen]
    functions = [w.function(_symbol(key, lanes), _bodies[key][1]) for w, key, lanes in writers]
    weights = [f'{SELDOM} = !{{!"branch_weights", i32 1, i32 4000}}'] if any(w.branches for w, _, _ in writers) else []
    return "\n".join([*functions, *sorted({d for w, _, _ in writers for d in w.declarations}), *weights])


def _lowered(call: Any, key: str) -> Expr:
    lanes = int(str(call.ty).partition("x")[2] or 1)
    _used.add((key, lanes))
    return tirx.call_pure_extern(str(call.ty), _symbol(key, lanes), *call.args)


def _symbol(key: str, lanes: int) -> str:
    return f"lepton_fn_{key}_{lanes}"


def conversion(source: str, target: str) -> str:
    """LLVM's instruction that converts numbers between two types of different width or kind."""
    unsigned = source == "bool" or source.startswith("uint")
    if source.startswith("float") and target.startswith("float"):
        return "fpext" if _bits(source) < _bits(target) else "fptrunc"
    if target.startswith("float"):
        return "uitofp" if unsigned else "sitofp"
    if source.startswith("float"):
        return "fptoui" if target.startswith("uint") else "fptosi"
    if _bits(source) > _bits(target):
        return "trunc"
    return "zext" if unsigned else "sext"


def _bits(element: str) -> int:
    return 1 if element == "bool" else int("".join(filter(str.isdigit, element)))


class _Writer:
    """Writes one expression as the body of an LLVM function over vectors of `lanes` elements."""

    def __init__(
        self, parameters: Iterable[Any], lanes: int, vcvtr: bool = False, helium: bool = False, x86: int = 0, foreign: bool = False
    ) -> None:
        self.lanes, self.lines, self.x86, self.foreign = lanes, list[str](), x86, foreign
        self.vcvtr, self.vcvtn = vcvtr and lanes == 1, helium and lanes == HELIUM_LANES
        self.parameters = tuple(parameters)
        self.names: dict[int, str] = {hash(p): f"%x{k}" for k, p in enumerate(self.parameters)}
        self.block, self.branches = "entry", False
        self.declarations: set[str] = set()

    def function(self, symbol: str, body: Expr) -> str:
        """The definition; `available_externally`, so that it is inlined and never emitted."""
        result = self.value(body)
        formals = ", ".join(f"{self.type(p)} %x{k}" for k, p in enumerate(self.parameters))
        head = f"define available_externally {self.type(body)} @{symbol}({formals}) alwaysinline nounwind {{\nentry:"
        return "\n".join([head, *self.lines, f"  ret {self.type(body)} {result}", "}"])

    def type(self, x: Expr) -> str:
        return self.vector(LLVM_TYPES[str(x.ty)])

    def vector(self, element: str) -> str:
        return element if self.lanes == 1 else f"<{self.lanes} x {element}>"

    def emit(self, text: str) -> str:
        name = f"%t{len(self.lines)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def value(self, x: Expr) -> str:
        """The operand that stands for `x`."""
        if isinstance(x, tirx.Let):
            self.names[hash(x.var)] = self.value(x.value)
            return self.value(x.body)
        if isinstance(x, tirx.Var):
            return self.names[hash(x)]
        if isinstance(x, tirx.FloatImm | tirx.IntImm):
            return self.constant(x)
        if isinstance(x, tirx.Select):
            condition, yes, no = self.value(x.condition), self.value(x.true_value), self.value(x.false_value)
            return self.emit(f"select {self.type(x.condition)} {condition}, {self.type(x)} {yes}, {self.type(x)} {no}")
        if isinstance(x, tirx.Cast):
            return self.cast(x)
        if isinstance(x, tirx.Not):
            return self.emit(f"xor {self.type(x)} {self.value(x.a)}, {self.splat('i1', 'true')}")
        if isinstance(x, Call):
            return self.call(x)
        return self.binary(x)

    def binary(self, x: Expr) -> str:
        kind, a, b = type(x), self.value(x.a), self.value(x.b)
        element = str(x.a.ty)
        real = element.startswith("float")
        if kind in COMPARE:
            condition = COMPARE[kind][0 if real else 1 if element.startswith("int") else 2]
            return self.emit(f"{'fcmp' if real else 'icmp'} {condition} {self.type(x.a)} {a}, {b}")
        if kind is prim.RShift and element.startswith("uint"):
            return self.emit(f"lshr {self.type(x)} {a}, {b}")
        instruction = LOGIC.get(kind) or BITWISE.get(kind) or (FLOAT_OPS if real else INT_OPS)[kind]
        return self.emit(f"{instruction} {self.type(x)} {a}, {b}")

    def cast(self, x: Expr) -> str:
        value = self.value(x.value)
        if self.type(x.value) == self.type(x):
            return value
        return self.emit(f"{conversion(str(x.value.ty), str(x.ty))} {self.type(x.value)} {value} to {self.type(x)}")

    def call(self, x: Any) -> str:
        operator = str(x.op.name)
        if operator == FENCE:
            return self.intrinsic("arithmetic.fence", x, self.value(x.args[1]))
        if operator == RARELY:
            return self.rarely(x)
        if operator == SATURATED:
            return self.saturated(x.args[0], self.value(x.args[0]), *(int(n.value) for n in x.args[1:]))
        if operator == NARROWED:
            return self.narrowed(x, self.value(x.args[0]), int(x.args[1].value))
        if self.foreign and operator not in INTRINSICS and (operator in EXTERN or operator.removeprefix("tirx.") in FUNCTIONS):
            return self.foreign_call(operator, x)
        values = [self.value(a) for a in x.args]
        if operator.startswith(PREFIX):
            parameters, body = _bodies[operator[len(PREFIX) :]]
            self.names.update({hash(p): v for p, v in zip(parameters, values, strict=True)})
            return self.value(body)
        if operator == NEAREST:
            return self.nearest(x.args[0], values[0])
        if operator == "tirx.reinterpret":
            return self.emit(f"bitcast {self.type(x.args[0])} {values[0]} to {self.type(x)}")
        if operator == "tirx.isnan":
            return self.emit(f"fcmp uno {self.type(x.args[0])} {values[0]}, {values[0]}")
        return self.intrinsic(INTRINSICS[operator], x, values[0])

    def foreign_call(self, operator: str, x: Any) -> str:
        """A call of a function that LLVM does not know: only to tell bodies apart, which another backend prints."""
        given = [str(a.value) if isinstance(a, StringImm) else self.value(a) for a in x.args]
        return self.emit(f"foreign {self.type(x)} {operator}({', '.join(given)})")

    def nearest(self, x: Any, value: str) -> str:
        """See `nearest`; the ARM instructions round, saturate at 32 bits and know NaN."""
        limit, whole = NEAREST_LIMIT, self.vector("i32")
        if self.vcvtn and str(x.ty) == "float32":
            return self.clamped(self.converted(value), -limit, limit - 1)
        if self.vcvtr and str(x.ty) == "float32":
            self.declarations.add("declare float @llvm.arm.vcvtr.f32(float)")
            bits = self.emit(f"call float @llvm.arm.vcvtr.f32(float {value})")
            number, most = self.emit(f"bitcast float {bits} to i32"), str(limit - 1)
            low = self.emit(f"icmp slt i32 {number}, -{limit}")
            number = self.emit(f"select i1 {low}, i32 -{limit}, i32 {number}")
            high = self.emit(f"icmp sgt i32 {number}, {most}")
            return self.emit(f"select i1 {high}, i32 {most}, i32 {number}")
        kind, truth = self.type(x), self.vector("i1")
        rounded = self.intrinsic("rint", x, value)
        for condition, bound in (("uno", 0.0), ("ogt", float(limit)), ("olt", -float(limit))):
            other = self.constant(tirx.FloatImm(str(x.ty), bound))
            held = self.emit(f"fcmp {condition} {kind} {rounded}, {rounded if condition == 'uno' else other}")
            rounded = self.emit(f"select {truth} {held}, {kind} {other}, {kind} {rounded}")
        return self.emit(f"fptosi {kind} {rounded} to {whole}")

    def saturated(self, x: Any, value: str, zero: int, low: int, high: int) -> str:
        """See `saturated`: bounded as a float, then rounded by the addition of a number beside which there are whole ones only.

        On x86 rounded by the instruction that makes integers: of NaN it makes a number whose lower half is zero, and no more is asked for.
        """
        whole, kind, truth = self.vector("i32"), self.vector("float"), self.vector("i1")
        if self.vcvtn:
            return self.shifted(self.converted(value), zero, low, high)
        if self.vcvtr:
            number = self.emit(f"add i32 {self.nearest(x, value)}, {zero}")
            for condition, bound in (("slt", low), ("sgt", high)):
                number = self.emit(f"select i1 {self.emit(f'icmp {condition} i32 {number}, {bound}')}, i32 {bound}, i32 {number}")
            return number
        bounded = value
        for condition, bound in (("olt", low - zero), ("ogt", high - zero)):
            other = self.constant(tirx.FloatImm("float32", float(bound)))
            held = self.emit(f"fcmp {condition} {kind} {bounded}, {other}")
            bounded = self.emit(f"select {truth} {held}, {kind} {other}, {kind} {bounded}")
        if width := next((n for n in CVTPS2DQ if n <= self.x86 and self.lanes % n == 0), 0):
            number = self.joined([self.cvtps2dq(part, width) for part in self.parts(bounded, "float", width)], "i32", width)
            return self.emit(f"add {whole} {number}, {self.constant(tirx.IntImm('int32', zero))}") if zero else number
        number = self.emit(f"fcmp ord {kind} {value}, {value}")
        bounded = self.emit(f"select {truth} {number}, {kind} {bounded}, {kind} zeroinitializer")
        moved = self.emit(f"fadd {kind} {bounded}, {self.constant(tirx.FloatImm('float32', WHOLE))}")
        bits = self.emit(f"bitcast {kind} {moved} to {whole}")
        return self.emit(f"add {whole} {bits}, {self.constant(tirx.IntImm('int32', zero - WHOLE_BITS))}")

    def narrowed(self, x: Any, value: str, zero: int) -> str:
        """See `narrowed`: on x86 in whole vectors by the instructions that round and pack, else bounded before."""
        signed = str(x.ty) == "int8"
        low, high = (-128, 127) if signed else (0, 255)
        width = next((n for n in CVTPS2DQ if n <= self.x86 and self.lanes % n == 0), 0)
        if not width:
            number = self.saturated(x.args[0], value, zero, low, high)
            return self.emit(f"trunc {self.vector('i32')} {number} to {self.vector('i8')}")
        return pack_bytes(self, [self.cvtps2dq(part, width) for part in self.parts(value, "float", width)], width, zero, signed)

    def converted(self, value: str) -> str:
        """`VCVTN`: floats rounded to the nearest integers, ties to even, saturated at 32 bits, 0 for NaN."""
        self.declarations.add("declare <4 x i32> @llvm.arm.mve.vcvtn.v4i32.v4f32(i32, <4 x float>)")
        return self.emit(f"call <4 x i32> @llvm.arm.mve.vcvtn.v4i32.v4f32(i32 0, <4 x float> {value})")

    def shifted(self, value: str, zero: int, low: int, high: int) -> str:
        """A vector of int32 plus `zero`, saturated to the range of a type by `VQSHL`, which needs no constants in registers, where it can be."""
        kind, zeros = self.vector("i32"), self.splat("i32", str(zero))
        names = {(-(1 << bits - 1), (1 << bits - 1) - 1): ("vqshl", bits) for bits in (8, 16)}
        names |= {(0, (1 << bits) - 1): ("vqshlu", bits) for bits in (8, 16)}
        if (low, high) not in names:
            return self.emit(f"add {kind} {self.clamped(value, low - zero, high - zero)}, {zeros}")
        (name, bits), signed = names[low, high], ", i32 0" if low else ""
        if zero:
            self.declarations.add(f"declare {kind} @llvm.sadd.sat.v4i32({kind}, {kind})")
            value = self.emit(f"call {kind} @llvm.sadd.sat.v4i32({kind} {value}, {kind} {zeros})")
        shift = f"@llvm.arm.mve.{name}.imm.v4i32"
        self.declarations.add(f"declare {kind} {shift}({kind}, i32{', i32' if signed else ''})")
        high_bits = self.emit(f"call {kind} {shift}({kind} {value}, i32 {32 - bits}{signed})")
        return self.emit(f"{'ashr' if low else 'lshr'} {kind} {high_bits}, {self.splat('i32', str(32 - bits))}")

    def clamped(self, value: str, low: int, high: int) -> str:
        """A vector of int32 within bounds."""
        kind = self.vector("i32")
        for function, bound in (("smax", low), ("smin", high)):
            name = f"@llvm.{function}.v{self.lanes}i32"
            self.declarations.add(f"declare {kind} {name}({kind}, {kind})")
            value = self.emit(f"call {kind} {name}({kind} {value}, {kind} {self.splat('i32', str(bound))})")
        return value

    def parts(self, value: str, element: str, width: int) -> list[str]:
        """A vector in pieces of `width` lanes."""
        if width == self.lanes:
            return [value]
        whole, part = self.vector(element), f"<{width} x {element}>"
        name = f"@llvm.vector.extract.v{width}{SUFFIXES[element]}.v{self.lanes}{SUFFIXES[element]}"
        self.declarations.add(f"declare {part} {name}({whole}, i64)")
        return [self.emit(f"call {part} {name}({whole} {value}, i64 {first})") for first in range(0, self.lanes, width)]

    def joined(self, parts: list[str], element: str, width: int) -> str:
        """The vector of pieces of `width` lanes."""
        if width == self.lanes:
            return parts[0]
        whole, part, found = self.vector(element), f"<{width} x {element}>", "poison"
        name = f"@llvm.vector.insert.v{self.lanes}{SUFFIXES[element]}.v{width}{SUFFIXES[element]}"
        self.declarations.add(f"declare {whole} {name}({whole}, {part}, i64)")
        for k, piece in enumerate(parts):
            found = self.emit(f"call {whole} {name}({whole} {found}, {part} {piece}, i64 {k * width})")
        return found

    def cvtps2dq(self, value: str, width: int) -> str:
        """float32 rounded to int32 by an instruction of x86."""
        name, rest = CVTPS2DQ[width]
        kind, whole = f"<{width} x float>", f"<{width} x i32>"
        operands, types = [f"{kind} {value}"], [kind]
        if rest:  # of 512 bits: what lanes without a bit of the mask get, the mask, the rounding of the environment
            operands += [f"{whole} zeroinitializer", "i16 -1", "i32 4"]
            types += [whole, "i16", "i32"]
        self.declarations.add(f"declare {whole} @{name}({', '.join(types)})")
        return self.emit(f"call {whole} @{name}({', '.join(operands)})")

    def rarely(self, x: Any) -> str:
        """The third argument, and, if the first holds for any lane, the second one in those lanes."""
        usual, condition = self.value(x.args[2]), self.value(x.args[0])
        label, before = len(self.lines), self.block
        self.lines.append(f"  br i1 {self.any_lane(condition)}, label %rare{label}, label %join{label}, !prof {SELDOM}")
        self.branches = True
        self.open(f"rare{label}")
        rare = self.value(x.args[1])
        chosen = self.emit(f"select {self.type(x.args[0])} {condition}, {self.type(x)} {rare}, {self.type(x)} {usual}")
        after = self.block
        self.lines.append(f"  br label %join{label}")
        self.open(f"join{label}")
        return self.emit(f"phi {self.type(x)} [ {usual}, %{before} ], [ {chosen}, %{after} ]")

    def open(self, block: str) -> None:
        """Begin a basic block."""
        self.block = block
        self.lines.append(f"{block}:")

    def any_lane(self, condition: str) -> str:
        """Whether a truth value holds in any lane."""
        if self.lanes == 1:
            return condition
        name, kind = f"@llvm.vector.reduce.or.v{self.lanes}i1", self.vector("i1")
        self.declarations.add(f"declare i1 {name}({kind})")
        return self.emit(f"call i1 {name}({kind} {condition})")

    def intrinsic(self, function: str, x: Expr, value: str) -> str:
        """A call of one of LLVM's functions of one float."""
        suffix = {"float": "f32", "double": "f64", "half": "f16"}[LLVM_TYPES[str(x.ty)]]
        name = f"@llvm.{function}.{'' if self.lanes == 1 else f'v{self.lanes}'}{suffix}"
        self.declarations.add(f"declare {self.type(x)} {name}({self.type(x)})")
        return self.emit(f"call {self.type(x)} {name}({self.type(x)} {value})")

    def constant(self, x: Any) -> str:
        kind = str(x.ty)
        if kind == "bool":
            text = "true" if int(x.value) else "false"
        elif kind.startswith("float"):
            value = struct.unpack("f", struct.pack("f", float(x.value)))[0] if kind == "float32" else float(x.value)
            text = f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        else:
            text = str(int(x.value))
        return self.splat(LLVM_TYPES[kind], text)

    def splat(self, element: str, text: str) -> str:
        return text if self.lanes == 1 else "<" + ", ".join([f"{element} {text}"] * self.lanes) + ">"
