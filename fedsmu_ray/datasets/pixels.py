"""The pixels of an image that Pillow has opened, whatever its mode.

The image is what a viewer shows: the first frame, turned as its EXIF orientation says. 16 bits per
channel are scaled to 8. Colors are those of the file: transparency is ignored, as in torchvision's
ImageFolder, and so are color profiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WITH_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}  # modes whose colors are multiplied by alpha
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

FRAMES = "images with more than one frame, of which the first is used"
TRANSPARENCY = "images with transparent pixels, whose colors are used as if they were opaque"


def pixels(image: Any) -> NDArray[np.uint8]:
    """Pixels of an image: uint8 [H, W] if its mode is gray, else [H, W, 3] (RGB).

    Raises ValueError for modes I and F where it is not known which values are black and white, and
    whatever Pillow raises for a damaged file.
    """
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bits(image)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # Pillow warns if this step is left out
    return np.asarray(image.convert("RGB"))


def rgb(gray_or_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of what `pixels` returned."""
    if gray_or_rgb.ndim == 3:
        return gray_or_rgb
    return np.broadcast_to(gray_or_rgb[..., None], (*gray_or_rgb.shape, 3))


def ignored(image: Any) -> list[str]:
    """What `pixels` leaves out of an image: FRAMES, TRANSPARENCY."""
    found = [FRAMES] if getattr(image, "is_animated", False) else []
    has_color_key = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    if image.mode in _WITH_ALPHA or has_color_key:
        straight = image.convert(_STRAIGHT.get(image.mode, image.mode))
        if straight.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            found.append(TRANSPARENCY)
    return found


def _scaled_to_8_bits(image: Any) -> NDArray[np.uint8]:
    """Gray values of more than 8 bits, rounded to 8."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = int(tags.get(_TIFF_BITS, (16,))[0])
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        bits = 16  # Pillow scales PPM to it
    else:
        raise ValueError(
            f"mode {image.mode}: it is not known which of its values are black and white; save it "
            "with 8 or 16 bits per channel"
        )
    white = (1 << bits) - 1
    values = np.asarray(image).astype(np.int64)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts up to 8 bits only
        values = white - values
    return ((values * 255 + white // 2) // white).astype(np.uint8)
