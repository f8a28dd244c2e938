"""CUDA kernels without a GPU: CUDA C compiled for this machine, its blocks and threads run in turn, and every access checked."""

from lepton_compiler.testing.cuda_emulator.build import available, cluster_of, compile_kernels, for_architecture, kernels_of
from lepton_compiler.testing.cuda_emulator.launch import DeviceFault, Statistics, run

__all__ = ["DeviceFault", "Statistics", "available", "cluster_of", "compile_kernels", "for_architecture", "kernels_of", "run"]
