"""Matrix products and convolutions as the generator takes them: sizes, and where the elements lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Arithmetic = Literal["float32", "tf32", "float16", "bfloat16", "int8"]
"""What is multiplied: float32 exactly on ordinary cores, the others on tensor cores. Sums are float32, or int32 for int8."""
Element = Literal["float32", "float16", "bfloat16", "int8", "uint8"]

C_TYPES: dict[Element, str] = {
    "float32": "float",
    "float16": "unsigned short",
    "bfloat16": "unsigned short",
    "int8": "signed char",
    "uint8": "unsigned char",
}
"""Elements as they are moved; 16-bit floats are only looked at by tensor cores."""
BYTES: dict[Element, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}


@dataclass(frozen=True)
class Codes:
    """How floats are stored as integers that are converted as they are read: along the sum, in rows of whole 16 bytes.

    Attributes:
        bits: 8, or 4: two to a byte, the first one in the low bits.
        signed: whether they are.
        scales: the kernel's parameter with a scale of float32 for each group of each row; empty where numbers are the integers.
        group: consecutive elements that share one, a multiple of a word of them.
        groups: scales of a row.
    """

    bits: Literal[4, 8]
    signed: bool
    scales: str = ""
    group: int = 0
    groups: int = 0


@dataclass(frozen=True)
class Matrix:
    """An operand of a product, or a batch of them.

    Attributes:
        pointer: the kernel's parameter that points at it, aligned to 16 bytes.
        element: type of its elements.
        row: elements between neighbours in a column, that is, from a row to the next.
        column: elements between neighbours in a row.
        batch: elements from one matrix to the next along each axis of the batch; 0 where all share one.
        offset: elements before the first one.
        depth: elements along the sum, where zeros follow those that are multiplied; 0 where none do.
        codes: how they are stored, if not as what they are; `row`, `column`, and `batch` count them all the same.
    """

    pointer: str
    element: Element
    row: int
    column: int
    batch: tuple[int, ...] = ()
    offset: int = 0
    depth: int = 0
    codes: Codes | None = None


@dataclass(frozen=True)
class Gemm:
    """out[batch][m][n] = sum over k of a[batch][m][k] * b[batch][k][n].

    Attributes:
        zero_a: of integers: whether the epilogue's helpers have `int SYMBOL_zero_a(<all pointers>, int batch, int m, int n)`, the zero point of
            row m, whose product with the sum of B's column is taken off the sum.
        zero_b: likewise `SYMBOL_zero_b`, of column n, with the sum of A's row.
    """

    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    arithmetic: Arithmetic
    batch: tuple[int, ...] = ()
    zero_a: bool = False
    zero_b: bool = False


@dataclass(frozen=True)
class Convolution:
    """Correlation of images with kernels, in either layout.

    The output is a matrix per batch, which the epilogue places: channels last, `m` counts pixels (image, row, column), `n` the channels of
    a group, and the batch is the group; channels first, `m` counts the channels of a group, `n` the pixels of an image, and the batch counts
    (image, group).

    Attributes:
        image: parameter of the input, [N, H, W, C] or [N, C, H, W].
        weight: parameter of the weights, [groups, out channels of a group, depth]: `pack_weights` makes them.
        element, weight_element: types of their elements.
        channels, out_channels: of all groups.
        pads: top, left, bottom, right.
        filled: of integers: whether the epilogue's helpers have `int SYMBOL_fill(<all pointers>, int batch, int m, int n)`, the same number for
            all: what lies outside the image, where that is not 0.
        codes: how weights are stored, as of `Matrix`.
        zero_a, zero_b: as of `Gemm`; A are the windows where channels come last, the weights where they come first.
    """

    image: str
    weight: str
    element: Element
    weight_element: Element
    arithmetic: Arithmetic
    images: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    channels_last: bool = True
    filled: bool = False
    zero_a: bool = False
    zero_b: bool = False
    codes: Codes | None = None

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return (self.height + self.pads[0] + self.pads[2] - self.dilations[0] * (self.kernel[0] - 1) - 1) // self.strides[0] + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.width + self.pads[1] + self.pads[3] - self.dilations[1] * (self.kernel[1] - 1) - 1) // self.strides[1] + 1

    @property
    def depth(self) -> int:
        """Products in a sum."""
        return math.prod(self.kernel) * (self.channels // self.groups)


@dataclass(frozen=True)
class Epilogue:
    """What becomes of a finished sum, and the kernel's parameters.

    Attributes:
        symbol: two device functions are called `SYMBOL_value` and `SYMBOL_place`. Both take all parameters of the kernel and then
            `int batch, int m, int n`; `_value` also takes the sum, `float` or `int`, and returns an element of the output; `_place` returns its
            offset in the output, in elements.
        helpers: text of the two.
        parameters: of the kernel, as declared.
        arguments: their names.
        output: the parameter that is written.
        type: C type of the output's elements.
        size: bytes of one.
        rows: neighbours along `n` are neighbours in the output, and rows are aligned as far as their length allows.
        weights: parameters that nothing writes while a session is open: what kernels may read before the ones before them are done.
        known_fill: whether `SYMBOL_fill`, if there is one, gives a number and reads nothing.
        several: whether there is `SYMBOL_values` instead of `SYMBOL_value`, for neighbours along `n`, up to `vector_of` of them, the first a multiple
            of how many they are: it takes an array of sums, and then the array of elements that it writes.
    """

    symbol: str
    helpers: str
    parameters: str
    arguments: tuple[str, ...]
    output: str
    type: str
    size: int
    rows: bool = True
    weights: frozenset[str] = frozenset()
    known_fill: bool = False
    several: bool = False

    def value(self, total: str) -> list[str]:
        """The definition of `lepton_value`, what makes elements of sums of type `total`, in a kernel."""
        names, at = ", ".join(self.arguments), "lepton_batch, lepton_m, lepton_n"
        formals = "int lepton_batch, int lepton_m, int lepton_n"
        if self.several:
            call = f"{self.symbol}_values({names}, {at}, lepton_sums, lepton_elements);"
            return [f"  auto lepton_value = [&]({formals}, const auto& lepton_sums, auto& lepton_elements) {{ {call} }};"]
        return [
            f"  auto lepton_one = [&]({formals}, {total} lepton_sum) {{ return {self.symbol}_value({names}, {at}, lepton_sum); }};",
            "  lepton::Each<decltype(lepton_one)> lepton_value{lepton_one};",
        ]


def vector_of(columns: int, size: int) -> int:
    """Elements of `size` bytes that are stored at once in rows of `columns`: up to 16 bytes, and eight elements."""
    return math.gcd(columns, min(8, 16 // size))


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    Attributes:
        symbol: name of the `__global__` function.
        arguments: names of its parameters: those of the epilogue, and `workspace`.
        shared_bytes: dynamic shared memory; more than 48 KiB must be allowed by cuFuncSetAttribute.
        before: code for this compute capability, as 90, and later ones does without the launch; 0 where none does.
    """

    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[str, ...]
    shared_bytes: int = 0
    before: int = 0


@dataclass(frozen=True)
class Plan:
    """Kernels that compute a product, one after the other.

    Attributes:
        text: CUDA C, which stands on `library()`.
        workspace_bytes: scratch memory in global memory; 0 where there is no parameter `workspace`.
        seconds: estimate on the device that it was made for.
    """

    text: str
    launches: tuple[Launch, ...]
    workspace_bytes: int = 0
    seconds: float = field(default=0.0, compare=False)
