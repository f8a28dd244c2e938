"""Attention by its generator: what it is told of operands and masks, from the operators that `fuse-attention` made one kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx

from lepton_compiler.analysis.attention import Empty, Rows, Sizes, sizes_of
from lepton_compiler.analysis.layouts import RESHAPES, VIEWS, Layout, through
from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText, weights_among
from lepton_compiler.backends.tvm.cuda.products.ending import epilogue_of, names_of, writer_at
from lepton_compiler.backends.tvm.cuda.products.generated import add_plan, smallest
from lepton_compiler.backends.tvm.cuda.products.product import Expr, Sums
from lepton_compiler.backends.tvm.cuda.tensor_cores import Attention, Element, Epilogue, generate_attention
from lepton_compiler.backends.tvm.cuda.tensor_cores import Rows as Vectors
from lepton_compiler.backends.tvm.cuda.text.support import INLINE
from lepton_compiler.backends.tvm.kernels import KernelParameter
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, Arg, Read, expression
from lepton_compiler.backends.tvm.lower.movement import ravel, unravel
from lepton_compiler.backends.tvm.lower.whole import Result
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.gpus import Gpu
from lepton_compiler.ir.types import FLOAT32, TensorType

ELEMENT_TYPES: dict[str, Element] = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


def attention_kernel(spec: KernelSpec, gpus: Sequence[Gpu], symbol: str, where: str) -> tuple[KernelText, list[KernelParameter]]:
    """The text of a kernel of attention, and its parameters.

    Raises:
        UnsupportedError: it is none that `fuse-attention` makes.
    """
    parts = _Parts(spec, where)
    kind = spec.types[spec.outputs[0]]
    output = tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, "out", layout=None)
    parameters = [*(KernelParameter("input", k, spec.types[k]) for k in parts.buffers), KernelParameter("output", 0, kind)]
    text = KernelText(symbol, where, [*parts.buffers.values(), output], True, weights=weights_among(parameters, spec.constants))
    names = dict(zip(parts.buffers, names_of(text), strict=False))
    name, sums = f"{symbol}_attention", parts.sums()
    epilogue = epilogue_of(text, name, output, sums)
    score = parts.score(text, epilogue)
    plan = generate_attention(
        name, parts.attention(names, bool(score)), replace(epilogue, helpers="\n".join([epilogue.helpers, *score])), smallest(gpus)
    )
    add_plan(text, plan, names_of(text))
    return text, parameters


class _Parts:
    """The operators of a kernel, by what they are in it."""

    def __init__(self, spec: KernelSpec, where: str) -> None:
        self.spec, self.where = spec, where
        self.makers: dict[int, Step] = {o: step for step in spec.steps for o in step.outputs}
        self.numbers = dict(spec.scalars)
        products = [s for s in spec.steps if s.op.name == "MatMul"]
        softmaxes = [s for s in spec.steps if s.op.name == "Softmax"]
        if len(products) != 2 or len(softmaxes) != 1 or len(spec.outputs) != 1:
            raise self.refused("there are not two products and a softmax")
        (self.first, self.second), (self.softmax,) = products, softmaxes
        read = sorted({i for s in spec.steps for i in s.inputs if i is not None and i < spec.inputs})
        self.buffers = {k: _buffer(k, spec.types[k]) for k in read}
        self.operands = [self._base(value) for value in (*self.first.inputs, self.second.inputs[1]) if value is not None]
        self.scale, self.scaled = self._scale()
        self.later, self.ahead = self._causal()
        sizes = self._sizes(self._shape(self.later.outputs[0])[-2]) if self.later is not None else None
        if sizes is None:
            self.later, sizes = None, self._sizes(None)
        if sizes is None:
            raise self.refused("its operands do not lie in vectors with even steps between them")
        self.sizes: Sizes = sizes

    def refused(self, reason: str) -> UnsupportedError:
        """The error of a kernel that is no attention."""
        return UnsupportedError(f"attention: {reason}", where=self.where, hint="report the model")

    # -- operands

    def attention(self, names: dict[int, str], score: bool) -> Attention:
        """What the generator is asked, by the names of the parameters; `score` says whether there is a function for scores."""
        s, bases = self.sizes, [base for base, _ in self.operands]
        q, k, v = (_vectors(names[base], rows) for base, rows in zip(bases, (s.query, s.key, s.value), strict=True))
        element, ahead = ELEMENT_TYPES[self.spec.types[bases[0]].dtype.name], None if self.later is None else self.ahead
        return Attention(
            q, k, v, element, s.batch, s.queries, s.keys, s.head, s.width, self.scale, ahead, score=score, empty=self._empty()
        )  # fmt: skip

    def _sizes(self, queries: int | None) -> Sizes | None:
        q, k, v = (layout for _, layout in self.operands)
        return sizes_of(q, k, v, self._shape(self.first.outputs[0]), self._shape(self.second.outputs[0]), queries)

    def _base(self, value: int) -> tuple[int, Layout]:
        """The input that an operand views, and how."""
        views: list[tuple[Step, int]] = []
        while value >= self.spec.inputs:
            step = self.makers.get(value)
            if step is None or step.op.name not in (*VIEWS, "Cast") or step.inputs[0] is None:
                raise self.refused("an operand is computed")
            if step.op.name != "Cast":
                views.append((step, step.outputs.index(value)))
            value = step.inputs[0]
        layout: Layout | None = Layout.dense(self._shape(value))
        for step, output in reversed(views):
            index = self.numbers.get(step.inputs[1] or 0) if step.op.name == "Gather" else None
            if layout is not None:
                layout = through(step.op, layout, self._shape(step.outputs[output]), output, None if index is None else int(index))
        if layout is None:
            raise self.refused("an operand is no view")
        return value, layout

    def _shape(self, value: int) -> tuple[int, ...]:
        return self.spec.types[value].static_shape

    # -- scores

    def _scale(self) -> tuple[float, int]:
        """The number that products are multiplied by at once, and the value that they are then."""
        scale, value = 1.0, self.first.outputs[0]
        while True:
            (reader,) = [s for s in self.spec.steps if value in s.inputs and s.op.name != "ReduceMax"]
            other = [i for i in reader.inputs if i != value]
            known = self.numbers.get(other[0] or 0) if len(other) == 1 and self._shape(reader.outputs[0]) == self._shape(value) else None
            if known is None or reader.op.name not in ("Mul", "Div") or reader.inputs[0] != value or not math.isfinite(known) or known == 0:
                return scale, value
            scale = scale * known if reader.op.name == "Mul" else scale / known
            value = reader.outputs[0]

    def _causal(self) -> tuple[Step | None, int]:
        """The step that hides what comes after a query, and how many keys after its own number a query sees.

        Only `fuse-attention` puts ranges into such a kernel, and only to hide keys by minus infinity.
        """
        for step in self.spec.steps:
            test = self.makers.get(step.inputs[0] or 0) if step.op.name == "Where" else None
            if test is None or test.op.name != "LessOrEqual":
                continue
            column, row = (self.makers.get(i or 0) for i in test.inputs)
            first = self.makers.get(row.inputs[0] or 0) if row is not None and row.op.name == "Reshape" else None
            if column is not None and first is not None and column.op.name == first.op.name == "Range":
                return step, int(vars(first.op)["start"]) - int(vars(column.op)["start"])
        return None, 0

    def _empty(self) -> Empty:
        names = {s.op.name for s in self.spec.steps if self.softmax.outputs[0] in s.inputs or s.op.name == "ReduceMax"}
        return "never_nan" if "IsNaN" in names else "zeros" if "ReduceMax" in names else "nan"

    def score(self, text: KernelText, epilogue: Epilogue) -> list[str]:
        """The function that masks scores, and does what else is done to them; nothing where they stay as they are."""
        last = self.softmax.inputs[0]
        assert last is not None
        result = Result()
        args = {self.scaled: result.arg(TensorType(FLOAT32, self.spec.types[self.scaled].shape))}
        if self.later is not None:
            hidden = self.later.inputs[1]
            assert hidden is not None
            args[self.later.outputs[0]] = self.arg(hidden, args)
        masked = self.arg(last, args)
        if masked is args[self.scaled]:
            return []
        writer, (batch, q, k) = writer_at(text, {"batch": math.prod(self.sizes.batch), "q": self.sizes.queries, "k": self.sizes.keys})
        result.value = tirx.Var("score", "float32")
        writer.names[hash(result.value)] = writer.name("score")
        value = bare(writer.value(expression(masked, [*self.rows(batch, q, self._shape(last)), k])))
        head = f"{INLINE} float {epilogue.symbol}_score({epilogue.parameters}, int batch, int q, int k, float score) {{"
        return [head, *writer.lines, f"  return {value};", "}"]

    def rows(self, batch: Expr, row: Expr, shape: Sequence[int]) -> list[Expr]:
        """The index of a row among tensors that are cut into rows in the same order: all that scores are on their way."""
        if shape[-2] == self.sizes.queries:
            return [*unravel(batch, shape[:-2]), row]
        return unravel(batch * self.sizes.queries + row, shape[:-1])

    # -- results

    def sums(self) -> Sums:
        """What becomes of weighted sums of values."""
        result, start, last = Result(), self.second.outputs[0], self.spec.outputs[0]
        end = self.arg(last, {start: result.arg(self.spec.types[start])})
        steps = self._after(last, start)

        def place(batch: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
            index = [*self.rows(batch, m, self._shape(start)), n]
            for step, source in steps:
                index = _moved(step, index, self._shape(source), self._shape(step.outputs[0]))
            return tuple(index)

        def ending(total: Expr, index: Sequence[Expr]) -> Expr:
            result.value = total
            return expression(end, index)

        return Sums(math.prod(self.sizes.batch), self.sizes.queries, self.sizes.width, "float32", place, ending)

    def _after(self, value: int, start: int) -> list[tuple[Step, int]]:
        """The steps from the second product to the result, each with the operand that comes from it."""
        if value == start:
            return []
        step = self.makers[value]
        for source in step.inputs:
            if source is not None and self._comes_from(source, start):
                return [*self._after(source, start), (step, source)]
        raise self.refused("its result comes from elsewhere")

    def _comes_from(self, value: int, start: int) -> bool:
        step = self.makers.get(value)
        return value == start or (step is not None and any(i is not None and self._comes_from(i, start) for i in step.inputs))

    # -- expressions

    def arg(self, value: int, args: dict[int, Arg]) -> Arg:
        """A value as an expression of what is in memory and of `args`, to which those on the way are added."""
        if value not in args:
            args[value] = self._arg(value, args)
        args[value].uses += 1
        return args[value]

    def _arg(self, value: int, args: dict[int, Arg]) -> Arg:
        kind = self.spec.types[value]
        if value in self.buffers:
            buffer = self.buffers[value]
            return Arg(kind, tensor=lambda *index: tirx.BufferLoad(buffer, list(index)), operand=value)
        if value in self.numbers:
            return Arg(kind, number=self.numbers[value])
        step = self.makers[value]
        op: Any = step.op
        if op.name == "Range":
            start, delta = (tirx.const(int(n), kind.dtype.name) for n in (op.start, op.delta))
            return Arg(kind, body=lambda index, read: start + index[0].astype(kind.dtype.name) * delta)
        operands = [None if i is None else self.arg(i, args) for i in step.inputs]
        if op.name in (*RESHAPES, "Transpose", "Expand"):
            (source,) = operands[:1]
            assert source is not None
            return Arg(kind, body=_view(step, source, kind))
        if op.name not in ELEMENTS:
            raise self.refused(f"{op.name} is among its masks")
        return Arg(kind, body=lambda index, read: ELEMENTS[op.name](op, kind, index, read, *operands))


def _buffer(k: int, kind: TensorType) -> Any:
    return tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, f"in{k}", layout=None)


def _vectors(name: str, rows: Rows) -> Vectors:
    return Vectors(name, rows.steps, rows.row, rows.offset)


def _view(step: Step, source: Arg, kind: TensorType) -> Callable[[Sequence[Expr], Read], Expr]:
    """The element of a view at an index."""
    op: Any = step.op

    def body(index: Sequence[Expr], read: Read) -> Expr:
        if op.name == "Expand":
            return read(source, index)
        if op.name == "Transpose":
            at: list[Expr] = [None] * len(index)
            for k, p in zip(index, op.perm, strict=True):
                at[p % len(index)] = k
            return read(source, at)
        return read(source, unravel(ravel(index, kind.static_shape), source.shape))

    return body


def _moved(step: Step, index: list[Expr], old: Sequence[int], new: Sequence[int]) -> list[Expr]:
    """Where a step puts the element at an index."""
    op: Any = step.op
    if op.name == "Transpose":
        return [index[p % len(index)] for p in op.perm]
    return unravel(ravel(index, old), new) if op.name in RESHAPES else index
