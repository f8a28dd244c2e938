"""The tables of `docs/operators.md`: what becomes of each ONNX operator, and every conformance case that fails, with its reason.

They are written from ONNX's schemas, the import rules and the records of the conformance cases, so that the page cannot go stale:
`python -m lepton_compiler.testing.conformance --report` rewrites them, and a test compares.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
KINDS = ("evaluator", "native", "onnx")
DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview")
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

EXPLANATIONS: tuple[tuple[str, str, str], ...] = (
    (
        "evaluator|native|onnx",
        r"attention_.*_bf16",
        "Elements differ by one or two units in the last place of bfloat16: the expected values round after every step of numpy's arithmetic, "
        "lepton computes each operator in float32 and rounds its result.",
    ),
    (
        "evaluator|native",
        r"attention_4d_causal_fp16_expanded",
        "Two elements differ by two units in the last place of float16, which is more than the tolerance: each operator of the expanded model "
        "rounds its result, the expected values were rounded at other places.",
    ),
    (
        "onnx",
        r"dft_inverse",
        "The case expects the rounding noise of numpy's float32 transform, 2e-7 where the exact result is zero. The axis is only known at run "
        "time, so that the transform is emitted as such, in float64, which gives zero.",
    ),
    (
        "onnx",
        r"resize_downsample_scales_\w+_align_corners",
        "The scales are only known at run time, and ONNX Runtime aligns the corners of the size rounded down where the case wants those of the "
        "exact product. With known scales a form is emitted that gives the latter.",
    ),
)
"""Kinds, cases and a sentence for failures that are no refusals: who is right, and why."""

CLASSES = {
    "values": "Elements differ from the expected ones.",
    "shape": "The shape differs from the expected one.",
    "type": "The element type differs from the expected one.",
    "UnsupportedError": "Refused; the command above with `--kind` and `--filter` prints why.",
}


def render(text: str) -> str:
    """The page with its generated blocks written anew.

    Raises:
        LookupError: a block that is not known.
    """
    blocks = {"totals": _totals, "operators": _operators, "failures": _failures}

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{blocks[match[2]]()}\n{match[3]}"

    return BLOCK.sub(block, text)


def write() -> None:
    """Rewrite the generated blocks of the page."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def _records() -> dict[str, dict[str, list[str]]]:
    """Kind to case to the fields of its record after the name."""
    from lepton_compiler.testing.conformance import read_record

    return {kind: {name: line.split("\t")[1:] for name, line in read_record(kind).items()} for kind in KINDS}


def _totals() -> str:
    lines = ["| | passed | of | checked by the evaluator instead |", "| --- | --- | --- | --- |"]
    names = {"evaluator": "Evaluator", "native": "Native code", "onnx": "Round trip through ONNX"}
    for kind, cases in _records().items():
        passed = [fields for fields in cases.values() if fields[0] == "pass"]
        instead = sum(fields[1:2] == ["evaluator"] for fields in passed)
        lines.append(f"| {names[kind]} | {len(passed)} | {len(cases)} | {instead or ''} |")
    return "\n".join(lines) + "\n"


# -- operators


def _operators() -> str:
    import onnx

    versions: dict[tuple[str, str], list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain in DOMAINS:
            versions[schema.domain, schema.name].append(int(schema.since_version))
    records, of_operator = _records(), _cases_by_operator()
    parts = []
    for domain in DOMAINS:
        lines = [f"### {domain or 'ai.onnx'}\n", "| Operator | Versions | Import | Evaluator | Native | Round trip |", "| --- " * 6 + "|"]
        for (_, name), since in sorted((key, sorted(v)) for key, v in versions.items() if key[0] == domain):
            cases = of_operator.get((domain, name), [])
            cells = [_share(records[kind], cases) for kind in KINDS]
            lines.append(f"| {name} | {', '.join(map(str, since))} | {_imported(domain, name, since[-1])} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, _microsoft()])


def _microsoft() -> str:
    from lepton_compiler.frontends.onnx.rules import rule_table
    from lepton_compiler.frontends.onnx.rules.experimental import RULES

    names = ", ".join(sorted(rule_table("com.microsoft")))
    dropped = ", ".join(sorted(set(RULES) - {"MeanVarianceNormalization"}))
    return f"### com.microsoft, and operators that the standard dropped\n\nImported from com.microsoft: {names}.\n\nImported from old opsets: {dropped}.\n"


def _cases_by_operator() -> dict[tuple[str, str], list[str]]:
    """Domain and operator to its cases; a case that spells an operator out counts for that operator."""
    from lepton_compiler.testing.conformance import cases

    every = cases()
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in every:
        base = every.get(name.partition("_expanded")[0], every[name])
        node = base.model.graph.node[0]
        found[node.domain, node.op_type].append(name)
    return found


def _imported(domain: str, name: str, version: int) -> str:
    """How the importer takes an operator."""
    import onnx

    from lepton_compiler.frontends.onnx.rules import find_rule
    from lepton_compiler.frontends.onnx.unsupported import PRINCIPLES

    if name in PRINCIPLES:
        return f"no: {PRINCIPLES[name]}"
    if find_rule(domain, name, version) is not None:
        return "yes"
    schema = onnx.defs.get_schema(name, version, domain)
    return "by its definition" if schema.has_function or schema.has_context_dependent_function else "no"


def _share(record: Mapping[str, Sequence[str]], cases: Iterable[str]) -> str:
    """How many cases of an operator pass."""
    states = [record[name][0] for name in cases if name in record]
    return f"{states.count('pass')}/{len(states)}" if states else ""


# -- failures


def _failures() -> str:
    titles = {"evaluator": "Evaluator", "native": "Native code", "onnx": "Round trip"}
    parts = []
    for kind, cases in _records().items():
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, fields in cases.items():
            if fields[0] == "fail":
                reasons[reason(kind, name, fields)].append(name.removeprefix("test_"))
        rows = [f"- {sentence}\n  {_count(names)}: {', '.join(f'`{n}`' for n in names)}" for sentence, names in sorted(reasons.items())]
        parts.append(f"### {titles[kind]}\n\n" + ("\n".join(rows) or "None.") + "\n")
    return "\n".join(parts)


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} cases" if len(names) > 1 else "1 case"


def reason(kind: str, name: str, fields: Sequence[str]) -> str:
    """Why a case fails, in a sentence.

    Args:
        kind: what ran it.
        name: the case.
        fields: of its record, after the name: "fail", the class of the failure, what the error said.
    """
    for kinds, pattern, sentence in EXPLANATIONS:
        if re.fullmatch(kinds, kind) and re.fullmatch(f"test_{pattern}.*", name):
            return sentence
    label, cause = [*fields[1:], "", ""][:2]
    if cause:
        return f"{cause[:1].upper()}{cause[1:]}."
    return CLASSES.get(label, f"An error that is not diagnosed ({label}).")
