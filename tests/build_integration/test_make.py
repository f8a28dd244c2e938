"""`lepton.mk`, as the example in C uses it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"


def test_models_are_compiled_when_they_change_and_not_else(sh, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("main", "lepton"))

    def make(*goals):
        return sh("make", "-C", folder, "--no-print-directory", *goals).stdout

    assert make("run").endswith("./main\n0.665411 0.334589\n")
    assert make() == "make: 'main' is up to date.\n"

    os.utime(folder / "tiny.lir")
    assert "leptonc tiny.lir" in make()
    assert make() == "make: 'main' is up to date.\n"

    makefile = folder / "Makefile"
    makefile.write_text(makefile.read_text().replace("-O3 --verify", "-O1 --emit static --threads 2"))
    assert "-O1 --emit static" in make("run")
    assert make() == "make: 'main' is up to date.\n"

    make("clean")
    assert sorted(p.name for p in folder.iterdir()) == ["Makefile", "main.c", "tiny.lir"]
