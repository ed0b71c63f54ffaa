"""Every mode of Pillow as 8-bit pixels: what it means, or an error."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fedsmu_ray.datasets.pixels import FRAMES, TRANSPARENCY, ignored, pixels, rgb

RAMP = np.array([[0, 128, 255], [1, 64, 254]], np.uint8)
COLORS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
RED, CLEAR = (255, 0, 0, 255), (0, 0, 255, 0)


def stored(image, kind, **options):
    """The image as it is read from a file of this format."""
    file = BytesIO()
    image.save(file, kind, **options)
    return Image.open(BytesIO(file.getvalue()))


def of_16_bits(values, mode="I;16"):
    order = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, values.shape[::-1], values.astype(order).tobytes())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_are_scaled(kind):
    image = stored(of_16_bits(RAMP.astype(np.uint16) * 257), kind)
    assert image.mode in ("I;16", "I")
    assert pixels(image).tolist() == RAMP.tolist()  # 65535 is white
    if kind == "PNG":
        assert pixels(stored(of_16_bits(np.full((1, 3), 65535 // 2)), kind)).tolist() == [[127] * 3]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bits_in_either_byte_order(mode):
    assert pixels(of_16_bits(RAMP.astype(np.uint16) * 257, mode)).tolist() == RAMP.tolist()


def tiff(values, bits, photometric):
    """An uncompressed gray TIFF; Pillow itself writes neither 12 bits nor inverted 16 bits."""
    height, width = values.shape
    if bits == 12:
        raw = b"".join(
            bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255))
            for a, b in values.reshape(-1, 2).tolist()
        )
    else:
        raw = values.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 9 * 12 + 4}
    tags |= {277: 1, 278: height, 279: len(raw)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return Image.open(BytesIO(head + raw))


def test_tiff_of_12_bits_and_with_white_as_zero():
    image = tiff(np.array([[0, 4095], [2048, 1024]]), 12, 1)
    assert image.mode == "I;16" and pixels(image).tolist() == [[0, 255], [128, 64]]
    inverted = tiff(RAMP.astype(np.uint16) * 257, 16, 0)
    assert inverted.mode == "I;16" and pixels(inverted).tolist() == (255 - RAMP).tolist()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP.astype(np.float32)),
        stored(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        Image.fromarray(RAMP.astype(np.int32)),
        stored(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    ],
    ids=lambda image: f"{image.mode}-{image.format}",
)
def test_values_of_unknown_range_are_refused(image):
    with pytest.raises(ValueError, match=f"mode {image.mode}: it is not known which of its values"):
        pixels(image)


def test_gray_modes_stay_gray():
    gray = Image.fromarray(RAMP)
    assert pixels(stored(gray, "PNG")).tolist() == RAMP.tolist()
    assert pixels(stored(gray.convert("LA"), "PNG")).tolist() == RAMP.tolist()
    bits = stored(Image.fromarray(RAMP > 100), "PNG")
    assert bits.mode == "1" and pixels(bits).tolist() == ((RAMP > 100) * 255).tolist()
    assert rgb(pixels(gray)).tolist() == np.repeat(RAMP[..., None], 3, axis=2).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_color_modes(mode):
    image = Image.fromarray(COLORS)
    if mode == "RGBa":
        image = image.convert("RGBA")
    decoded = pixels(image.convert(mode)).astype(int)
    tolerance = {"YCbCr": 2, "HSV": 6}.get(mode, 0)  # as those colors are rounded
    assert abs(decoded - COLORS).max() <= tolerance


def test_color_modes_of_files():
    image = Image.fromarray(COLORS)
    for kind, mode in [("PNG", "RGBA"), ("TIFF", "CMYK"), ("PNG", "P"), ("GIF", "P")]:
        file = stored(image.convert(mode), kind)
        assert file.mode == mode
        assert pixels(file).tolist() == np.asarray(image.convert(mode).convert("RGB")).tolist()
    neutral = pixels(Image.new("LAB", (1, 1), (255, 128, 128)))  # L = 100, a = b = 0
    assert neutral.min() >= 253


def test_transparency_is_ignored_and_reported():
    image = Image.new("RGBA", (2, 1))
    image.putdata([RED, CLEAR])
    assert pixels(image).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert ignored(image) == [TRANSPARENCY]
    palette = stored(image.quantize(), "PNG")
    assert palette.mode == "P" and ignored(palette) == [TRANSPARENCY]
    assert pixels(palette)[0, 0].tolist() == [255, 0, 0]
    for mode in ("LA", "PA", "La", "RGBa"):
        assert ignored(Image.new(mode, (1, 1))) == [TRANSPARENCY], mode
    assert ignored(Image.new("RGBA", (1, 1), RED)) == []  # nothing is lost of an opaque image


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_is_used_and_the_others_are_reported(kind):
    first, second = (Image.new("RGB", (2, 2), color) for color in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    image = stored(first, kind, save_all=True, append_images=[second], **options)
    assert ignored(image) == [FRAMES]
    assert pixels(image).tolist() == [[[255, 0, 0]] * 2] * 2
    assert ignored(stored(first, kind, **options)) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_are_turned_as_their_exif_data_says(kind):
    top_left = np.zeros((16, 32), np.uint8)
    top_left[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    decoded = pixels(stored(Image.fromarray(top_left).convert("RGB"), kind, exif=exif))
    assert decoded.shape == (32, 16, 3)
    assert decoded[2, 12].min() > 200 and decoded[2, 2].max() < 50


def test_every_mode_has_pixels_or_an_error():
    for mode in Image.MODES:
        if mode.startswith("BGR"):  # deprecated, and in no file
            continue
        image = Image.new(mode, (3, 2))
        if mode in ("I", "F"):
            with pytest.raises(ValueError, match="it is not known"):
                pixels(image)
        else:
            assert pixels(image).shape in ((2, 3), (2, 3, 3)) and pixels(image).dtype == np.uint8
