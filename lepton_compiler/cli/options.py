"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from lepton_compiler.pipeline import Instrument
    from lepton_compiler.states import States


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose help keeps the layout of its examples."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n  hint: {self.prog} --help shows the options\n")


def binding(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`; nothing after the `=` is a scalar. The name may itself contain `=`."""
    name, separator, shape = text.rpartition("=")
    try:
        sizes = tuple(int(d) for d in shape.lower().split("x")) if shape else ()
    except ValueError:
        sizes = (-1,)
    if not separator or not name or any(s < 0 for s in sizes):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=1x3x224x224")
    return name, sizes


def sizes(text: str) -> tuple[str, int | tuple[int, ...]]:
    """`NAME=4`, or `NAME=16,32,64` for one artefact of several sizes."""
    name, separator, listed = text.rpartition("=")
    numbers = listed.split(",")
    if not separator or not name or not all(n.isdecimal() for n in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=4 or NAME=16,32,64")
    found = tuple(dict.fromkeys(map(int, numbers)))
    return name, found if len(found) > 1 else found[0]


def dimension(text: str) -> tuple[str, int]:
    """`NAME=4`."""
    name, separator, size = text.rpartition("=")
    if not separator or not name or not size.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=4")
    return name, int(size)


def peer_names(text: str) -> list[str]:
    """`onnxruntime,openvino`: names of other runtimes."""
    from lepton_compiler.peers import registry

    found = list(dict.fromkeys(name for name in text.split(",") if name))
    if unknown := [name for name in found if name not in registry]:
        raise argparse.ArgumentTypeError(f"no runtime called '{unknown[0]}'; known: {', '.join(registry)}")
    return found


def positive(text: str) -> int:
    """An integer of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)


def byte_count(text: str) -> int:
    """`65536`, `64K` or `1M`."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in ("K", "M") else (text, "")
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 65536, 64K or 1M")
    return int(number) * {"": 1, "K": 1 << 10, "M": 1 << 20}[unit]


def add_model_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """`--input` and `--dim`; with `several`, a dimension may list sizes."""
    parser.add_argument(
        "--input", type=binding, action="append", default=[], metavar="NAME=SHAPE", help="shape of an input, as 1x3x224x224"
    )
    kind, shown, text = (sizes, "NAME=N[,N...]", ", or several to choose from") if several else (dimension, "NAME=N", "")
    parser.add_argument("--dim", type=kind, action="append", default=[], metavar=shown, help=f"size of a symbolic dimension{text}")


def renaming(text: str) -> tuple[str, str]:
    """`OUT=IN`."""
    left, separator, right = text.partition("=")
    if not separator or not left or not right:
        raise argparse.ArgumentTypeError(f"'{text}' is not OUT=IN")
    return left, right


def add_state_options(parser: argparse.ArgumentParser) -> None:
    """`--state` and `--initial`."""
    parser.add_argument(
        "--state", type=renaming, action="append", default=[], metavar="OUT=IN", help="keep this output as that input of the next call"
    )
    parser.add_argument(
        "--initial", action="append", default=[], metavar="IN=FILE.npy", help="what such an input is in the first call (default zeros)"
    )


def states(args: argparse.Namespace) -> States:
    """What the options of `add_state_options` ask for.

    Raises:
        UsageError: an output that is named twice, or a file that cannot be read.
    """
    from lepton_compiler.errors import UsageError
    from lepton_compiler.feeds import read_feeds
    from lepton_compiler.states import States

    names = [name for name, _ in args.state]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--state names the output '{twice[0]}' twice", hint="an output is one input of the next call")
    return States(dict(args.state), read_feeds(args.initial))


def add_level_option(parser: argparse.ArgumentParser) -> None:
    """`-O0` to `-O3`, `-Os`."""
    parser.add_argument(
        "-O", dest="level", choices=["0", "1", "2", "3", "s"], default="2", help="optimisation level, -O0 to -O3 or -Os (default -O2)"
    )


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """`--target`, `--cpu`, `--precision` and `--threads`."""
    parser.add_argument(
        "--target", default="native", metavar="NAME[,FEATURE...]", help="machine to compile for; `lepton targets` lists them"
    )
    parser.add_argument("--cpu", metavar="NAME", help="LLVM processor name")
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="NAME",
        help="of products on a GPU: fp32 (default), tf32, or fp16 or bf16, which layers then store as well",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads that one call may use (default 1)")


def add_against_option(parser: argparse.ArgumentParser) -> None:
    """`--against onnxruntime,openvino`."""
    parser.add_argument(
        "--against", type=peer_names, action="extend", default=[], metavar="NAME[,NAME...]",
        help="measure these as well, interleaved: onnxruntime, openvino, tvm, iree",
    )  # fmt: skip


def add_pass_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose and watch passes."""
    parser.add_argument("--passes", metavar="PIPELINE", help='run these instead of the level\'s: "fold-constants,fuse{depth=3}"')
    parser.add_argument(
        "--load-pass", action="append", default=[], metavar="FILE.py", help="load passes from a Python file; `--passes` can name them"
    )
    parser.add_argument(
        "--print-ir-after", action="append", default=[], metavar="PASS|all|changed", help="print the IR on stderr after a pass"
    )
    parser.add_argument("--dump-dir", metavar="DIR", help="write the IR after every pass that changed it")
    parser.add_argument("--time-passes", action="store_true", help="print on stderr how long each pass took")
    parser.add_argument("--verify-ir", action=argparse.BooleanOptionalAction, default=True, help="check the IR after every pass (default)")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """`--json`, `-v` and `-q`."""
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-v", "--verbose", action="store_true", help="tell the stages; show tracebacks")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors and --json")


def instruments(args: argparse.Namespace) -> tuple[Instrument, ...]:
    """The instruments that the options of `add_pass_options` ask for; timing comes last, so that it times the passes alone."""
    from lepton_compiler.instruments import CrashReproducer, Dump, PrintIRAfter, Timing, Verify

    chosen: list[Instrument] = []
    if args.dump_dir:
        chosen += [CrashReproducer(args.dump_dir, pass_files=args.load_pass), Dump(args.dump_dir)]
    chosen += [PrintIRAfter(which) for which in args.print_ir_after]
    if args.verify_ir:
        chosen.append(Verify())
    if args.time_passes:
        chosen.append(Timing())
    return tuple(chosen)


def load_passes(files: Sequence[str | os.PathLike[str]]) -> None:
    """Run Python files and register the passes that they define.

    Raises:
        UsageError: a file that cannot be read or run, or that defines no pass.
    """
    from lepton_compiler.passes import load_pass_file

    for file in files:
        load_pass_file(file)
