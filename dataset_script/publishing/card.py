"""The dataset card: ``README.md`` of a finished dataset folder, with numbers counted from the folder itself."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import datasets
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from ..files import DATASET, mark, refuse_unlisted, scratch
from .facts import NOT_STATED, Facts, Part, count
from .markdown import code, percent, share, text

TEMPLATE = Path(__file__).with_name("dataset_card.md")
ADDRESS = "path/to/this/dataset"
"""Stands in the card for the name on the Hub, which ``push`` puts in its place."""

_LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}
_NATURAL_PROVIDERS = ("none", "own", "urls")
"""The providers that leave each sentence the image that it came with."""
_HUB_LICENCES = {"apache-2.0", "cc0-1.0", "mit", "pddl"} | {
    f"cc-by{kind}-{version}"
    for kind in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd")
    for version in ("2.0", "2.5", "3.0", "4.0")
}
_COLUMNS = {
    "id": "name of the row",
    "lang": "its language",
    "tokens": "the words",
    "ner_tags": "an IOB2 tag for each word",
    "image": "the image, or nothing",
    "caption": "a caption of the image, where there is one",
    "image_relation": "`depicts`: the image shows an entity of the sentence; `unrelated`: it shows none of them; "
    "`none`: there is no image. For analysis only: a model must not see it",
    "image_name": "key into `pictures.jsonl`: licence, author and source of the image",
}


def write_card(folder: str | Path) -> Path:
    """Write ``README.md``. The same folder gives the same bytes.

    Args:
        folder: a finished dataset: Parquet files, and where there are ``pictures.jsonl``, ``build.json`` and
            ``load_report.json``; else a ``ValueError``.

    Raises:
        FileExistsError: the file is there and was not written by this function.
    """
    folder = Path(folder)
    facts = count(folder)
    refuse_unlisted(folder, ["README.md"])
    card = DatasetCard.from_template(_metadata(facts), template_path=str(TEMPLATE), **_values(facts))
    with scratch(folder.absolute().parent, f"{folder.name}-card") as aside:
        card.save(aside / "README.md")
        mark(folder, DATASET, {"README.md": aside / "README.md"})
        os.replace(aside / "README.md", folder / "README.md")
    return folder / "README.md"


def _metadata(facts: Facts) -> DatasetCardData:
    total = facts.total()
    # The labels are those of the sources ("found"); how the sources got them is stated only where a source says it.
    creators = {"found"} | {source.get("annotations_creators", "found") for source in facts.sources}
    data = DatasetCardData(
        language=sorted(facts.languages),
        # A program cannot tell which of several licences is the strictest: one licence for all, or a list of them.
        license=_common_licence(facts) or "other",
        annotations_creators=sorted(creators),
        task_categories=["token-classification"],
        task_ids=["named-entity-recognition"],
        pretty_name=f"MMNER: named entities in text{' with images' if total.images else ''}",
        tags=["multimodal", "named-entity-recognition", "image", "text"],
    )
    infos, configs = DatasetInfosDict(), MetadataConfigs()
    for config in ("all", *facts.languages):
        lang = None if config == "all" else config
        parts = {split: facts.total(lang, split) for split in facts.splits}
        parts = {split: part for split, part in parts.items() if part.files}
        splits, files = datasets.SplitDict(), []
        for split, part in parts.items():
            splits.add(datasets.SplitInfo(split, num_examples=part.sentences))
            patterns = dict.fromkeys(f"{file.rpartition('-')[0]}-*.parquet" for file in part.files)
            files.append({"split": split, "path": list(patterns)})
        infos[config] = datasets.DatasetInfo(features=facts.features, splits=splits)
        configs[config] = {"data_files": files} | ({"default": True} if config == "all" else {})
    configs.to_dataset_card_data(data)
    infos.to_dataset_card_data(data)
    return data


def _values(facts: Facts) -> dict[str, Any]:
    """What the template shows."""
    total = facts.total()
    return {
        "facts": facts,
        "image_licences": Counter(sorted(origin.get("licence") or NOT_STATED for origin in facts.origins)),
        "total": total,
        "parts": [*((*key, part) for key, part in facts.parts.items()), ("all", "", total)],
        "address": ADDRESS,
        "languages": _listing([_LANGUAGES.get(lang, lang) for lang in facts.languages]),
        "types": _listing([text(kind) for kind in facts.types]),
        "columns": _COLUMNS,
        "is_constructed": _is_constructed(facts),
        "counts": list(_flat(facts.build.get("counts", {}))),
        "relations": [name for name in ("depicts", "unrelated", "none", NOT_STATED) if total.relations[name]],
        "limits": list(_limits(facts, total)),
        "NOT_STATED": NOT_STATED,
        "code": code,
        "link": _link,
        "percent": percent,
        "share": share,
        "text": text,
    }


def _limits(facts: Facts, total: Part) -> Iterator[str]:
    if any(source.get("annotations_creators") == "machine-generated" for source in facts.sources):
        yield "Labels of at least one source were made by a program and not corrected by people."
    yield "Labels are those of the sources, mapped and checked for form but not for truth."
    if _is_constructed(facts):
        yield (
            "Sentence and image were paired by construction: gains from the image are an upper bound for pairs that "
            f"people made. In {share(total.relations['unrelated'], total.sentences)} rows the image shows something "
            "else."
        )
    if without := total.sentences - total.images.total():
        yield f"{share(without, total.sentences)} rows have no image."
    for key, name in (("licence", "no licence"), ("author", "no author"), ("source", "no source")):
        if lacking := sum(not origin.get(key) for origin in facts.origins):
            yield f"{share(lacking, len(facts.origins))} images state {name}."
    if total.images and not facts.origins:
        yield "Nothing is known of the origin and the licences of the images."
    report = facts.report.total()
    if lost := report.missing.total() + report.unreadable.total():
        yield f"{lost:,} rows have no image because its file was missing or did not open when they were loaded."
    if report.repaired_tags:
        yield f"{report.repaired_tags:,} I- tags began an entity and were read as B-."


def _is_constructed(facts: Facts) -> bool:
    return facts.options.get("provider", "none") not in _NATURAL_PROVIDERS


def _common_licence(facts: Facts) -> str | None:
    """The licence that all sentences and images state, as the Hub names it."""
    stated = {source.get("licence") for source in facts.sources} or {None}
    stated |= {origin.get("licence") for origin in facts.origins}
    if facts.total().images and not facts.origins:
        return None
    names = {str(name).lower().replace(" ", "-") for name in stated}
    return names.pop() if len(names) == 1 and names <= _HUB_LICENCES else None


def _link(name: str) -> str:
    is_on_hub = name.count("/") == 1
    return f"[{text(name)}](https://huggingface.co/datasets/{quote(name)})" if is_on_hub else text(name)


def _listing(names: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _flat(counts: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested counts as (path, number); of a dict that holds no numbers, the number of its items."""
    for key, value in counts.items():
        if not isinstance(value, dict):
            yield above + key, value
        elif all(isinstance(inner, int | dict) for inner in value.values()):
            yield from _flat(value, f"{above}{key}: ")
        else:
            yield above + key, len(value)
