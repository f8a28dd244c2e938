"""Tensor-expression definitions of the heavy operators: pure functions from TE tensors to TE tensors.

Each marks its main stage with `lepton.kind`, the name of the template in `schedules` that knows how to order
its loops. The element-wise stages that callers stack on the results become the template's epilogue.
"""
