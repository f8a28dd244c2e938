"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import json
from pathlib import Path

from lepton_compiler.errors import UsageError
from lepton_compiler.quantization.report import LayerRow, Report

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #1c2733 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; width: 100%; font-size: 13px }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid #e3e8ee; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, .text { text-align: left }
td:first-child { max-width: 280px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
tr.kept { background: #fff4e0 } .facts { columns: 2; margin: 0; padding: 0; list-style: none }
.warning { background: #fff4e0; padding: .4em .8em } svg text { font: 11px system-ui, sans-serif; fill: #51606f }
"""
COLUMNS = {
    "layer": "the value that the layer gives",
    "operator": "what it computes",
    "weights": "shape of its weights",
    "precision": "of its data and weights",
    "range of data": "the numbers that its codes cover; others are cut off",
    "scale": "of the codes of its data",
    "zero": "the code of 0",
    "weights dB": "signal to noise of its weights, against those of the float model",
    "result dB": "signal to noise of its result in the quantized model, errors of the layers before it included",
    "error %": "its part of the error of the model's outputs: each layer is quantized alone",
    "why": "why it has this precision",
}
LEGEND = (
    "<p>Layers on yellow stay in floating point. <b>weights dB</b> and <b>result dB</b> are signal to noise against the float model: 20 dB are "
    "errors of a tenth, 40 dB of a hundredth; results include what the layers before add. <b>error %</b> is what each layer adds to the error "
    "of the model's outputs when it is quantized alone.</p>"
)
BAR, LEFT, WIDTH = 16, 260, 1060


def check_place(file: Path) -> None:
    """Find out whether the page can be written before hours of work.

    Raises:
        UsageError: its folder is not there, or it is a folder itself.
    """
    if not file.parent.is_dir():
        raise UsageError(f"cannot write '{file}': there is no folder '{file.parent}'")
    if file.is_dir():
        raise UsageError(f"cannot write '{file}': it is a folder")


def write_report(file: Path, report: Report) -> None:
    """Write the page.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        file.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write '{file}': {error.strerror}") from error


def page(report: Report) -> str:
    """The page as HTML: facts, a plot of each layer's error, the table, and the same as JSON."""
    rows = "\n".join(_row(row) for row in report.layers)
    head = "".join(f"<th title='{html.escape(meaning, quote=True)}'>{name}</th>" for name, meaning in COLUMNS.items())
    title = html.escape(f"Quantization of {report.model}" if report.model else "Quantization")
    data = json.dumps(report.as_json(), allow_nan=False).replace("</", "<\\/")
    warnings = "".join(f"<p class=warning>{html.escape(text)}</p>" for text in report.warnings)
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
        f"<p>{html.escape(report.summary())}</p>\n<ul class=facts>{_facts(report)}</ul>\n{warnings}\n"
        f"<h2>Where the error comes from</h2>\n{plot(report)}\n<h2>Layers</h2>\n{LEGEND}\n<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n"
        f"</tbody></table>\n<script type=application/json id=report>{data}</script>\n</html>\n"
    )


def _facts(report: Report) -> str:
    facts = [f"recipe: <code>{html.escape(report.recipe)}</code>", f"samples: {report.samples}"]
    if report.drop is not None:
        facts.append(f"lost, by {html.escape(report.measure)}: {100 * report.drop:.3g} %")
    if report.bound is not None:
        facts.append(f"allowed: {100 * report.bound:.3g} %")
    before, after = report.weight_bytes
    facts.append(f"weights: {before:,} to {after:,} bytes ({after / max(1, before):.3f})")
    return "".join(f"<li>{fact}</li>" for fact in facts)


def _row(row: LayerRow) -> str:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    covered = "" if row.low is None or row.high is None else f"{row.low:.4g} ... {row.high:.4g}"
    share = None if row.share is None else 100 * row.share
    cells = [
        f"<td title='{html.escape(row.name, quote=True)}'>{html.escape(row.name)}</td>", f"<td class=text>{html.escape(row.operator)}</td>",
        f"<td>{'x'.join(map(str, row.weights))}</td>", f"<td class=text>{html.escape(row.precision)}</td>", f"<td>{covered}</td>",
        f"<td>{number(row.scale, '.4g')}</td>", f"<td>{number(row.zero_point, 'd')}</td>", f"<td>{number(row.weights_sqnr, '.1f')}</td>",
        f"<td>{number(row.output_sqnr, '.1f')}</td>", f"<td>{number(share, '.2f')}</td>", f"<td class=text>{html.escape(row.reason)}</td>",
    ]  # fmt: skip
    return f"<tr{' class=kept' if row.precision == 'float32' else ''}>{''.join(cells)}</tr>"


def plot(report: Report) -> str:
    """Bars in SVG: the share of the error by layer, or, where that was not worked out, signal to noise of the results."""
    by_share = any(row.share is not None for row in report.layers)
    values = [(row, row.share if by_share else row.output_sqnr) for row in report.layers]
    shown = [(row, value) for row, value in values if value is not None]
    if not shown:
        return "<p>Without calibration data there is nothing to plot.</p>"
    most = max((value for _, value in shown), default=1.0) or 1.0
    height = BAR * len(shown) + 24
    bars = [_bar(k, row, value, most, by_share) for k, (row, value) in enumerate(shown)]
    title = "share of the error that each layer causes alone" if by_share else "signal to noise of each layer's result"
    return f"<svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='{title}'><title>{title}</title>{''.join(bars)}</svg>"


def _bar(k: int, row: LayerRow, value: float, most: float, by_share: bool) -> str:
    length = max(0.0, value / most) * (WIDTH - LEFT - 90)
    colour = "#e08a1e" if row.precision == "float32" else "#3b7dd8"
    label = f"{100 * value:.2f} %" if by_share else f"{value:.1f} dB"
    name = row.name if len(row.name) <= 40 else "..." + row.name[-37:]
    y = k * BAR
    return (
        f"<text x='{LEFT - 6}' y='{y + 12}' text-anchor='end'>{html.escape(name)}</text>"
        f"<rect x='{LEFT}' y='{y + 3}' width='{length:.1f}' height='{BAR - 5}' fill='{colour}'/>"
        f"<text x='{LEFT + length + 5:.1f}' y='{y + 12}'>{label}</text>"
    )
