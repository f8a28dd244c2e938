"""Targets: what the machine that will run the model looks like to the compiler.

A `Target` is a plain description, vector width, registers, caches, features. Passes and schedules read
these fields and never test for a name, so a new CPU is one row in `CPUS` or `TARGETS`.
"""

from __future__ import annotations

import difflib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lepton_compiler import gpus, machines
from lepton_compiler.errors import UsageError
from lepton_compiler.gpus import GPUS, Gpu
from lepton_compiler.machines import LESSER, MACHINES, Cpu

__all__ = ["CPUS", "CUDA", "TARGETS", "Cpu", "FloatUnit", "Target", "parse_target", "runs_here", "target_of"]


FloatUnit = Literal["vectors", "single", "none"]


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Attributes:
        name: what the user typed (`native`, `x86_64`, ...).
        arch: instruction set: `x86_64`, `aarch64`, `arm`, `riscv64`, `thumb` for Cortex-M, or `cuda` for GPUs of NVIDIA.
        triple: LLVM triple of the generated objects.
        cpu: LLVM processor name.
        features: LLVM attributes (`+avx512vnni`), beyond what `cpu` implies.
        vector_bits: width of the SIMD registers that generated code uses; 0 on cores without such.
        vector_registers: number of SIMD registers of that width, or of those that hold the numbers of kernels.
        l1_bytes: size of the level-1 data cache of one core.
        l2_bytes: size of the level-2 cache of one core.
        host: whether the artefact runs on the machine that compiles it.
        system: `linux`, or `none` where there is no operating system.
        pointer_bits: width of an address.
        float_abi: `hard`, `soft`, or empty where the instruction set leaves no choice.
        extensions: of the instruction set, those that kernels ask for: `dotprod`, `i8mm`, `fp16`, `dsp`, `fpu`, `mve`.
        small: whether code is to be small rather than quick.
    """

    name: str
    arch: str
    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    vector_bits: int = 128
    vector_registers: int = 16
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    host: bool = False
    system: str = "linux"
    pointer_bits: int = 64
    float_abi: str = ""
    extensions: tuple[str, ...] = ()
    small: bool = False

    @property
    def caches(self) -> tuple[int, int]:
        """Bytes of level 1 and level 2, as schedules reckon with them."""
        return self.l1_bytes, self.l2_bytes

    def lanes(self, bits: int) -> int:
        """Number of elements of `bits` bits that are computed at once: what a vector register holds, at least one."""
        return max(1, self.vector_bits // bits)

    @property
    def float_unit(self) -> FloatUnit:
        """What computes numbers of single precision: `vectors` of them, `single` ones, or `none`: functions on integers."""
        if self.lanes(32) > 1:
            return "vectors"
        return "none" if self.arch == "thumb" and "fpu" not in self.extensions else "single"

    @property
    def keeps_codes(self) -> bool:
        """Whether quantized layers read and write nothing but codes, in kernels that the backend writes for microcontrollers."""
        return self.lanes(8) == 1 or self.has_helium

    @property
    def has_helium(self) -> bool:
        """Whether there are the vectors of Cortex-M: 16 bytes, whose products are added up in core registers."""
        return "mve" in self.extensions

    @property
    def is_firmware(self) -> bool:
        """Whether the artefact is linked into a program without an operating system."""
        return self.system == "none"

    @property
    def backend(self) -> str:
        """The backend that compiles for it."""
        return CUDA if self.arch == CUDA else "tvm"

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The architectures that the artefact holds code for, oldest first; none on processors."""
        return tuple(GPUS[name] for name in self.features) if self.arch == CUDA else ()

    @property
    def is_portable(self) -> bool:
        """Whether kernels are C text for any machine."""
        return self.arch == PORTABLE


PORTABLE = "c99"
"""The instruction set of kernels that are C text."""
CUDA = "cuda"
"""The instruction set of GPUs of NVIDIA."""


def portable(target: Target) -> Target:
    """What of a machine portable C makes use of: the number of its registers, the sizes of its caches, whether it has a system; no vectors."""
    return replace(
        target, arch=PORTABLE, triple=PORTABLE, cpu=PORTABLE, features=(), vector_bits=0, extensions=(), host=False, float_abi=""
    )


CPUS: dict[str, Cpu] = {
    "x86-64": Cpu("x86_64", 128, 16),
    "x86-64-v2": Cpu("x86_64", 128, 16),
    "x86-64-v3": Cpu("x86_64", 256, 16),
    "x86-64-v4": Cpu("x86_64", 512, 32, l2_bytes=1 << 20),
    "nehalem": Cpu("x86_64", 128, 16, l2_bytes=256 << 10),
    "haswell": Cpu("x86_64", 256, 16, l2_bytes=256 << 10),
    "skylake": Cpu("x86_64", 256, 16, l2_bytes=256 << 10),
    "skylake-avx512": Cpu("x86_64", 512, 32, l2_bytes=1 << 20),
    "cascadelake": Cpu("x86_64", 512, 32, l2_bytes=1 << 20),
    "icelake-server": Cpu("x86_64", 512, 32, l1_bytes=48 << 10, l2_bytes=1280 << 10),
    "sapphirerapids": Cpu("x86_64", 512, 32, l1_bytes=48 << 10, l2_bytes=2 << 20),
    "znver2": Cpu("x86_64", 256, 16),
    "znver3": Cpu("x86_64", 256, 16),
    "znver4": Cpu("x86_64", 512, 32, l2_bytes=1 << 20),
    **machines.CPUS,
}

CACHES = ("l1", "l2")
TRIPLES = {"x86_64": "x86_64-linux-gnu"}
BASELINE = {"x86_64": "x86-64-v3"}

TARGETS: dict[str, str] = {
    "native": "the machine that runs the compiler",
    "x86_64": "64-bit x86, Linux; AVX2 and FMA unless --cpu says otherwise",
    **{name: machine.help for name, machine in MACHINES.items()},
    CUDA: f"GPUs of NVIDIA; {', '.join(gpus.DEFAULT)} unless cuda:sm_NN[,sm_NN...] says otherwise, of {', '.join(GPUS)}",
}


def parse_target(text: str, cpu: str | None = None) -> Target:
    """Turn `NAME[,feature...]` and an optional LLVM processor name into a `Target`.

    Features are LLVM's, but for `l1=48K` and `l2=2M`: the sizes of the caches, where those of the processor's name are not the machine's.

    Raises:
        UsageError: an unknown target or processor, or one that this version does not compile for.
    """
    name, *features = text.split(",")
    if name.partition(":")[0] == CUDA:
        return _graphics(text, cpu)
    if name not in TARGETS:
        raise UsageError(f"unknown target '{name}'", hint=_suggest(name, TARGETS))
    if name in MACHINES:
        return _foreign(name, cpu, features)
    host = name == "native"
    arch = _host_arch() if host else name
    cpu = cpu or (_host_cpu(arch) if host else BASELINE[arch])
    if cpu not in CPUS or CPUS[cpu].arch != arch:
        raise UsageError(f"unknown processor '{cpu}' for {arch}", hint=_suggest(cpu, {k: "" for k, c in CPUS.items() if c.arch == arch}))
    known = CPUS[cpu]
    own = tuple(f if f[:1] in "+-" else f"+{f}" for f in features if "=" not in f)
    if host and cpu == _host_cpu(arch):
        own = (*_host_features(), *own)
    caches = {
        "l1": known.l1_bytes,
        "l2": known.l2_bytes,
        **(_host_caches() if host else {}),
        **dict(_cache_size(f) for f in features if "=" in f),
    }
    return Target(
        name, arch, TRIPLES[arch], cpu, own, known.vector_bits, known.vector_registers, caches["l1"], caches["l2"], host
    )  # fmt: skip


def _graphics(text: str, cpu: str | None) -> Target:
    """GPUs: `cuda`, or `cuda:sm_80,sm_90`; the architectures may as well be given as the processor."""
    listed = [name for name in (cpu or text.partition(":")[2]).split(",") if name] or list(gpus.DEFAULT)
    if unknown := [name for name in listed if name not in GPUS]:
        raise UsageError(f"no code for the GPU '{unknown[0]}'", hint=_suggest(unknown[0], dict.fromkeys(GPUS, "")))
    if text not in (CUDA, f"{CUDA}:{','.join(listed)}"):
        raise UsageError(f"'{text}' is no target", hint="write cuda, or cuda:sm_80,sm_90")
    chosen = tuple(name for name in GPUS if name in listed)
    return Target(
        CUDA, CUDA, "nvptx64-nvidia-cuda", ",".join(chosen), chosen, vector_bits=0, vector_registers=64, l1_bytes=128 << 10, l2_bytes=32 << 20
    )  # fmt: skip


def _cache_size(feature: str) -> tuple[str, int]:
    """The cache that a feature such as `l2=2M` is about, and its bytes."""
    key, _, text = feature.partition("=")
    factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:].upper(), 1)
    digits = text if factor == 1 else text[:-1]
    if key not in CACHES or not digits.isdecimal() or not int(digits):
        raise UsageError(f"'{feature}' is no size of a cache", hint="write l1=48K or l2=2M")
    return key, int(digits) * factor


def _foreign(name: str, cpu: str | None, features: Sequence[str]) -> Target:
    """A machine of the table in `machines`."""
    machine = MACHINES[name]
    chosen = cpu or machine.cpu
    known = CPUS.get(chosen)
    fitting = {k: "" for k, c in CPUS.items() if c.arch == machine.arch and (machine.system == "linux" or k == machine.cpu)}
    if known is None or chosen not in fitting:
        raise UsageError(f"unknown processor '{chosen}' for {name}", hint=_suggest(chosen, fitting))
    signed = [f if f[:1] in "+-" else f"+{f}" for f in features if "=" not in f]
    lesser = next((LESSER[chosen, f[1:]] for f in signed if f[0] == "-" and (chosen, f[1:]) in LESSER), None)
    known, own = (lesser.cpu, lesser.features) if lesser else (known, machine.features)
    caches = {"l1": known.l1_bytes, "l2": known.l2_bytes, **dict(_cache_size(f) for f in features if "=" in f)}
    extensions = {*known.extensions} | {f[1:] for f in signed if f[0] == "+"}
    extensions -= {f[1:] for f in signed if f[0] == "-"}
    spelled = tuple(f[0] + LLVM_FEATURES.get(f[1:], f[1:]) for f in signed)
    return Target(
        name, machine.arch, machine.triple, chosen, (*own, *(f for f in spelled if f not in own)),
        known.vector_bits, known.vector_registers, caches["l1"], caches["l2"], system=machine.system,
        pointer_bits=machine.pointer_bits, float_abi=machine.float_abi, extensions=tuple(sorted(extensions)),
    )  # fmt: skip


def runs_here(target: str | Target) -> bool:
    """Whether code for a target, or for the one of this name, runs on the machine that asks; for a GPU, that it has one is taken for granted."""
    return (parse_target(target) if isinstance(target, str) else target).arch in (_host_arch(), CUDA)


def target_of(manifest: Mapping[str, Any]) -> Target:
    """The target that an artefact was built for, as its manifest tells it.

    Raises:
        UsageError: the manifest names a target that this version does not know.
    """
    row = manifest["target"]
    target = parse_target(",".join([row["name"], *row["features"]]), row["cpu"])
    return replace(target, features=tuple(row["features"]))


LLVM_FEATURES = {"fp16": "fullfp16"}
"""Extensions that LLVM calls otherwise."""


def _suggest(name: str, known: dict[str, str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"available: {', '.join(known)}"


def _host_arch() -> str:
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "x86_64": "x86_64"}.get(machine)
    if arch is None:
        raise UsageError(f"'native' on {machine} is not there yet", hint="name a target: lepton targets lists them")
    return arch


def _host_flags() -> frozenset[str]:
    """CPU flags as Linux lists them; empty where they are not to be had."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _host_cpu(arch: str) -> str:
    """The psABI level of this machine: names that say just what is used, so that artefacts can be reproduced."""
    flags = _host_flags()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= flags:
        return "x86-64-v4"
    if {"avx2", "fma", "f16c", "bmi2"} <= flags:
        return "x86-64-v3"
    return "x86-64-v2" if "sse4_2" in flags else BASELINE[arch] if not flags else "x86-64"


def _host_caches() -> dict[str, int]:
    """Bytes of `l1` and `l2` of the first core, those that Linux tells."""
    found: dict[str, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if level in ("1", "2") and kind in ("Data", "Unified"):
                found.update([_cache_size(f"l{level}={size}")])
        except (OSError, UsageError):
            continue
    return found


def _host_features() -> tuple[str, ...]:
    return ("+avx512vnni",) if "avx512_vnni" in _host_flags() else ()
