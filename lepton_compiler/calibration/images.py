"""Images as samples: read, brought to the size that the model takes, scaled."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.errors import MissingDependency, UsageError
from lepton_compiler.ir.types import TensorType

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}
FITS = ("stretch", "crop")


@dataclass(frozen=True)
class Preprocessing:
    """What happens to pixels of 0 to 255: `(pixel - mean) / std`, per channel.

    Attributes:
        mean: one number, or one per channel.
        std: one number, or one per channel.
        channels: `rgb`, `bgr` or `gray`; by default what the number of channels of the model says.
        fit: `stretch` to the model's height and width, or `crop` the middle after scaling the shorter side.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    channels: str = ""
    fit: str = "stretch"

    @staticmethod
    def parse(text: str) -> Preprocessing:
        """Read `mean=123.7+116.3+103.5,std=58.4+57.1+57.4,channels=bgr,fit=crop`.

        Raises:
            UsageError: an unknown option or value.
        """
        given: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = (s.strip() for s in part.partition("="))
            try:
                if key in ("mean", "std"):
                    given[key] = tuple(float(v) for v in value.split("+"))
                elif (key, value) in [*(("channels", m) for m in MODES), *(("fit", f) for f in FITS)]:
                    given[key] = value
                else:
                    raise ValueError
            except ValueError:
                hint = "write FOLDER{mean=124+116+104,std=58+57+57,channels=rgb|bgr|gray,fit=stretch|crop}"
                raise UsageError(f"'{part}' is no preprocessing of images", hint=hint) from None
        if any(s == 0 for s in given.get("std", ())):
            raise UsageError("images cannot be divided by a std of 0")
        return Preprocessing(**given)


def read_image(file: Path, kind: TensorType, steps: Preprocessing) -> np.ndarray:
    """An image as a sample of type `kind`, [N, C, H, W] or [N, H, W, C]; open sizes are the image's own.

    Raises:
        MissingDependency: pillow is not installed.
        UsageError: the file is no image, or the input is none that takes images.
    """
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependency("images need pillow", hint="pip install pillow, or give .npy files") from error
    first = kind.rank == 4 and kind.shape[1] in (1, 3)
    if kind.rank != 4 or not (first or kind.shape[3] in (1, 3)):
        raise UsageError(f"'{file}': an input of type {kind} takes no image", hint="give .npy files")
    mode = steps.channels or ("gray" if kind.shape[1 if first else 3] == 1 else "rgb")
    try:
        with pillow.open(file) as opened:
            image = opened.convert(MODES[mode])
    except OSError as error:
        raise UsageError(f"cannot read '{file}': {error}") from error
    height, width = (
        d if isinstance(d, int) else s for d, s in zip(kind.shape[2:] if first else kind.shape[1:3], image.size[::-1], strict=True)
    )
    pixels = np.asarray(_fitted(image, height, width, steps.fit), np.float32).reshape(height, width, -1)
    pixels = pixels[..., ::-1] if mode == "bgr" else pixels
    values = ((pixels - np.asarray(steps.mean, np.float32)) / np.asarray(steps.std, np.float32)).astype(kind.dtype.numpy)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if first else values)[None]


def _fitted(image: Any, height: int, width: int, fit: str) -> Any:
    if fit == "stretch":
        return image.resize((width, height))
    ratio = max(height / image.height, width / image.width)
    larger = image.resize((max(width, round(image.width * ratio)), max(height, round(image.height * ratio))))
    left, top = (larger.width - width) // 2, (larger.height - height) // 2
    return larger.crop((left, top, left + width, top + height))
