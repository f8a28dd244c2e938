"""Operands as the device library reads them: which way their tiles lie, and how many elements are copied at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.cuda.tensor_cores.problem import BYTES, C_TYPES, Codes, Convolution, Element, Matrix

INT_LIMIT = 1 << 31
WORD = 4
"""Bytes that are turned at once, and the fewest that are copied asynchronously."""


@dataclass(frozen=True)
class Source:
    """One operand.

    Attributes:
        type: C++ type of the source.
        value: expression that makes one.
        along_k: neighbours in memory are neighbours in the sum.
        vector: elements that are contiguous and aligned.
        declarations: text before the kernel.
        tile_type: C++ template of its tiles, where they are changed on their way: `TurnedTile` or `ConvertedTile`.
        pointers: parameters of the kernel that it reads.
    """

    type: str
    value: str
    along_k: bool
    vector: int
    declarations: str = ""
    tile_type: str = ""
    pointers: frozenset[str] = frozenset()

    def tile(self, extent: int, depth: int, threads: int, weights: frozenset[str] = frozenset(), fragments: bool = True) -> str:
        """C++ type of a tile of it.

        Args:
            weights: the pointers to what nothing writes.
            fragments: whether tensor cores multiply.
        """
        last = "" if fragments else ", false"
        tile = f"lepton::Tile<{self.type}, {extent}, {depth}, {_bool(self.along_k)}, {self.vector}, {threads}{last}>"
        if self.tile_type:
            tile = f"lepton::{self.tile_type}<{self.type}, {extent}, {depth}, {threads}>"
        return f"lepton::Constant<{tile}>" if self.pointers and self.pointers <= weights else tile


def matrix_source(
    matrix: Matrix, extent: int, depth: int, stride: int, stride_k: int, batch: Sequence[int], along_k: bool | None = None
) -> Source:
    """A matrix, of which `stride` lies between neighbours along its own axis and `stride_k` along the sum.

    `along_k` says which way its tiles lie, where the user is not free to take either.
    """
    if matrix.codes is not None:
        return _converted(matrix, matrix.codes, extent, stride, batch)
    steps = [matrix.offset, *(s for s, count in zip(matrix.batch, batch, strict=True) if count > 1)]
    # Bytes and 32-bit floats: tensor cores take the former along k only.
    if along_k is None:
        along_k = stride_k == 1 or stride != 1 or BYTES[matrix.element] == 1
    along, across = ((depth, stride_k), (extent, stride)) if along_k else ((extent, stride), (depth, stride_k))
    vector = _contiguous(matrix.element, along, across, steps)
    turned = along_k and BYTES[matrix.element] == 1 and vector < WORD <= _contiguous(matrix.element, across, along, steps)
    kind = C_TYPES[matrix.element]
    reach = (extent - 1) * stride + (depth - 1) * stride_k
    type = f"lepton::Strided<{kind}, {_offset(reach)}, {extent}, {stride}, {stride_k}>"
    first = f" + {matrix.offset}" if matrix.offset else ""
    value = f"{{reinterpret_cast<const {kind}*>({matrix.pointer}){first}{batch_offset(batch, matrix.batch)}}}"
    return Source(type, value, along_k, vector, tile_type="TurnedTile" if turned else "", pointers=frozenset([matrix.pointer]))


def _converted(matrix: Matrix, codes: Codes, extent: int, stride: int, batch: Sequence[int]) -> Source:
    """A matrix that is stored as codes along the sum, `stride` of them to a row."""
    per_word = 32 // codes.bits
    words = batch_offset(batch, [step // per_word for step in matrix.batch])
    scales = batch_offset(batch, [step // stride * codes.groups for step in matrix.batch])
    number = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[matrix.element]
    type = f"lepton::Codes<lepton::Number::{number}, {codes.bits}, {_bool(codes.signed)}, {extent}, {stride // per_word}, {codes.group}, {codes.groups}>"
    value = f"reinterpret_cast<const unsigned*>({matrix.pointer}){words}, {f'{codes.scales}{scales}' if codes.scales else 'nullptr'}"
    return Source(type, f"{{{value}}}", True, 4, tile_type="ConvertedTile", pointers=frozenset({matrix.pointer, codes.scales} - {""}))


def _contiguous(element: Element, along: tuple[int, int], across: tuple[int, int], steps: Sequence[int]) -> int:
    """Elements that are contiguous and aligned along an axis, given as size and stride, of a matrix of which `across` is the other axis."""
    return _vector(element, [along[0], *steps, *([across[1]] if across[0] > 1 else [])]) if along[1] == 1 else 1


def batch_offset(batch: Sequence[int], steps: Sequence[int]) -> str:
    """` + ...`: where the matrix number `batch` begins, the last axis of the batch counting fastest."""
    terms, inner = [], math.prod(batch)
    for count, step in zip(batch, steps, strict=True):
        inner //= count
        if step and count > 1:
            index = "lepton_batch" if inner == 1 else f"lepton_batch / {inner}"
            index = index if inner * count == math.prod(batch) else f"{index} % {count}"
            terms.append(f" + ({index}) * {step}LL")
    return "".join(terms)


def windows_source(conv: Convolution, symbol: str) -> Source:
    """The windows of a convolution's input; `batch` is what the layout makes of it."""
    own = conv.channels // conv.groups
    if conv.channels_last:
        images, steps = conv.images, (conv.height * conv.width * conv.channels, conv.width * conv.channels, conv.channels, 1)
        base = batch_offset((conv.groups,), (own,))
        vector = _vector(conv.element, [own, conv.channels])
    else:
        images, steps = 1, (0, conv.width, 1, conv.height * conv.width)
        base = batch_offset((conv.images, conv.groups), (conv.channels * steps[3], own * steps[3]))
        vector = 1
    kind = C_TYPES[conv.element]
    value = f"{{reinterpret_cast<const {kind}*>({conv.image}){base}, {'lepton_fill' if conv.filled else '0u'}}}"
    reach = images * conv.height * conv.width * conv.channels
    along_k = conv.channels_last or BYTES[conv.element] == 1
    return Source(
        f"lepton::Windows<{kind}, {_offset(reach)}, {symbol}_windows>", value, along_k, vector, _geometry(conv, symbol, images, steps, own)
    )


def _geometry(conv: Convolution, symbol: str, images: int, steps: tuple[int, int, int, int], channels: int) -> str:
    rows = {
        "batch": images,
        "height": conv.height,
        "width": conv.width,
        "channels": channels,
        "out_height": conv.out_height,
        "out_width": conv.out_width,
        "kernel_h": conv.kernel[0],
        "kernel_w": conv.kernel[1],
        "stride_h": conv.strides[0],
        "stride_w": conv.strides[1],
        "pad_top": conv.pads[0],
        "pad_left": conv.pads[1],
        "dilation_h": conv.dilations[0],
        "dilation_w": conv.dilations[1],
    }
    constants = ", ".join(f"{name} = {value}" for name, value in rows.items())
    places = ", ".join(f"{name} = {value}" for name, value in zip(("image", "row", "column", "channel"), steps, strict=True))
    lines = [
        f"struct {symbol}_windows {{",
        f"  static constexpr int {constants};",
        f"  static constexpr long long {places};",
        f"  static constexpr bool channels_first = {_bool(not conv.channels_last)}, filled = {_bool(conv.filled)};",
        "};",
        "",
    ]
    return "\n".join(lines)


def _vector(element: Element, multiples: Sequence[int]) -> int:
    """The most elements, up to 16 bytes, that divide all of `multiples`."""
    common = math.gcd(16 // BYTES[element], *multiples)
    return common & -common


def _offset(reach: int) -> str:
    return "int" if abs(reach) < INT_LIMIT else "long long"


def _bool(value: bool) -> str:
    return "true" if value else "false"
