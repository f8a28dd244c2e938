"""Machines other than the one that compiles: 64-bit and 32-bit ARM, RISC-V, and the Cortex-M microcontrollers.

Plain tables. `lepton_compiler.target` turns a row into a `Target`; the toolchain and the emulator read the names by which
compilers and the emulator know the machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cpu:
    """The fields of `Target` that an LLVM processor name decides.

    `extensions` are those that kernels ask for; LLVM derives what else it may use from the name.
    """

    arch: str
    vector_bits: int
    vector_registers: int
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """A target that is no x86.

    Attributes:
        help: a line for `lepton targets`.
        arch: instruction set: `aarch64`, `arm`, `riscv64`, `thumb`.
        triple: LLVM's.
        cpu: the processor that is meant if nobody says one.
        system: `linux`, or `none` for a microcontroller without an operating system.
        pointer_bits: width of an address.
        float_abi: how numbers are passed: `hard` in registers of the FPU, `soft` in core registers, empty where there is no choice.
        features: LLVM attributes on top of what the processor's name implies.
    """

    help: str
    arch: str
    triple: str
    cpu: str
    system: str = "linux"
    pointer_bits: int = 64
    float_abi: str = ""
    features: tuple[str, ...] = ()


def _micro(text: str, triple: str, cpu: str, float_abi: str, features: tuple[str, ...] = ()) -> Machine:
    return Machine(text, "thumb", triple, cpu, "none", 32, float_abi, features)


MACHINES: dict[str, Machine] = {
    "arm64": Machine("64-bit ARM, Linux; armv8-a unless --cpu or features (dotprod, i8mm, fp16) say more", "aarch64", "aarch64-linux-gnu", "generic"),
    "armv7": Machine("32-bit ARM with NEON, Linux, hard-float", "arm", "armv7-linux-gnueabihf", "cortex-a7", "linux", 32, "hard"),
    "riscv64": Machine("64-bit RISC-V, Linux, rv64gc", "riscv64", "riscv64-linux-gnu", "generic-rv64", features=("+m", "+a", "+f", "+d", "+c")),
    "cortex-m0plus": _micro("microcontroller, armv6-m: no FPU", "thumbv6m-unknown-none-eabi", "cortex-m0plus", "soft"),
    "cortex-m3": _micro("microcontroller, armv7-m: no FPU", "thumbv7m-unknown-none-eabi", "cortex-m3", "soft"),
    "cortex-m4": _micro("microcontroller, armv7e-m: DSP, FPU of single precision", "thumbv7em-unknown-none-eabihf", "cortex-m4", "hard"),
    "cortex-m7": _micro("microcontroller, armv7e-m: DSP, FPU of single precision", "thumbv7em-unknown-none-eabihf", "cortex-m7", "hard", ("-fp64",)),
    "cortex-m33": _micro("microcontroller, armv8-m: DSP, FPU of single precision", "thumbv8m.main-unknown-none-eabihf", "cortex-m33", "hard"),
    "cortex-m55": _micro(
        "microcontroller, armv8.1-m: Helium vectors, DSP, FPU; ,-mve for a core without vectors", "thumbv8.1m.main-unknown-none-eabihf", "cortex-m55", "hard",
        ("-fp64",),
    ),
}  # fmt: skip
"""By target name."""

CPUS: dict[str, Cpu] = {
    "generic": Cpu("aarch64", 128, 32, l2_bytes=256 << 10),
    "cortex-a53": Cpu("aarch64", 128, 32, l2_bytes=256 << 10),
    "cortex-a55": Cpu("aarch64", 128, 32, l2_bytes=128 << 10, extensions=("dotprod", "fp16")),
    "cortex-a72": Cpu("aarch64", 128, 32),
    "cortex-a76": Cpu("aarch64", 128, 32, l1_bytes=64 << 10, l2_bytes=256 << 10, extensions=("dotprod", "fp16")),
    "neoverse-n1": Cpu("aarch64", 128, 32, l1_bytes=64 << 10, l2_bytes=1 << 20, extensions=("dotprod", "fp16")),
    "apple-m1": Cpu("aarch64", 128, 32, l1_bytes=128 << 10, l2_bytes=4 << 20, extensions=("dotprod", "fp16")),
    "cortex-a7": Cpu("arm", 128, 16, l2_bytes=256 << 10),
    "cortex-a9": Cpu("arm", 128, 16, l2_bytes=256 << 10),
    "cortex-a15": Cpu("arm", 128, 16),
    "generic-rv64": Cpu("riscv64", 0, 24, l2_bytes=256 << 10),
    "cortex-m0plus": Cpu("thumb", 0, 6, 16 << 10, 64 << 10),
    "cortex-m3": Cpu("thumb", 0, 8, 16 << 10, 64 << 10),
    "cortex-m4": Cpu("thumb", 0, 24, 32 << 10, 128 << 10, ("dsp", "fpu")),
    "cortex-m7": Cpu("thumb", 0, 24, 32 << 10, 256 << 10, ("dsp", "fpu")),
    "cortex-m33": Cpu("thumb", 0, 24, 32 << 10, 128 << 10, ("dsp", "fpu")),
    "cortex-m55": Cpu("thumb", 128, 8, 32 << 10, 256 << 10, ("dsp", "fpu", "mve")),
}
"""By LLVM's name. Registers of microcontrollers without vectors are those of the FPU where there is one."""


@dataclass(frozen=True)
class Lesser:
    """A processor that its maker has built without an extension.

    Attributes:
        cpu: what remains.
        features: LLVM attributes instead of the target's own.
    """

    cpu: Cpu
    features: tuple[str, ...]


_SCALAR_M55 = Lesser(
    Cpu("thumb", 0, 24, 32 << 10, 256 << 10, ("dsp", "fpu")), ("-v8.1m.main", "-mve", "-mve.fp", "-lob", "-fullfp16", "-fp64")
)
LESSER: dict[tuple[str, str], Lesser] = {("cortex-m55", "mve"): _SCALAR_M55, ("cortex-m55", "mve.fp"): _SCALAR_M55}
"""By processor, and the extension that the user takes away. Without vectors, the Cortex-M55 is compiled for as scalar code of armv8-m, which
more emulators know; vectors of integers alone are not used."""
