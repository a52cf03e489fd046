"""Image files and requests that break programs."""

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache, partial
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class ImageFile(NamedTuple):
    """A file, and whether it must open or must not."""

    content: bytes
    opens: bool


def encoded(image: Image.Image, form: str, **options) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(seed: int, width: int = 40, height: int = 24) -> Image.Image:
    """An image of coarse noise."""
    levels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height))


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(2**20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@cache
def image_files() -> list[ImageFile]:
    """Whole files of many kinds, and what is none, or is refused."""
    rgb = noise(1)
    grey, clear = rgb.convert("L"), rgb.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 10, 24))
    palette = grey.convert("P")
    jpeg = partial(encoded, form="JPEG", quality=98)
    frames = {"save_all": True, "append_images": [noise(2), noise(3)]}
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    good = [
        *(encoded(image, "PNG") for image in (rgb, grey, clear, palette, noise(1, 1, 1), noise(1, 1, 10_000))),
        encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        encoded(rgb, "PNG", **frames),
        encoded(rgb, "PNG", icc_profile=b"no profile"),
        jpeg(rgb),
        jpeg(rgb, progressive=True),
        jpeg(grey),
        jpeg(rgb.convert("CMYK")),
        jpeg(rgb, icc_profile=b"x" * 200),
        jpeg(rgb, exif=b"Exif\0\0MM\x80*" + bytes(22)),
        jpeg(rgb, exif=turned),
        encoded(rgb, "WEBP", lossless=True, **frames),
        encoded(palette, "GIF"),
        encoded(rgb, "BMP"),
    ]
    start = jpeg(rgb).index(b"\xff\xc0") + 5
    bad = [
        b"",
        b"Jordan was seen in Paris. " * 20,
        bytes(1000),
        encoded(rgb, "EPS"),
        encoded(rgb, "PDF"),
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        png(30_000, 30_000),  # bombs
        jpeg(rgb)[:start] + b"\xff\x00\xff\x00" + jpeg(rgb)[start + 4 :],
        b"GIF89a\xff\xff\xff\xff" + encoded(palette, "GIF")[10:],
        encoded(rgb, "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encoded(rgb, "BMP")[26:],
    ]
    return [ImageFile(content, True) for content in good] + [ImageFile(content, False) for content in bad]


TEXTS = ["Jordan was seen in Paris.", "Orange gewinnt gegen München!", "", "L'Amazone coule 🙂", "¿Vive en Santiago?"]
NESTED: list = []
for _ in range(500):
    NESTED = [NESTED]
TEXT_VALUES = ["", "a", "\0", "O", "none"]
VALUES: list[Any] = [
    *TEXT_VALUES,
    *(1, None, True, False, 0, -1, 1.5, 1e308, 10**400, float("nan"), float("inf"), [], [None], {}, NESTED),
    *("\ud83d", "\udcff" * 9, "x" * 17_000_000, "ü" * 200_000, ["PER"], ["a"] * 2000, ["b", 17], {"x" * 10**5: 1}),
    *({"text": "a", "file": "b"}, {"text": ["a"]}, {"image": None}, {"url": "x"}),
]
OPTIONS = {"aggregation_strategy": "none", "min_score": 0.5, "entity_types": ["PER"], "top_k": 2, "stride": 8}


def bodies(random: Random, number: int, port: int) -> Iterator[Any]:
    """`number` requests of all kinds in turn; `port` is one of this machine, that URLs of images lead to."""
    files = image_files()
    images: list[Any] = [base64.b64encode(file.content).decode() for file in files if not file.opens]
    images += ["%" * 100, "A" * 99, "A" * 10**6, "data:,", "data:;base64,%%", "data:" + "x" * 10**5, 17]
    urls = ["/etc/passwd", "file:///etc/passwd", "ftp://x/a.png", "http://example.org/a.png", f"//127.0.0.1:{port}/"]
    urls += [f"http://{host}:{port}/a.png" for host in ("127.0.0.1", "localhost", "[::1]", "127.1", "0.0.0.0")]

    def good() -> Any:
        text, file = random.choice(TEXTS) * random.choice([1, 1, 1, 30]), random.choice(files)
        if not file.opens:
            return random.choice([text, {"text": text}, {"text": text, "image": None}])
        uri = random.choice(["", "data:image/png;base64,", "DATA:;base64,"])
        return {"text": text, "image": uri + base64.b64encode(file.content).decode()}

    for place in range(number):
        value, text = random.choice(VALUES), random.choice([*VALUES, *TEXT_VALUES * 5])
        image = {"text": TEXTS[0], "image": random.choice([*images, *(v for v in VALUES if v is not None)])}
        bad = random.choice([None, 17, [], NESTED, image, {"text": None}, {"image": None}])
        yield [
            {"inputs": [good(), bad, good()]},
            {"inputs": image},
            {"inputs": {"text": TEXTS[0], "image": random.choice(urls)}},
            random.choice([value, {"input": value}, {"inputs": "a", "more": value}]),
            {"inputs": {"text": text}},
            {"inputs": good(), "parameters": {random.choice([*OPTIONS]): value}},
            {"inputs": good(), "parameters": dict([random.choice([*OPTIONS.items(), ("device", "cpu")])])},
            {"inputs": good(), "parameters": value},
        ][place % 8]
