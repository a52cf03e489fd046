"""`load_image`: images of every kind, broken ones, and what strangers may not send."""

import base64
import io
import math
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from loopback import Handler, Loopback
from PIL import EpsImagePlugin, Image
from tiny_pipelines import noise

from processing_2mner import UNTRUSTED_MAX_BYTES, image_id, load_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encoded_size(width: int, height: int) -> bytes:
    """A PNG whose header says so many pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b"")


# What an image shows

GREY = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (24, 1))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "I;16", "I", "F", "YCbCr"])
def test_every_mode_shows_what_it_holds(mode):
    wide, image = Image.fromarray(GREY.astype(np.uint16) * 257), Image.fromarray(GREY).convert("RGB")
    shown = load_image(wide if mode == "I;16" else image.quantize(64) if mode == "P" else image.convert(mode))
    assert shown.mode == "RGB" and shown.size == (40, 24)
    assert np.abs(np.asarray(shown, dtype=int)[..., 0] - GREY).max() <= 8
    assert load_image(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "tolerance"),
    [
        (Image.fromarray(GREY.astype(np.float32) / 255), 0),
        (Image.fromarray(GREY.astype(np.float32) * 257), 0),
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), 0),
        (torch.tensor(GREY).float().div(255).requires_grad_(), 0),
        (torch.tensor(GREY / 255).half(), 0),
        (torch.tensor(GREY / 255).bfloat16(), 1),  # eight bits of them before the exponent
        (torch.tensor(GREY).expand(3, 24, 40), 0),
    ],
)
def test_numbers_of_every_kind_show_the_same_image(image, tolerance):
    shown = np.asarray(load_image(image), dtype=int)
    assert np.abs(shown - GREY[..., None]).max() <= tolerance


def test_transparency_lies_on_white_photographs_stand_upright_and_animations_show_their_first_frame():
    assert load_image(Image.new("RGBA", (4, 4), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert load_image(encoded(noise(), "JPEG", exif=exif)).size == (24, 40)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Image of 0 bytes cannot be read"),
        (b"no image at all", "cannot be read as an image"),
        (encoded(noise())[:300], "cannot be read as an image"),
        (encoded(noise(), "JPEG")[:700], "cannot be read as an image"),
        (encoded(noise())[:40] + b"\0" * 500, "cannot be read as an image"),
    ],
    ids=["empty", "text", "truncated-png", "truncated-jpeg", "corrupt"],
)
def test_broken_images_are_errors_that_say_so(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_image(content)
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match="broken.png"):
        load_image(tmp_path / "broken.png")


def test_decompression_bombs_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    for side in (20_000, math.isqrt(Image.MAX_IMAGE_PIXELS) + 100):  # the second is one of which Pillow only warns
        with pytest.raises(ValueError, match="decompression bomb.*MAX_IMAGE_PIXELS"):
            load_image(encoded_size(side, side))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((3, 4, 5, 6), np.uint8), ValueError, r"shape \(3, 4, 5, 6\)"),
        (np.full((4, 4, 3), 300), ValueError, "values 300..300; expected 0..255"),
        (np.full((4, 4, 3), np.nan), ValueError, "floats nan..nan; expected 0..1"),
        (Image.fromarray(np.array([[0, 200], [100, np.nan]], np.float32)), ValueError, "values that are NaN or"),
        (17, TypeError, "type int; expected a PIL image, path, URL, data: URI, base64, bytes, array or None"),
        ("nowhere.jpg", ValueError, "Image nowhere.jpg does not exist"),
    ],
)
def test_what_is_no_image_is_an_error(image, error, message):
    with pytest.raises(error, match=message):
        load_image(image)


def test_a_strangers_image_has_fewer_pixels_and_bytes():
    assert load_image(Image.new("RGB", (4000, 4000)), trusted=False).size == (4000, 4000)
    with pytest.raises(ValueError, match="4001 x 4000 pixels, the limit is 16000000. Give a smaller image.$"):
        load_image(encoded_size(4001, 4000), trusted=False)
    text = base64.b64encode(encoded(noise()) + bytes(UNTRUSTED_MAX_BYTES)).decode()
    with pytest.raises(ValueError, match="bytes; the limit is 8388608"):
        load_image(text, trusted=False)


# Base64 and data: URIs


@pytest.mark.parametrize("trusted", [True, False])
def test_base64_in_every_form_is_the_image_itself(trusted):
    content = encoded(noise())
    plain = base64.b64encode(content).decode()
    forms = [
        plain,
        plain.rstrip("="),
        base64.encodebytes(content).decode(),
        base64.urlsafe_b64encode(content).decode(),
        f"data:image/png;base64,{plain}",
        f"DATA:image/png;charset=x;BASE64,{plain.replace('+', '%2B').replace('/', '%2F')}",
    ]
    assert {image_id(load_image(form, trusted)) for form in forms} == {image_id(noise())}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A" * 41, "is refused; expected base64"),  # no multiple of four letters has this many
        ("A" * 40, "cannot be read as an image: it is of no format of JPEG, PNG"),
        ("", "is refused"),
        ("data:image/png;base64,%%%", "is refused; expected base64"),
        ("A" * 100_000, r"\(100000 characters\)"),
    ],
)
def test_malformed_base64_is_an_error_that_says_so(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_image(text, trusted=False)
    assert len(str(caught.value)) < 400


def test_a_path_is_that_of_a_file_and_strangers_name_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("a" * 40)  # which could be base64
    noise().save(path, "PNG")
    assert load_image("a" * 40).size == (40, 24)
    (tmp_path / "a b.png").write_bytes(path.read_bytes())
    for image in ((tmp_path / "a b.png").as_uri(), io.BytesIO(path.read_bytes()), path.open("rb")):
        for _ in range(2):  # a file is read from its start, again and again
            assert load_image(image).tobytes() == noise().convert("RGB").tobytes()
    with pytest.raises(TypeError, match="opened as text; open it with mode 'rb'"):
        load_image(path.open(encoding="latin-1"))
    os.mkfifo("a.jpg")
    with pytest.raises(ValueError, match="a.jpg does not exist or is no file"):
        load_image("a.jpg")
    for image in (str(path), {"path": str(path)}, path, f"file://{path}", "HTTPS://example.org/a"):
        with pytest.raises((ValueError, TypeError), match="expected|cannot be read as an image"):
            load_image(image, trusted=False)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS"])
def test_no_other_format_is_opened_whatever_its_name(kind, trusted, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("Ghostscript was called"))
    content = encoded(noise((16, 16)), kind)
    (tmp_path / "x.png").write_bytes(content)
    images = [content, tmp_path / "x.png", {"path": str(tmp_path / "x.png")}] if trusted else [content]
    for image in images:
        with pytest.raises(ValueError, match="cannot be read as an image: it is of no format of JPEG, PNG"):
            load_image(image, trusted)


def test_raster_formats_of_a_fixed_list_are_opened():
    strangers = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    for kind in (*strangers, "TIFF", "AVIF", "JPEG2000", "PPM"):
        for trusted in (True, False) if kind in strangers else (True,):
            assert load_image(encoded(noise(), kind), trusted).size == (40, 24)
    several = encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])  # as phones write them
    assert load_image(several, trusted=False).size == (40, 24)


# What takes long


def with_parts(content: bytes, parts: bytes) -> bytes:
    """A JPEG with more scans before its end or more segments behind its start, a PNG with chunks behind its header."""
    place = {b"\xff\xda": content.rfind(b"\xff\xd9"), b"\xff\xe1": 2}.get(parts[:2], 33)
    return content[:place] + parts + content[place:]


EMPTY_SCAN = b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0"
EXIF_BLOCK = b"\xff\xe1\0\x10Exif\0\0" + b"MM\0*\0\0\0\x08"
PROFILE = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    ("kind", "options", "part", "what"),
    [
        ("JPEG", {"progressive": True}, EMPTY_SCAN, "JPEG scans"),
        ("JPEG", {}, EXIF_BLOCK, "blocks of EXIF data"),
        ("PNG", {}, PROFILE, "colour profiles"),
    ],
)
def test_a_file_of_thousands_of_costly_parts_is_refused_undecoded(kind, options, part, what, monkeypatch):
    plain = encoded(noise(), kind, **options)
    assert load_image(with_parts(plain, 20 * part), trusted=False).size == (40, 24)
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=f"is refused: it has more than 256 {what}. Save the image anew"):
        load_image(with_parts(plain, (UNTRUSTED_MAX_BYTES - len(plain)) // len(part) * part), trusted=False)


def test_a_video_behind_a_photograph_and_pixels_that_look_like_markers_are_no_hostile_parts():
    video = np.random.default_rng(0).bytes(UNTRUSTED_MAX_BYTES - 2**14)
    assert load_image(encoded(noise(), "JPEG") + video, trusted=False).size == (40, 24)
    image = Image.new("RGB", (64, 64), (0xDA, 0xFF, 0xDA))  # in a BMP: blue, green, red
    assert encoded(image, "BMP").count(b"\xff\xda") > 4000
    assert load_image(encoded(image, "BMP"), trusted=False).getpixel((0, 0)) == (0xDA, 0xFF, 0xDA)


# URLs


class Site(Loopback):
    class handler(Handler):  # noqa: N801 - as the base has it
        def do_GET(self):
            self.server.owner.take(self.path)
            if self.path.startswith("/to/"):
                self.send(302, {"Location": self.path.removeprefix("/to/")}, b"")
            else:
                self.send(404 if self.path == "/gone" else 200, {}, encoded(noise()))


@pytest.fixture
def site():
    with Site() as site:
        yield site


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("/K%C3%B6ln.jpg", "/K%C3%B6ln.jpg"),
        ("/a b/100%.jpg?q=Größe 1&x=%20+~#Straße", "/a%20b/100%.jpg?q=Gr%C3%B6%C3%9Fe%201&x=%20+~"),
        (" \n", "/"),
    ],
)
def test_urls_as_people_write_them(url, sent, site):
    assert image_id(load_image(site.url + url)) == image_id(noise())
    assert site.requests in ([sent], [""])


@pytest.mark.parametrize("url", ["/gone", "/to/file:///etc/passwd", "/to/data:,x", "http://x:port/", "http://a b/"])
def test_a_url_without_an_image_or_with_too_large_a_one_is_an_error(url, site, monkeypatch):
    with pytest.raises(ValueError, match="could not be downloaded"):
        load_image(url if url.startswith("http") else site.url + url)
    monkeypatch.setattr("processing_2mner.URL_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        load_image(f"{site.url}/a.png")
