"""Facts of relocatable objects, read from their ELF tables: sizes of code and constants, symbols that are defined or missing."""

from __future__ import annotations

from lepton_compiler.binary.objects import Object, members, read_object
from lepton_compiler.binary.stack import stack_bound

__all__ = ["Object", "members", "read_object", "stack_bound"]
