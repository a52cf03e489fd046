"""Datasets on the Hugging Face Hub as sources of sentences, streamed: no more of them is kept than the row at hand."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import yaml

from ..rows import LANGUAGES, SPLIT_FILES, MalformedRow, Row
from .records import LANGS, RecordReader
from .registry import FileName, language_of
from .tables import class_names

KNOWN = Path(__file__).with_suffix(".yaml")


def open_hub_source(
    name: str, languages: Sequence[str] = LANGUAGES, lang: str | None = None, with_images: bool = False
) -> Iterator[tuple[str, Row | MalformedRow]]:
    """The sentences of a dataset on the Hub, or of a folder laid out like one, with their split; in place of a row
    whose tokens or tags are malformed, the problem.

    ``hub_sources.yaml`` describes WikiNEuRal and MultiNERD. Of any other dataset, the splits are those of the
    configs named by a language (``de``), or else of the default config, where the names of the splits
    (``train_de``), a column ``lang``, or ``lang`` give the language. Rows are records as of ``RecordReader``. Other
    columns or splits are a ``ValueError``.

    Args:
        name: ``org/name``.
        languages: those wanted; others are not read where the layout allows it, else passed over.
        lang: the language of rows of which nothing else states it.
        with_images: whether the images of the column ``image`` are taken.
    """
    for split, stated, rows in _streams(name, languages):
        features = rows.features or {}
        if with_images and not isinstance(features.get("image", datasets.Image()), datasets.Image):
            raise ValueError(f"{name} has a column image of {features['image']}; expected images, of datasets.Image.")
        path = Path(name, f"{split}_{stated}" if stated else split)
        reader = RecordReader(path, names=class_names(features) or _known().get(name, {}).get("tags", ()))
        for number, record in enumerate(rows.decode(False), 1):  # no time is spent on decoding images
            row_lang = stated or next((record[key] for key in LANGS if record.get(key)), lang)
            if row_lang is not None and row_lang not in languages:
                continue
            if row_lang is None and not any(key in record for key in LANGS):
                raise ValueError(
                    f"{name} states no language, in its configs, its splits or a column {' or '.join(LANGS)} "
                    f"(columns: {', '.join(record)}): give lang= (--lang)."
                )
            try:
                row = reader.row(number, record)
            except MalformedRow as problem:
                yield split, problem
                continue
            if with_images and row.image is not None and row.image_bytes is None:
                raise ValueError(f"{name}: the image {row.image!r} is named, but not in the row; expected its bytes.")
            yield split, replace(row, lang=row_lang) if with_images else replace(row, lang=row_lang, image=None)


def stated_facts(name: str) -> dict[str, str]:
    """``licence`` and ``annotations_creators`` of a dataset, where they are known."""
    known = _known().get(name, {})
    return {key: known[key] for key in ("licence", "annotations_creators") if key in known}


def _streams(name: str, languages: Sequence[str]) -> Iterator[tuple[str, str | None, datasets.IterableDataset]]:
    """The splits that hold the languages: split, the language if it has but one, and its rows."""
    known = _known().get(name)
    if known:
        for lang, split in product(languages, SPLIT_FILES):
            if "files" in known:
                # Of data_files given so, datasets makes one split by the name of train.
                place = {"data_files": [known["files"][split].format(lang=lang)], "split": "train"}
            else:
                place = {"split": known["splits"][split].format(lang=lang)}
            yield split, lang, datasets.load_dataset(name, **place, streaming=True)
        return
    configs = datasets.get_dataset_config_names(name)
    by_language = {code: config for config in configs if (code := language_of(config))}
    wanted: list[tuple[str, str | None]] = [(by_language[lang], lang) for lang in languages if lang in by_language]
    if by_language and not wanted:
        raise ValueError(f"{name} has no config of {', '.join(languages)} (configs: {', '.join(configs)}).")
    if not by_language and len(configs) > 1 and "default" not in configs:
        raise ValueError(f"{name} has several configs ({', '.join(configs)}), none of a language or by default.")
    for config, stated_by_config in wanted or [("default" if "default" in configs else configs[0], None)]:
        for split_name, rows in datasets.load_dataset(name, config, streaming=True).items():
            parsed = FileName.parse(f"{split_name}.txt")
            if parsed is None:
                raise ValueError(f"{name} has a split {split_name!r}; expected train, validation or test.")
            stated = parsed.lang or stated_by_config
            if parsed.lang is None or stated in languages:
                yield parsed.split, stated, rows


@functools.cache
def _known() -> dict[str, Any]:
    return yaml.safe_load(KNOWN.read_text(encoding="utf-8"))
