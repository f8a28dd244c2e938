"""Recurrent layers for GPUs: all steps in one kernel, whose weights stay in registers and shared memory."""

from lepton_compiler.backends.tvm.cuda.recurrent.library import library

__all__ = ["library"]
