"""What becomes of the sums of a product, as functions in CUDA C: of one sum, and of several side by side, whose operands are read as vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Range

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.product import Sums
from lepton_compiler.backends.tvm.cuda.tensor_cores import Epilogue, vector_of
from lepton_compiler.backends.tvm.cuda.text.order import pointer
from lepton_compiler.backends.tvm.cuda.text.support import INLINE, DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.vectors import start_of_vector
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter
from lepton_compiler.backends.tvm.schedules.loops import bits_of

AT = "int batch, int m, int n"


def epilogue_of(kernel: KernelText, symbol: str, output: Any, sums: Sums) -> Epilogue:
    """The functions that say what is stored for a sum, or for several, and where."""
    names, types = names_of(kernel), [C_TYPES[str(b.dtype)] for b in kernel.buffers]
    target = names[[hash(b) for b in kernel.buffers].index(hash(output))]
    weights = frozenset(names[k] for k in kernel.weights)
    formals = ", ".join(pointer(t, n, written=n == target, weight=n in weights) for n, t in zip(names, types, strict=True))
    extents = {"batch": sums.batch, "m": sums.rows, "n": sums.columns}
    c, size = C_TYPES[str(output.dtype)], bits_of(output.dtype) // 8
    writer, (batch, m, n) = writer_at(kernel, extents)
    place = writer.index(writer.flat(output, sums.place(batch, m, n)))
    lines = [f"{INLINE} int {symbol}_place({formals}, {AT}) {{", f"  return {place};", "}"]
    rows = _contiguous(kernel, output, sums)
    several = _values(kernel, symbol, output, sums, formals) if rows and vector_of(sums.columns, size) > 1 else []
    lines += several or _value(kernel, symbol, output, sums, formals)
    return Epilogue(symbol, "\n".join(lines), formals, tuple(names), target, c, size, rows, weights, several=bool(several))


def _value(kernel: KernelText, symbol: str, output: Any, sums: Sums, formals: str) -> list[str]:
    """The function of one sum."""
    writer, (batch, m, n) = writer_at(kernel, {"batch": sums.batch, "m": sums.rows, "n": sums.columns})
    total = tirx.Var("total", sums.kind)
    writer.names[hash(total)] = writer.name("total")
    value = bare(writer.value(sums.ending(total, sums.place(batch, m, n))))
    head = f"{INLINE} {C_TYPES[str(output.dtype)]} {symbol}_value({formals}, {AT}, {C_TYPES[sums.kind]} total) {{"
    return [head, *writer.lines, f"  return {value};", "}"]


def names_of(kernel: KernelText) -> list[str]:
    """What the parameters of a kernel are called in its text."""
    return [f"p{k}" for k in range(len(kernel.buffers))]


def writer_at(kernel: KernelText, extents: Mapping[str, int], kind: type[DeviceWriter] = DeviceWriter) -> tuple[DeviceWriter, list[Any]]:
    """A writer of a function of some integers below given bounds, and the integers."""
    writer, variables = kernel.writer(kind), []
    for name, extent in extents.items():
        variables.append(tirx.Var(name, "int32"))
        writer.range(variables[-1], extent, writer.name(name))
    return writer, variables


def _values(kernel: KernelText, symbol: str, output: Any, sums: Sums, formals: str) -> list[str]:
    """The function of several sums; nothing where none of its operands are vectors."""
    writer, (batch, m, at) = writer_at(kernel, {"batch": sums.batch, "m": sums.rows, "at": sums.columns}, ColumnWriter)
    assert isinstance(writer, ColumnWriter)
    writer.side_by_side(at, sums.columns, vector_of(sums.columns, bits_of(output.dtype) // 8))
    total = tirx.Var("total", sums.kind)
    writer.names[hash(total)] = writer.name("total")
    value = bare(writer.value(sums.ending(total, sums.place(batch, m, at))))
    if not writer.vectors:
        return []
    c, total_type = C_TYPES[str(output.dtype)], C_TYPES[sums.kind]
    return [
        "template <int COUNT>",
        f"{INLINE} void {symbol}_values({formals}, {AT}, const {total_type} (&totals)[COUNT], {c} (&elements)[COUNT]) {{",
        *(f"  const auto {name} = lepton::taken<COUNT>({where});" for where, name in writer.vectors.items()),
        "#pragma unroll",
        "  for (int lane = 0; lane < COUNT; ++lane) {",
        "    const int at = n + lane;",
        f"    const {total_type} total = totals[lane];",
        *(f"  {line}" for line in writer.lines),
        f"    elements[lane] = {value};",
        "  }",
        "}",
    ]


class ColumnWriter(DeviceWriter):
    """Operands whose elements for neighbouring columns lie side by side are read as vectors, once for all columns."""

    def __init__(self, support: DeviceSupport, where: str) -> None:
        super().__init__(support, where)
        self.vectors: dict[str, str] = {}
        self.count, self._lane = 1, tirx.Var("lane", "int32")
        self._grouped: dict[int, tuple[Any, Any]] = {}
        self._first = tvm.sym.Analyzer()

    def side_by_side(self, at: Any, columns: int, count: int) -> None:
        """Let `at` be a column, one of up to `count` neighbours, of which the first is called `n`."""
        group, first, self.count = tirx.Var("group", "int32"), tirx.Var("n", "int32"), count
        self.names[hash(first)] = self.name("n")
        others = {key: fact for key, fact in self.facts.items() if key != hash(at)}
        ranges = {hash(v): (v, Range(0, extent)) for v, extent in ((group, columns // count), (self._lane, count))}
        self._grouped = {**others, **ranges, hash(at): (at, group * count + self._lane)}
        for variable, fact in [*others.values(), (first, Range(0, columns)), (at, first)]:
            self._first.bind(variable, fact)

    def element(self, buffer: Any, indices: Any) -> str:
        """An element, of a vector where it is of one."""
        key = hash(buffer)
        if key in self.registers or key not in self.buffers:
            return super().element(buffer, indices)
        flat = self.flat(buffer, indices)
        if start_of_vector(flat, self._grouped, self._lane, self.count, math.prod(int(e) for e in buffer.shape)) is None:
            return super().element(buffer, indices)
        where = f"{self.buffers[key]} + {self.index(self._first.simplify(flat))}"
        return f"{self.vectors.setdefault(where, f'vector{len(self.vectors)}')}.values[lane]"


def _contiguous(kernel: KernelText, output: Any, sums: Sums) -> bool:
    """Whether neighbours along a row of sums are neighbours in memory: the place of the next column is one further on."""
    probe = KernelText("", "", list(kernel.buffers), True)
    writer, (batch, m, n) = writer_at(probe, {"batch": sums.batch, "m": sums.rows, "n": sums.columns})
    first = writer.flat(output, sums.place(batch, m, n))
    start = writer.flat(output, sums.place(batch, m, tirx.const(0, "int32")))
    return bool(writer.analyzer.can_prove_equal(first, start + n))
