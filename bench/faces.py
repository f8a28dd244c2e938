"""Finding faces with the three nets of MTCNN, by whatever runs them: a pyramid of images, windows that look like faces, two closer looks.

After K. Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", IEEE SPL 2016. A box is a row
`left, top, right, bottom` in pixels of the photograph, followed by the probability of a face.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
NETS = ("pnet", "rnet", "onet")
SMALLEST = 40
"""Pixels of the smallest face that is looked for."""
FACTOR = 0.709
"""From one image of the pyramid to the next."""
LIKELY = (0.6, 0.7, 0.7)
"""Probability from which on each of the nets passes a window on."""


def detect(nets: Mapping[str, Run], image: np.ndarray) -> np.ndarray:
    """The faces [N, 5] in a photograph [H, W, 3] of uint8.

    Args:
        nets: what runs `pnet`, `rnet` and `onet`, from `x` to `probability` and `box`.
        image: the photograph.
    """
    boxes = _proposals(nets["pnet"], image)
    for name, size, likely in (("rnet", 24, LIKELY[1]), ("onet", 48, LIKELY[2])):
        if len(boxes):
            boxes = _judged(nets[name], windows(image, boxes, size), boxes, likely)
        if name == "rnet":
            boxes = _square(boxes[_apart(boxes, 0.7)])
    return boxes[_apart(boxes, 0.7, of_smaller=True)]


def pixels(image: np.ndarray) -> np.ndarray:
    """A photograph as the nets read it: [1, 3, H, W] from -1 to 1."""
    return ((image.astype(np.float32) - np.float32(127.5)) / np.float32(128)).transpose(2, 0, 1)[None]


def overlap(a: np.ndarray, b: np.ndarray, of_smaller: bool = False) -> np.ndarray:
    """The area [N, M] that boxes share, relative to what they cover together, or to the smaller one."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [(x[:, 2:4] - x[:, :2]).prod(-1) for x in (a, b)]
    first, second = areas[0][:, None], areas[1][None]
    return np.asarray(common / np.maximum(np.minimum(first, second) if of_smaller else first + second - common, 1e-9))


def windows(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """What boxes show, as the nets read it: [N, 3, size, size]; black outside the photograph."""
    from PIL import Image

    whole = Image.fromarray(image)
    corners = [tuple(int(v) for v in np.rint(box[:4])) for box in boxes]
    return np.concatenate([pixels(np.asarray(whole.crop(c).resize((size, size)))) for c in corners])


def _proposals(run: Run, image: np.ndarray) -> np.ndarray:
    """Windows of 12 pixels in a pyramid of images that may show faces."""
    from PIL import Image

    height, width = image.shape[:2]
    scale, found = 12 / SMALLEST, [np.zeros((0, 5), np.float32)]
    while min(height, width) * scale >= 12:
        small = Image.fromarray(image).resize((round(width * scale), round(height * scale)))
        outputs = run({"x": pixels(np.asarray(small))})
        face = outputs["probability"][0, 1]
        rows, columns = np.nonzero(face >= LIKELY[0])
        corner = 2 * np.stack([columns, rows], 1)
        boxes = np.concatenate([corner / scale, (corner + 12) / scale, face[rows, columns, None]], 1)
        boxes = _moved(boxes, outputs["box"][0][:, rows, columns].T)
        found.append(boxes[_apart(boxes, 0.5)])
        scale *= FACTOR
    everything = np.concatenate(found)
    return _square(everything[_apart(everything, 0.7)])


def _judged(run: Run, looks: np.ndarray, boxes: np.ndarray, likely: float) -> np.ndarray:
    outputs = run({"x": looks})
    face = outputs["probability"][:, 1]
    kept = face >= likely
    return _moved(np.concatenate([boxes[kept, :4], face[kept, None]], 1), outputs["box"][kept])


def _moved(boxes: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """Boxes with their edges moved by parts of their sides."""
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
    return np.concatenate([boxes[:, :4] + sides * corrections, boxes[:, 4:]], 1)


def _square(boxes: np.ndarray) -> np.ndarray:
    """Boxes made as wide as high about their centres."""
    centre, side = (boxes[:, :2] + boxes[:, 2:4]) / 2, (boxes[:, 2:4] - boxes[:, :2]).max(1, initial=0)[:, None]
    return np.concatenate([centre - side / 2, centre + side / 2, boxes[:, 4:]], 1)


def _apart(boxes: np.ndarray, most: float, of_smaller: bool = False) -> list[int]:
    """Which boxes to keep so that none overlaps a more probable one by more than `most`."""
    left, kept = list(np.argsort(-boxes[:, 4], kind="stable")), []
    while left:
        best, *others = left
        kept.append(int(best))
        common = overlap(boxes[[best]], boxes[others], of_smaller)[0] if others else np.zeros(0)
        left = [other for other, share in zip(others, common, strict=True) if share <= most]
    return kept
