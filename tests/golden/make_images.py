"""Writes tests/fixtures/images: small JPEG and PNG files of every kind that is read or refused, and
golden.safetensors with the pixels that Pillow (or, for what it does not read, numpy) sees in them.

    pip install pillow numpy safetensors
    python3 tests/golden/make_images.py

PNG files are written here byte by byte: Pillow writes neither interlaced ones nor 16-bit colour.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

from golden_util import FIXTURES

OUT = FIXTURES / "images"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
ADAM7 = [  # x, y, dx, dy of the seven passes
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
]


def picture(h, w, seed):
    """Smooth colours with some noise: what JPEG is made for, yet no two rows are the same."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    planes = [127 + 100 * np.sin(x / (3 + c) + seed) * np.cos(y / (4 + c)) for c in range(3)]
    return np.clip(np.stack(planes, 2) + rng.normal(0, 6, (h, w, 3)), 0, 255).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack(samples, depth):
    """Rows of samples [h, w, channels] as PNG stores them, each behind filter type 0."""
    rows = b""
    for row in samples.reshape(samples.shape[0], -1):
        if depth == 16:
            data = row.astype(">u2").tobytes()
        elif depth == 8:
            data = row.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(v), f"0{depth}b") for v in row)
            bits += "0" * (-len(bits) % 8)
            data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        rows += b"\0" + data
    return rows


def png(samples, kind, depth=8, interlaced=False, before=b"", after=b""):
    h, w = samples.shape[:2]
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        raw = b"".join(pack(part, depth) for part in passes if part.size)
    else:
        raw = pack(samples, depth)
    head = struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(raw, 9))
        + after + chunk(b"IEND", b"")
    )


def jpeg(image, **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", **options)
    return out.getvalue()


def exif(orientation, big=False):
    """The TIFF part: one directory with two entries."""
    e = ">" if big else "<"
    width = struct.pack(e + "HHIHH", 0x0100, 3, 1, 7, 0)
    turn = struct.pack(e + "HHIHH", 0x0112, 3, 1, orientation, 0)
    head = (b"MM" if big else b"II") + struct.pack(e + "HIH", 42, 8, 2)
    return head + width + turn + struct.pack(e + "I", 0)


def seen(data, mode):
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))


def resized(image, size):
    """torchvision's Resize(size), CenterCrop(size) on a PIL image; columns, then rows, in two calls:
    Pillow 13 would turn that round for tall images, earlier versions do not."""
    h, w = image.shape[:2]
    short = min(h, w)
    wide = Image.fromarray(image).resize((size * w // short, h), Image.BILINEAR)
    new = wide.resize((wide.width, size * h // short), Image.BILINEAR)
    left, top = int(round((new.width - size) / 2.0)), int(round((new.height - size) / 2.0))
    return np.array(new.crop((left, top, left + size, top + size)))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    files, golden = {}, {}

    def add(name, data, pixels):
        files[name] = data
        if pixels is not None:
            pixels = np.ascontiguousarray(pixels)
            golden[name] = pixels[:, :, None] if pixels.ndim == 2 else pixels

    colour, grey = picture(13, 17, 1), picture(13, 17, 2)[:, :, 0]

    # JPEG
    for name, data, mode in [
        ("rgb444.jpg", jpeg(colour, quality=90, subsampling=0), "RGB"),
        ("rgb420.jpg", jpeg(colour, quality=80, subsampling=2), "RGB"),
        ("progressive.jpg", jpeg(colour, quality=80, progressive=True), "RGB"),
        ("grey.jpg", jpeg(grey, quality=85), "L"),
    ]:
        add(name, data, seen(data, mode))
    for turn in range(1, 9):
        block = b"Exif\0\0" + exif(turn, big=turn % 2 == 0)
        data = jpeg(picture(9, 14, 20 + turn), quality=90, subsampling=0, exif=block)
        add(f"exif{turn}.jpg", data, seen(data, "RGB"))
    cmyk = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(cmyk, "JPEG", quality=80)
    add("cmyk.jpg", cmyk.getvalue(), None)

    # PNG
    for depth in (1, 2, 4, 8):
        level = (grey.astype(int) >> (8 - depth))[:, :, None]
        add(f"grey{depth}.png", png(level, GREY, depth), level * 255 // (2**depth - 1))
    deep = colour.astype(int) * 256 + 200
    add("rgb8.png", png(colour, RGB), colour)
    add("rgb16.png", png(deep, RGB, 16), colour)
    add("grey16.png", png(deep[:, :, :1], GREY, 16), colour[:, :, :1])
    add("interlaced.png", png(colour, RGB, interlaced=True), colour)
    add("interlaced1.png", png(grey[:, :, None] >> 7, GREY, 1, True), (grey >> 7) * 255)
    alpha = np.concatenate([colour, grey[:, :, None]], 2)
    add("rgba.png", png(alpha, RGBA), colour)
    add("grey_alpha.png", png(alpha[:, :, 2:], GREY_ALPHA), colour[:, :, 2:])
    palette = picture(4, 4, 3).reshape(16, 3)
    index = (grey.astype(int) >> 4)[:, :, None]
    table = chunk(b"PLTE", palette.tobytes())
    add("palette.png", png(index, PALETTE, 4, before=table), palette[index[:, :, 0]])
    clear = table + chunk(b"tRNS", bytes(range(0, 160, 10)))
    add("palette_clear.png", png(index, PALETTE, 8, before=clear), palette[index[:, :, 0]])
    add("clear_colour.png", png(colour, RGB, before=chunk(b"tRNS", b"\0\1\0\2\0\3")), colour)
    turned = chunk(b"eXIf", exif(6))
    add("exif6.png", png(colour, RGB, before=turned), np.rot90(colour, -1))
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 64) + chunk(b"iCCP", b"broken profile")
    add("text.png", png(colour, RGB, before=text, after=chunk(b"tIME", b"\x07\xe9\1\1\0\0\0")), colour)

    # Resizing: reduced, enlarged, one axis left as it is, odd rests of the crop, one row.
    for name, h, w, size in [
        ("wide", 37, 53, 16), ("tall", 61, 22, 9), ("large", 11, 20, 24), ("same", 16, 23, 16),
        ("row", 1, 7, 3), ("strong", 90, 97, 7),
    ]:
        image = picture(h, w, h)
        golden[f"resize.{name}.in"], golden[f"resize.{name}.out"] = image, resized(image, size)
        golden[f"resize.{name}_grey.in"] = np.ascontiguousarray(image[:, :, 0])[:, :, None]
        golden[f"resize.{name}_grey.out"] = resized(np.ascontiguousarray(image[:, :, 0]), size)[:, :, None]

    for name, data in files.items():
        (OUT / name).write_bytes(data)
    golden = {k: np.ascontiguousarray(v).astype(np.uint8) for k, v in golden.items()}
    save_file(golden, OUT / "golden.safetensors")
    # What numpy expects of PNG is what Pillow sees, but for 16 bits and a colour profile that is damaged.
    for name in files:
        if name.endswith(".png") and "16" not in name and name != "text.png":
            got = seen(files[name], "L" if golden[name].shape[2] == 1 else "RGB")
            assert (got.reshape(golden[name].shape) == golden[name]).all(), name


main()
