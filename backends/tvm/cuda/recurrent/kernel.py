"""The kernel of a recurrent layer: its sizes, its activations, its parameters; what it does is `device/layer.cuh`."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.recurrent.activations import functions, number
from lepton_compiler.backends.tvm.cuda.recurrent.arrangement import COUNTER_BYTES, Arrangement
from lepton_compiler.backends.tvm.cuda.recurrent.problem import Problem, problem_of
from lepton_compiler.backends.tvm.cuda.text.order import pointer
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.ir.types import FLOAT32, UINT8, TensorType
from lepton_compiler.ops.recurrent import LSTM
from lepton_compiler.ops.steps import RecurrentSteps

OPERANDS = ("gates", "r", "bias", "lengths", "initial_h", "initial_c", "peepholes", "scales")
"""Of `RecurrentSteps`, as the device code calls them."""
WEIGHTS = ("r", "bias", "peepholes", "scales")
"""Those that each unit reads once, at the start."""


@dataclass(frozen=True)
class LayerKernel:
    """A kernel's text.

    Attributes:
        text: one chunk, which stands on `library`.
        launch: how it is started; its parameters are inputs, outputs, then `spaces`.
        spaces: memory between blocks: the states that they exchange, and the counter of the barrier.
    """

    text: str
    launch: Launch
    spaces: tuple[TensorType, ...]


def steps_of(spec: KernelSpec) -> Step | None:
    """The operator of a kernel of recurrent steps, None for another kernel."""
    return spec.steps[0] if len(spec.steps) == 1 and isinstance(spec.steps[0].op, RecurrentSteps) else None


def problem_of_spec(spec: KernelSpec, step: Step) -> Problem:
    """The sizes of a kernel of recurrent steps."""
    assert isinstance(step.op, RecurrentSteps) and step.inputs[0] is not None
    return problem_of(step.op.recurrent, spec.types[step.inputs[0]])


def layer_kernel(symbol: str, spec: KernelSpec, step: Step, a: Arrangement) -> LayerKernel:
    """The kernel of a spec that `steps_of` knows, called `symbol`."""
    problem = problem_of_spec(spec, step)
    spaces = _spaces(problem) if a.waits(problem) else ()
    names = [*(f"p{k}" for k in range(spec.inputs)), *(f"out{k}" for k in range(len(spec.outputs)))]
    types = [C_TYPES[t.dtype.name] for t in spec.types[: spec.inputs]]
    formals = [pointer(t, f"p{k}", written=False, weight=k in spec.constants) for k, t in enumerate(types)]
    formals += [pointer("float", n, written=True, weight=False) for n in names[spec.inputs :]]
    if spaces:
        names += ["exchange", "counter"]
        formals += ["float *__restrict__ exchange", "unsigned *__restrict__ counter"]
    layer = _arguments(symbol, spec, step, "exchange" if spaces else "nullptr", "counter" if spaces else "nullptr")
    lines = [
        *_shape(symbol, spec, step, problem, a),
        f'extern "C" __global__ void __launch_bounds__({a.threads}, 1) {symbol}({", ".join(formals)}) {{',
        "  extern __shared__ __align__(1024) char lepton_tiles[];",
        f"  lepton::Layer<{symbol}_layer> layer = {{{', '.join(layer)}}};",
        "  layer.run(lepton_tiles);",
        "}",
        "",
    ]
    cleared = (len(names) - 1,) if spaces else ()
    launch = Launch(
        symbol,
        (a.blocks(problem), 1, 1),
        (a.threads, 1, 1),
        tuple(range(len(names))),
        a.shared_bytes(problem),
        together=bool(spaces),
        cleared=cleared,
    )
    return LayerKernel("\n".join(lines), launch, spaces)


def _spaces(problem: Problem) -> tuple[TensorType, ...]:
    """Two hidden states, of which one is read while the other is written, a third one with two products; and the counter."""
    states = (1 + problem.products, problem.directions, problem.batch, problem.hidden)
    return TensorType(FLOAT32, states), TensorType(UINT8, (COUNTER_BYTES,))


def _arguments(symbol: str, spec: KernelSpec, step: Step, exchange: str, counter: str) -> list[str]:
    """The pointers of the layer, in the order of its members."""
    given, scalars = [*step.inputs, *[None] * (len(OPERANDS) - len(step.inputs))], dict(spec.scalars)
    outputs = [f"out{spec.outputs.index(n)}" for n in step.outputs]
    operands = ["nullptr" if n is None else f"{symbol}_c{n}" if n in scalars else f"p{n}" for n in given]
    return [*operands, *outputs, *["nullptr"] * (3 - len(outputs)), exchange, counter]


def _scalars(symbol: str, spec: KernelSpec) -> list[str]:
    """Constants of one element, which are no parameters."""
    lines = []
    for n, value in spec.scalars:
        kind = spec.types[n].dtype
        text = number(float(value)) if kind == FLOAT32 else str(int(value))
        lines.append(f"static __device__ const {C_TYPES[kind.name]} {symbol}_c{n}[1] = {{{text}}};")
    return lines


def _shape(symbol: str, spec: KernelSpec, step: Step, problem: Problem, a: Arrangement) -> list[str]:
    """The structure of constants that the device code asks for."""
    assert isinstance(step.op, RecurrentSteps)
    layer, given = step.op.recurrent, dict(zip(OPERANDS, step.inputs, strict=False))
    sizes = {
        "TIME": problem.time, "BATCH": problem.batch, "DIRECTIONS": problem.directions, "HIDDEN": problem.hidden, "PARTS": a.parts,
        "UNITS": a.units, "SLICES": a.slices, "ROWS": a.rows, "TILE": a.tile, "THREADS": a.threads, "CHUNKS": a.chunks, "HELD": a.held,
    }  # fmt: skip
    flags = {
        "BATCH_FIRST": bool(layer.layout),
        "CONSTANT": all(given.get(name) in (None, *spec.constants, *dict(spec.scalars)) for name in WEIGHTS),
        "BACKWARD": layer.direction == "reverse",
        "INPUT_FORGET": isinstance(layer, LSTM) and layer.input_forget,
        **{name.upper(): given.get(name) is not None for name in OPERANDS[2:]},
        "SCALES_OF_ROWS": (scales := given.get("scales")) is not None and spec.types[scales].rank == 2,
    }
    return [
        *_scalars(symbol, spec),
        f"struct {symbol}_layer {{",
        f"  static constexpr lepton::Cell CELL = lepton::Cell::{problem.cell};",
        f"  static constexpr int {', '.join(f'{name} = {size}' for name, size in sizes.items())};",
        f"  static constexpr bool {', '.join(f'{name} = {str(flag).lower()}' for name, flag in flags.items())};",
        f"  using Length = {_c_type(spec, given.get('lengths'), 'int')};",
        f"  using Weight = {_c_type(spec, given.get('r'), 'float')};",
        *functions(layer),
        "};",
    ]


def _c_type(spec: KernelSpec, operand: int | None, absent: str) -> str:
    return absent if operand is None else C_TYPES[spec.types[operand].dtype.name]
