"""Sliding windows with channels last: depthwise convolutions and pools, which are as fast as memory if each element is read once and at once."""

from lepton_compiler.backends.tvm.cuda.sliding.library import library

__all__ = ["library"]
