"""The probe: a SYNTHETIC dataset in four languages, in which only the image tells the type of ambiguous words.

Nothing in it is real: the sentences come from templates, the images from random shapes, and no file is read. It shows
whether a model *uses* the image; a score on it says nothing about natural text.
"""

import hashlib
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from dataset_script.files import replacing

from .drawings import DRAWINGS, draw
from .sentences import NAMES, PHRASES, SURNAMES

TYPES = ("PER", "LOC", "ORG", "MISC")
SPLIT_SHARE = {"validation": 0.1, "test": 0.2}
"""Of the sentences; train has the rest."""
AMBIGUOUS_SHARE = 0.52
"""Of the rows of a split. They come in fours: one text, and for each type an image and the labels."""
IMAGE_SHARE = {"depicts": 0.35, "unrelated": 0.3, "none": 0.35}
"""Of the rows whose words tell the types."""
REUSE_SHARE = 0.15
"""Of the images: how many show again one that the split has already, of the same name and type."""
HELD_OUT_NAMES = {"validation": 0.08, "test": 0.2}
"""Of the names: how many occur in that split alone."""
HELD_OUT_USE = 0.3
"""Of the names drawn for a split that holds names out: how many are such names."""
MIN_SENTENCES, MAX_SENTENCES = 80, 20_000

NOTICE = """\
SYNTHETIC DATA: the 2M-NER probe

No sentence, name, event or image in this folder is real: mmner/probe/dataset.py made them from templates and random
shapes ({num_sentences} sentences, seed {seed}). No licence applies. The dataset shows whether a model uses the image
of a sentence; a score on it says nothing about natural text.

This folder is written anew by each build: keep nothing of your own in it.
"""


def build(folder: str | Path, num_sentences: int = 2000, seed: int = 0) -> Path:
    """
    Writes the synthetic probe to `folder`: `{en,de,fr,es}/{train,validation,test}.jsonl`, `images/`, a notice.

    The same arguments give the same bytes. An earlier probe in the folder, to which nobody added a file, is replaced.

    Raises:
        ValueError: `num_sentences` is too small for all kinds of rows, or too large for the names there are.
        FileExistsError: the folder holds something else.
    """
    if not MIN_SENTENCES <= num_sentences <= MAX_SENTENCES:
        raise ValueError(f"num_sentences is {num_sentences}: ask for {MIN_SENTENCES} to {MAX_SENTENCES}.")
    folder = Path(folder)
    with replacing(folder, "probe") as built:
        _Builder(built, seed).write(num_sentences)
        (built / "README.txt").write_text(NOTICE.format(num_sentences=num_sentences, seed=seed), encoding="utf-8")
    return folder


@dataclass
class _Text:
    """A sentence and its entities, as (start, end, type) in words; the type is None where the image tells it."""

    words: list[str] = field(default_factory=list)
    entities: list[tuple[int, int, str | None]] = field(default_factory=list)

    def __add__(self, other: "_Text") -> "_Text":
        shift = len(self.words)
        entities = [(start + shift, end + shift, kind) for start, end, kind in other.entities]
        return _Text(self.words + other.words, self.entities + entities)

    def name(self, kind: str | None) -> str:
        """The first entity of a type."""
        return next(" ".join(self.words[start:end]) for start, end, of in self.entities if of == kind)

    def row(self, image: str | None, relation: str, depicted_type: str | None = None) -> dict:
        tags = ["O"] * len(self.words)
        for start, end, kind in self.entities:
            tags[start:end] = [f"{'B' if i == start else 'I'}-{kind or depicted_type}" for i in range(start, end)]
        return {"tokens": self.words, "ner_tags": tags, "image": image, "image_relation": relation}


class _Builder:
    """The random state of one build, and what it has used up."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(f"2M-NER probe {seed}")  # a string is hashed alike in every process
        self.bodies: set[tuple[str, ...]] = set()
        self.digests: set[str] = set()
        self.images: dict[tuple[str, ...], list[str]] = {}
        names = self.rng.sample(NAMES, len(NAMES))
        self.names = {}
        for split, share in HELD_OUT_NAMES.items():
            count = round(share * len(NAMES))
            self.names[split], names = names[:count], names[count:]
        self.names["train"] = names

    def write(self, num_sentences: int) -> None:
        """Writes all rows, of all languages, and their images."""
        (self.folder / "images").mkdir(parents=True)
        for i, lang in enumerate(PHRASES):
            of_language = num_sentences // len(PHRASES) + (i < num_sentences % len(PHRASES))
            sizes = {split: round(share * of_language) for split, share in SPLIT_SHARE.items()}
            (self.folder / lang).mkdir()
            for split, size in {"train": of_language - sum(sizes.values()), **sizes}.items():
                rows = self.rows(lang, split, size)
                self.rng.shuffle(rows)
                with (self.folder / lang / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                    for j, row in enumerate(rows):
                        row = {"id": f"probe-{lang}-{split}-{j}", "lang": lang, **row}
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def rows(self, lang: str, split: str, count: int) -> list[dict]:
        """The rows of one file: fours of ambiguous ones, then rows whose words tell the types."""
        rows, ambiguous, clear = [], PHRASES[lang].ambiguous, PHRASES[lang].clear
        for i in range(round(AMBIGUOUS_SHARE * count / len(TYPES))):
            body = self.body(lang, split, ambiguous[i % len(ambiguous)])
            text = self.framed(body, lang, split)
            for kind in TYPES:
                rows.append(text.row(self.image(split, kind, body.name(None)), "depicts", kind))
                if split == "train":  # more to learn from; elsewhere the words of a four are the very same
                    text = self.framed(body, lang, split)
        for i in range(count - len(rows)):
            kind = TYPES[i % len(TYPES)]
            body = self.body(lang, split, self.rng.choice(clear[kind]))
            (relation,) = self.rng.choices(list(IMAGE_SHARE), list(IMAGE_SHARE.values()))
            image = None
            if relation != "none":
                shown = (kind, body.name(kind)) if relation == "depicts" else ("unrelated", "")
                image = self.image(split, *shown)
            rows.append(self.framed(body, lang, split).row(image, relation))
        return rows

    def body(self, lang: str, split: str, template: str) -> _Text:
        """The template with its slots filled, in words that no other row of the language has."""
        while (key := (lang, *(body := self.filled(split, template)).words)) in self.bodies:
            pass
        self.bodies.add(key)
        return body

    def framed(self, body: _Text, lang: str, split: str) -> _Text:
        """The body, perhaps after an opener and before a closer, with a capital at the start."""
        text = body
        if self.rng.random() < 0.4:
            text = self.filled(split, self.rng.choice(PHRASES[lang].openers)) + text
        if self.rng.random() < 0.4:
            text = text + self.filled(split, self.rng.choice(PHRASES[lang].closers))
        words = list(text.words)
        first = next(i for i, word in enumerate(words) if word[0].isalpha())
        words[first] = words[first][0].upper() + words[first][1:]
        return _Text(words, text.entities)

    def filled(self, split: str, template: str) -> _Text:
        """The words of a template, with a name in each slot, no two alike, and numbers for `<N>`."""
        text, used = _Text(), set[str]()
        for word in template.split():
            if word.startswith("{"):
                name, kind = self.name(split, used), word.strip("{}")
                text += _Text(name, [(0, len(name), kind if kind in TYPES else None)])
            else:
                text.words.append(word.replace("<N>", str(self.rng.randint(12, 98))))
        return text

    def name(self, split: str, used: set[str]) -> list[str]:
        """One or two words; the first is what the splits hold out."""
        held_out = split != "train" and self.rng.random() < HELD_OUT_USE
        first = self.rng.choice([name for name in self.names[split if held_out else "train"] if name not in used])
        used.add(first)
        return [first, self.rng.choice(SURNAMES)] if self.rng.random() < 0.25 else [first]

    def image(self, split: str, kind: str, name: str) -> str:
        """The file name of an image, drawn now or before for the same name; no two files hold the same image."""
        before = self.images.setdefault((split, kind, name), [])
        if before and self.rng.random() < REUSE_SHARE:
            return self.rng.choice(before)
        digest = None
        while digest is None or digest in self.digests:
            image = draw(self.rng.choice(DRAWINGS[kind]), self.rng)
            digest = hashlib.sha256(image.tobytes()).hexdigest()
        self.digests.add(digest)
        before.append(f"{split}-{len(self.digests):05d}.png")
        image.save(self.folder / "images" / before[-1], compress_level=6)
        return before[-1]
