"""Inputs for `bench.quantization_models`: samples to calibrate with, and others to compare on.

They are what the models are for where that can be had offline: files of this repository for magika, text drawn as lines for PP-OCR
(`bench.text_lines`), photographs for EfficientNet and MTCNN, none of which is among both kinds of samples. The vocabulary of MiniLM is not in its package, so its
sentences are token numbers of Zipf's distribution; the voice that silero-vad hears is synthetic: pulses through formants, with pauses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench import faces
from bench.photographs import crops, photographs
from bench.runtime_quantizer import session_run

ROOT = Path(__file__).parent.parent
Feeds = dict[str, np.ndarray]
Split = tuple[list[Feeds], list[Feeds]]
"""Samples for calibration, and for the comparison."""


def file_beginnings(path: Path) -> Split:
    """The first and last 1,024 bytes of files, as magika reads them; 256 pads short ones."""
    files = [
        f for kind in ("*.py", "*.md", "*.toml", "*.json", "*.onnx", "*.lir", "Makefile", "LICENSE") for f in sorted(ROOT.rglob(kind))[:12]
    ]
    found = []
    for file in files:
        content = file.read_bytes()
        begin, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row = np.full((1, 2048), 256, np.int32)
        row[0, : len(begin)] = np.frombuffer(begin, np.uint8)
        row[0, 2048 - len(end) :] = np.frombuffer(end, np.uint8)
        found.append({"bytes": row})
    return _split([found[k] for k in np.random.default_rng(0).permutation(len(found))], 32)


def sentences(path: Path) -> Split:
    """Token numbers between the marks of a sentence, padded to 64."""
    rng, found = np.random.default_rng(0), []
    for _ in range(24):
        length = int(rng.integers(8, 40))
        ids, mask = np.zeros((1, 64), np.int64), np.zeros((1, 64), np.int64)
        words = np.minimum(1996 + rng.zipf(1.3, length - 2), 29999)
        ids[0, :length], mask[0, :length] = [101, *words, 102], 1
        found.append({"input_ids": ids, "attention_mask": mask})
    return _split(found, 12)


def voice(path: Path) -> Split:
    """Frames of a synthetic voice with pauses, and the state that the float model has at each."""
    rng, rate = np.random.default_rng(0), 16000
    time = np.arange(rate * 4) / rate
    pitch = 2 * np.pi * np.cumsum(110 + 25 * np.sin(2 * np.pi * 0.7 * time)) / rate
    source = sum(np.sin(k * pitch) * np.exp(-((k * 115 - f) ** 2) / 90000.0) for k in range(1, 30) for f in (500, 1500, 2500))
    signal = 0.08 * source * (np.sin(2 * np.pi * 0.5 * time) > -0.2) + 0.003 * rng.normal(size=len(time))
    run, state, found = session_run(path), np.zeros((2, 1, 128), np.float32), []
    for k in range(64, len(signal) - 512, 512):
        feeds = {"input": signal[None, k - 64 : k + 512].astype(np.float32), "state": state, "sr": np.array(rate, np.int64)}
        state = run(feeds)["stateN"]
        found.append(feeds)
    return _split([found[k] for k in rng.permutation(len(found))], 64)


def _split(samples: list[Feeds], calibration: int) -> Split:
    return samples[:calibration], samples[calibration:]


def photograph_crops(path: Path) -> Split:
    """Parts of photographs, 224 pixels wide, as EfficientNet-Lite sees them."""
    train = photographs(["china", "astronaut", "coffee", "bus", "motorcycle_left", "color", "hubble_deep_field", "t1"])
    test = photographs(["flower", "chelsea", "rocket", "zidane", "grace_hopper", "coins"])
    return _as_inputs(crops(train, 224, 4)), _as_inputs(crops(test, 224, 5))


def _as_inputs(images: Sequence[np.ndarray]) -> list[Feeds]:
    return [{"x": ((image.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]} for image in images]


FACES = (("astronaut", "bus", "zidane", "coffee", "china"), ("t1", "grace_hopper", "chelsea", "motorcycle_left"))
"""Photographs for MTCNN: those to calibrate with, 5 faces on 3 of them; those to compare on, 7 faces on 2 of them."""
WINDOWS = 256
"""Windows that the second and third net of MTCNN are given at most."""


def face_photographs(names: Sequence[str]) -> list[np.ndarray]:
    """Photographs as they are, mirrored, and of half the size."""
    found = photographs(names)
    return [variant for image in found for variant in (image, image[:, ::-1], image[::2, ::2])]


def face_windows(net: str, files: Mapping[str, Path]) -> Split:
    """What one of the nets of MTCNN is given when the float nets look for faces."""
    runs = {name: session_run(file) for name, file in files.items()}
    rng, kinds = np.random.default_rng(0), []
    for names in FACES:
        seen: list[np.ndarray] = []

        def watched(feeds: Mapping[str, np.ndarray], seen: list[np.ndarray] = seen) -> Mapping[str, np.ndarray]:
            seen += np.split(feeds["x"], len(feeds["x"]))
            return runs[net](feeds)  # type: ignore[no-any-return]

        for image in face_photographs(names):
            faces.detect({**runs, net: watched}, image)
        chosen = np.sort(rng.permutation(len(seen))[:WINDOWS])
        kinds.append([{"x": seen[k]} for k in chosen])
    return kinds[0], kinds[1]
