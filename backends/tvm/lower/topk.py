"""The k best elements of a line, by a heap of the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, lowers
from lepton_compiler.backends.tvm.lower.ordering import order_key
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, load, nest, procedure, repeat_while, store, when


@lowers("TopK")
def lower_topk(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Heap selection, then heap sort (J. W. J. Williams, 1964): n log k steps for the best k of n.

    The results' own lines hold the heap, its worst element first.
    """
    axis = op.axis % len(x.shape)
    size, k = x.shape[axis], int(op.k)
    across = [d for a, d in enumerate(x.shape) if a != axis]

    def write(x: Arg, values: Buffer, indices: Buffer) -> None:
        with nest(across, x.type.size) as line:
            heap = _Heap(values, indices, line[:axis], line[axis:], op.largest)
            with T.serial(0, k) as slot:
                heap.put(slot, x[[*line[:axis], slot, *line[axis:]]], slot.astype("int64"))
            with T.serial(0, k // 2) as step:
                heap.sink(k // 2 - 1 - step, k, *heap.at(k // 2 - 1 - step))
            with T.serial(k, size) as place:
                value = x[[*line[:axis], place, *line[axis:]]]
                with when(heap.ahead(value, heap.at(0)[0])):
                    heap.sink(0, k, value, place.astype("int64"))
            with T.serial(0, k - 1) as step:
                heap.drop(k - 1 - step)

    return procedure(ctx, "topk", [x], write if k else _nothing)


def _nothing(x: Arg, values: Buffer, indices: Buffer) -> None:
    T.evaluate(0)


@dataclass(frozen=True)
class _Heap:
    """Pairs of value and index along one line of two buffers: slots 2s + 1 and 2s + 2 come before slot s in the result."""

    values: Buffer
    indices: Buffer
    before: Sequence[Expr]
    after: Sequence[Expr]
    largest: bool

    def at(self, slot: Expr | int) -> tuple[Expr, Expr]:
        """The pair in a slot."""
        place = [*self.before, slot, *self.after]
        return load(self.values, place), load(self.indices, place)

    def put(self, slot: Expr | int, value: Expr, index: Expr) -> None:
        """Fill a slot."""
        place = [*self.before, slot, *self.after]
        store(self.values, place, value)
        store(self.indices, place, index)

    def ahead(self, a: Expr, b: Expr) -> Expr:
        """Whether `a` is better than `b`, NaN being larger than everything."""
        return order_key(a) > order_key(b) if self.largest else order_key(a) < order_key(b)

    def precedes(self, a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> Expr:
        """Whether pair `a` comes before pair `b`: the lower index decides among equals."""
        return tirx.Or(self.ahead(a[0], b[0]), tirx.And(order_key(a[0]).equal(order_key(b[0])), a[1] < b[1]))

    def sink(self, slot: Expr | int, end: Expr | int, value: Expr, index: Expr) -> None:
        """Put a pair at `slot` or below it, in the heap of the first `end` slots, whatever was at `slot` before."""
        mine = Cell(sc.type_of(value), value), Cell("int64", index)
        hole, child = Cell("int32", slot), Cell("int32", 2 * slot + 1)
        with repeat_while(child.get() < end):
            with when(child.get() + 1 < end), when(self.precedes(self.at(child.get()), self.at(child.get() + 1))):
                child.set(child.get() + 1)
            stays = self.precedes(self.at(child.get()), (mine[0].get(), mine[1].get()))
            with T.If(stays):
                with T.Then():
                    child.set(end)
                with T.Else():
                    self.put(hole.get(), *self.at(child.get()))
                    hole.set(child.get())
                    child.set(2 * hole.get() + 1)
        self.put(hole.get(), mine[0].get(), mine[1].get())

    def drop(self, last: Expr) -> None:
        """Exchange the worst pair with the one in slot `last`, which leaves a heap of `last` slots."""
        worst = self.at(0)
        spare = Cell(sc.type_of(worst[0]), worst[0]), Cell("int64", worst[1])
        self.sink(0, last, *self.at(last))
        self.put(last, spare[0].get(), spare[1].get())
