"""Image files as a network's inputs; the only file that knows Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.aval import Shape
from chainrule.core.errors import DataError, MissingExtraError

_MARGIN = 4 / 28
"""Of the side of an image of MNIST, what is left free around the drawing; the digits of 8 by 8 pixels fill their height."""


def read_image(path: Path, shape: Shape) -> npt.NDArray[np.float32]:
    """An image file as one input of a network, of values from 0 to 1.

    An image of the network's own size is taken as it is. Others are scaled to it; for a network of one channel, as digits are drawn in its data:
    light on dark, and without the empty border.

    Parameters
    ----------
    path : path
    shape : (int, int, int)
        Height, width and channels (1 or 3) of the network's inputs.

    Raises
    ------
    MissingExtraError
        If Pillow is not installed.
    DataError
        If the file is missing, is no image, or the network takes no pictures.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError("image files are read by Pillow, which is not installed", mend='pip install "chainrule[train]"') from None
    height, width, channels = shape
    if channels not in (1, 3):
        raise DataError(
            f"this network takes inputs of {channels} channels, which no picture has", mend="choose a network for gray or coloured images"
        )
    try:
        with Image.open(path) as file:
            upright: Any = ImageOps.exif_transpose(file)
            # Pillow would cut 16 bits off at 255.
            deep = upright.mode.startswith("I;16") or (upright.mode == "I" and file.format == "PNG")
            image: Any = (Image.fromarray((np.asarray(upright, np.int64) >> 8).astype(np.uint8)) if deep else upright).convert("RGBA")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", mend="check the folder and the name") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}", mend="give a file such as a PNG or a JPEG") from None
    # What is transparent shows the paper below.
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = _drawn(image, width, height) if channels == 1 else ImageOps.fit(image, (width, height))
    return np.asarray(image, np.float32).reshape(shape) / np.float32(255)


def _drawn(image: Any, width: int, height: int) -> Any:
    """The drawing alone, light on dark, in the middle of an image of this size."""
    from PIL import Image, ImageOps

    pixels = np.asarray(image, np.uint8)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if np.median(border) > 127:
        pixels = 255 - pixels
    lit = np.argwhere(pixels > pixels.min() + (int(pixels.max()) - int(pixels.min())) // 4)
    if len(lit):
        (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0) + 1
        pixels = pixels[top:bottom, left:right]
    share = 1 - 2 * _MARGIN if height >= 16 else 1.0
    room = (round(width * share), round(height * share))
    small: Any = ImageOps.contain(Image.fromarray(pixels), room)
    whole = Image.new("L", (width, height), 0)
    whole.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return whole
