"""`find_package(Lepton)` and `lepton_add_model`, with both generators, in a project of two models and a program."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

import lepton_compiler as lc
from lepton_compiler.cli.leptonc import main

ROOT = Path(__file__).parents[2]
CMAKE = ROOT / "lepton_compiler" / "cmake"
FILES = ("c", "h", "json")

MODEL = """
graph @net(%x: float32[n,4]) {{
  %w = const float32[4,2] ({first}, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0)
  %y = MatMul()(%x, %w) : float32[n,2]
  return %y
}}
"""

PROGRAM = """
#include <stdio.h>
#include "one.h"
#include "two.h"

int main(void) {
  static _Alignas(ONE_ARENA_ALIGN) unsigned char a[ONE_ARENA_BYTES], b[TWO_ARENA_BYTES];
  float x[ONE_INPUT_X_SIZE] = {1, 2, 3, 4}, y[ONE_OUTPUT_Y_SIZE], z[TWO_OUTPUT_Y_SIZE];
  int status = one_run(&(one_inputs){.x = x}, &(one_outputs){.y = y}, a) | two_run(&(two_inputs){.x = x}, &(two_outputs){.y = z}, b);
  printf("%d %g %g\\n", status, y[0], z[0]);
  return status;
}
"""

PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(models LANGUAGES C)
find_package(Lepton 0.1 REQUIRED)
add_subdirectory(models)
add_executable(program program.c)
target_link_libraries(program PRIVATE Lepton::one two)
"""

MODELS = """
set(LEVEL 1 CACHE STRING "")
lepton_add_model(one one.lir LEVEL ${LEVEL} DIMS n=1)
lepton_add_model(two two.lir LEVEL 1 INPUTS x=1x4 KIND lib CPU x86-64-v3 THREADS 2)
"""


@pytest.fixture
def project(tmp_path):
    """A project in a folder whose name has a space."""
    source = tmp_path / "a project"
    (source / "models").mkdir(parents=True)
    (source / "CMakeLists.txt").write_text(PROJECT)
    (source / "program.c").write_text(PROGRAM)
    (source / "models" / "CMakeLists.txt").write_text(MODELS)
    (source / "models" / "one.lir").write_text(MODEL.format(first="1.0"))
    (source / "models" / "two.lir").write_text(MODEL.format(first="2.0"))
    return source


def configure(sh, project, build, generator, *options, check=True, env=None):
    if generator == "Ninja" and shutil.which("ninja") is None:
        pytest.skip("ninja is not installed")
    return sh("cmake", "-S", project, "-B", build, "-G", generator, f"-DLepton_DIR={CMAKE}", *options, check=check, env=env)


def touch(path: Path) -> None:
    """Make a file newer than anything that was built so far, also where clocks are coarse."""
    now = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns <= now:
        os.utime(path)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def built(done) -> list[str]:
    """What a build says it did: models that it compiled, `C` for each file of C, `link` for each program."""
    steps = []
    for line in done.stdout.splitlines():
        steps += [
            word
            for sign, word in (("Compiling one", "one"), ("Compiling two", "two"), ("Building C", "C"), ("Linking C", "link"))
            if sign in line
        ]
    return sorted(steps)


@pytest.mark.parametrize("generator", ["Ninja", "Unix Makefiles"])
def test_models_are_compiled_when_they_change_and_not_else(sh, project, tmp_path, generator):
    build = tmp_path / "b"
    env = {"LEPTON_CACHE": str(tmp_path / "cache"), "SOURCE_DATE_EPOCH": "1"}  # cold, and shared by two compilers at once
    configure(sh, project, build, generator, env=env)

    def make():
        return built(sh("cmake", "--build", build, "--parallel", 2, env=env))

    assert make() == ["C", "link", "one", "two"]
    assert sh(build / "program").stdout == "0 -3.5 -2.5\n"
    first = digests(build / "models" / "lepton")
    assert {f"{name}.{end}" for name in ("one", "two") for end in FILES} | {"libone.a", "libtwo.so"} <= set(first)
    assert make() == []

    touch(project / "models" / "one.lir")
    assert make() == ["one"]
    assert digests(build / "models" / "lepton") == first
    assert make() == []

    configure(sh, project, build, generator, "-DLEVEL=2", env=env)
    assert set(make()) - {"link"} == {"one"}
    assert make() == []


def test_two_builds_give_the_same_bytes(sh, project, tmp_path):
    found: list[dict[str, str]] = []
    for name in ("first", "second"):
        build = tmp_path / name
        env = {"LEPTON_CACHE": str(tmp_path / f"cache-{name}"), "SOURCE_DATE_EPOCH": str(len(found))}
        configure(sh, project, build, "Ninja", env=env)
        sh("ninja", "-C", build, "models/lepton/two/two.json", env=env)
        found.append(digests(build / "models" / "lepton" / "two"))
    assert found[0] == found[1] and "libtwo.so" in found[0]


def test_errors_of_the_compiler_are_errors_of_the_build(sh, project, tmp_path):
    (project / "models" / "one.lir").write_text(MODEL.format(first="1.0").replace("MatMul", "MatMulch"))
    build = tmp_path / "b"
    configure(sh, project, build, "Ninja")
    done = sh("ninja", "-C", build, "models/lepton/one/one.json", check=False)
    assert done.returncode == 1
    assert "leptonc: error:" in done.stdout and "MatMulch" in done.stdout
    assert list((build / "models" / "lepton" / "one").iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("lepton_add_model(a-b m.onnx)", "a-b ...): the name is no C identifier"),
        ("lepton_add_model(net m.onnx KIND shared)", "KIND shared is no library; say static or lib"),
        ("lepton_add_model(net m.onnx LEVLE 3)", "does not know 'LEVLE;3'; hand options"),
        ("lepton_add_model(net m.onnx TARGET)", "no value after TARGET"),
        ("set(CMAKE_CROSSCOMPILING ON)\nlepton_add_model(net m.onnx)", "this build is for another machine; say TARGET"),
    ],
)
def test_wrong_calls_say_what_is_wrong(sh, tmp_path, call, message):
    script = tmp_path / "script.cmake"
    script.write_text(f'cmake_minimum_required(VERSION 3.20)\ninclude("{CMAKE}/LeptonAddModel.cmake")\n{call}\n')
    done = sh("cmake", "-P", script, check=False)
    assert done.returncode == 1 and message in " ".join(done.stderr.split())


@pytest.mark.parametrize(("says", "message"), [("exit 3", "--version' failed: 3"), ("echo leptonc 9.8.7", "is 'leptonc 9.8.7', but")])
def test_package_is_not_found_without_its_compiler(sh, tmp_path, says, message):
    fake = tmp_path / "leptonc"
    fake.write_text(f"#!/bin/sh\n{says}\n")
    fake.chmod(0o755)
    (tmp_path / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.20)\nproject(x NONE)\nfind_package(Lepton REQUIRED)\n")
    done = configure(sh, tmp_path, tmp_path / "b", "Unix Makefiles", f"-DLepton_LEPTONC={fake}", check=False)
    assert done.returncode == 1 and message in " ".join(done.stderr.split())


def test_versions_follow_the_package(sh, tmp_path):
    major, minor, patch = (int(part) for part in lc.__version__.split("."))
    wanted = {
        "": "TRUE",
        lc.__version__: "TRUE",
        f"{major}.{minor}": "TRUE",
        f"{major}.{minor + 1}": "FALSE",
        f"{major}.{minor}.{patch + 1}": "FALSE",
        f"{major + 1}.0": "FALSE",
    }
    script = tmp_path / "script.cmake"
    script.write_text(
        "cmake_minimum_required(VERSION 3.20)\n"
        + "".join(
            f'set(PACKAGE_FIND_VERSION "{v}")\ninclude("{CMAKE}/LeptonConfigVersion.cmake")\nmessage("${{PACKAGE_VERSION}} ${{PACKAGE_VERSION_COMPATIBLE}}")\n'
            for v in wanted
        )
    )
    assert sh("cmake", "-P", script).stderr.splitlines() == [f"{lc.__version__} {answer}" for answer in wanted.values()]


def test_cmake_dir_is_printed(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--cmake-dir"])
    assert left.value.code == 0
    folder = Path(capsys.readouterr().out.removesuffix("\n"))
    assert {"LeptonConfig.cmake", "LeptonConfigVersion.cmake", "LeptonAddModel.cmake", "lepton.mk"} == {p.name for p in folder.iterdir()}
