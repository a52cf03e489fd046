"""Batches of the pipeline: how far ahead texts are read, which windows go together, which pictures are kept."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

try:
    from .images_2mner import ImageLike, image_id, load_image
    from .processing_2mner import TwoMNERProcessor, Window
except ImportError:
    from images_2mner import ImageLike, image_id, load_image
    from processing_2mner import TwoMNERProcessor, Window

# Pieces of a batch, padding included. A CPU gains nothing from more (measured, `benchmarks/speed/inference.py`); an
# accelerator needs more to be busy.
CPU_BATCH_PIECES = 512
ACCELERATOR_BATCH_PIECES = 4096
# Pictures that are handed to the image tower at once, at most.
BATCH_PICTURES = 64

# So many batches' worth of words are sorted by length together. On Wikipedia sentences of four languages 2 % of the
# batches are then padding; with a quarter as many it is 7 %, with batches of 16 as they come half.
STRETCH_BATCHES = 32
# Words that are read ahead, at most, to find the texts that share a picture. A word with its offsets and pieces takes
# some 300 bytes.
LOOK_AHEAD_WORDS = 65_536
# Of pictures that are read ahead, and of vectors of pictures that a later text shows again.
LOOK_AHEAD_PICTURE_BYTES = 64 * 2**20
KEPT_STATES_BYTES = 64 * 2**20
# Batches whose pictures are being opened while the model reads one.
OPENED_AHEAD_BATCHES = 4
# Batches whose pictures are encoded together: those of one are too few to keep an image tower busy.
ENCODED_AHEAD_BATCHES = 8


class Picture:
    """
    A picture of one text or of several: opened once, encoded once.

    Attributes:
        image_id: the hash of what it shows, once it is open.
        pixels: as `processor.resized` gives it, once it is open.
        error: why it did not open.
        states: what `encode_images` says of it, without the batch's dimension, as long as it is kept.
        num_unread: windows that show it and are not yet read.
    """

    def __init__(self, source: ImageLike):
        self.source = source
        self.image_id = 0
        self.pixels: torch.Tensor | None = None
        self.error: Exception | None = None
        self.states: list[torch.Tensor] | None = None
        self.num_unread = 0
        self.job: Future | None = None

    @property
    def num_bytes(self) -> int:
        """What it takes up before it is read."""
        if self.pixels is not None:
            return self.pixels.nbytes
        source = (self.source.get("bytes") or "") if isinstance(self.source, dict) else self.source
        return len(source) if isinstance(source, (str, bytes)) else 0

    def open(self, processor: TwoMNERProcessor) -> None:
        """Opens and resizes it if that is still to be done; what goes wrong is kept in `error`."""
        if self.source is None:
            return
        try:
            opened = load_image(self.source)
            self.image_id, self.pixels = image_id(opened), processor.resized(opened)
        except Exception as error:  # told to whoever asked for a text that shows it
            self.error = error
        self.source = None


@dataclass
class PreparedText:
    """
    A text on its way through the pipeline: first its words, then what is to be read of it, then the windows' emissions
    one by one, and what was found when the last of them is there.
    """

    text: str
    words: list[str]
    offsets: list[tuple[int, int]]  # of each word: its (start, end) characters in `text`
    picture: Picture | None = None
    caption: list[int] = field(default_factory=list)  # its pieces, read beside every window
    error: Exception | None = None  # why there will be no result

    pieces: list[list[int]] = field(default_factory=list)  # of each word
    windows: list[Window] = field(default_factory=list)  # none for a text without a word

    emissions: dict[Window, torch.Tensor] = field(default_factory=dict)  # of its own words: (words, num_labels)
    found: list[Any] | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or will be none."""
        return self.error is not None or self.found is not None


Row = tuple[PreparedText, Window]


class LookAhead:
    """
    How many texts are read before the first of them is answered. Of a list `LOOK_AHEAD_WORDS`; of a stream first no
    more than fill a batch, then twice as many each time: a first result comes soon, and a long stream is sorted as a
    list is. With `batch_size=1` a stream is never read ahead.

    Args:
        batch_size: windows in a batch; 0: as many as `batch_pieces` allow.
        batch_pieces: pieces in a batch, padding included.
        is_stream: results are asked for one by one.
    """

    def __init__(self, batch_size: int, batch_pieces: int, is_stream: bool):
        self.batch_size = batch_size
        self.stretch_words = min(STRETCH_BATCHES * batch_pieces, LOOK_AHEAD_WORDS)
        self.num_words = LOOK_AHEAD_WORDS
        self.num_texts: float = float("inf")
        if is_stream and batch_size:
            self.num_texts = batch_size
        elif is_stream:
            self.num_words = batch_pieces // 2  # a word is one or two pieces

    def grow(self) -> None:
        """Look further the next time."""
        self.num_words = min(2 * self.num_words, LOOK_AHEAD_WORDS)
        if self.batch_size != 1:
            self.num_texts *= 2

    def is_enough(self, num_texts: int, num_words: int, num_bytes: int) -> bool:
        """Whether with so many texts, words and bytes of pictures the reading stops."""
        is_much = num_words + num_texts >= self.num_words or num_bytes >= LOOK_AHEAD_PICTURE_BYTES
        return num_texts >= self.num_texts or (is_much and num_texts >= self.batch_size)

    def stretches(self, texts: Sequence[PreparedText]) -> Iterator[list[PreparedText]]:
        """The texts in the order in which they are read, cut into what is sorted by length together."""
        # Texts that show one picture follow its first, so that its vectors are needed at one time.
        first: dict[int, int] = {}
        keys = [
            place if text.picture is None else first.setdefault(id(text.picture), place)
            for place, text in enumerate(texts)
        ]
        stretch, num_words, num_windows = [], 0, 0
        for place in sorted(range(len(texts)), key=keys.__getitem__):
            stretch.append(texts[place])
            num_words += len(texts[place].words)
            num_windows += len(texts[place].windows)
            if num_words >= self.stretch_words and num_windows >= self.batch_size:
                yield stretch
                stretch, num_words, num_windows = [], 0, 0
        if stretch:
            yield stretch


def packed(lengths: Sequence[int], budget: int, size: int = 0) -> list[list[int]]:
    """
    Batches of what has these lengths, each of about one length, from long to short.

    Args:
        lengths: of the rows.
        budget: rows of a batch times the length of its longest, at most (but for a row that is longer alone).
        size: rows of a batch; 0: as many as the budget allows.

    Returns:
        The places in `lengths`, each once.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batches, start = [], 0
    while start < len(order):
        stop = start + (size or max(1, budget // max(1, lengths[order[start]])))
        batches.append(order[start:stop])
        start = stop
    return batches


def opened(
    batches: Sequence[Sequence[Row]], processor: TwoMNERProcessor, pool: Executor | None
) -> Iterator[list[Row]]:
    """
    Each batch when its pictures are open, without the rows whose picture does not open: their text has an `error`.

    Args:
        batches: rows of windows.
        processor: of the model.
        pool: threads that open the pictures of the next batches meanwhile; `None`: they are opened here.
    """
    for number, batch in enumerate(batches):
        if pool is not None:
            for later in batches[number : number + 1 + OPENED_AHEAD_BATCHES]:
                for text, _ in later:
                    if text.picture is not None and text.picture.job is None:
                        text.picture.job = pool.submit(text.picture.open, processor)
        good = []
        for text, window in batch:
            picture = text.picture
            if picture is not None:
                if picture.job is None:
                    picture.open(processor)
                else:
                    picture.job.result()
                text.error = text.error or picture.error
            if text.error is None:
                good.append((text, window))
        if good:
            yield good


def grouped(batches: Iterable[list[Row]]) -> Iterator[list[list[Row]]]:
    """The batches, `ENCODED_AHEAD_BATCHES` at a time."""
    batches = iter(batches)
    while group := list(islice(batches, ENCODED_AHEAD_BATCHES)):
        yield group


def release(rows: Sequence[Row], kept_bytes: int) -> int:
    """
    Lets go of what the pictures of rows that have been read hold, but for those that another row shows: of these the
    vectors are kept while there is room, else the pixels.

    Args:
        rows: of a batch.
        kept_bytes: that the kept vectors take up.

    Returns:
        The same, afterwards.
    """
    for text, _ in rows:
        if text.picture is not None:
            text.picture.num_unread -= 1
    for picture in {id(text.picture): text.picture for text, _ in rows if text.picture is not None}.values():
        is_kept = picture.states is not None and picture.pixels is None
        size = sum(states.nbytes for states in picture.states or ())
        if not picture.num_unread:
            kept_bytes -= size * is_kept
            picture.states = picture.pixels = None
        elif not is_kept and picture.states is not None:
            if kept_bytes + size <= KEPT_STATES_BYTES:
                # A part of a batch's vectors would hold on to all of them.
                picture.states = [states.clone() for states in picture.states]
                picture.pixels = None
                kept_bytes += size
            else:
                picture.states = None
    return kept_bytes


__all__ = ["LookAhead", "Picture", "PreparedText", "Row", "grouped", "opened", "packed", "release"]
