"""Photographs out of packages of the package index, for models that look at pictures; nothing of them is in this repository."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.zoo import Entry, fetch_all

SKIMAGE = ("scikit-image", "0.26.0", "skimage/data/", "BSD-3-Clause")
SKLEARN = ("scikit-learn", "1.9.1", "sklearn/datasets/images/", "CC-BY-2.0")
MATPLOTLIB = ("matplotlib", "3.11.2", "matplotlib/mpl-data/sample_data/", "public domain")
ULTRALYTICS = ("ultralytics", "8.4.190", "ultralytics/assets/", "AGPL-3.0 (download only)")
INSIGHTFACE = ("insightface", "2.1", "insightface/data/images/", "MIT")
PHOTOGRAPHS = (
    (SKIMAGE, "astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    (SKIMAGE, "chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    (SKIMAGE, "coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    (SKIMAGE, "rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    (SKIMAGE, "motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
    (SKIMAGE, "hubble_deep_field.jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
    (SKIMAGE, "coins.png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
    (SKIMAGE, "color.png", "7d2df993de2b4fa2a78e04e5df8050f49a9c511aa75e59ab3bd56ac9c98aef7e"),
    (SKLEARN, "china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    (SKLEARN, "flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
    (MATPLOTLIB, "grace_hopper.jpg", "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"),
    (ULTRALYTICS, "bus.jpg", "c02019c4979c191eb739ddd944445ef408dad5679acab6fd520ef9d434bfbc63"),
    (ULTRALYTICS, "zidane.jpg", "16d73869e3267a7d4ed00de8e860833bd1657c1b252e94c0c348277adc7b6edb"),
    (INSIGHTFACE, "t1.jpg", "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489"),
)
"""Package, file, SHA-256."""


def photographs(names: Sequence[str]) -> list[np.ndarray]:
    """Photographs [H, W, 3] in uint8, by the names of their files without what follows the dot.

    Raises:
        FetchError: one cannot be had, or is not the one that was recorded.
        KeyError: there is none of that name.
    """
    from PIL import Image

    known = {}
    for (package, version, folder, licence), file, digest in PHOTOGRAPHS:
        name, _, suffix = file.partition(".")
        known[name] = Entry(f"photographs/{name}", package, version, folder + file, digest, licence, suffix)
    found = []
    for path in fetch_all([known[name] for name in names]):
        with Image.open(path) as image:
            found.append(np.asarray(image.convert("RGB")))
    return found


def crops(images: Sequence[np.ndarray], size: int, each: int) -> list[np.ndarray]:
    """Squares [size, size, 3] in uint8 out of images: at random places, of half to all of the shorter side, every other one mirrored."""
    from PIL import Image

    rng, found = np.random.default_rng(0), []
    for image in images:
        height, width = image.shape[:2]
        for k in range(each):
            side = int(min(height, width) * rng.uniform(0.5, 1))
            top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            window = Image.fromarray(image[top : top + side, left : left + side]).resize((size, size))
            pixels = np.asarray(window)
            found.append(pixels[:, ::-1] if k % 2 else pixels)
    return found
