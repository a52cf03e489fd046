"""The files of a dataset folder: their format by content, their split and language by name.

To add a format: write a reader, a function that yields the rows of a file in order, or the problem in place of a row
so that the caller may go on, and a function that recognizes its first lines; name both in ``READERS``.
"""

import functools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from ..rows import LANGUAGES, SPLIT_FILES, MalformedRow, Row, language_order, split_order
from .columns import looks_conll, looks_imgid, looks_numbered, read_conll, read_imgid, read_numbered
from .documents import is_brat, read_brat, read_spacy
from .jsonl import looks_json, looks_jsonl, read_json, read_jsonl
from .lines import head
from .markup import looks_markup, read_markup
from .records import OPTIONS
from .tables import looks_csv, read_csv, read_table

logger = logging.getLogger(__name__)

_ISO_639_1 = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz el en eo es
et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki
kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt na nb nd ne ng nl nn no nr
nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg
th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu ceb und
"""
# Not my, which is a word in names too.
LANGUAGE_CODES = {code: code for code in _ISO_639_1.split()} | {"eng": "en", "deu": "de", "ger": "de", "fra": "fr"}
LANGUAGE_CODES |= {"fre": "fr", "spa": "es", "esp": "es", "ita": "it", "nld": "nl", "ned": "nl", "pol": "pl"}
LANGUAGE_CODES |= {"por": "pt", "rus": "ru", "zho": "zh", "ara": "ar", "swe": "sv", "dan": "da"}
"""What the language may be called in the name of a file, a folder or a config, and its code."""

SPLIT_NAMES = {name: split for split, names in SPLIT_FILES.items() for name in names}
SPLIT_NAMES |= {"testa": "validation", "testb": "test"}
"""What a split may be called, in a file's name or on the Hub, and which it then is."""
_SUBTAG = re.compile(r"[A-Z]{2}|[A-Z][a-z]{3}")
_TABLES = (".parquet", ".arrow", ".csv")


@dataclass(frozen=True)
class Reader:
    """A format."""

    name: str
    suffixes: tuple[str, ...]  # of its files; ``""`` stands for ``eng.train`` and the like
    read: Callable[..., Iterator[Row | MalformedRow]]  # reads a file, or a folder where that is what is read
    looks: Callable[[Sequence[str]], bool] | None = None  # whether a file's first lines are of it; by its name alone
    default_lang: str | None = None  # of rows that do not state it
    own_ids: bool = False  # rows have ids of their own, which must not repeat
    options: tuple[str, ...] = ()  # those of ``load`` that ``read`` takes


_COLUMN_SUFFIXES = (".txt", ".tsv", ".conll", ".conllu", ".iob", ".iob2", ".bio")
_TAGS = ("tags_column",)
READERS = (
    Reader("jsonl", (".jsonl", ".json"), read_jsonl, looks_jsonl, own_ids=True, options=OPTIONS),
    Reader("json", (".json",), read_json, looks_json, own_ids=True, options=OPTIONS),
    Reader("imgid", _COLUMN_SUFFIXES, read_imgid, looks_imgid, "en", own_ids=True, options=_TAGS),
    Reader("numbered", _COLUMN_SUFFIXES, read_numbered, looks_numbered, options=_TAGS),
    Reader("conll", (*_COLUMN_SUFFIXES, ""), read_conll, looks_conll, options=_TAGS),
    Reader("markup", (".txt",), read_markup, looks_markup),
    Reader("csv", (".csv", ".tsv"), read_csv, looks_csv, own_ids=True, options=OPTIONS),
    Reader("table", (".parquet", ".arrow"), read_table, own_ids=True, options=OPTIONS),
    Reader("spacy", (".spacy",), read_spacy),
    Reader("brat", (), read_brat, own_ids=True),
)
_BY_NAME = {reader.name: reader for reader in READERS}
_SUFFIXES = frozenset(suffix for reader in READERS for suffix in reader.suffixes if suffix)


@dataclass(frozen=True)
class Source:
    """One file of rows. ``lang`` is the language of its folder or name, ``None`` where neither states it."""

    path: Path
    split: str
    lang: str | None
    reader: Reader

    def files(self) -> list[Path]:
        """The file, or those of the folder."""
        return sorted(path for path in self.path.rglob("*") if path.is_file()) if self.path.is_dir() else [self.path]


@dataclass(frozen=True)
class FileName:
    """What the name of a file states: the split, and the code of a language or ``None``."""

    split: str
    lang: str | None

    @classmethod
    def parse(cls, name: str, loosely: bool = False) -> "FileName | None":
        """``train.txt``, ``test_en.tsv``, ``dev-pt-BR.conllu``, ``eng.testa``; ``None`` for other names.

        ``loosely``: a name may have other parts too, as ``NER-de-train.tsv``.
        """
        suffix = Path(name).suffix
        suffix = suffix if suffix in _SUFFIXES else ""
        parts = re.split(r"[._-]", name.removesuffix(suffix))
        splits = [part for part in parts if part in SPLIT_NAMES]
        codes, used = [], len(splits)
        for part, following in zip(parts, (*parts[1:], ""), strict=True):
            if part in LANGUAGE_CODES:
                has_subtag = _SUBTAG.fullmatch(following) is not None
                codes.append(LANGUAGE_CODES[part] + (f"-{following}" if has_subtag else ""))
                used += 1 + has_subtag
        if len(splits) != 1 or not (suffix or codes):
            return None
        if not loosely and (len(codes) > 1 or len(parts) > used):
            return None
        return cls(SPLIT_NAMES[splits[0]], codes[0] if len(codes) == 1 else None)


def language_of(name: str) -> str | None:
    """The language that the name of a folder or a config states: ``it``, ``pt-BR``; ``None`` for other names."""
    code, _, subtag = name.replace("_", "-").partition("-")
    lang = LANGUAGE_CODES.get(code, "my" if code == "my" else None)
    return lang if lang is None or not subtag else f"{lang}-{subtag}" if _SUBTAG.fullmatch(subtag) else None


def find_format(path: Path, columns: Mapping[str, Any] | None = None) -> Reader | None:
    """The format of a file by its first lines, or of a folder; ``None`` for a file without lines; ``ValueError`` if
    none fits, or several. ``columns``: the names of columns that were given.
    """
    if path.is_dir():
        return _BY_NAME["brat" if is_brat(path) else "table"]
    suffix = path.suffix if path.suffix in _SUFFIXES else ""
    named = [reader for reader in READERS if suffix in reader.suffixes]
    # A file of another name may be of any format with lines.
    candidates = named if suffix or FileName.parse(path.name) else [reader for reader in READERS if reader.looks]
    if len(candidates) == 1 and candidates[0].looks is None:
        return candidates[0]
    lines = head(path)
    if not any(line.strip() for line in lines):
        return None
    if suffix in (".jsonl", ".csv"):
        return candidates[0]
    if suffix == ".tsv" and columns and columns.get("text_column"):
        return _BY_NAME["csv"]
    fitting = [reader for reader in candidates if reader.looks and reader.looks(lines)]
    fitting = [reader for reader in fitting if reader.name == "csv"] or fitting
    if len(fitting) == 1:
        return fitting[0]
    shown = "; ".join(repr(line if len(line) <= 60 else f"{line[:60]}...") for line in lines if line.strip())[:200]
    names = ", ".join(reader.name for reader in fitting or candidates)
    if fitting:
        raise ValueError(
            f"{path} may be of several formats ({names}), its first lines are {shown}: expected one. A sentence of "
            "several tokens would tell; or write the file as JSONL."
        )
    raise ValueError(f"{path} is of no known format, its first lines are {shown}: expected one of {names}.")


def discover(folder: Path, columns: Mapping[str, Any] | None = None) -> list[Source]:
    """The files of rows in ``folder``, by language and split: ``train.jsonl``, ``train_de.tsv``, ``deu.testa``, or
    ``{lang}/train.txt`` and the like; the suffixes are those of ``READERS``. Or what ``save_to_disk`` wrote, folders
    of BRAT, and files of tables by the rules of ``datasets``.

    Args:
        folder: the folder; or a file, which is the split that its name says, else ``train``.
        columns: ``text_column``, ``tags_column`` and ``image_column``, where given.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the names or formats of the files contradict each other, or they have no such columns.
    """
    if folder.is_file():
        name = FileName.parse(folder.name, loosely=True) or FileName("train", None)
        return _with_formats(folder, [Source(folder, name.split, name.lang, READERS[0])], columns or {})
    sources = _split_folders(folder) or _named_sources(folder) or _data_files(folder)
    if not sources and (found := _named_files(folder, loosely=True)):
        sources = _by_split(folder, None, found)
    if not sources:
        raise FileNotFoundError(
            f"{folder} holds no dataset: expected train, validation or test as .jsonl, .txt, .tsv, .conllu, .csv, "
            ".parquet or .spacy, in it or in folders named by a language (en, it, pt-BR), a folder of save_to_disk or "
            "of BRAT, or the name of one file."
        )
    places = {folder, *(source.path.parent for source in sources)} if sources[0].path.is_file() else ()
    if unread := sorted({name for place in places for name in _unread(place, sources)}):
        hint = "A split is one file, named train, validation or test, perhaps with a language."
        logger.warning("%s: not read: %s. %s", folder, ", ".join(unread), hint)
    return _with_formats(folder, sources, columns or {})


def _split_folders(folder: Path) -> list[Source]:
    """A folder that ``save_to_disk`` wrote or one of BRAT, or a folder with such a folder a split."""
    inside = [path for path in (folder, *sorted(folder.iterdir())) if (path / "state.json").is_file() or is_brat(path)]
    found = []
    for path in inside[:1] if folder in inside else inside:
        state = path / "state.json"
        saved = json.loads(state.read_text(encoding="utf-8")).get("_split") if state.is_file() else None
        split = SPLIT_NAMES.get(path.name) or SPLIT_NAMES.get(str(saved), "train" if path == folder else "")
        if not split:
            logger.warning("%s: not read: %s. Splits are train, validation and test.", folder, path.name)
        found += [(split, None, path)] if split else []
    return _ordered(found)


def _data_files(folder: Path) -> list[Source]:
    """Files of tables, with the splits that ``datasets`` finds: by the card, or by the names of files and folders."""
    if not any(path.suffix in _TABLES for path in folder.rglob("*")):
        return []
    try:
        splits = datasets.load_dataset_builder(str(folder)).config.data_files
    except Exception as error:  # of many classes, some with several lines
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: datasets finds no splits there ({reason}); name files train, test ...") from None
    found: list[tuple[str, str | None, Path]] = []
    for split, files in splits.items():
        if str(split) not in SPLIT_NAMES:
            logger.warning("%s: the split %s is not read: train, validation and test are.", folder, split)
            continue
        for file in map(Path, files):
            parsed = FileName.parse(file.name, loosely=True)
            lang = (parsed and parsed.lang) or (language_of(file.parent.name) if file.parent != folder else None)
            found.append((SPLIT_NAMES[str(split)], lang, file))
    return _ordered(found)


def _ordered(found: Iterable[tuple[str, str | None, Path]]) -> list[Source]:
    def key(one: tuple[str, str | None, Path]) -> tuple:
        return (*(language_order(one[1]) if one[1] else (-1, "")), split_order(one[0]), one[2])

    return [Source(path, split, lang, READERS[0]) for split, lang, path in sorted(found, key=key)]


def _named_sources(folder: Path) -> list[Source]:
    """The files that are named by a split, in the folder or in folders of languages."""
    sources = _by_split(folder, None, _named_files(folder))
    inside = {
        path.name: _named_files(path) or (_named_files(path, loosely=True) if language_of(path.name) else [])
        for path in sorted(folder.iterdir())
        if path.is_dir()
    }
    by_language = {name: found for name, found in inside.items() if found}
    if sources and by_language:
        raise ValueError(
            f"{folder} holds {sources[0].path.name} and {next(iter(by_language))}/ as well; expected one file a split "
            "or one folder a language, not both."
        )
    if unknown := [name for name in by_language if language_of(name) is None]:
        if all(path.suffix in _TABLES for name in unknown for _, path in by_language[name]):
            return []  # the folders of a repository on the Hub
        raise ValueError(
            f"{folder} holds splits in {', '.join(unknown)}, expected folders named by a language: "
            f"{', '.join(LANGUAGES)}, it, pt-BR. If such a folder is a dataset of its own, load that folder."
        )
    for name in sorted(by_language, key=lambda name: language_order(language_of(name) or "")):
        sources += _by_split(folder / name, language_of(name), by_language[name])
    return sources


def _named_files(folder: Path, loosely: bool = False) -> list[tuple[FileName, Path]]:
    named = ((FileName.parse(path.name, loosely), path) for path in sorted(folder.iterdir()))
    return [(name, path) for name, path in named if name is not None and path.is_file()]


def _unread(folder: Path, sources: Sequence[Source]) -> Iterator[str]:
    """The files whose names have that of a split, and that are not read."""
    read = {source.path for source in sources}
    for path in folder.iterdir():
        begins_like_a_split = path.suffix in _SUFFIXES and re.split(r"[._-]", path.name)[0] in SPLIT_NAMES
        if begins_like_a_split and path not in read:
            yield path.name


def _by_split(folder: Path, lang: str | None, named: Iterable[tuple[FileName, Path]]) -> list[Source]:
    found: dict[tuple[str | None, str], list[Path]] = {}
    for name, path in named:
        if lang and name.lang not in (None, lang):
            raise ValueError(f"{path} is in a folder of {lang!r}, but its name says {name.lang!r}: expected the same.")
        found.setdefault((lang or name.lang, name.split), []).append(path)
    for (_, split), paths in found.items():
        if len(paths) > 1:
            files = ", ".join(path.name for path in paths)
            raise ValueError(f"{folder} holds {files}: expected one file for the split {split!r}, remove the others.")
    examples = {language: paths[0].name for (language, _), paths in reversed(found.items())}
    if None in examples and len(examples) > 1:
        bare, other = examples.pop(None), list(examples.values())[-1]
        raise ValueError(f"{folder} holds {bare} and {other}: expected all names to say a language, or none.")
    return _ordered([(split, language, paths[0]) for (language, split), paths in found.items()])


def _with_formats(folder: Path, sources: list[Source], columns: Mapping[str, Any]) -> list[Source]:
    """``sources`` with the format that their files have; a file without lines has that of the others if it can."""
    known = [find_format(source.path, columns) for source in sources]
    shared = [reader for reader in known if reader]
    readers = []
    for source, reader in zip(sources, known, strict=True):
        suffix = source.path.suffix if source.path.suffix in _SUFFIXES else ""
        readers.append(reader or next(other for other in (*shared, *READERS) if suffix in other.suffixes))
    names = sorted({reader.name for reader in readers})
    if len(names) > 1:
        raise ValueError(f"{folder} holds splits in several formats ({', '.join(names)}): keep one.")
    given = {name: value for name, value in columns.items() if value is not None}
    if unused := [f"{name} (--{name})" for name in given if name not in readers[0].options]:
        raise ValueError(f"{folder} holds {names[0]} files, where {', '.join(unused)} has no use: leave it out.")
    if given:
        readers = [replace(reader, read=functools.partial(reader.read, **given)) for reader in readers]
    return [replace(source, reader=reader) for source, reader in zip(sources, readers, strict=True)]
