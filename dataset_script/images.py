"""Image files: where a row's image lies, whether it opens, and writing images that lie in rows."""

import contextlib
import hashlib
import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import EpsImagePlugin, Image, ImageOps, UnidentifiedImageError

from .files import is_inside, regular
from .rows import LANGUAGES

# datasets.Image, which decodes the rows that a user looks at, opens whatever Pillow reads: EPS by running Ghostscript.
EpsImagePlugin.gs_binary = False

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What is opened as an image, whatever it is called; the model's own list."""
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"),
    *(".JPG", ".JPEG", ".PNG"),
)
"""In the order in which they are tried for an image that is named without one."""
LINK = "a link out of the image folder, which is not followed"


def candidates(name: str) -> tuple[str, ...]:
    """The file names that an image may have: ``name``, or for ``stem.*`` the stem with each of ``IMAGE_SUFFIXES``."""
    if not name.endswith(".*"):
        return (name,)
    return tuple(name.removesuffix(".*") + suffix for suffix in IMAGE_SUFFIXES)


def open_image(image: Path | bytes) -> Image.Image:
    """Open an image of one of ``FORMATS`` as ``datasets.Image`` will: all pixels of the first frame, upright.

    Raises an ``OSError`` that says why it does not open. One of more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels is
    refused by its header alone; Pillow itself only warns up to twice that size.
    """
    try:
        source = io.BytesIO(image) if isinstance(image, bytes) else regular(image)
        with Image.open(source, formats=FORMATS) as opened:
            if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{opened.width} x {opened.height}")
            return ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError as error:
        raise OSError(f"too many pixels (PIL.Image.MAX_IMAGE_PIXELS is {Image.MAX_IMAGE_PIXELS}): {error}") from error
    except UnidentifiedImageError as error:
        raise OSError(f"it is of no format of {', '.join(FORMATS)}, or empty") from error
    except Exception as error:  # Pillow's plugins raise nearly anything on corrupt data: struct.error, IndexError ...
        message = f"{type(error).__name__}: {error}"
        raise OSError(message.replace(str(image), image.name) if isinstance(image, Path) else message) from error


@dataclass(frozen=True)
class FoundImage:
    """A looked-up image: a ``path`` that opens, or the ``cause`` why it is not used, or neither if it is missing."""

    name: str
    path: Path | None = None
    cause: str | None = None


@dataclass
class ImageFolder:
    """The images in the folder ``root``; ``None``: all are missing. Each file is looked up and decoded once."""

    root: Path | None
    _found: dict[str, FoundImage] = field(default_factory=dict)

    def find(self, name: str) -> FoundImage:
        """Look up ``name``, relative to the folder; ``stem.*`` tries ``IMAGE_SUFFIXES``."""
        if name not in self._found:
            found = self.locate(name)
            if found.path and found.name != name:
                found = self.find(found.name)
            elif found.path:
                try:
                    open_image(found.path)
                except OSError as error:
                    found = FoundImage(name, None, str(error))
            self._found[name] = found
        return self._found[name]

    def opened(self, content: bytes, name: str) -> FoundImage:
        """An image that lies in its row: with a ``cause`` if it does not open."""
        key = f"{hashlib.sha256(content).hexdigest()} {name}"
        if key not in self._found:
            try:
                open_image(content)
                self._found[key] = FoundImage(name)
            except OSError as error:
                self._found[key] = FoundImage(name, None, str(error))
        return self._found[key]

    def locate(self, name: str) -> FoundImage:
        """As ``find``, but the image is not opened."""
        names = candidates(name)
        for candidate in names if self.root else ():
            # os.path.isfile, unlike Path.is_file, answers False for a name that no file can have.
            path = os.path.join(str(self.root), candidate)
            if os.path.isfile(path):
                is_ours = is_inside(path, str(self.root))
                return FoundImage(candidate, Path(path)) if is_ours else FoundImage(candidate, None, LINK)
        return FoundImage(names[0])

    def signature(self) -> list[tuple[str, int, int]]:
        """Relative path, size in bytes and time of modification in ns of every file, sorted: any change shows."""
        if self.root is None:
            return []
        files = []
        for folder, _, names in os.walk(self.root):
            for path in (os.path.join(folder, name) for name in names):
                with contextlib.suppress(OSError):  # a dangling link, or gone meanwhile: a missing image
                    status = os.stat(path)
                    files.append((os.path.relpath(path, self.root), status.st_size, status.st_mtime_ns))
        return sorted(files)


def find_image_root(folder: Path, stem: str | None = None) -> Path | None:
    """The image folder of a dataset: ``images/`` or ``{name}_images/`` in it, or ``{name}_images/`` or ``images/``
    beside it, as of a folder a language; of a file, or of ``{stem}.*`` in ``folder``, at first ``{stem}_images/``.
    """
    if folder.is_file():
        folder, stem = folder.parent, folder.stem
    name = f"{folder.name}_images"
    places = [folder / f"{stem}_images"] if stem else []
    places += [folder / "images", folder / name, folder.parent / name]
    places += [folder.parent / "images"] if folder.name in LANGUAGES else []
    return next((path for path in places if path.is_dir()), None)


class ImageFiles:
    """Writes images that lie in rows into ``folder``, equal ones once; files that lie there are not replaced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: dict[str, str] = {}  # by content

    def add(self, content: bytes, name: str) -> str:
        """Write an image and return its file name: ``name``, or with a digest before it if another image has that."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._names:
            if os.path.lexists(self.folder / name):
                name = f"{digest[:16]}-{name}"
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
            self._names[digest] = name
        return self._names[digest]
