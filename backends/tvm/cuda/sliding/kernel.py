"""The text of a kernel of sliding windows: its sizes, the functions that tell of its elements, and one call of the library."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.ending import names_of
from lepton_compiler.backends.tvm.cuda.sliding.choose import holds, share_of, unrolled
from lepton_compiler.backends.tvm.cuda.sliding.functions import Functions
from lepton_compiler.backends.tvm.cuda.sliding.layer import Layer
from lepton_compiler.backends.tvm.cuda.sliding.problem import Share
from lepton_compiler.backends.tvm.cuda.unit import WINDOWS
from lepton_compiler.gpus import Gpu

STORED = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "s8", "uint8": "u8"}
"""The library's names of types of elements."""


def windows_kernel(kernel: KernelText, layer: Layer, gpus: Sequence[Gpu]) -> None:
    """Add the function of a layer.

    Raises:
        UsageError: tuning chose parameters that do not fit.
    """
    share, symbol, names = share_of(layer.windows, kernel.choice, gpus), f"{kernel.symbol}_windows", names_of(kernel)
    kernel.support.chunks.setdefault(WINDOWS, WINDOWS + "\n")
    kernel.functions.append(_sizes(symbol, layer, share))
    functions, output = Functions(kernel, symbol, layer), names[-1]
    parameters = {hash(buffer): name for buffer, name in zip(kernel.buffers, names, strict=True)}
    weighted = [] if layer.weights is None else [parameters[hash(layer.weights)]]
    zero = [] if layer.weights is None else [functions.weight_zero()]
    arguments = [parameters[hash(layer.image)], *weighted, functions.fill(), *zero, output, functions.value(), functions.place()]
    writer = kernel.writer()
    writer.written.add(output)
    writer.emit(f"lepton::sliding::{'pool' if layer.weights is None else 'convolve'}<{symbol}>({', '.join(arguments)});")
    kernel.add(writer, (share.blocks(layer.windows), layer.windows.images, 1), (share.lanes, share.across, share.down))


def _sizes(symbol: str, layer: Layer, share: Share) -> str:
    """The struct of constants that the library takes."""
    windows = layer.windows
    _, wide, high = share.groups(windows)
    constants = {
        "HEIGHT": windows.height,
        "WIDTH": windows.width,
        "CHANNELS": windows.channels,
        "MULTIPLIER": windows.multiplier,
        "OUT_HEIGHT": windows.out_height,
        "OUT_WIDTH": windows.out_width,
        **_pairs("KERNEL", windows.kernel),
        **_pairs("STRIDE", windows.strides),
        **_pairs("DILATION", windows.dilations),
        **_pairs("PAD", windows.pads),
        "VECTOR": share.vector,
        "COLUMNS": share.columns,
        "ROWS": share.rows,
        "LANES": share.lanes,
        "ACROSS": share.across,
        "DOWN": share.down,
        "GROUPS_X": wide,
        "GROUPS_Y": high,
        "UNROLL": unrolled(windows, share),
    }
    listed = ", ".join(f"{name} = {value}" for name, value in constants.items())
    return "\n".join(
        [
            f"struct {symbol} {{",
            f"  using Element = {C_TYPES[str(layer.image.dtype)]};",
            f"  using Sum = {C_TYPES[layer.sums.kind]};",
            f"  static constexpr lepton::sliding::Stored STORED = lepton::sliding::Stored::{STORED[windows.element]};",
            f"  static constexpr lepton::sliding::Taken TAKEN = lepton::sliding::Taken::{windows.taken};",
            f"  static constexpr bool HELD = {'true' if holds(windows, share.vector) else 'false'};",
            f"  static constexpr int {listed};",
            "};",
            "",
        ]
    )


def _pairs(name: str, values: tuple[int, int]) -> dict[str, int]:
    return {f"{name}_Y": values[0], f"{name}_X": values[1]}
