"""Targets: what names, processors and features say about caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_compiler.errors import UsageError
from lepton_compiler.target import CPUS, parse_target

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def test_a_processor_brings_its_caches_and_features_replace_them():
    target = parse_target("x86_64,l2=3M,avx512vnni", "skylake-avx512")
    assert target.caches == (CPUS["skylake-avx512"].l1_bytes, 3 << 20)
    assert target.features == ("+avx512vnni",)
    assert parse_target("x86_64,l1=48K").caches == (48 << 10, CPUS["x86-64-v3"].l2_bytes)


@pytest.mark.parametrize("feature", ["l2=", "l2=0", "l2=-1M", "l3=1M", "l2=big", "=1M"])
def test_sizes_that_are_none_are_usage_errors(feature):
    with pytest.raises(UsageError, match="no size of a cache"):
        parse_target(f"x86_64,{feature}")


@pytest.mark.skipif(not (CACHES / "index0" / "size").exists(), reason="this kernel does not tell the sizes of caches")
def test_native_has_the_caches_of_the_machine():
    sizes = {(folder / "size").read_text().strip() for folder in CACHES.glob("index*")}
    l1, l2 = parse_target("native").caches
    assert f"{l1 >> 10}K" in sizes
    assert f"{l2 >> 10}K" in sizes or f"{l2 >> 20}M" in sizes
