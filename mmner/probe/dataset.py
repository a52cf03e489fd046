"""The probe: a SYNTHETIC four-language set in which the words are ambiguous and only the picture tells the type.

Nothing in it is real: the sentences come from templates, the pictures from random shapes, and no file is read. It
shows whether a model *uses* the image; a score on it says nothing about natural text.
"""

import hashlib
import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from dataset_script.files import replacing

from .drawings import draw
from .sentences import NAMES, PHRASES, SURNAMES

TYPES = ("PER", "LOC", "ORG", "MISC")
SPLITS = ("train", "validation", "test")
SPLIT_SHARE = {"validation": 0.1, "test": 0.2}
"""Of the sentences; train has the rest."""
AMBIGUOUS_SHARE = 0.52
"""Of the rows of a split. They come in fours: one text, and for each type a picture and the labels."""
PICTURE_SHARE = {"depicts": 0.35, "unrelated": 0.3, "none": 0.35}
"""Of the rows whose words tell the types."""
REUSE_SHARE = 0.15
"""Of the pictures: how many show again one that the split has already, of the same name and type."""
HELD_OUT_NAMES = {"validation": 0.08, "test": 0.2}
"""Of the names: how many occur in that split alone."""
HELD_OUT_USE = 0.3
"""Of the names drawn for a split that holds names out: how many are such names."""
MIN_SENTENCES, MAX_SENTENCES = 80, 20_000

NOTICE = """\
SYNTHETIC DATA: the 2M-NER probe

No sentence, name, event or picture in this folder is real. The sentences were filled from templates and the pictures
drawn from random shapes by mmner/probe/dataset.py ({num_sentences} sentences, seed {seed}); nothing was copied from
anywhere, so that no licence applies. The set shows whether a model uses the picture of a sentence: half of the
sentences come in fours: the same words, with four pictures and four types. A score on it says nothing about natural
text.

This folder is written anew by each build: keep nothing of your own in it.
"""


def build(folder: str | Path, num_sentences: int = 2000, seed: int = 0) -> Path:
    """Write the synthetic probe to ``folder``: ``{en,de,fr,es}/{train,validation,test}.jsonl``, ``images/``, a notice.

    The same arguments give the same bytes. An earlier probe in the folder is replaced.

    Args:
        folder: a new or empty folder, or a probe that nobody added to.
        num_sentences: over all languages and splits, from ``MIN_SENTENCES`` to ``MAX_SENTENCES``.
        seed: of every random choice.

    Returns:
        The folder.

    Raises:
        ValueError: ``num_sentences`` is too small for all kinds of rows, or too large for the names there are.
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
    """A sentence and its entities, as (start, end, type) in words; the type is None where the picture tells it."""

    words: list[str] = field(default_factory=list)
    entities: list[tuple[int, int, str | None]] = field(default_factory=list)

    def name(self, kind: str | None) -> str:
        """The first entity of a type."""
        return next(" ".join(self.words[start:end]) for start, end, of in self.entities if of == kind)

    def tags(self, pictured_type: str | None = None) -> list[str]:
        tags = ["O"] * len(self.words)
        for start, end, kind in self.entities:
            tags[start:end] = [f"{'B' if i == start else 'I'}-{kind or pictured_type}" for i in range(start, end)]
        return tags


def _row(text: _Text, image: str | None, relation: str, pictured_type: str | None = None) -> dict:
    return {"tokens": text.words, "ner_tags": text.tags(pictured_type), "image": image, "image_relation": relation}


class _Builder:
    """The random state, and what has been used up, of one build."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(f"2M-NER probe {seed}")  # a string is hashed alike in every process
        self.bodies: set[tuple[str, ...]] = set()
        self.digests: set[str] = set()
        self.pictures: dict[tuple[str, ...], list[str]] = {}
        names = self.rng.sample(NAMES, len(NAMES))
        self.names = {}
        for split, share in HELD_OUT_NAMES.items():
            count = round(share * len(NAMES))
            self.names[split], names = names[:count], names[count:]
        self.names["train"] = names

    def write(self, num_sentences: int) -> None:
        """Write all rows, of all languages, and their pictures."""
        (self.folder / "images").mkdir(parents=True)
        for i, lang in enumerate(PHRASES):
            of_language = num_sentences // len(PHRASES) + (i < num_sentences % len(PHRASES))
            sizes = {split: round(share * of_language) for split, share in SPLIT_SHARE.items()}
            for split in SPLITS:
                rows = self.rows(lang, split, sizes.get(split, of_language - sum(sizes.values())))
                self.rng.shuffle(rows)
                lines = [
                    json.dumps({"id": f"probe-{lang}-{split}-{j}", "lang": lang, **row}, ensure_ascii=False)
                    for j, row in enumerate(rows)
                ]
                path = self.folder / lang / f"{split}.jsonl"
                path.parent.mkdir(exist_ok=True)
                path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")

    def rows(self, lang: str, split: str, count: int) -> list[dict]:
        """The rows of one file: fours of ambiguous ones, then rows whose words tell the types."""
        rows = []
        for i in range(round(AMBIGUOUS_SHARE * count / len(TYPES))):
            templates = PHRASES[lang].ambiguous
            body = self.body(lang, split, templates[i % len(templates)])
            text = self.framed(body, lang, split)
            for kind in TYPES:
                image = self.picture(split, kind, body.name(None))
                rows.append(_row(text, image, "depicts", kind))
                if split == "train":  # more to learn from; elsewhere the words of a four are the very same
                    text = self.framed(body, lang, split)
        for i in range(count - len(rows)):
            kind = TYPES[i % len(TYPES)]
            body = self.body(lang, split, self.rng.choice(PHRASES[lang].clear[kind]))
            (relation,) = self.rng.choices(list(PICTURE_SHARE), PICTURE_SHARE.values())
            image = None
            if relation == "depicts":
                image = self.picture(split, kind, body.name(kind))
            elif relation == "unrelated":
                image = self.picture(split, "unrelated", "")
            rows.append(_row(self.framed(body, lang, split), image, relation))
        return rows

    def body(self, lang: str, split: str, template: str) -> _Text:
        """The template with its slots filled, in words that no other row of the language has."""
        while (key := (lang, *(body := self.filled(split, template)).words)) in self.bodies:
            pass
        self.bodies.add(key)
        return body

    def framed(self, body: _Text, lang: str, split: str) -> _Text:
        """The body, perhaps after an opener and before a closer, and a capital at the start."""
        parts = [body]
        if self.rng.random() < 0.4:
            parts.insert(0, self.filled(split, self.rng.choice(PHRASES[lang].openers)))
        if self.rng.random() < 0.4:
            parts.append(self.filled(split, self.rng.choice(PHRASES[lang].closers)))
        text = _Text()
        for part in parts:
            shift = len(text.words)
            text.words += part.words
            text.entities += [(start + shift, end + shift, kind) for start, end, kind in part.entities]
        first = next(i for i, word in enumerate(text.words) if word[0].isalpha())
        text.words[first] = text.words[first][0].upper() + text.words[first][1:]
        return text

    def filled(self, split: str, template: str) -> _Text:
        """The words of a template, with a name in each slot, no two alike, and numbers for `<N>`."""
        text, used = _Text(), set()
        for word in template.split():
            if word.startswith("{"):
                name = self.name(split, used)
                kind = word.strip("{}")
                text.entities.append((len(text.words), len(text.words) + len(name), kind if kind in TYPES else None))
                text.words += name
            else:
                text.words.append(word.replace("<N>", str(self.rng.randint(12, 98))))
        return text

    def name(self, split: str, used: set[str]) -> list[str]:
        """One or two words; the first is what the splits hold out."""
        held_out = split != "train" and self.rng.random() < HELD_OUT_USE
        first = self.rng.choice([name for name in self.names[split if held_out else "train"] if name not in used])
        used.add(first)
        return [first, self.rng.choice(SURNAMES)] if self.rng.random() < 0.25 else [first]

    def picture(self, split: str, kind: str, name: str) -> str:
        """The file name of a picture, drawn now or before for the same name; no two files hold the same picture."""
        before = self.pictures.setdefault((split, kind, name), [])
        if before and self.rng.random() < REUSE_SHARE:
            return self.rng.choice(before)
        while (digest := hashlib.sha256((image := draw(kind, self.rng)).tobytes()).hexdigest()) in self.digests:
            pass
        self.digests.add(digest)
        before.append(f"{split}-{len(self.digests):05d}.png")
        (self.folder / "images" / before[-1]).write_bytes(_png(image))
        return before[-1]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
