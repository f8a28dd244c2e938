"""Runs the examples of one page, top to bottom, in the current folder: `python run_page.py PAGE`.

Blocks marked `python` run in one namespace per page; one that opens with `# file: NAME` is written to that file instead, and so are blocks
marked `c` and `cmake` that open so. Blocks marked `sh` hold commands; blocks marked `console` hold `$ command` lines, each followed by what
the command prints. Lepton's own commands run, and those of a build where CMake is installed; what changes the machine or needs a network is
listed in `NOT_RUN`, and any other command is an error, so that no example goes untested.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```(python|sh|console|c|cmake)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:#|//) file: (\S+)\n")
NOT_RUN = (
    "make ",
    "pip ",
    "git ",
    "cd ",
    "python -m bench",
    "python -m lepton_compiler.testing.conformance",
    "lepton zoo fetch",
    ".venv/bin/python -m pytest",
)
COMMANDS = ("lepton ", "leptonc ")
BUILDS = ("cmake ", "build/")


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, text and line number of every block that is an example."""
    for match in BLOCK.finditer(text):
        yield match[1], match[2], text.count("\n", 0, match.start(2))


def commands(language: str, body: str) -> Iterator[tuple[str, str | None]]:
    """The commands of a block, each with what it should print, or None where the page does not say."""
    body = body.replace("\\\n", " ")
    if language == "sh":
        for line in body.splitlines():
            if line.strip() and not line.startswith("#"):
                yield line, None
        return
    for part in body.split("$ ")[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run_shell(language: str, body: str, where: str) -> None:
    """Run the commands of a block; each must succeed and print what the page shows."""
    for command, expected in commands(language, body):
        if f"{command} ".startswith(NOT_RUN):
            continue
        if command.startswith(BUILDS):
            if shutil.which("cmake"):
                run_build(command, where)
            continue
        if not command.startswith(COMMANDS):
            raise SystemExit(f"{where}: '{command}' is neither one of lepton's commands nor listed as not to be run")
        words = shlex.split(command, comments=True)
        words[0] = os.path.join(os.path.dirname(sys.executable), words[0])
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{where}: '{command}' left with status {done.returncode}\n{done.stdout}{done.stderr}")
        if expected is not None and done.stdout.strip() != expected.strip():
            raise SystemExit(f"{where}: '{command}' printed\n{done.stdout}instead of\n{expected}")


def run_build(command: str, where: str) -> None:
    """Run a command of a build, by the shell; it must succeed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(command, shell=True, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{where}: '{command}' left with status {done.returncode}\n{done.stdout}{done.stderr}")


def run_page(page: Path) -> int:
    """Run all examples of a page; returns how many there are."""
    module = types.ModuleType("page")
    sys.modules["page"] = module  # dataclasses look their module up there
    sys.path.insert(0, os.getcwd())
    count = 0
    for language, body, line in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{line + 1}"
        if file := FILE.match(body):
            Path(file[1]).write_text(body[file.end() :], encoding="utf-8")
        elif language in ("c", "cmake"):
            continue
        elif language != "python":
            run_shell(language, body, where)
        else:
            exec(compile("\n" * line + body, str(page), "exec"), vars(module))
        count += 1
    return count


if __name__ == "__main__":
    print(f"{run_page(Path(sys.argv[1]))} examples")
