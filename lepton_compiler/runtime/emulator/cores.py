"""What the emulator must know of each instruction set: registers, modes, how to switch on the FPU, lengths of instructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.target import Target


@dataclass(frozen=True)
class Core:
    """A core of unicorn, ready to run.

    Attributes:
        engine: the `unicorn.Uc`.
        arguments: registers of the first pointers that a function takes.
        result: register of an integer result.
        floats: registers of the first numbers that a function takes, as single and as double; the first ones return a result too.
        stack: the stack pointer.
        link: the return address.
        returns: an instruction that returns.
        thumb: 1 where addresses of functions have their lowest bit set.
    """

    engine: Any
    arguments: tuple[int, ...]
    result: int
    floats: tuple[tuple[int, int], ...]
    stack: int
    link: int
    returns: bytes
    thumb: int


def make_core(target: Target) -> Core:
    """A core like the processor of `target`.

    Raises:
        UnsupportedError: the emulator does not know the instruction set, or not the extensions that the code may use.
    """
    match target.arch:
        case "aarch64":
            return _aarch64()
        case "arm":
            return _arm(target)
        case "thumb":
            return _thumb(target)
        case "riscv64":
            return _riscv()
    raise UnsupportedError(f"the emulator does not run {target.arch} code", hint="use run() on such a machine")


def _aarch64() -> Core:
    import unicorn as uc
    from unicorn import arm64_const as a

    engine = uc.Uc(uc.UC_ARCH_ARM64, uc.UC_MODE_ARM)
    engine.ctl_set_cpu_model(a.UC_CPU_ARM64_MAX)
    engine.reg_write(a.UC_ARM64_REG_CPACR_EL1, 3 << 20)
    arguments = tuple(getattr(a, f"UC_ARM64_REG_X{k}") for k in range(3))
    floats = tuple((getattr(a, f"UC_ARM64_REG_S{k}"), getattr(a, f"UC_ARM64_REG_D{k}")) for k in range(3))
    returns = bytes.fromhex("c0035fd6")
    return Core(engine, arguments, arguments[0], floats, a.UC_ARM64_REG_SP, a.UC_ARM64_REG_LR, returns, 0)


def _arm(target: Target) -> Core:
    import unicorn as uc
    from unicorn import arm_const as a

    models = {"cortex-a7": a.UC_CPU_ARM_CORTEX_A7, "cortex-a9": a.UC_CPU_ARM_CORTEX_A9, "cortex-a15": a.UC_CPU_ARM_CORTEX_A15}
    engine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_ARM)
    engine.ctl_set_cpu_model(models[target.cpu])
    engine.reg_write(a.UC_ARM_REG_C1_C0_2, engine.reg_read(a.UC_ARM_REG_C1_C0_2) | 0xF << 20)
    engine.reg_write(a.UC_ARM_REG_FPEXC, 1 << 30)
    return _arm_core(engine, bytes.fromhex("1eff2fe1"), 0)


def _thumb(target: Target) -> Core:
    import unicorn as uc
    from unicorn import arm_const as a

    newer = {"mve", "mve.fp", "lob", "fullfp16", "fp64", "cdecp0"} & {*target.extensions, *(f[1:] for f in target.features if f[0] == "+")}
    if newer:
        raise UnsupportedError(
            f"the emulator does not know {', '.join(sorted(newer))} of {target.cpu}",
            hint="run such code on the device, or compile without",
        )
    models = {
        "cortex-m0plus": a.UC_CPU_ARM_CORTEX_M0,
        "cortex-m3": a.UC_CPU_ARM_CORTEX_M3,
        "cortex-m4": a.UC_CPU_ARM_CORTEX_M4,
        "cortex-m7": a.UC_CPU_ARM_CORTEX_M7,
        "cortex-m33": a.UC_CPU_ARM_CORTEX_M33,
        "cortex-m55": a.UC_CPU_ARM_CORTEX_M33,
    }
    engine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
    engine.ctl_set_cpu_model(models[target.cpu])
    if target.float_abi == "hard":
        engine.reg_write(a.UC_ARM_REG_C1_C0_2, 0xF << 20)
        engine.reg_write(a.UC_ARM_REG_FPEXC, 1 << 30)
    return _arm_core(engine, bytes.fromhex("7047"), 1)


def _arm_core(engine: Any, returns: bytes, thumb: int) -> Core:
    from unicorn import arm_const as a

    arguments = (a.UC_ARM_REG_R0, a.UC_ARM_REG_R1, a.UC_ARM_REG_R2)
    floats = tuple((getattr(a, f"UC_ARM_REG_S{k}"), getattr(a, f"UC_ARM_REG_D{k}")) for k in range(3))
    return Core(engine, arguments, a.UC_ARM_REG_R0, floats, a.UC_ARM_REG_SP, a.UC_ARM_REG_LR, returns, thumb)


def _riscv() -> Core:
    import unicorn as uc
    from unicorn import riscv_const as r

    engine = uc.Uc(uc.UC_ARCH_RISCV, uc.UC_MODE_RISCV64)
    engine.reg_write(r.UC_RISCV_REG_MSTATUS, 0x6000)
    arguments = (r.UC_RISCV_REG_A0, r.UC_RISCV_REG_A1, r.UC_RISCV_REG_A2)
    floats = tuple((getattr(r, f"UC_RISCV_REG_FA{k}"),) * 2 for k in range(3))
    returns = bytes.fromhex("67800000")
    return Core(engine, arguments, r.UC_RISCV_REG_A0, floats, r.UC_RISCV_REG_SP, r.UC_RISCV_REG_RA, returns, 0)
