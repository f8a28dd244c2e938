"""The text of a tiled product.

A block of threads computes a tile of the result; each thread has a few rows and columns of it in registers. Tiles of both operands go
through shared memory, where they lie with the steps of the sum outermost; while one pair is multiplied, the next is on its way from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import THREADS, KernelText
from lepton_compiler.backends.tvm.cuda.products.choose import Tile
from lepton_compiler.backends.tvm.cuda.products.product import Product, Side
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter

PADDING = 4
"""Elements behind each row of a tile in shared memory, so that a column of it is in different banks."""
WIDE = 4
"""Elements of a wide load."""


def tiled_product(kernel: KernelText, product: Product, tile: Tile, output: Any, partial: Any = None) -> None:
    """Add the functions of a product: with `partial`, a buffer of `parts` results, one that fills that and one that adds up."""
    writer = kernel.writer()
    name = writer.buffers[hash(output if partial is None else partial)]
    writer.written.add(name)
    _Tiled(writer, product, tile, name, output, partial is not None).write()
    grid = (-(-product.columns // tile.columns), -(-product.rows // tile.rows), product.batch * tile.parts)
    kernel.add(writer, grid, (tile.threads, 1, 1))
    if partial is not None:
        _sum_of_parts(kernel, product, tile, output, partial)


class _Tiled:
    """Writes the body of the product's function."""

    def __init__(self, writer: DeviceWriter, product: Product, tile: Tile, target: str, output: Any, is_partial: bool) -> None:
        self.writer, self.product, self.tile, self.target, self.output, self.is_partial = writer, product, tile, target, output, is_partial
        self.kind = C_TYPES[product.kind]
        self.variables = {n: tirx.Var(n, "int32") for n in "bmnk"}
        for n, extent in zip("bmnk", (product.batch, product.rows, product.columns, product.depth), strict=True):
            writer.range(self.variables[n], extent, writer.name(n))

    def write(self) -> None:
        """The whole body."""
        w, t, p = self.writer, self.tile, self.product
        steps = -(-p.depth // (t.depth * t.parts)) * t.depth
        across = t.columns // t.wide
        parts = f"blockIdx.z % {t.parts}" if t.parts > 1 else "0"
        w.emit("const int32_t t = threadIdx.x;")
        w.emit(f"const int32_t b = {f'blockIdx.z / {t.parts}' if t.parts > 1 else 'blockIdx.z'};")
        w.emit(f"const int32_t first_row = blockIdx.y * {t.rows};")
        w.emit(f"const int32_t first_column = blockIdx.x * {t.columns};")
        w.emit(f"const int32_t begin = {parts} * {steps};")
        w.emit(f"const int32_t end = {f'min(begin + {steps}, {p.depth})' if t.parts > 1 else p.depth};")
        w.emit(f"const int32_t row = t / {across} * {t.high};")
        w.emit(f"const int32_t column = t % {across} * {t.wide};")
        for side, extent in (("left", t.rows), ("right", t.columns)):
            w.emit(f"__shared__ __align__(16) {self.kind} {side}_tile[2][{t.depth}][{extent + PADDING}];")
            w.emit(f"{self.kind} {side}_next[{self.per_thread(extent)}];")
        w.emit(f"{self.kind} sum[{t.high}][{t.wide}];")
        self.unrolled("i", t.high, lambda: self.unrolled("j", t.wide, lambda: w.emit("sum[i][j] = 0;")))
        self.fetch("begin")
        self.keep("0")
        w.emit("__syncthreads();")
        w.emit("int32_t now = 0;")
        w.emit(f"for (int32_t step = begin; step < end; step += {t.depth}) {{")
        self.inside(self.round)
        w.emit("}")
        self.store()

    def round(self) -> None:
        """One pair of tiles."""
        w, t = self.writer, self.tile
        w.emit(f"const bool more = step + {t.depth} < end;")
        w.emit("if (more) {")
        self.inside(lambda: self.fetch(f"(step + {t.depth})"))
        w.emit("}")
        w.emit("#pragma unroll")
        w.emit(f"for (int32_t d = 0; d < {t.depth}; ++d) {{")
        self.inside(self.multiply)
        w.emit("}")
        w.emit("if (more) {")
        self.inside(lambda: self.keep("now ^ 1"))
        w.emit("}")
        w.emit("__syncthreads();")
        w.emit("now ^= 1;")

    def multiply(self) -> None:
        """One step of the sum: a column of the left tile times a row of the right one."""
        w, t = self.writer, self.tile
        for side, name, count, at in (("left", "a", t.high, "row"), ("right", "c", t.wide, "column")):
            w.emit(f"{self.kind} {name}[{count}];")
            self.unrolled("i", count, lambda side=side, name=name, at=at: w.emit(f"{name}[i] = {side}_tile[now][d][{at} + i];"))  # type: ignore[misc]
        self.unrolled("i", t.high, lambda: self.unrolled("j", t.wide, lambda: w.emit("sum[i][j] += a[i] * c[j];")))

    # -- operands

    def per_thread(self, extent: int) -> int:
        """Elements of a tile that each thread fetches."""
        return -(-extent * self.tile.depth // self.tile.threads)

    def sides(self) -> list[tuple[str, Side, int, str, str, int]]:
        """Both operands: name, description, extent of its tile, its variable, where its tile begins, the whole extent."""
        t, p = self.tile, self.product
        return [
            ("left", p.left, t.rows, "m", "first_row", p.rows),
            ("right", p.right, t.columns, "n", "first_column", p.columns),
        ]

    def width(self, side: Side, extent: int) -> int:
        """Elements of a load: several where they lie side by side, and every thread has as many of them."""
        line = self.tile.depth if side.along == "depth" else extent
        fits = side.chunk % WIDE == 0 and line % WIDE == 0 and extent * self.tile.depth % (WIDE * self.tile.threads) == 0
        return WIDE if fits and self.kind == "float" else 1

    def positions(self, side: Side, extent: int, width: int) -> list[str]:
        """Lines that give the place `along` and `across` of the load `q` of a thread within a tile."""
        line = (self.tile.depth if side.along == "depth" else extent) // width
        at, depth = f"at % {line}" + (f" * {width}" if width > 1 else ""), f"at / {line}"
        e, d = (depth, at) if side.along == "depth" else (at, depth)
        return [f"const int32_t at = t + q * {self.tile.threads};", f"const int32_t e = {e};", f"const int32_t d = {d};"]

    def fetch(self, begin: str) -> None:
        """Load the thread's part of the tiles that begin at a step of the sum."""
        w = self.writer
        for name, side, extent, variable, first, whole in self.sides():
            width, loads = self.width(side, extent), self.per_thread(extent) // self.width(side, extent)
            ragged = extent * self.tile.depth % (width * self.tile.threads) != 0

            def load(
                name: str = name, side: Side = side, extent: int = extent, variable: str = variable, first: str = first, whole: int = whole,
                width: int = width, ragged: bool = ragged,
            ) -> None:  # fmt: skip
                for line in self.positions(side, extent, width):
                    w.emit(line)
                w.emit(f"const int32_t {variable} = {first} + e;")
                w.emit(f"const int32_t k = {begin} + d;")
                inside = [f"{variable} < {whole}"] if whole % extent else []
                inside += ["k < end"] if self.product.depth % (self.tile.depth * self.tile.parts) else []
                inside += [f"at < {extent * self.tile.depth // width}"] if ragged else []
                self.element(f"{name}_next", side, variable, inside, width)

            self.unrolled("q", loads, load)

    def element(self, target: str, side: Side, variable: str, inside: list[str], width: int) -> None:
        """Assign one load, zero where nothing lies."""
        w = self.writer
        found = side.at(self.variables["b"], self.variables[variable], self.variables["k"])
        places = [f"{target}[q * {width} + {j}]" if width > 1 else f"{target}[q]" for j in range(width)]
        for place in places:
            w.emit(f"{place} = 0;")
        w.emit(f"if ({' && '.join(inside) or 'true'}) {{")

        def body() -> None:
            conditions = " && ".join(w.value(c) for c in found.conditions)
            if conditions:
                w.emit(f"if ({conditions}) {{")
            if width == 1:
                w.emit(f"{places[0]} = {bare(w.value(found.value))};")
            else:
                assert found.source is not None
                buffer, index = found.source
                address = f"{w.buffers[hash(buffer)]} + {w.index_operand(w.flat(buffer, index))}"
                w.emit(f"const float4 four = *(const float4 *)({address});")
                for place, part in zip(places, "xyzw", strict=True):
                    w.emit(f"{place} = four.{part};")
            if conditions:
                w.emit("}")

        self.inside(body)
        w.emit("}")

    def keep(self, which: str) -> None:
        """Store what was loaded into one of the two tiles in shared memory."""
        w = self.writer
        for name, side, extent, _, _, _ in self.sides():
            width = self.width(side, extent)
            ragged = extent * self.tile.depth % (width * self.tile.threads) != 0

            def put(name: str = name, side: Side = side, extent: int = extent, width: int = width, ragged: bool = ragged) -> None:
                for line in self.positions(side, extent, width):
                    w.emit(line)
                guard = f"if (at < {extent * self.tile.depth // width}) " if ragged else ""
                for j in range(width):
                    place = f"[d + {j}][e]" if side.along == "depth" else f"[d][e + {j}]"
                    w.emit(f"{guard}{name}_tile[{which}]{place} = {name}_next[q * {width} + {j}];")

            self.unrolled("q", self.per_thread(extent) // width, put)

    # -- results

    def store(self) -> None:
        """Finish and store each element of the thread."""
        self.unrolled("i", self.tile.high, lambda: self.unrolled("j", self.tile.wide, self.result))

    def result(self) -> None:
        """One element."""
        w, p, t = self.writer, self.product, self.tile
        w.emit("const int32_t m = first_row + row + i;")
        w.emit("const int32_t n = first_column + column + j;")
        outside = [f"m < {p.rows}"] if p.rows % t.rows else []
        outside += [f"n < {p.columns}"] if p.columns % t.columns else []
        w.emit(f"if ({' && '.join(outside) or 'true'}) {{")
        self.inside(self.assign)
        w.emit("}")

    def assign(self) -> None:
        w, p = self.writer, self.product
        b, m, n = (self.variables[v] for v in "bmn")
        if self.is_partial:
            part = f"blockIdx.z % {self.tile.parts}"
            size = p.batch * p.rows * p.columns
            w.emit(f"{self.target}[{part} * {size} + {w.index((b * p.rows + m) * p.columns + n)}] = sum[i][j];")
            return
        finish(w, p, self.output, self.target, "sum[i][j]", (b, m, n))

    # -- text

    def inside(self, write: Callable[[], None]) -> None:
        """Lines one level deeper."""
        lines, _ = self.writer.block(write)
        self.writer.lines += lines

    def unrolled(self, name: str, extent: int, write: Callable[[], None]) -> None:
        """A loop that the compiler unrolls."""
        self.writer.emit("#pragma unroll")
        self.writer.emit(f"for (int32_t {name} = 0; {name} < {extent}; ++{name}) {{")
        self.inside(write)
        self.writer.emit("}")


def finish(w: DeviceWriter, product: Product, output: Any, target: str, total: str, at: tuple[Any, Any, Any]) -> None:
    """Store the element of the result that a sum gives."""
    variable = tirx.Var("total", product.kind)
    w.names[hash(variable)] = w.name("total")
    index = product.place(*at)
    w.emit(f"const {C_TYPES[product.kind]} {w.names[hash(variable)]} = {total};")
    value = bare(w.value(product.ending(variable, index)))
    w.emit(f"{target}[{w.index(w.flat(output, index))}] = {value};")


def _sum_of_parts(kernel: KernelText, product: Product, tile: Tile, output: Any, partial: Any) -> None:
    """The second launch: a thread for each element adds up what the parts give."""
    w = kernel.writer()
    size = product.batch * product.rows * product.columns
    position, target = tirx.Var("i", "int32"), w.buffers[hash(output)]
    w.range(position, size, "i")
    w.written.add(target)
    w.emit(f"const int32_t i = blockIdx.x * {THREADS} + threadIdx.x;")
    w.emit(f"if (i >= {size}) return;")
    w.emit("float sum = 0.0f;")
    w.emit("#pragma unroll")
    w.emit(f"for (int32_t part = 0; part < {tile.parts}; ++part) sum += {w.buffers[hash(partial)]}[part * {size} + i];")
    n, m, b = (
        position % product.columns,
        tirx.floordiv(position, product.columns) % product.rows,
        tirx.floordiv(position, product.columns * product.rows),
    )
    finish(w, product, output, target, "sum", (b, m, n))
    kernel.add(w, (-(-size // THREADS), 1, 1), (THREADS, 1, 1))
