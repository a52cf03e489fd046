"""Processor of 2M-NER: sentences and images in, the tensors of a batch out; words, windows and character offsets."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import regex
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, BaseImageProcessor, ViTImageProcessorPil
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

try:
    from .configuration_2mner import TwoMNERConfig, set_in_package
    from .images_2mner import ImageLike, image_id, load_image
except ImportError:
    from configuration_2mner import TwoMNERConfig, set_in_package
    from images_2mner import ImageLike, image_id, load_image

logger = logging.get_logger(__name__)

# Used where a tokenizer states no limit of its own: the positions of BERT and XLM-R.
DEFAULT_MAX_LENGTH = 512
DEFAULT_STRIDE = 64
BLOCK_WORDS = 8192

# White space, control characters, and what Unicode says is not shown: zero-width spaces, joiners, soft hyphens, marks
# of direction and byte order, variation selectors. A word begins with a character that is none of these. A joiner or a
# soft hyphen between two letters, and what Unicode counts as a letter or mark (a variation selector, a Hangul filler),
# may stand inside a word. All others are between words.
SPACE = r"\s\p{Cc}\p{Default_Ignorable_Code_Point}"

# Words as the training data of the four languages has them (Wikipedia as spaCy cuts it): clitics apart (l'|eau,
# John|'s, did|n't), hyphenated words whole but not ranges and results (1985|-|86, 2:1|-|Sieg), a mention whole, a
# hashtag's name apart from its sign. What stands between two words is space, nothing else.
#
# No group is repeated without a bound: `regex` keeps some hundred bytes for each repetition. Single classes are
# repeated freely, which costs nothing.
WORD_PATTERN = regex.compile(
    r"""
    (?! [SPACE] )
    (?:
      (?: https?:// | www\. ) [^SPACE<>"]* [^SPACE<>"'’.,;:!?)\]}]       # a URL, less the punctuation after it
    | (?<! [\w@] ) @ [\p{L}\p{N}_]+                                        # a mention
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
VISIBLE = regex.compile(f"[^{SPACE}]")


class Window(NamedTuple):
    """
    A stretch of a sentence that fits the encoder: words `start:stop`, of which `keep_start:keep_stop` are its own. The
    kept stretches of a sentence's windows follow one another without gap or overlap.
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


class TwoMNERProcessor(ProcessorMixin):
    """
    Sentences and images to the batch that [`TwoMNERForTokenClassification`] takes.

    Args:
        image_processor: any image processor of transformers.
        tokenizer: a fast tokenizer.

    Raises:
        ValueError: the tokenizer is not a fast one (only those know which piece belongs to which word).
    """

    def __init__(self, image_processor, tokenizer, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; words cannot be followed through it. Load its "
                "fast version (AutoTokenizer.from_pretrained)."
            )
        self.truncated_words = 0
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
        The processor of two pretrained towers.

        Args:
            text: name or folder of the text tower.
            vision: name or folder of the image tower.
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
        """Pieces the text tower takes, special tokens included."""
        limit = self.tokenizer.model_max_length
        return limit if limit is not None and limit < 1_000_000 else DEFAULT_MAX_LENGTH

    @property
    def max_pieces(self) -> int:
        """Pieces a sentence may have, special tokens excluded."""
        return self.max_length - self.tokenizer.num_special_tokens_to_add()

    def split_words(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """
        Splits a raw string into words; what is between them is space (`SPACE`).

        Returns:
            The words and, for each, its `(start, end)` characters: `text[start:end] == word`.
        """
        spans = [match.span() for match in WORD_PATTERN.finditer(text)]
        return [text[start:end] for start, end in spans], spans

    def piece_counts(self, words: Sequence[str]) -> list[int]:
        """Number of pieces of each word, at least 1 (a word that the tokenizer drops becomes the unknown piece)."""
        return [len(pieces) for pieces in self.pieces([words])[0]]

    def pieces(self, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """
        The piece ids of each word of each sentence, without special tokens, at least one a word (a word that the
        tokenizer drops becomes the unknown piece); many sentences cost less than each for itself.
        """
        # In blocks: of a very long text, the tokenizer's own records take far more memory than the ids.
        result: list[list[list[int]]] = [[] for _ in sentences]
        block: list[tuple[int, list[str]]] = []
        num_words = 0
        for row, words in enumerate(sentences):
            for start in range(0, len(words), BLOCK_WORDS):
                block.append((row, list(words[start : start + BLOCK_WORDS])))
                num_words += len(block[-1][1])
                if num_words >= BLOCK_WORDS:
                    self._add_pieces(result, block)
                    block, num_words = [], 0
        self._add_pieces(result, block)
        return result

    def _add_pieces(self, result: list[list[list[int]]], block: list[tuple[int, list[str]]]) -> None:
        for (row, _), pieces in zip(block, self._pieces([words for _, words in block]), strict=True):
            result[row] += pieces

    def windows(self, words: Sequence[str], stride: int | None = None, max_length: int | None = None) -> list[Window]:
        """
        Cuts a sentence into windows that fit the text tower; each word is kept by the window in which it has most
        context on both sides. A sentence that fits (an empty one too) is one window.

        Args:
            words: the sentence.
            stride: pieces that neighbouring windows share, as far as whole words allow. Default: 64, or a quarter of
                the window if that is less.
            max_length: pieces a window may have, special tokens included. Default: all the tower takes.

        Raises:
            ValueError: `stride` leaves no room for new words in a window.
        """
        return self.windows_of(self.piece_counts(words), stride, max_length)

    def windows_of(
        self, piece_counts: Sequence[int], stride: int | None = None, max_length: int | None = None
    ) -> list[Window]:
        """As `windows`, of a sentence whose `piece_counts` are known."""
        budget = self.piece_budget(max_length)
        if stride is None:
            stride = min(DEFAULT_STRIDE, budget // 4)
        if not 0 <= stride < budget:
            raise ValueError(f"`stride` is {stride} pieces; expected 0 to {budget - 1}, less than a window holds.")
        spans, start = [], 0
        while True:
            stop, used = start, 0
            while stop < len(piece_counts) and (stop == start or used + piece_counts[stop] <= budget):
                used += piece_counts[stop]
                stop += 1
            spans.append((start, stop))
            if stop >= len(piece_counts):
                break
            next_start, shared = stop, 0
            while next_start - 1 > start and shared + piece_counts[next_start - 1] <= stride:
                next_start -= 1
                shared += piece_counts[next_start]
            while next_start < stop and shared + piece_counts[stop] > budget:  # the next word goes before context
                shared -= piece_counts[next_start]
                next_start += 1
            start = next_start
        # In the middle of an overlap both windows know as much of the context.
        cuts = [0] + [(later[0] + earlier[1]) // 2 for earlier, later in zip(spans, spans[1:], strict=False)]
        cuts.append(len(piece_counts))
        return [Window(*span, cut, next_cut) for span, cut, next_cut in zip(spans, cuts[:-1], cuts[1:], strict=True)]

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        images: ImageLike | Sequence[ImageLike | None] | None = None,
        captions: str | Sequence[str | None] | None = None,
        word_labels: Sequence[Sequence[int]] | None = None,
        return_tensors: str = "pt",
        max_length: int | None = None,
        truncation: bool = False,
        padding: bool | str = True,
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
            max_length: pieces a sentence may have, special tokens included. Default: all the tower takes.
            truncation: cut a longer sentence, warn and count the words in `truncated_words`. Default: an error; see
                `windows` for a way to lose nothing.
            padding, pad_to_multiple_of: as the tokenizer's, over the pieces.

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
        if images is not None and not isinstance(images, (list, tuple)):
            images = [images]
        for name, values in (("images", images), ("captions", captions), ("word_labels", word_labels)):
            if values is not None and len(values) != len(sentences):
                raise ValueError(
                    f"{len(values)} {name} for {len(sentences)} sentences; expected one (or None) for each."
                )

        read = None if captions is None else self.caption_pieces(captions)
        batch = self.encode_pieces(self.pieces(sentences), max_length, truncation, padding, pad_to_multiple_of, read)
        if word_labels is not None:
            batch["labels"] = self._labels(sentences, word_labels, batch["word_starts"])
        if images is not None:
            batch.update(self._images(images))
        return BatchFeature(batch)

    def caption_pieces(self, captions: Sequence[str | None]) -> list[list[int]]:
        """The piece ids of captions, none for `None`."""
        words = self.pieces([self.split_words(caption or "")[0] for caption in captions])
        return [[piece for word in pieces for piece in word] for pieces in words]

    def _words(self, sentence: str | Sequence[str], row: int) -> list[str]:
        if isinstance(sentence, str):
            return self.split_words(sentence)[0]
        words = given_words(sentence)
        if words is not None:
            return words
        raise TypeError(
            f"Sentence {row} is of type {type(sentence).__name__}; expected a string or a list of words (strings)."
        )

    def piece_budget(self, max_length: int | None = None) -> int:
        """
        Pieces that a sentence of at most `max_length`, special tokens included, may have without them.

        Raises:
            ValueError: the text tower does not take so many, or special tokens leave no room.
        """
        budget = self.max_pieces
        if max_length is not None:
            if max_length > self.max_length:
                raise ValueError(
                    f"`max_length` is {max_length}; the text tower takes {self.max_length} pieces at most."
                )
            budget = max_length - self.tokenizer.num_special_tokens_to_add()
        if budget < 1:
            raise ValueError(f"`max_length` is {max_length}; special tokens leave no room for a word.")
        return budget

    def _pieces(self, sentences: list[list[str]]) -> list[list[list[int]]]:
        """Piece ids of each word of each sentence; a word without any gets the unknown piece, so none goes missing."""
        if not any(sentences):
            return [[] for _ in sentences]
        encodable = [
            # Half a surrogate pair (JSON may bring one) is no character, and would make the tokenizer fail.
            [
                self._before_word + (word if word.isascii() else word.encode(errors="replace").decode())
                for word in words
            ]
            for words in sentences
        ]
        encoded = self.tokenizer(
            encodable, is_split_into_words=True, add_special_tokens=False, truncation=False, verbose=False
        )
        result = []
        for row, words in enumerate(sentences):
            pieces: list[list[int]] = [[] for _ in words]
            for piece, word in zip(encoded["input_ids"][row], encoded.word_ids(row), strict=True):
                if word is not None:
                    pieces[word].append(piece)
            result.append([ids or [self._unknown_id()] for ids in pieces])
        return result

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a sentence."""
        encoded = self.tokenizer([["a"]], is_split_into_words=True)
        ids, words = encoded["input_ids"][0], encoded.word_ids(0)
        first, last = words.index(0), len(words) - words[::-1].index(0)
        return ids[:first], ids[last:]

    def _unknown_id(self) -> int:
        for token_id in (self.tokenizer.unk_token_id, self.tokenizer.mask_token_id, self.tokenizer.pad_token_id):
            if token_id is not None:
                return token_id
        raise ValueError("The tokenizer has no unknown, mask or padding token to stand for a word it drops.")

    def encode_pieces(
        self,
        sentences: Sequence[list[list[int]]],
        max_length: int | None = None,
        truncation: bool = False,
        padding: bool | str = True,
        pad_to_multiple_of: int | None = None,
        captions: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """As a call, of sentences (or windows) and captions whose pieces are known: the tensors of the text."""
        budget = self.piece_budget(max_length)
        prefix, suffix = self._special_ids()
        rows, starts = [], []
        for row, pieces in enumerate(sentences):
            total = sum(map(len, pieces))
            if total > budget:
                pieces = self._fit(pieces, total, budget, truncation, row)
            ids = prefix + [piece for word in pieces for piece in word] + suffix
            read = self._caption(captions, row, (max_length or self.max_length) - len(ids) - len(suffix))
            ids = ids + list(read) + suffix if read else ids
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
            word_starts, position = [], len(prefix)
            for word in pieces:
                word_starts.append(position)
                position += len(word)
            starts.append(word_starts)
        padded = self.tokenizer.pad(
            rows, padding=padding, max_length=max_length, pad_to_multiple_of=pad_to_multiple_of, return_tensors="pt"
        )
        length = padded["input_ids"].shape[1]
        num_words = max(1, *map(len, sentences))
        word_starts = torch.full((len(rows), num_words), -1, dtype=torch.long)
        for row, positions in enumerate(starts):
            shift = length - len(rows[row]["input_ids"]) if self.tokenizer.padding_side == "left" else 0
            word_starts[row, : len(positions)] = torch.tensor(positions, dtype=torch.long) + shift
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "word_starts": word_starts,
        }

    def _caption(self, captions: Sequence[Sequence[int]] | None, row: int, room: int) -> Sequence[int]:
        """The pieces of a row's caption that there is room for."""
        pieces = captions[row] if captions is not None else []
        if len(pieces) > max(room, 0):
            logger.warning(f"The caption of sentence {row} is cut from {len(pieces)} to {max(room, 0)} pieces.")
        return pieces[: max(room, 0)]

    def _fit(self, pieces: list[list[int]], total: int, budget: int, truncation: bool, row: int) -> list[list[int]]:
        """Cuts a sentence to `budget` pieces, or says why not. A first word that is longer alone loses its tail."""
        if not truncation and len(pieces) > 1:
            raise ValueError(
                f"Sentence {row} has {total} pieces in {len(pieces)} words; the limit is {budget}. Cut it with "
                "`processor.windows(words)`, or pass truncation=True to lose its end."
            )
        kept, used = [], 0
        for word in pieces:
            if used + len(word) > budget:
                break
            kept.append(word)
            used += len(word)
        if not kept:  # one word, longer than the tower takes: it is tagged by its beginning
            logger.warning(
                f"The first word of sentence {row} has {len(pieces[0])} pieces; its first {budget} are read."
            )
            kept = [pieces[0][:budget]]
        lost = len(pieces) - len(kept)
        if lost:
            self.truncated_words += lost
            logger.warning(f"Sentence {row} is cut from {len(pieces)} to {len(kept)} words; {lost} are not tagged.")
        return kept

    def _labels(self, sentences, word_labels, word_starts: torch.Tensor) -> torch.Tensor:
        labels = torch.full(word_starts.shape, -100, dtype=torch.long)
        for row, (words, values) in enumerate(zip(sentences, word_labels, strict=True)):
            if len(values) != len(words):
                raise ValueError(
                    f"{len(values)} labels for the {len(words)} words of sentence {row}; expected one a word."
                )
            labels[row, : len(words)] = torch.tensor(values, dtype=torch.long)
        return labels.masked_fill(word_starts < 0, -100)

    def _images(self, images: Sequence[ImageLike | None]) -> dict[str, torch.Tensor]:
        distinct: dict[int, torch.Tensor] = {}
        ids = []
        for image in images:
            if image is None:
                ids.append(None)
                continue
            opened = load_image(image)
            ids.append(image_id(opened))
            if ids[-1] not in distinct:
                distinct[ids[-1]] = self.resized(opened)
        if not distinct:
            return {}
        return {"pixel_values": self.pixel_values(list(distinct.values())), **index_images(ids)}

    def resized(self, image: Image.Image) -> torch.Tensor:
        """
        An RGB picture on its way to `pixel_values`, in little memory: `(height, width, 3)` uint8 where the image
        processor resizes to a fixed size and then goes by single pixels, else what it makes of the picture, `(3,
        height, width)` float.
        """
        size = self._fixed_size()
        if size is None:
            return self.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]
        # As the image processor, less its ways from PIL to NumPy and back.
        return torch.from_numpy(np.array(image.resize(size, resample=self.image_processor.resample)))

    def pixel_values(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """What `resized` gave for pictures, as the image tower reads them: `(len(pictures), 3, height, width)`."""
        if pictures[0].dtype != torch.uint8:
            return torch.stack(list(pictures))
        scale, offset = self._rescaling()
        values = torch.stack(list(pictures)).float()  # (N, H, W, 3)
        return values.mul_(scale).add_(offset).permute(0, 3, 1, 2)

    def _fixed_size(self) -> tuple[int, int] | None:
        """Width and height, if the image processor resizes every picture to these and then goes by single pixels."""
        processor, kind = self.image_processor, type(self.image_processor)
        is_plain = isinstance(processor, PilBackend) and all(
            getattr(kind, step) is getattr(PilBackend, step)
            for step in ("__call__", "preprocess", "_preprocess", "process_image", "resize", "rescale", "normalize")
        )
        if not is_plain or not processor.do_resize or processor.do_center_crop or processor.do_pad:
            return None
        size = {name: value for name, value in dict(processor.size).items() if value is not None}
        if set(size) != {"height", "width"} or processor.resample is None:
            return None
        return size["width"], size["height"]

    def _rescaling(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factor and summand of each channel, (3,) each, by which the image processor goes from levels to values."""
        processor = self.image_processor
        scale = torch.full((3,), processor.rescale_factor if processor.do_rescale else 1.0, dtype=torch.float64)
        offset = torch.zeros(3, dtype=torch.float64)
        if processor.do_normalize:
            mean, std = (
                torch.as_tensor(values, dtype=torch.float64) for values in (processor.image_mean, processor.image_std)
            )
            scale, offset = scale / std, offset - mean / std
        return scale.float(), offset.float()


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


def _uncropped(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """
    The image processor, or one like it, that resizes whole pictures to the size to which it would crop them.

    Raises:
        ValueError: it has no such size.
    """
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

__all__ = ["TwoMNERProcessor", "Window"]
