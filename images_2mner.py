"""Pictures of 2M-NER: whatever a caller holds in, upright RGB out, and rules for what strangers may ask for."""

import base64
import binascii
import hashlib
import http.client
import io
import math
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# PIL image, path, http(s) URL, `data:` URI, base64, bytes, array, tensor, or {"bytes", "path"} as `datasets` stores it
ImageLike = Any

# What Pillow may decode for a stranger, and what for anybody: raster formats. One of its other readers runs a program
# (EPS runs Ghostscript), whatever the file is called.
STRANGERS_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
FORMATS = (*STRANGERS_FORMATS, "TIFF", "AVIF", "JPEG2000", "PPM")
# How a file begins, and a part of which a real one has some ten at most, while thousands keep Pillow busy for minutes.
# The first part is so short that 8 MiB of random bytes (a video behind a photograph) hold 128 of it.
COSTLY_PARTS = (
    (b"\xff\xd8", b"\xff\xda", "JPEG scans"),
    (b"\xff\xd8", b"Exif\0\0", "blocks of EXIF data"),
    (b"\x89PNG", b"iCCP", "colour profiles"),
)
MOST_COSTLY_PARTS = 256
_OPENING = threading.Lock()  # warnings are told what to do for all threads at once
SHORTEST_BASE64 = 32  # characters; no image file is shorter, and a mistyped path seldom is as long
DESCRIBED_CHARACTERS = 100


@dataclass(frozen=True)
class UrlPolicy:
    """
    What `load_image` may open and fetch.

    Args:
        allow_private: trust whoever names the image: paths are opened, URLs are fetched. `False` is for strangers'
            images: no path, no URL, common formats only.
        max_bytes: of an encoded picture that comes by URL, `data:` URI or base64.
        timeout_s: until a server answers, and for all that it then sends.
        max_pixels: width times height of a picture, where that is less than `PIL.Image.MAX_IMAGE_PIXELS`.
    """

    allow_private: bool = True
    max_bytes: int = 32 * 2**20
    timeout_s: float = 10.0
    max_pixels: int | None = None


STRICT = UrlPolicy(allow_private=False, max_bytes=8 * 2**20, max_pixels=16_000_000)


def load_image(image: ImageLike, policy: UrlPolicy = UrlPolicy()) -> Image.Image:  # noqa: B008 (it is frozen)
    """
    Opens an image of any kind as 8-bit RGB, upright, at its own size; transparency on white; the first frame of an
    animation. Whatever reads an image calls this, so that the same file gives the same pixels everywhere.

    Args:
        image: a PIL image, a path, an http(s) URL, a `data:` URI, base64, encoded bytes, an array or tensor `(height,
            width[, channels])` or `(channels, height, width)` (integers 0..255, floats 0..1, or booleans), or
            `{"bytes", "path"}`. White is 255 in a PIL image of mode I or F, 65535 if a value is above that, the
            largest value if one is above that too; in one of mode F it is 1, as in an array, if none is above 1.
        policy: what may be opened and fetched; `STRICT` for images that strangers name.

    Raises:
        ValueError: it is not an image of one of `FORMATS`, is broken, is refused by the policy, has values that are
            out of range or not finite, or more pixels than the policy or `PIL.Image.MAX_IMAGE_PIXELS` admits.
        TypeError: it is of none of these types.
    """
    name = _describe(image)
    formats = FORMATS if policy.allow_private else STRANGERS_FORMATS
    limit = min(limit for limit in (policy.max_pixels, Image.MAX_IMAGE_PIXELS, math.inf) if limit is not None)
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        if image.is_floating_point() and image.element_size() < 4:  # NumPy knows no bfloat16
            image = image.float()
        image = image.numpy()
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    elif not isinstance(image, Image.Image):
        image = _encoded(image, name, policy)
        if not policy.allow_private:
            _check_parts(image.getvalue(), name)
    try:
        if not isinstance(image, Image.Image):
            if isinstance(image, io.BytesIO):  # Pillow takes the memory for all pixels of a WebP when it opens one
                _check_pixels(_webp_size(image.getvalue()), limit)
            with _quiet_pillow():
                image = Image.open(image, formats=formats)
        _check_pixels(image.size, limit)
        image = _to_rgb(image)
        image.info = {}  # EXIF that is broken must not fail later, where nobody expects it
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        advice = ", or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it" if policy.allow_private else ""
        raise ValueError(
            f"{name} is refused as a decompression bomb: {str(error).rstrip('.')}. Give a smaller image{advice}."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} cannot be read as an image: it is of no format of {', '.join(formats)}, or empty."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # on broken files Pillow's readers raise whatever goes wrong first
        raise ValueError(
            f"{name} cannot be read as an image ({error}); expected a whole JPEG, PNG, ... file."
        ) from error


def image_id(image: Image.Image) -> int:
    """A positive 63-bit hash of what an RGB image shows: equal for equal pixels, however the image was given."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}:".encode(), digest_size=8)
    digest.update(image.tobytes())
    return (int.from_bytes(digest.digest(), "little") >> 1) or 1


def _describe(image: ImageLike) -> str:
    if isinstance(image, dict):
        return _describe(image.get("path")) if image.get("path") else _describe(image.get("bytes"))
    if isinstance(image, (str, os.PathLike)):
        text = str(os.fspath(image))
        if len(text) > DESCRIBED_CHARACTERS:
            return f"Image {text[:DESCRIBED_CHARACTERS]}... ({len(text)} characters)"
        return f"Image {text}"
    if isinstance(image, (bytes, bytearray)):
        return f"Image of {len(image)} bytes"
    return f"Image of type {type(image).__name__}"


def _encoded(image: ImageLike, name: str, policy: UrlPolicy) -> io.BytesIO | Path:
    """The file in which an image lies: its content, or where it is on this machine."""
    if isinstance(image, (bytes, bytearray)):
        return io.BytesIO(image)
    if isinstance(image, str):
        scheme = image[:8].lower()
        if policy.allow_private and scheme.startswith(("http://", "https://")):
            return io.BytesIO(_download(image, name, policy))
        content = _from_data_uri(image, name) if scheme.startswith("data:") else _from_base64(image)
        if content is not None and not (policy.allow_private and _is_file(image)):
            if len(content) > policy.max_bytes:
                raise ValueError(f"{name} has {len(content)} bytes; the limit is {policy.max_bytes}. {_SMALLER}")
            return io.BytesIO(content)
        if not policy.allow_private:
            raise ValueError(f"{name} is refused; expected a data: URI or base64 of an image file.")
    if isinstance(image, (str, os.PathLike)) and policy.allow_private:
        if not _is_file(image):  # a pipe would never end
            raise ValueError(
                f"{name} does not exist or is no file; expected the path of an image file, a URL, a data: URI or "
                "base64."
            )
        return Path(image)
    expected = "a PIL image, path, URL, data: URI, base64, bytes, array or None"
    raise TypeError(f"An image of type {type(image).__name__}; expected {expected}.")


_SMALLER = "Give a smaller one."


def _is_file(path: str | os.PathLike) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False


@contextmanager
def _quiet_pillow():
    """Without Pillow's warnings: broken metadata of a small file can give 65,535 of them."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow only warns up to twice its limit: decoding such an image already takes gigabytes.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_pixels(size: tuple[int, int], limit: float) -> None:
    if size[0] * size[1] > limit:
        raise Image.DecompressionBombError(f"{size[0]} x {size[1]} pixels, the limit is {limit}")


def _check_parts(content: bytes, name: str) -> None:
    """Refuses a file whose `COSTLY_PARTS` are many."""
    for start, part, what in COSTLY_PARTS:
        if content.startswith(start) and content.count(part) > MOST_COSTLY_PARTS:
            raise ValueError(
                f"{name} is refused: it has more than {MOST_COSTLY_PARTS} {what}. Save the image anew and send that."
            )


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP file; (0, 0) for any other file."""
    kind = content[12:16] if content[:4] == b"RIFF" else b""
    if kind == b"VP8X":
        return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF
    return 0, 0


def _from_base64(text: str) -> bytes | None:
    """The bytes behind base64 (line breaks, a missing end and the URL-safe alphabet included), or `None`."""
    text = "".join(text.split()).rstrip("=")
    if len(text) < SHORTEST_BASE64:
        return None
    try:
        # bytes of ASCII: a string of other letters raises ValueError, as wrong characters do
        encoded = text.encode("ascii").replace(b"-", b"+").replace(b"_", b"/")
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_data_uri(uri: str, name: str) -> bytes:
    """The bytes in `data:[type][;base64],...` (RFC 2397)."""
    head, comma, data = uri.partition(",")
    content = None
    if comma and head.lower().endswith(";base64"):
        content = _from_base64(urllib.parse.unquote(data))
    elif comma:
        content = urllib.parse.unquote_to_bytes(data)
    if content is None:
        raise ValueError(f"{name} is no data: URI of an image; expected data:image/png;base64,... with valid base64.")
    return content


def _quoted(url: str) -> str:
    """A URL with spaces and letters beyond ASCII quoted after its host, as browsers send it; escapes stay."""
    scheme, host, rest = re.split(r"(?<=://)([^/?#]*)", url.rstrip(), maxsplit=1)
    return scheme + host + re.sub(r"[^\x00-\x7f]| ", lambda match: urllib.parse.quote(match[0]), rest)


def _download(url: str, name: str, policy: UrlPolicy) -> bytes:
    deadline_s, content = time.monotonic() + policy.timeout_s, bytearray()
    try:
        with urllib.request.urlopen(_quoted(url), timeout=policy.timeout_s) as response:
            while len(content) <= policy.max_bytes and (chunk := response.read1(2**16)):
                content += chunk
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"it took more than {policy.timeout_s:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"{name} could not be downloaded: {error}.") from error
    except urllib.error.URLError as error:
        raise ValueError(f"{name} could not be downloaded: {error.reason}.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a URL or name that cannot be
        raise ValueError(f"{name} could not be downloaded: {error}.") from error
    if len(content) > policy.max_bytes:
        raise ValueError(f"{name} has more than {policy.max_bytes} bytes. {_SMALLER}")
    return bytes(content)


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in shape:
        raise ValueError(
            f"An image array of shape {shape}; expected (height, width), (height, width, 3 or 4) or (3, ...)."
        )
    if array.dtype == bool:
        array = array * 255
    elif np.issubdtype(array.dtype, np.floating):
        _check_finite(array)
        if not (0 <= array.min() and array.max() <= 1):
            raise ValueError("An image array of floats outside 0..1; expected 0..1, or integers 0..255.")
        array = np.round(array * 255)
    elif array.min() < 0 or array.max() > 255:
        raise ValueError(f"An image array with values {array.min()}..{array.max()}; expected 0..255.")
    return Image.fromarray(array.astype(np.uint8))


def _check_finite(values: np.ndarray) -> None:
    number = np.count_nonzero(~np.isfinite(values))
    if number:
        raise ValueError(f"An image with values that are NaN or infinite ({number} of {values.size}); expected none.")


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    with _quiet_pillow():
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: Pillow's own conversion clips to white
        values = np.asarray(image)
        if image.mode == "F":
            _check_finite(values)
            if values.max() <= 1:
                return _from_array(values).convert("RGB")
        values = values.astype(np.float64)
        top = 255 if values.max() <= 255 else 65535 if values.max() <= 65535 else values.max()
        return Image.fromarray(np.round(values.clip(min=0) * (255 / top)).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


__all__ = ["STRICT", "ImageLike", "UrlPolicy", "image_id", "load_image"]
