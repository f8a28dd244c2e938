"""What the measurement of calibration reads: stages of `leptonc -v`, the memory of processes, the pages that it draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import calibration_memory


def test_stages_are_told_apart() -> None:
    script = (
        "import sys, time\n"
        "for name in ('import', 'try: this', 'import'):\n"
        "    time.sleep(0.2)\n"
        "    print(f'leptonc: {name}: 0.50 s', file=sys.stderr, flush=True)\n"
        "print('a warning', file=sys.stderr)\n"
        "print('done')\n"
    )
    row = calibration_memory._watched([sys.executable, "-c", script])
    assert row["stages"] == {"import": 1.0, "try: this": 0.5} and row["summary"] == "done"
    assert row["peak_bytes"] > 0 and set(row["peaks"]) <= set(row["stages"])


def test_memory_of_children_counts() -> None:
    child = subprocess.Popen([sys.executable, "-c", "kept = b'x' * (64 << 20); input()"], stdin=subprocess.PIPE)
    try:
        for _ in range(100):
            if calibration_memory.tree_bytes(child.pid) > 64 << 20:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.1)
        assert calibration_memory.tree_bytes(child.pid) > 64 << 20
    finally:
        child.communicate(b"\n", timeout=30)


def test_pages_show_text(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    calibration_memory.draw_pages(tmp_path, 2, 96)
    first, second = (np.asarray(image.open(tmp_path / f"000{k}.png")) for k in range(2))
    assert first.shape == second.shape == (96, 96, 3) and first.std() > 5 and (first != second).any()
