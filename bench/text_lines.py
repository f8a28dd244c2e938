"""Lines of text for PP-OCR's recognition: drawn, read, and how much of what the float model reads a quantized one still believes.

`belief` is a metric for `--max-drop`, which needs more than the share of lines whose text is the same: of few lines, that jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from bench.runtime_quantizer import session_run
from lepton_compiler import zoo

Feeds = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

LINES = """\
# lepton Lepton
compiles neural-networ
to native code.
It reads an
ONNX model, optimises
it, and writes
a shared or
static library with
a plain C
interface. The library
needs no runtime:
no interpreter, no
heap, no model
file, only the
C library and
its mathematics. The
header says how
much scratch memory
a call needs.
Lepton is also
a workshop for
people who write
compiler passes: the
graph has a
text form that
can be read
back, a pass
is a small
class in one
file, and every
change that a
pass makes can
be printed, dumped,
checked and replayed.
## Two commands
sh make demo
# installs into
.venv, compiles four
real models at
-O3, verifies each
against ONNX Runtime,
prints a table
make test #
linters, type checker,
import rules, tests
Both need Linux
on x86-64, Python
3.11 or newer,
make, and a
network to the
package index. A
C compiler is
used where there
is one; otherwise
the one in
the ziglang package
is. ## From
Python python import
numpy as np
import lepton_compiler
lc model =
lc.compile("model.onnx
(1, 3, 224,
224)}, verify=True) ou
= model.run({"x": np.z
3, 224, 224),
np.float32)}) model.sa
fixes dimensions that
the model leaves
open. Without it,
run compiles for
each new shape
""".splitlines()
"""What is drawn: sentences and commands of this repository, three words each, or what of them fits on 320 pixels."""
COMPARED = slice(8, 48)
"""Lines to compare on, of which those count that the float model reads as they are drawn; the others are for calibration."""
FORMER = slice(8, 16)
"""Lines that were compared before there were more, whatever the float model reads in them."""
LEAST = 1e-9
"""A probability below which it does not matter how small it is."""


def split(path: Path) -> tuple[list[Feeds], list[Feeds]]:
    """Lines to calibrate with, and lines to compare on.

    To compare on are those that the float model reads as they are drawn: where it errs, its first two characters are about as probable, and
    which of them comes first says nothing.
    """
    run, letters = session_run(path), _letters(path)
    right = []
    for text, feeds in zip(LINES[COMPARED], _drawn()[COMPARED], strict=True):
        if "".join(letters[c] for c in read_line(_only(run(feeds)))) == text:
            right.append(feeds)
    return calibration(), right


def calibration() -> list[Feeds]:
    """The lines that are not for comparing, 32 of them."""
    drawn = _drawn()
    return drawn[: COMPARED.start] + drawn[COMPARED.stop :]


def former() -> list[Feeds]:
    """The lines `FORMER`."""
    return list(_drawn()[FORMER])


@cache
def _drawn() -> list[Feeds]:
    return [draw(text, k) for k, text in enumerate(LINES)]


def draw(text: str, number: int) -> Feeds:
    """An image of 48 x 320 pixels, dark on light, as the model takes it: [1, 3, 48, 320] from -1 to 1, blue first.

    Args:
        text: what it says.
        number: colours and height vary with it.
    """
    from PIL import Image, ImageDraw, ImageFont

    shade = number % 16
    image = Image.new("RGB", (320, 48), (250 - 3 * shade, 245, 240))
    ImageDraw.Draw(image).text((6, 6 + number % 4), text, (10 * shade, 30, 20), font=ImageFont.load_default(30))
    pixels = np.asarray(image, np.float32)[..., ::-1].transpose(2, 0, 1)
    return {"x": np.ascontiguousarray((pixels / 255 - 0.5) / 0.5)[None].astype(np.float32)}


def _letters(path: Path) -> list[str]:
    """What the classes of PP-OCR's recognition stand for: nothing, the characters that the file names, a blank."""
    import onnx

    (named,) = [p.value for p in onnx.load(str(path)).metadata_props if p.key == "character"]
    return ["", *named.split("\n"), " "]


def read_line(scores: np.ndarray) -> list[int]:
    """The characters of a line: the best class of each column of [1, columns, classes], without repetitions and class 0, which is nothing.

    The last class is a blank; blanks at the ends are left out.
    """
    best, blank = scores[0].argmax(-1), scores.shape[-1] - 1
    read = [int(c) for k, c in enumerate(best) if c and (not k or best[k - 1] != c)]
    ends = [k for k, c in enumerate(read) if c != blank]
    return read[ends[0] : ends[-1] + 1] if ends else []


def same_text(wanted: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]]) -> float:
    """The share of lines whose text is the same."""
    return float(np.mean([read_line(_only(w)) == read_line(_only(f)) for w, f in zip(wanted, found, strict=True)]))


def belief_in(wanted: np.ndarray, found: np.ndarray) -> float:
    """How probable the float model's reading is to another model, relative to how probable it is to the float model; 1 at most.

    A reading is the best class of each column, its probability the product of those of its columns.

    Args:
        wanted: probabilities by the float model, [1, columns, classes].
        found: those by the other model.
    """
    best = wanted[0].argmax(-1)[:, None]
    a, b = (np.log(np.maximum(np.take_along_axis(p[0], best, 1), LEAST), dtype=np.float64).sum() for p in (wanted, found))
    return float(np.exp(min(0.0, b - a)))


def belief(run: Run) -> float:
    """The mean of `belief_in` over the calibration lines: `leptonc ... --metric bench.text_lines:belief`."""
    return float(np.mean([belief_in(wanted, _only(run(feeds))) for feeds, wanted in zip(calibration(), _readings(), strict=True)]))


@cache
def _readings() -> list[np.ndarray]:
    """What the float model gives for the calibration lines."""
    run = session_run(zoo.fetch(zoo.find("ch_pp_ocrv4_rec")))
    return [_only(run(feeds)) for feeds in calibration()]


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))
