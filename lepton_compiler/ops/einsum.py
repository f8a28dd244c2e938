"""Equations of Einstein summations, such as `bij,bjk->bik`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.op import require

ELLIPSIS = "..."


@dataclass(frozen=True)
class Equation:
    """The operands' and the output's labels; `...` stands where the equation has it. `output` is None if implicit."""

    terms: tuple[tuple[str, ...], ...]
    output: tuple[str, ...] | None

    @classmethod
    def parse(cls, text: str) -> Equation:
        """Take an equation apart.

        Raises:
            InferenceError: something other than letters, commas, `...` and one `->`.
        """
        left, arrow, right = text.replace(" ", "").partition("->")
        terms = tuple(_labels(term, text) for term in left.split(","))
        output = _labels(right, text) if arrow else None
        known = {label for term in terms for label in term}
        for label in output or ():
            require(label in known or label == ELLIPSIS, f"'{text}' has '{label}' in its output alone")
            require(output is None or output.count(label) == 1, f"'{text}' has '{label}' twice in its output")
        return cls(terms, output)

    def labels(self, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
        """Labels of every axis of operands of these ranks, and of the output: axes under `...` are `.0`, `.1` from the last.

        Raises:
            InferenceError: the ranks do not fit.
        """
        require(len(ranks) == len(self.terms), f"Einsum's equation has {len(self.terms)} operands, the node {len(ranks)}")
        terms: list[tuple[str, ...]] = []
        widest = 0
        for term, rank in zip(self.terms, ranks, strict=True):
            hidden = rank - len(term) + 1 if ELLIPSIS in term else 0
            require(
                hidden >= 0 and len(term) + max(hidden - 1, -1 if ELLIPSIS in term else 0) == rank,
                f"'{''.join(term)}' does not name the axes of a tensor of rank {rank}",
            )
            terms.append(_spread(term, hidden))
            widest = max(widest, hidden)
        if self.output is not None:
            return terms, _spread(self.output, widest)
        every = [label for term in terms for label in term]
        once = sorted({label for label in every if every.count(label) == 1 and not label.startswith(".")})
        return terms, (*_spread((ELLIPSIS,), widest), *once)


def _labels(term: str, text: str) -> tuple[str, ...]:
    before, dots, after = term.partition(ELLIPSIS)
    for label in before + after:
        if not label.isalpha():
            raise InferenceError(f"'{text}' is not an Einstein summation: unexpected '{label}'")
    return (*before, ELLIPSIS, *after) if dots else tuple(before)


def _spread(term: tuple[str, ...], hidden: int) -> tuple[str, ...]:
    if ELLIPSIS not in term:
        return term
    at = term.index(ELLIPSIS)
    return (*term[:at], *(f".{i}" for i in reversed(range(hidden))), *term[at + 1 :])
