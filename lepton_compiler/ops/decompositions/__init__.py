"""Decompositions of the built-in operators: a module per family, imported by `lepton_compiler.ops.decompose` when needed."""
