"""The example projects are built and run, and say what the pictures show."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import LeptonError
from lepton_compiler.target import parse_target

EXAMPLES = Path(__file__).parents[2] / "examples"


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def test_digits_are_told_apart():
    """The committed model is right about new pictures, and the committed pictures are those that the script makes."""
    script = runpy.run_path(str(EXAMPLES / "digits" / "make_digits.py"))
    assert script["samples"](np.random.default_rng(2)) == (EXAMPLES / "digits" / "samples.h").read_text()
    graph = lc.import_model(EXAMPLES / "digits" / "digits.onnx")
    digits = np.arange(40) % 10
    pictures = script["pictures"](np.random.default_rng(5), digits)
    found = [lc.evaluate(graph, {"image": picture[None]})["probabilities"].argmax() for picture in pictures]
    assert np.mean(found == digits) >= 0.95


def test_program(sh, tmp_path):
    need("cmake", "ninja", "c++")
    build = tmp_path / "build"
    sh("cmake", "-S", EXAMPLES / "cmake", "-B", build, "-G", "Ninja")
    sh("ninja", "-C", build)
    done = sh("ctest", "--test-dir", build)
    assert "100% tests passed, 0 tests failed out of 10" in done.stdout
    assert "no work to do" in sh("ninja", "-C", build).stdout


def test_firmware(sh, tmp_path):
    need("cmake", "ninja", "arm-none-eabi-gcc", "qemu-system-arm")
    try:
        parse_target("cortex-m4")
    except LeptonError as error:
        pytest.skip(str(error))
    source, build = tmp_path / "examples" / "firmware", tmp_path / "build"
    shutil.copytree(EXAMPLES / "firmware", source)
    shutil.copytree(EXAMPLES / "digits", source.parent / "digits")
    sh("cmake", "-S", source, "-B", build, "-G", "Ninja", "-DDIGIT=4")
    sh("ninja", "-C", build)
    sh("ctest", "--test-dir", build, "--output-on-failure")  # the class is printed, and is right
    assert "no work to do" in sh("ninja", "-C", build).stdout

    model = source.parent / "digits" / "digits.onnx"
    model.write_bytes(model.read_bytes())
    steps = [line for line in sh("ninja", "-C", build).stdout.splitlines() if line.startswith("[")]
    assert len(steps) == 1 and "Compiling digits.onnx for cortex-m4" in steps[0]

    undefined = {line.split()[-1] for line in sh("nm", "--undefined-only", build / "firmware.elf").stdout.splitlines()}
    assert undefined == set()


def test_meson(sh, tmp_path):
    need("meson", "ninja")
    build = tmp_path / "build"
    sh("meson", "setup", build, EXAMPLES / "meson")
    sh("ninja", "-C", build)
    assert sh(build / "classify", 3).stdout.startswith("class 3, ")
    assert "no work to do" in sh("ninja", "-C", build).stdout
