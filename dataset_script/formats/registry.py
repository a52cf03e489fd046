"""The files of a dataset folder: their format by content, their split and language by name.

To add a format: write a reader, a function that yields the rows of a file in order, or the problem in place of a row
so that the caller may go on, and a function that recognizes its first lines; name both in ``READERS``.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..rows import LANGUAGES, SPLIT_FILES, MalformedRow, Row
from .columns import looks_conll, looks_imgid, looks_numbered, read_conll, read_imgid, read_numbered
from .jsonl import looks_jsonl, read_jsonl
from .lines import head
from .markup import looks_markup, read_markup
from .wikidiverse import looks_wikidiverse, read_wikidiverse

logger = logging.getLogger(__name__)

LANGUAGE_CODES = {"en": "en", "eng": "en", "de": "de", "deu": "de", "ger": "de", "fr": "fr", "fra": "fr", "es": "es"}
LANGUAGE_CODES |= {"spa": "es", "esp": "es"}
OTHER_LANGUAGE_CODES = frozenset("it nl pl pt ru zh ita nld ned pol por rus zho".split())
"""Languages of the same sets that are none of ours: their files are left out with a warning."""

SPLIT_NAMES = {name: split for split, names in SPLIT_FILES.items() for name in names}
SPLIT_NAMES |= {"testa": "validation", "testb": "test"}
"""What a split may be called, in a file's name or on the Hub, and which it then is."""
_OTHER_TAG = re.compile(r"[ \t]([ESLU]-[A-Z]\w*)\s*$")


@dataclass(frozen=True)
class Reader:
    """A format."""

    name: str
    suffixes: tuple[str, ...]  # of its files; ``""`` stands for ``eng.train`` and the like
    read: Callable[..., Iterator[Row | MalformedRow]]  # reads a file
    looks: Callable[[Sequence[str]], bool]  # whether a file's first lines are of this format
    default_lang: str | None = None  # of rows that do not state it
    own_ids: bool = False  # rows have ids of their own, which must not repeat
    iob1: bool = False  # files may be IOB1 throughout, as published; these are converted
    has_columns: bool = False  # ``read`` takes the number of the tags' column


_COLUMN_SUFFIXES = (".txt", ".tsv", ".conll", ".conllu", ".iob", ".iob2", ".bio")
READERS = (
    Reader("jsonl", (".jsonl", ".json"), read_jsonl, looks_jsonl, own_ids=True),
    Reader("imgid", _COLUMN_SUFFIXES, read_imgid, looks_imgid, "en", own_ids=True, has_columns=True),
    Reader("numbered", _COLUMN_SUFFIXES, read_numbered, looks_numbered, has_columns=True),
    Reader("conll", (*_COLUMN_SUFFIXES, ""), read_conll, looks_conll, iob1=True, has_columns=True),
    Reader("wikidiverse", (".json",), read_wikidiverse, looks_wikidiverse, "en"),
    Reader("markup", (".txt",), read_markup, looks_markup),
)
_SUFFIXES = frozenset(suffix for reader in READERS for suffix in reader.suffixes if suffix)


@dataclass(frozen=True)
class Source:
    """One file of rows. ``lang`` is the language of its folder or name, ``None`` where neither states it."""

    path: Path
    split: str
    lang: str | None
    reader: Reader


@dataclass(frozen=True)
class FileName:
    """What the name of a file states: ``lang`` is a code as it stands there, of whichever language, or ``None``."""

    split: str
    lang: str | None

    @classmethod
    def parse(cls, name: str) -> "FileName | None":
        """``train.txt``, ``test_en.tsv``, ``dev-de.conllu``, ``eng.testa``; ``None`` for other names."""
        suffix = Path(name).suffix
        suffix = suffix if suffix in _SUFFIXES else ""
        parts = re.split(r"[._-]", name.removesuffix(suffix))
        splits = [part for part in parts if part in SPLIT_NAMES]
        codes = [part for part in parts if part in LANGUAGE_CODES or part in OTHER_LANGUAGE_CODES]
        if len(splits) != 1 or len(codes) > 1 or len(parts) > len(splits + codes) or not (suffix or codes):
            return None
        return cls(SPLIT_NAMES[splits[0]], codes[0] if codes else None)


def find_format(path: Path) -> Reader | None:
    """The format of a file by its first lines; ``None`` for one without lines; ``ValueError`` if none fits, or
    several.
    """
    suffix = path.suffix if path.suffix in _SUFFIXES else ""
    candidates = [reader for reader in READERS if suffix in reader.suffixes]
    lines = head(path)
    if not any(line.strip() for line in lines):
        return None
    if suffix == ".jsonl":
        return candidates[0]
    fitting = [reader for reader in candidates if reader.looks(lines)]
    if len(fitting) == 1:
        return fitting[0]
    shown = "; ".join(repr(line if len(line) <= 60 else f"{line[:60]}...") for line in lines if line.strip())[:200]
    names = ", ".join(reader.name for reader in fitting or candidates)
    if fitting:
        raise ValueError(
            f"{path} may be of several formats ({names}), its first lines are {shown}: expected one. A sentence of "
            "several tokens would tell; or write the file as JSONL."
        )
    other = next(filter(None, map(_OTHER_TAG.search, lines)), None)
    hint = f" {other[1]!r} looks like a tag of BIOES or BILOU; expected IOB2: O, B-TYPE, I-TYPE." if other else ""
    raise ValueError(f"{path} is of no known format, its first lines are {shown}: expected one of {names}.{hint}")


def discover(folder: Path, tag_column: int | None = None) -> list[Source]:
    """The files of rows in ``folder``, by language and split: ``train.jsonl``, ``train_de.tsv``, ``deu.testa``, or
    ``{lang}/train.txt`` and the like; the suffixes are those of ``READERS``.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the names or formats of the files contradict each other, or they have no ``tag_column``.
    """
    left_out: list[str] = []
    sources = _split_files(folder, None, left_out)
    by_language = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _named_files(path)]
    if sources and by_language:
        raise ValueError(
            f"{folder} holds {sources[0].path.name} and {by_language[0]}/ as well; expected one file a split or one "
            "folder a language, not both."
        )
    unknown = [name for name in by_language if name not in LANGUAGES]
    if not OTHER_LANGUAGE_CODES.issuperset(unknown) or len(unknown) == len(by_language) > 0:
        raise ValueError(
            f"{folder} holds splits in {', '.join(unknown)}, expected folders named {', '.join(LANGUAGES)}. If such a "
            "folder is a dataset of its own, load that folder."
        )
    left_out += [f"{name}/" for name in unknown]
    for lang in LANGUAGES:
        if lang in by_language:
            sources += _split_files(folder / lang, lang, left_out)
    if not sources:
        others = f" Of other languages: {', '.join(left_out)}." if left_out else ""
        raise FileNotFoundError(
            f"{folder} holds no dataset: expected train, validation or test as .jsonl or .txt (IMGID: lines), in it "
            f"or in folders named {', '.join(LANGUAGES)}, or files of another format that is known "
            f"({', '.join(reader.name for reader in READERS)}); or a Parquet folder with its README.md.{others}"
        )
    if left_out:
        logger.warning("%s: left out, as of other languages: %s", folder, ", ".join(left_out))
    if unread := sorted(
        name for place in {folder, *(source.path.parent for source in sources)} for name in _unread(place)
    ):
        hint = "A split is one file, named train, validation or test, perhaps with a language."
        logger.warning("%s: not read: %s. %s", folder, ", ".join(unread), hint)
    return _with_formats(folder, sources, tag_column)


def _named_files(folder: Path) -> list[tuple[FileName, Path]]:
    named = ((FileName.parse(path.name), path) for path in sorted(folder.iterdir()))
    return [(name, path) for name, path in named if name is not None and path.is_file()]


def _unread(folder: Path) -> Iterator[str]:
    """The files whose names begin like those of a split, and that are not read."""
    for path in folder.iterdir():
        begins_like_a_split = path.suffix in _SUFFIXES and re.split(r"[._-]", path.name)[0] in SPLIT_NAMES
        if begins_like_a_split and not FileName.parse(path.name):
            yield path.name


def _split_files(folder: Path, lang: str | None, left_out: list[str]) -> list[Source]:
    found: dict[tuple[str | None, str], list[Path]] = {}
    for name, path in _named_files(folder):
        stated = LANGUAGE_CODES.get(name.lang or "")
        if name.lang and stated is None:
            left_out.append(path.name)
        elif lang and stated not in (None, lang):
            raise ValueError(f"{path} is in a folder of {lang!r}, but its name says {name.lang!r}: expected the same.")
        else:
            found.setdefault((lang or stated, name.split), []).append(path)
    for (_, split), paths in found.items():
        if len(paths) > 1:
            files = ", ".join(path.name for path in paths)
            raise ValueError(f"{folder} holds {files}: expected one file for the split {split!r}, remove the others.")
    examples = {language: paths[0].name for (language, _), paths in reversed(found.items())}
    if None in examples and len(examples) > 1:
        bare, other = examples.pop(None), list(examples.values())[-1]
        raise ValueError(f"{folder} holds {bare} and {other}: expected all names to say a language, or none.")
    order = [(language, split) for language in (None, *LANGUAGES) for split in SPLIT_FILES]
    return [Source(found[key][0], key[1], key[0], READERS[0]) for key in order if key in found]


def _with_formats(folder: Path, sources: list[Source], tag_column: int | None) -> list[Source]:
    """``sources`` with the format that their files have; a file without lines has that of the others if it can."""
    known = [find_format(source.path) for source in sources]
    shared = [reader for reader in known if reader]
    readers = []
    for source, reader in zip(sources, known, strict=True):
        suffix = source.path.suffix if source.path.suffix in _SUFFIXES else ""
        readers.append(reader or next(other for other in (*shared, *READERS) if suffix in other.suffixes))
    names = sorted({reader.name for reader in readers})
    if len(names) > 1:
        raise ValueError(f"{folder} holds splits in several formats ({', '.join(names)}): keep one.")
    if tag_column is not None:
        if not readers[0].has_columns:
            raise ValueError(
                f"{folder} holds {names[0]} files, where tag_column (--tag_column) has no use: leave it out."
            )
        read = functools.partial(readers[0].read, tag_column=tag_column)
        readers = [replace(reader, read=read) for reader in readers]
    return [replace(source, reader=reader) for source, reader in zip(sources, readers, strict=True)]
