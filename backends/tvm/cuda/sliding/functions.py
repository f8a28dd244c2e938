"""What a kernel of sliding windows has functions for: what lies outside of an image, zero points of weights, what is stored for a sum, and where."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.ending import names_of, writer_at
from lepton_compiler.backends.tvm.cuda.products.product import Expr
from lepton_compiler.backends.tvm.cuda.sliding.layer import Layer
from lepton_compiler.backends.tvm.cuda.text.order import pointer
from lepton_compiler.backends.tvm.cuda.text.support import INLINE

LOWEST = {"float32": 0xFF800000, "float16": 0xFC00FC00, "bfloat16": 0xFF80FF80, "int8": 0x80808080}
"""A word of elements that no other is smaller than; zero for others."""


@dataclass
class Functions:
    """The functions of a kernel: texts, and how the library is given them.

    Each takes all parameters of the kernel, then an image, a pixel of the result and a channel of it.
    """

    kernel: KernelText
    symbol: str
    layer: Layer

    @property
    def every(self) -> str:
        """The parameters of the kernel, as arguments."""
        return ", ".join(names_of(self.kernel))

    @property
    def sum(self) -> str:
        """C's type of a sum."""
        return C_TYPES[self.layer.sums.kind]

    def value(self) -> str:
        """The element that is stored for a sum."""
        sums, output = self.layer.sums, self.kernel.buffers[-1]
        total = tirx.Var("total", sums.kind)
        writer, at = writer_at(self.kernel, {"batch": sums.batch, "m": sums.rows, "n": sums.columns})
        writer.names[hash(total)] = writer.name("total")
        text = bare(writer.value(sums.ending(total, sums.place(*at))))
        self._add("value", C_TYPES[str(output.dtype)], [*writer.lines, f"  return {text};"], f", {self.sum} total")
        return f"[&](int i, int m, int n, {self.sum} sum) {{ return {self.symbol}_value({self.every}, i, m, n, sum); }}"

    def place(self) -> str:
        """Where that is."""
        sums = self.layer.sums
        writer, at = writer_at(self.kernel, {"batch": sums.batch, "m": sums.rows, "n": sums.columns})
        text = writer.index(writer.flat(self.kernel.buffers[-1], sums.place(*at)))
        self._add("place", "int", [*writer.lines, f"  return {text};"])
        return f"[&](int i, int m, int n) {{ return {self.symbol}_place({self.every}, i, m, n); }}"

    def fill(self) -> str:
        """A word of what lies outside of the image."""
        if self.layer.fill is not None:
            self._number("fill", self.layer.fill)
            return f"({self.symbol}_fill({self.every}, 0, 0, 0) & 0xFF) * 0x01010101u"
        windows = self.layer.windows
        return f"0x{LOWEST.get(windows.element, 0) if windows.taken == 'maximum' else 0:08X}u"

    def weight_zero(self) -> str:
        """What the weights of a channel have to be less."""
        if self.layer.weight_zero is None:
            return f"[&](int n) {{ return {self.sum}(0); }}"
        n = tirx.Var("n", "int32")
        self._number("zero", self.layer.weight_zero(n), n)
        return f"[&](int n) {{ return {self.symbol}_zero({self.every}, 0, 0, n); }}"

    def _number(self, name: str, number: Expr, channel: Expr | None = None) -> None:
        writer = self.kernel.writer()
        if channel is not None:
            writer.range(channel, self.layer.sums.columns, writer.name("n"))
        text = bare(writer.value(number))
        self._add(name, "int", [*writer.lines, f"  return {text};"])

    def _add(self, name: str, kind: str, lines: list[str], more: str = "") -> None:
        names, types = names_of(self.kernel), [C_TYPES[str(b.dtype)] for b in self.kernel.buffers]
        formals = ", ".join(
            pointer(t, n, written=n == names[-1], weight=k in self.kernel.weights)
            for k, (n, t) in enumerate(zip(names, types, strict=True))
        )
        head = f"{INLINE} {kind} {self.symbol}_{name}({formals}, int batch, int m, int n{more}) {{"
        self.kernel.functions.append("\n".join([head, *lines, "}", ""]))
