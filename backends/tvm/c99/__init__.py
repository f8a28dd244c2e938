"""Kernels as portable C99: what `--emit c` writes in place of machine code.

A scheduled kernel for a machine without vectors (`lepton_compiler.target.portable`) goes through the same passes as any other;
then its statements are printed. What the printer does not know it refuses by name.
"""
