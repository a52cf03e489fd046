"""
Processor of 2M-NER: sentences and images in, the tensors of a batch out.

Every image is opened by `load_image`, so that one file gives the same pixels in training, evaluation and inference.
"""

import base64
import hashlib
import http.client
import io
import os
import string
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, BaseImageProcessor, ViTImageProcessorPil
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

try:
    from .configuration_2mner import PushedWithCard, TwoMNERConfig, set_in_package
except ImportError:
    from configuration_2mner import PushedWithCard, TwoMNERConfig, set_in_package

logger = logging.get_logger(__name__)

# PIL image, path, http(s) URL, `data:` URI, base64, bytes, array, tensor, or {"bytes", "path"} as `datasets` stores it
ImageLike = Any

# Raster formats only: Pillow's reader for EPS runs Ghostscript, whatever the file is called.
UNTRUSTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
FORMATS = (*UNTRUSTED_FORMATS, "TIFF", "AVIF", "JPEG2000", "PPM")
UNTRUSTED_MAX_BYTES = 8 * 2**20
UNTRUSTED_MAX_PIXELS = 16_000_000
# How a file begins, and a part of which a real one has some ten at most, while thousands keep Pillow busy for minutes.
# The first part is so short that 8 MiB of random bytes (a video behind a photograph) hold 128 of it.
COSTLY_PARTS = (
    (b"\xff\xd8", b"\xff\xda", "JPEG scans"),
    (b"\xff\xd8", b"Exif\0\0", "blocks of EXIF data"),
    (b"\x89PNG", b"iCCP", "colour profiles"),
)
MAX_COSTLY_PARTS = 256
URL_TIMEOUT_S = 10.0
URL_MAX_BYTES = 32 * 2**20
SHORTEST_BASE64 = 32  # characters; no image file is shorter, and a mistyped path seldom is as long
DESCRIBED_CHARACTERS = 100

# Used where a tokenizer states no limit of its own: the positions of BERT and XLM-R.
DEFAULT_MAX_LENGTH = 512
DEFAULT_STRIDE = 64


# Images

# Broken metadata of a small file can give 65,535 warnings of Pillow. The filters of `warnings` hold for all threads.
_PILLOW_WARNINGS = threading.Lock()


def load_image(image: ImageLike, trusted: bool = True) -> Image.Image:
    """
    Opens an image of any kind as 8-bit RGB at its own size: turned upright, transparency on white, the first frame of
    an animation.

    Args:
        image: a PIL image, a path, an http(s), `file:` or `data:` URI, base64, encoded bytes or a file opened for
            them, an array or tensor `(height, width[, channels])` or `(channels, height, width)` (integers 0..255,
            floats 0..1, or booleans), or `{"bytes", "path"}`. White is 255 in a PIL image of mode I or F, 65535 if a
            value is above that, the largest value if one is above that too; in mode F it is 1 if no value is above 1.
        trusted: `False` for an image that a stranger sent: no path and no URL is read, only `UNTRUSTED_FORMATS` up to
            `UNTRUSTED_MAX_BYTES` and `UNTRUSTED_MAX_PIXELS` are opened.

    Raises:
        ValueError: it is not an image of a known format, is broken or refused, has values that are out of range or not
            finite, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        TypeError: it is of none of these types.
    """
    name = _describe(image)
    formats = FORMATS if trusted else UNTRUSTED_FORMATS
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()  # NumPy knows no bfloat16
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    elif not isinstance(image, Image.Image):
        image = _encoded(image, name, trusted)
    try:
        if not isinstance(image, Image.Image):
            with _PILLOW_WARNINGS, warnings.catch_warnings(action="ignore"):
                image = Image.open(image, formats=formats)
        for limit in (Image.MAX_IMAGE_PIXELS, None if trusted else UNTRUSTED_MAX_PIXELS):
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, the limit is {limit}")
        image = _to_rgb(image)
        image.info = {}  # broken EXIF must not fail later, where the image is opened again
        return image
    except Image.DecompressionBombError as error:
        advice = ", or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it" if trusted else ""
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
    """A positive 63-bit hash of an RGB image's pixels: equal for equal pixels, however the image was given."""
    digest = hashlib.blake2b(f"{image.width}x{image.height}:".encode(), digest_size=8)
    digest.update(image.tobytes())
    return (int.from_bytes(digest.digest(), "little") >> 1) or 1


def _describe(image: ImageLike) -> str:
    if isinstance(image, dict):
        return _describe(image.get("path") or image.get("bytes"))
    if isinstance(image, (str, os.PathLike)):
        text = str(os.fspath(image))
        is_long = len(text) > DESCRIBED_CHARACTERS
        return f"Image {text[:DESCRIBED_CHARACTERS]}... ({len(text)} characters)" if is_long else f"Image {text}"
    if isinstance(image, (bytes, bytearray)):
        return f"Image of {len(image)} bytes"
    return f"Image of type {type(image).__name__}"


def _encoded(image: ImageLike, name: str, trusted: bool) -> io.BytesIO | Path:
    """The content of an image file, or its path."""
    content = image if isinstance(image, (bytes, bytearray)) else None
    if trusted and isinstance(image, str) and image[:7].lower() == "file://":
        image = urllib.request.url2pathname(urllib.parse.urlsplit(image).path)
    elif trusted and hasattr(image, "read"):
        image.seek(0)
        content = image.read()
        if not isinstance(content, bytes):
            raise TypeError(f"{name} is a file opened as text; open it with mode 'rb'.")
    if isinstance(image, str) and not (trusted and _is_file(image)):
        is_url = trusted and image[:8].lower().startswith(("http://", "https://"))
        content = _download(image, name) if is_url else _from_base64(image)
        if content is None and not trusted:
            raise ValueError(f"{name} is refused; expected base64 of an image file, or a data: URI with base64.")
    if content is not None:
        if not trusted:
            _check_content(content, name)
        return io.BytesIO(content)
    if not (trusted and isinstance(image, (str, os.PathLike))):
        expected = "a PIL image, path, URL, data: URI, base64, bytes, array or None"
        raise TypeError(f"An image of type {type(image).__name__}; expected {expected}.")
    if not _is_file(image):  # a pipe would never end
        raise ValueError(f"{name} does not exist or is no file; expected a path, a URL, a data: URI or base64.")
    return Path(image)


def _is_file(path: str | os.PathLike) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False


def _check_content(content: bytes | bytearray, name: str) -> None:
    """Raises ValueError for a stranger's file that is too large or has too many `COSTLY_PARTS`."""
    if len(content) > UNTRUSTED_MAX_BYTES:
        raise ValueError(f"{name} has {len(content)} bytes; the limit is {UNTRUSTED_MAX_BYTES}.")
    for start, part, what in COSTLY_PARTS:
        if content.startswith(start) and content.count(part) > MAX_COSTLY_PARTS:
            raise ValueError(
                f"{name} is refused: it has more than {MAX_COSTLY_PARTS} {what}. Save the image anew and send that."
            )


def _from_base64(text: str) -> bytes | None:
    """
    The bytes in base64, or in a `data:` URI of it; `None` if it is neither. Line breaks, missing padding and the
    URL-safe alphabet are allowed.
    """
    if text[:5].lower() == "data:":
        text = urllib.parse.unquote(text.partition(",")[2])
    text = "".join(text.split()).rstrip("=")
    if len(text) < SHORTEST_BASE64:
        return None
    try:
        encoded = text.encode("ascii").replace(b"-", b"+").replace(b"_", b"/")
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except ValueError:  # letters beyond ASCII, or beyond base64
        return None


def _download(url: str, name: str) -> bytes:
    try:
        quoted = urllib.parse.quote(url.strip(), safe=string.punctuation)  # spaces and letters beyond ASCII
        with urllib.request.urlopen(quoted, timeout=URL_TIMEOUT_S) as response:
            content = response.read(URL_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a URL that cannot be
        raise ValueError(f"{name} could not be downloaded: {error}.") from error
    if len(content) > URL_MAX_BYTES:
        raise ValueError(f"{name} has more than {URL_MAX_BYTES} bytes. Give a smaller one.")
    return content


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
        if not (0 <= array.min() and array.max() <= 1):  # nor for NaN
            raise ValueError(f"An image array of floats {array.min()}..{array.max()}; expected 0..1.")
        array = np.round(array * 255)
    elif array.min() < 0 or array.max() > 255:
        raise ValueError(f"An image array with values {array.min()}..{array.max()}; expected 0..255.")
    return Image.fromarray(array.astype(np.uint8))


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    with _PILLOW_WARNINGS, warnings.catch_warnings(action="ignore"):
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: Pillow's own conversion clips to white
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it has values that are NaN or infinite")
        levels = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((level for level in levels if values.max() <= level), values.max())
        return Image.fromarray(np.round(values.clip(min=0) * (255 / white)).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# Words and tokens

# White space, control characters, and what Unicode says is not shown: zero-width spaces, joiners, soft hyphens, marks
# of direction and byte order, variation selectors. A word begins with a character that is none of these. A joiner or a
# soft hyphen between two letters, and what Unicode counts as a letter or mark (a variation selector, a Hangul filler),
# may stand inside a word. All others are between words.
SPACE = r"\s\p{Cc}\p{Default_Ignorable_Code_Point}"

# Words as the training data of the four languages has them (Wikipedia as spaCy cuts it): clitics apart (l'|eau,
# John|'s, did|n't), hyphenated words whole but not ranges and results (1985|-|86, 2:1|-|Sieg); handles and hashtags
# whole, as posts have them. What stands between two words is space, nothing else.
#
# No group is repeated without a bound: `regex` keeps some hundred bytes for each repetition. Single classes are
# repeated freely, which costs nothing.
WORD_PATTERN = regex.compile(
    r"""
    (?! [SPACE] )
    (?:
      (?: https?:// | www\. ) [^SPACE<>"]* [^SPACE<>"'’.,;:!?)\]}]       # a URL, less the punctuation after it
    | (?<! [\p{L}\p{N}_@\#&] ) (?: @ | \# (?= [\p{N}_]* \p{L} ) ) [\p{L}\p{N}_]+    # a handle, a hashtag
    | [\p{L}\p{N}] [\p{L}\p{N}_.+%-]{0,63} @ (?: [\p{L}\p{N}-]{1,63} \. ){1,8} \p{L}{2,}   # an e-mail address
    | (?<! [\p{L}\p{N}] ) (?: (?: \p{L}{1,2} \. ){2,16}                    # U.S., z.B., Ph.D.
                             | \p{Lu} \. (?= [SPACE]* [^SPACE\p{L}\p{N}] | [SPACE]+ [^SPACE] )  # J. Fox; not the end
                             | (?: St | Dr | Mr | Mrs | Ms | Jr | Sr | Sra | Dra | Mme | Mlle | No | Nr | Bros | Prof
                                 | Vol | Chr | Inc | Ltd | Corp | (?i: vs | etc | bzw | usw | ca ) )
                               \. (?= [SPACE]* [^SPACE] ) )
    | (?<! [\p{L}\p{N}] ) (?i: [cdjlmnst] | qu | jusqu | lorsqu | puisqu | quoiqu ) ['’] (?= ["“„«]? [\p{L}\p{N}] )
    | (?i: n ['’] t | ['’] (?: s | re | ve | ll | d | m | t ) ) (?! [\p{L}\p{N}] )    # n't, 's, 're
    | (?<= \p{L} ) - (?i: ci | là ) (?! [\p{L}\p{N}-] )                     # celui|-ci
    | \.{2,}
    | RUN (?:
        (?: (?<= [\p{L}\p{M}] ) [\u00ad\u200c\u200d\u2060]+ (?= \p{L} )     # not shown, inside a word: a soft hyphen
          | ['’] (?! (?i: s | re | ve | ll | d | m | t ) (?! [\p{L}\p{N}] ) ) (?= [\p{L}\p{Nd}_] )
          | (?! (?<= \d ) . \d ) (?! (?<= \d : \d{1,3} ) . ) (?! . (?i: ci | là ) (?! [\p{L}\p{N}-] ) )
            [-‐‑] (?= [\p{L}\p{Nd}_] )
          | (?<= \d ) [.,:] (?= \d )
          | (?<= \p{Lu} ) & (?= \p{Lu} )                                   # AT&T
          | (?<= \p{Ll} ) \. (?= (?: com | org | net | edu | gov | io | fm | tv | de | fr | es | eu | uk | js ) \b )
        ) RUN
      ){0,64}
    | [🇦-🇿]{1,2} \p{M}*                                                   # a flag
    | \X                                                       # any other character, with what combines with it
    )
    """.replace("SPACE", SPACE)
    # Letters and digits, less the n of an n't that ends them.
    .replace("RUN", r"[\p{L}\p{M}\p{Nd}\p{Nl}_]+ (?! (?<= [nN] ) ['’] [tT] (?! [\p{L}\p{N}] ) )"),
    regex.VERBOSE,
)
JOINERS = "\u200c\u200d"
VISIBLE = regex.compile(f"[^{SPACE}]")


class Window(NamedTuple):
    """
    A part of a sentence that fits the encoder: words `start:stop`, of which `keep_start:keep_stop` are its own. The
    kept parts of a sentence's windows follow one another without gap or overlap.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def given_words(words: Any) -> list[str] | None:
    """A sentence that came as words, in whatever holds them in order (list, array, Series, column), or `None`."""
    if isinstance(words, (str, bytes, Mapping)) or not (hasattr(words, "__getitem__") and isinstance(words, Iterable)):
        return None
    words = list(words)
    return words if all(isinstance(word, str) for word in words) else None


class TwoMNERProcessor(PushedWithCard, ProcessorMixin):
    """
    Makes the batch that [`TwoMNERForTokenClassification`] takes from sentences and images.

    Args:
        image_processor: any image processor of transformers.
        tokenizer: a fast tokenizer.

    Raises:
        ValueError: the tokenizer is not a fast one (only those know which token belongs to which word).
    """

    def __init__(self, image_processor, tokenizer, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; words cannot be followed through it. Load its "
                "fast version (AutoTokenizer.from_pretrained)."
            )
        self._before_word = self._find_before_word()

    def _find_before_word(self) -> str:
        """
        What to put before a word: a space where the tokenizer, given words, would leave it out and take each for the
        inside of another (byte-level BPE of the generic class, as ModernBERT's; Gemma's), nothing else.
        """
        text = self.tokenizer("a b", add_special_tokens=False)["input_ids"]
        plain, spaced = (
            self.tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
            for words in (["a", "b"], ["a", " b"])
        )
        return " " if plain != text == spaced else ""

    @classmethod
    def from_towers(
        cls, text: str | os.PathLike, vision: str | os.PathLike, whole_image: bool = True
    ) -> "TwoMNERProcessor":
        """
        The processor of two pretrained towers, given by name or folder.

        Args:
            whole_image: resize the whole image to the tower's size instead of cropping its centre: a name stands on a
                badge's rim, a person at a photograph's edge.
        """
        tokenizer = AutoTokenizer.from_pretrained(text)
        if getattr(tokenizer, "add_prefix_space", None) is False:  # byte-level BPE takes words only so
            tokenizer = AutoTokenizer.from_pretrained(text, add_prefix_space=True)
        image_processor = AutoImageProcessor.from_pretrained(vision, backend="pil")
        return cls(_uncropped(image_processor) if whole_image else image_processor, tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "word_starts", "pixel_values", "image_index", "image_ids"]

    @property
    def max_length(self) -> int:
        """Tokens the text tower takes, special tokens included."""
        limit = self.tokenizer.model_max_length
        return limit if limit is not None and limit < 1_000_000 else DEFAULT_MAX_LENGTH

    def token_budget(self, max_length: int | None = None) -> int:
        """
        Tokens a sentence may have, special tokens excluded; `max_length` includes them (default: all that the text
        tower takes).

        Raises:
            ValueError: the text tower does not take so many, or special tokens leave no room.
        """
        if max_length is not None and max_length > self.max_length:
            raise ValueError(f"`max_length` is {max_length}; the text tower takes {self.max_length} tokens at most.")
        budget = (max_length or self.max_length) - self.tokenizer.num_special_tokens_to_add()
        if budget < 1:
            raise ValueError(f"`max_length` is {max_length}; special tokens leave no room for a word.")
        return budget

    def split_words(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """The words of a raw string, and the `(start, end)` characters of each; what is between them is space."""
        # A joiner at the end of a word joins it to nothing, and is not seen.
        spans = [
            (match.start(), match.start() + len(match[0].rstrip(JOINERS))) for match in WORD_PATTERN.finditer(text)
        ]
        return [text[start:end] for start, end in spans], spans

    @staticmethod
    def join_words(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """Words joined by spaces, and the `(start, end)` characters of each."""
        ends = list(accumulate(len(word) + 1 for word in words))
        return " ".join(words), [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]

    def token_counts(self, words: Sequence[str]) -> list[int]:
        """Number of tokens of each word, at least 1."""
        return list(map(len, self.token_ids([words])[0]))

    def token_ids(self, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """The token ids of each word of each sentence; a word that the tokenizer drops gets the unknown token."""
        if not any(map(len, sentences)):
            return [[] for _ in sentences]
        # Half a surrogate pair (JSON may bring one) is no character, and would make the tokenizer fail.
        encodable = [
            [self._before_word + word.encode(errors="replace").decode() for word in words] for words in sentences
        ]
        encoded = self.tokenizer(
            encodable, is_split_into_words=True, add_special_tokens=False, truncation=False, verbose=False
        )
        result = []
        for row, words in enumerate(sentences):
            ids: list[list[int]] = [[] for _ in words]
            for token, word in zip(encoded["input_ids"][row], encoded.word_ids(row), strict=True):
                if word is not None:
                    ids[word].append(token)
            result.append([of_word or [self._unknown_id()] for of_word in ids])
        return result

    def _unknown_id(self) -> int:
        for token_id in (self.tokenizer.unk_token_id, self.tokenizer.mask_token_id, self.tokenizer.pad_token_id):
            if token_id is not None:
                return token_id
        raise ValueError("The tokenizer has no unknown, mask or padding token to stand for a word it drops.")

    def caption_ids(self, captions: Sequence[str | None]) -> list[list[int]]:
        """The token ids of captions, none for `None`."""
        sentences = self.token_ids([self.split_words(caption or "")[0] for caption in captions])
        return [[token for word in sentence for token in word] for sentence in sentences]

    def windows(self, words: Sequence[str], stride: int | None = None, max_length: int | None = None) -> list[Window]:
        """The windows (`windows_of`) of a sentence."""
        return self.windows_of(self.token_counts(words), stride, max_length)

    def windows_of(
        self, token_counts: Sequence[int], stride: int | None = None, max_length: int | None = None
    ) -> list[Window]:
        """
        Cuts a sentence into windows that fit the text tower; each word is kept by the window in which it has most
        context on both sides. A sentence that fits (an empty one too) is one window.

        Args:
            token_counts: of its words.
            stride: tokens that neighbouring windows share, as far as whole words allow. Default: 64, or a quarter of
                the window if that is less.
            max_length: tokens a window may have, special tokens included. Default: all the tower takes.

        Raises:
            ValueError: `stride` leaves no room for new words in a window.
        """
        budget = self.token_budget(max_length)
        if stride is None:
            stride = min(DEFAULT_STRIDE, budget // 4)
        if not 0 <= stride < budget:
            raise ValueError(f"`stride` is {stride} tokens; expected 0 to {budget - 1}, less than a window holds.")
        spans, start = [], 0
        while True:
            stop, used = start, 0
            while stop < len(token_counts) and (stop == start or used + token_counts[stop] <= budget):
                used += token_counts[stop]
                stop += 1
            spans.append((start, stop))
            if stop >= len(token_counts):
                break
            next_start, shared = stop, 0
            while next_start - 1 > start and shared + token_counts[next_start - 1] <= stride:
                next_start -= 1
                shared += token_counts[next_start]
            while next_start < stop and shared + token_counts[stop] > budget:  # the next word goes before context
                shared -= token_counts[next_start]
                next_start += 1
            start = next_start
        # In the middle of an overlap both windows know as much of the context.
        cuts = [0] + [(later[0] + earlier[1]) // 2 for earlier, later in zip(spans, spans[1:], strict=False)]
        cuts.append(len(token_counts))
        return [Window(*span, cut, next_cut) for span, cut, next_cut in zip(spans, cuts[:-1], cuts[1:], strict=True)]

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        images: ImageLike | Sequence[ImageLike | None] | None = None,
        captions: str | Sequence[str | None] | None = None,
        word_labels: Sequence[Any] | None = None,
        return_tensors: str = "pt",
        pad_to_multiple_of: int | None = None,
    ) -> BatchFeature:
        """
        Args:
            text: a string, a list of strings, or a list of word lists. Strings are split by `split_words`.
            images: one image for one string, a list of images and `None`s as long as `text`, or `None`.
            captions: of the images, for a model with `image_as_text`: one for one string, or a list as long as `text`.
                They are read after the sentences, as far as they fit beside them (a cut is logged), and not tagged.
            word_labels: the label ids of each sentence's words (of one sentence for one string).
            return_tensors: `"pt"`, the only kind there is.
            pad_to_multiple_of: as the tokenizer's.

        Returns:
            `input_ids`, `attention_mask` (batch_size, sequence_length); `word_starts` (batch_size, num_words), -1
            where there is no word; with `word_labels`: `labels` (batch_size, num_words), -100 where there is none.
            If a sentence has an image: `pixel_values` (num_images, num_channels, height, width) of the distinct
            images, `image_index` (batch_size,), the image of each sentence or -1, and `image_ids` (num_images,),
            equal for equal images.

        Raises:
            ValueError: lengths that do not match, a sentence that is too long, an image that does not open.
            TypeError: text or an image of another type.
        """
        if return_tensors != "pt":
            raise ValueError(
                f"`return_tensors` is {return_tensors!r}; the model takes PyTorch tensors, expected 'pt'."
            )
        if isinstance(text, str):
            text = [text]
            images = [images] if images is not None and not isinstance(images, (list, tuple)) else images
            captions = [captions] if isinstance(captions, str) else captions
            if word_labels is not None and not (len(word_labels) and isinstance(word_labels[0], (list, tuple))):
                word_labels = [word_labels]
        sentences = [self._words(sentence, row) for row, sentence in enumerate(text)]
        if not sentences:
            raise ValueError("`text` is an empty list; expected at least one sentence (an empty string is one).")
        for name, values in (("images", images), ("captions", captions), ("word_labels", word_labels)):
            if values is not None and (isinstance(values, str) or len(values) != len(sentences)):
                raise ValueError(
                    f"{len(values)} {name} for {len(sentences)} sentences; expected one (or None) for each."
                )

        caption_ids = None if captions is None else self.caption_ids(captions)
        batch = self.encode_ids(self.token_ids(sentences), caption_ids, pad_to_multiple_of)
        if word_labels is not None:
            batch["labels"] = self._labels(sentences, word_labels, batch["word_starts"])
        if images is not None:
            batch.update(self._images(images))
        return BatchFeature(batch)

    def _words(self, sentence: str | Sequence[str], row: int) -> list[str]:
        words = self.split_words(sentence)[0] if isinstance(sentence, str) else given_words(sentence)
        if words is None:
            raise TypeError(
                f"Sentence {row} is of type {type(sentence).__name__}; expected a string or a list of words (strings)."
            )
        return words

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a sentence."""
        encoded = self.tokenizer([["a"]], is_split_into_words=True)
        ids, words = encoded["input_ids"][0], encoded.word_ids(0)
        first, last = words.index(0), len(words) - words[::-1].index(0)
        return ids[:first], ids[last:]

    def encode_ids(
        self,
        sentences: Sequence[list[list[int]]],
        captions: Sequence[list[int]] | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The tensors of the text of sentences (or windows) whose `token_ids`, and captions whose `caption_ids` are
        known."""
        prefix, suffix = self._special_ids()
        rows, starts = [], []
        for row, words in enumerate(sentences):
            words = self._fitting(words, row)
            ids, positions = list(prefix), []
            for word in words:
                positions.append(len(ids))
                ids += word
            ids += suffix
            if captions is not None and captions[row]:
                room = max(self.max_length - len(ids) - len(suffix), 0)
                if len(captions[row]) > room:
                    logger.warning(f"The caption of sentence {row} is cut from {len(captions[row])} to {room} tokens.")
                ids += captions[row][:room] + suffix if room else []
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
            starts.append(positions)
        padded = self.tokenizer.pad(rows, padding=True, pad_to_multiple_of=pad_to_multiple_of, return_tensors="pt")
        length = padded["input_ids"].shape[1]
        word_starts = torch.full((len(rows), max(1, max(map(len, sentences)))), -1, dtype=torch.long)
        for row, positions in enumerate(starts):
            shift = length - len(rows[row]["input_ids"]) if self.tokenizer.padding_side == "left" else 0
            word_starts[row, : len(positions)] = torch.tensor(positions, dtype=torch.long) + shift
        return {name: padded[name] for name in ("input_ids", "attention_mask")} | {"word_starts": word_starts}

    def _fitting(self, words: list[list[int]], row: int) -> list[list[int]]:
        """The words, if they fit the text tower; of a single word that does not, its beginning."""
        budget, total = self.token_budget(), sum(map(len, words))
        if total <= budget:
            return words
        if len(words) > 1:
            raise ValueError(
                f"Sentence {row} has {total} tokens in {len(words)} words; the limit is {budget}. Cut it with "
                "`processor.windows(words)`, or pass the text to the pipeline, which does."
            )
        logger.warning(f"The only word of sentence {row} has {total} tokens; its first {budget} are read.")
        return [words[0][:budget]]

    def _labels(self, sentences, word_labels, word_starts: torch.Tensor) -> torch.Tensor:
        labels = torch.full(word_starts.shape, -100, dtype=torch.long)
        for row, (words, values) in enumerate(zip(sentences, word_labels, strict=True)):
            if len(values) != len(words):
                raise ValueError(
                    f"{len(values)} labels for {len(words)} words in sentence {row}; expected one a word."
                )
            labels[row, : len(words)] = torch.tensor(values, dtype=torch.long)
        return labels

    def _images(self, images: Sequence[ImageLike | None]) -> dict[str, torch.Tensor]:
        ids: list[int | None] = []
        distinct: dict[int, torch.Tensor] = {}
        for image in images:
            if image is None:
                ids.append(None)
                continue
            opened = load_image(image)
            ids.append(key := image_id(opened))
            if key not in distinct:
                distinct[key] = self.pixel_values(opened)
        return {"pixel_values": torch.stack(list(distinct.values())), **index_images(ids)} if distinct else {}

    def pixel_values(self, image: Image.Image) -> torch.Tensor:
        """An opened image as the image tower reads it: `(num_channels, height, width)`."""
        return self.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]


def index_images(ids: Sequence[int | None]) -> dict[str, torch.Tensor]:
    """`image_index` (batch_size,) and `image_ids` (num_images,) of rows with these images, `None` for none; the
    distinct images are in the order of their first row."""
    place: dict[int, int] = {}
    for identity in ids:
        if identity is not None:
            place.setdefault(identity, len(place))
    return {
        "image_index": torch.tensor([-1 if identity is None else place[identity] for identity in ids]),
        "image_ids": torch.tensor(list(place)),
    }


def _uncropped(image_processor: Any) -> BaseImageProcessor:
    """The image processor, or one like it, that resizes whole images to the size to which it would crop them."""
    crop = dict(getattr(image_processor, "crop_size", None) or {})
    size = crop if getattr(image_processor, "do_center_crop", False) and crop else dict(image_processor.size or {})
    edge = size.get("shortest_edge")
    size = {"height": size.get("height") or edge, "width": size.get("width") or edge}
    if None in size.values():
        raise ValueError(
            f"{type(image_processor).__name__} resizes to no fixed size ({image_processor.size}); expected height and "
            "width, or shortest_edge. Pass whole_image=False to leave it as it is."
        )
    if hasattr(image_processor, "crop_pct"):  # ConvNeXT's way to crop, which its class insists upon
        steps = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        return ViTImageProcessorPil(size=size, **{name: getattr(image_processor, name) for name in steps})
    image_processor.size = size
    image_processor.do_center_crop = False
    return image_processor


if "." not in __name__:  # imported by its own name, not as remote code: that is mapped by `auto_map`
    TwoMNERProcessor.register_for_auto_class("AutoProcessor")
    AutoProcessor.register(TwoMNERConfig, TwoMNERProcessor)
else:
    set_in_package(__name__)

__all__ = ["FORMATS", "ImageLike", "TwoMNERProcessor", "Window", "image_id", "index_images", "load_image"]
