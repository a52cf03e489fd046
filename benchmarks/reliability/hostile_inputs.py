"""Strings, image files and requests that break programs, drawn by a seed, each with what is known of its answer."""

import base64
import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any

import numpy as np
import regex
from PIL import Image

# Spaces, controls, zero-width and bidirectional marks: none of them begins or ends a word.
INVISIBLE = regex.compile(r"[\s\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
# These, and more that no word needs to hold, such as a variation selector without a character.
HIDDEN = regex.compile(r"[\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]")
# As a person cuts them: "|" stands between two words that no space parts.
WORDS = """
Radbury Hermes Bay FC München Königin José Peña Jean-Claude Ångström the la der el und İstanbul ﬁn cafe\u0301 99 Ⅻ 3,14
L'|Élysée d’|Artagnan qu'|il John|'s did|n't celui|-ci aujourd'hui AT&T 1985|-|86 #NBA @me_2 a|% ... so\u00adft
https://x.org/a?b=1 a.b@c.org U.S. (|Paris|) „|Wien|“ <|b|> &|amp|; <|script|> ¿|Quién|? نمی\u200cخواهم Москва Αθήνα
שָׁלוֹם مرحبا नमस्ते ประเทศไทย 東京 とうきょう 서울 გამარჯობა Հայաստան አዲስ தமிழ் తెలుగు বাংলা ਪੰਜਾਬੀ ລາວ မြန်မာ ខ្មែរ བོད ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ
𐐀𐐨 𝔘𝔫𝔦 🙂 👍🏽 👨‍👩‍👧 🏳️‍🌈 🇩🇪 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️""".split()
SPACES = [*" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003\u2028\u2029\u202f\u3000", "\r\n", "  "]
MARKS = [*"\x00\x01\x7f\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\u2069\ufeff"]
PARTS = [*(word.replace("|", "") for word in WORDS), *SPACES, *MARKS, *"\u0301\u0338\ufe0f\u20e3\ud800\udfff'’-.@#&_"]
HUGE = ["a" * 5_000_000, "1:" * 500_000, "a\u00ad" * 500_000 + "a", "http://" + "." * 500_000, "a@" + "a." * 500_000]
HUGE += [letter * 2_000_000 for letter in " .\u200b\x00\u0301"] + [letter * 10_000 for letter in ("'", "🙂", "🇩🇪")]


@dataclass
class Text:
    """A string, and its words and where they begin, where these are known from how it was made."""

    kind: str
    text: str
    words: list[tuple[str, int]] | None = None


def known_words(random: Random, kind: str, number: int) -> Text:
    """Words with white space between them and invisible marks around that."""
    text, words = "", []
    for place in range(number + 1):
        inner = 0 < place < number
        space = random.choice([" ", random.choice(SPACES)]) if inner else random.choice(["", *SPACES])
        marks = ["", "", "", random.choice(MARKS)]
        text += random.choice(marks) + space + random.choice(marks)
        for word in random.choice(WORDS).split("|") if place < number else ():
            words.append((word, len(text)))
            text += word
    return Text(kind, text, words)


def texts(random: Random, number: int) -> Iterator[Text]:
    """`number` strings, of all kinds in turn."""
    for place in range(number):
        size = random.choice([1, 2, 3, 5, 8, 13, 21])
        if place % 8 < 3:
            yield known_words(random, "known words", size)
        elif place % 80 == 3:
            yield known_words(random, "long text, in windows", random.randint(100, 1000))
        elif place % 8 == 3:
            yield Text("blank", "".join(random.choices([*SPACES, *MARKS], k=size - 1)))
        elif place % 8 < 6:
            yield Text("any parts", random.choice(["", " "]).join(random.choices(PARTS, k=size)))
        elif place % 8 == 6:
            top = random.choice([0x300, 0x3000, 0x20000, 0x110000])
            yield Text("any code points", "".join(chr(random.randrange(top)) for _ in range(size)))
        else:
            yield Text("one part repeated", f"Hermes {random.choice(PARTS) * random.choice([2, 70, 500])} Bay")


@dataclass
class ImageFile:
    """
    A file, whether it must open (`None`: it may), and the levels that it then shows, to `tolerance`. A costly one is
    for the strict policy alone: from whom the user trusts it may take long.
    """

    kind: str
    content: bytes
    opens: bool | None = None
    is_costly: bool = False
    levels: np.ndarray | None = None
    tolerance: int = 0


def encoded(image: Image.Image, form: str, **options) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(seed: int, width: int = 40, height: int = 24) -> Image.Image:
    """An image of coarse noise."""
    levels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height))


def png(width: int, height: int, name: bytes = b"zTXt", bomb: bytes = b"", number: int = 1) -> bytes:
    """A PNG whose header promises so many pixels, with `number` compressed chunks."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    between = chunk(name, b"a\0\0" + zlib.compress(bomb, 9)) * number
    data = chunk(b"IDAT", zlib.compress(bytes(2**20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + data + chunk(b"IEND", b"")


def many_scans(number: int, edge: int) -> bytes:
    """A progressive JPEG in which a scan without content, which visits every block, stands so many times."""
    content = encoded(Image.new("L", (edge, edge), 128), "JPEG", progressive=True)
    first, second, *_, last = [match.start() for match in re.finditer(b"\xff\xda", content)][1:]
    return content[:last] + content[first:second] * number + content[last:]


@cache
def image_files() -> list[ImageFile]:
    """A whole file of each kind."""
    rgb, large = noise(1), noise(1, 1600, 1200)
    grey, clear, levels = rgb.convert("L"), rgb.convert("RGBA"), np.asarray(rgb)
    clear.paste((0, 0, 0, 0), (0, 0, 10, 24))
    palette = Image.fromarray(np.asarray(grey) // 32).convert("P")
    palette.putpalette([level for index in range(8) for level in (32 * index, 0, 255 - 32 * index)])
    other = palette.transpose(Image.Transpose.ROTATE_180)
    jpeg = partial(encoded, form="JPEG", quality=98, subsampling=0)
    frames = {"save_all": True, "append_images": [noise(2), noise(3)]}
    upright = {2: levels[:, ::-1], 3: levels[::-1, ::-1], 6: np.rot90(levels, -1), 8: np.rot90(levels)}
    webp = encoded(rgb, "WEBP", lossless=True, **frames)
    greys, indices = np.asarray(grey.convert("RGB")), np.asarray(palette)[..., None]
    colours = np.asarray(palette.convert("RGB"))
    on_white = np.where(np.arange(40)[:, None] < 10, 255, levels)
    good = [
        ("PNG", encoded(rgb, "PNG"), levels, 0),
        ("PNG, grey", encoded(grey, "PNG"), greys, 0),
        ("PNG, 16 bits", encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"), greys, 1),
        ("PNG, transparent", encoded(clear, "PNG"), on_white, 0),
        ("PNG, palette", encoded(palette, "PNG", transparency=1), np.where(indices == 1, 255, colours), 0),
        ("PNG, animated", encoded(rgb, "PNG", **frames), levels, 0),
        ("PNG, broken ICC", encoded(rgb, "PNG", icc_profile=b"no profile"), levels, 0),
        *((f"PNG, {w} x {h}", encoded(noise(1, w, h), "PNG"), np.asarray(noise(1, w, h)), 0)
          for w, h in ((1, 1), (1, 10_000), (10_000, 1))),
        ("JPEG", jpeg(rgb), levels, 8),
        ("JPEG, progressive", jpeg(rgb, progressive=True), levels, 8),
        ("JPEG, grey", encoded(grey, "JPEG", quality=98), greys, 8),
        ("JPEG, CMYK", jpeg(rgb.convert("CMYK")), levels, 10),
        ("JPEG, large", jpeg(large), np.asarray(large), 10),
        ("JPEG, large, progressive", jpeg(large, progressive=True), np.asarray(large), 10),
        ("JPEG, broken ICC", jpeg(rgb, icc_profile=b"x" * 200), levels, 8),
        ("JPEG, broken EXIF", jpeg(rgb, exif=b"Exif\0\0MM\x80*" + bytes(22)), levels, 8),
        *((f"JPEG, EXIF {turn}", jpeg(rgb, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" +
           struct.pack(">HHI", turn, 0, 0)), right, 8) for turn, right in upright.items()),
        ("WEBP, animated", webp, levels, 0),
        ("GIF", encoded(palette, "GIF"), colours, 0),
        ("GIF, 1000 frames", encoded(palette, "GIF", save_all=True, append_images=[other, palette] * 500), colours, 0),
        ("BMP", encoded(rgb, "BMP"), levels, 0),
    ]  # fmt: skip
    start = jpeg(rgb).index(b"\xff\xc0") + 5
    bad = {
        "nothing": b"",
        "text": b"Jordan was seen in Paris. " * 20,
        "zeros": bytes(1000),
        "EPS": encoded(rgb, "EPS"),
        "PDF": encoded(rgb, "PDF"),
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "PNG bomb": png(30_000, 30_000),
        "JPEG bomb": jpeg(rgb)[:start] + b"\xff\x00\xff\x00" + jpeg(rgb)[start + 4 :],
        "GIF bomb": b"GIF89a\xff\xff\xff\xff" + encoded(palette, "GIF")[10:],
        "BMP bomb": encoded(rgb, "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encoded(rgb, "BMP")[26:],
    }
    rare = {form: encoded(rgb, form) for form in "TIFF PPM TGA PCX ICO DDS SGI JPEG2000".split()}
    costly = {
        "JPEG, scans": many_scans(3000, 4000),
        "JPEG, EXIF blocks": jpeg(rgb)[:2] + b"\xff\xe1\x00\x0eExif\0\0MM\0*\0\0" * 100_000 + jpeg(rgb)[2:],
        "PNG, text bomb": png(40, 24, bomb=bytes(2**27)),
        "PNG, profiles": png(40, 24, b"iCCP", bytes(2**19), 1000),
        "WEBP bomb": webp[:24] + b"\xfe\x3f\0\xfe\x3f\0" + webp[30:],
    }
    files = [ImageFile(kind, content, True, False, right, tolerance) for kind, content, right, tolerance in good]
    files += [ImageFile(kind, content, False) for kind, content in bad.items()]
    files += [ImageFile(kind, content) for kind, content in rare.items()]
    return files + [ImageFile(kind, content, None, True) for kind, content in costly.items()]


def broken_images(random: Random, number: int) -> Iterator[ImageFile]:
    """`number` files: one of each kind, then some of them whole again, cut, with bits flipped, or spliced."""
    files = image_files()
    yield from files[:number]
    files = [file for file in files if 0 < len(file.content) < 100_000 and not file.is_costly]
    for _ in range(number - len(image_files())):
        file, other = random.choice(files), random.choice(files).content
        content, cut = bytearray(file.content), random.randrange(len(file.content))
        how = random.choice(["whole", "cut", "flipped", "spliced"])
        if how == "whole":
            yield file
            continue
        if how == "flipped":
            places = range(min(len(content), random.choice([100, 10**6])))
            for place in random.choices(places, k=random.choice([1, 9])):
                content[place] ^= 1 << random.randrange(8)
        else:
            content[cut:] = other[random.randrange(len(other)) :] if how == "spliced" else b""
        yield ImageFile(how, bytes(content))


@dataclass
class Body:
    """A request, whether it must be answered (`None`: it may), and by what the pipeline says of these inputs."""

    kind: str
    data: Any
    answers: bool | None = False
    texts: Sequence[str] = ()
    images: Sequence[bytes | None] = ()


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
OPTIONS = {"aggregation_strategy": "none", "min_score": 0.5, "entity_types": ["PER"]}
OPTIONS |= {"top_k": 2, "stride": 8, "batch_size": 3, "device": "cpu"}  # the last is refused


def bodies(random: Random, number: int, port: int) -> Iterator[Body]:
    """`number` requests of all kinds in turn; `port` is one of this machine, that URLs of images lead to."""
    files = [file for file in image_files() if len(file.content) < 20_000]
    bad_images: list[Any] = [base64.b64encode(file.content).decode() for file in files if file.opens is False]
    bad_images += ["%" * 100, "A" * 99, "A" * 10**6, "data:,", "data:;base64,%%", "data:" + "x" * 10**5, 17]
    urls = ["/etc/passwd", "file:///etc/passwd", "ftp://x/a.png", "http://example.org/a.png", f"//127.0.0.1:{port}/"]
    urls += [f"http://{host}:{port}/a.png" for host in ("127.0.0.1", "localhost", "[::1]", "127.1", "0.0.0.0")]

    def good_item() -> tuple[Any, str, bytes | None]:
        text = random.choice(TEXTS) * random.choice([1, 1, 1, 30])
        image = random.choice([None, *(file.content for file in files if file.opens)])
        if image is None:
            return random.choice([text, {"text": text}, {"text": text, "image": None}]), text, None
        uri = random.choice(["", "data:image/png;base64,", "DATA:;base64,"])
        return {"text": text, "image": uri + base64.b64encode(image).decode()}, text, image

    for place in range(number):
        value, text, one = random.choice(VALUES), random.choice([*VALUES, *TEXT_VALUES * 5]), good_item()
        option, right = random.choice(list(OPTIONS.items()))
        items = [good_item() for _ in range(random.choice([1, 2, 9]))]
        inputs, *answered = (list(column) for column in zip(*items, strict=True))
        alone, single = one[0], ([one[1]], [one[2]])
        image = {"text": TEXTS[0], "image": random.choice([*bad_images, *(v for v in VALUES if v is not None)])}
        bad = random.choice([None, 17, [], NESTED, image, {"text": None}, {"image": None}])
        yield [
            Body("good", {"inputs": alone}, True, *single),
            Body("good, several", {"inputs": inputs}, True, *answered),
            Body("one of several bad", {"inputs": [*inputs, bad, alone]}),
            Body("image", {"inputs": image}),
            Body("image by URL", {"inputs": {"text": TEXTS[0], "image": random.choice(urls)}}),
            Body("other keys", random.choice([value, {"input": value}, {"inputs": "a", "more": value}])),
            Body("value as text", {"inputs": {"text": text}}, text in TEXT_VALUES, [text], [None]),
            Body("value of an option", {"inputs": alone, "parameters": {option: value}}, None, *single),
            Body("option", {"inputs": alone, "parameters": {option: right}}, option != "device", *single),
            Body("value as options", {"inputs": alone, "parameters": value}, value is None or value == {}, *single),
        ][place % 10]
