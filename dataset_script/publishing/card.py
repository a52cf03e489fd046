"""The dataset card: ``README.md`` of a finished dataset folder, all its numbers counted from the folder itself."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import datasets
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from ..files import mark, refuse_unlisted
from ..images import open_image
from . import markdown as md
from .facts import NOT_STATED, Example, Facts, Part, count

ADDRESS = "path/to/this/dataset"
"""Stands in the card where the name on the Hub is not known yet; ``push`` puts that in its place."""
LICENCE_FILE = "LICENSE.md"
KIND = "dataset"
"""What the marker calls a finished dataset."""
PAPER = {
    "title": "2M-NER: Contrastive Learning for Multilingual and Multimodal NER with Language and Modal Fusion",
    "author": "Wang, Dongsheng and Feng, Xiaoqin and Liu, Zeming and Wang, Chuan",
    "journal": "Applied Intelligence",
    "year": "2024",
    "url": "https://arxiv.org/abs/2404.17122",
}
"""As in ``CITATION.cff``, which an installed package does not have; a test compares them."""

_LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}
_NATURAL_PROVIDERS = ("own", "urls")
_HUB_LICENCES = {"apache-2.0", "cc0-1.0", "mit", "pddl"} | {
    f"cc-by{kind}-{version}"
    for kind in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd")
    for version in ("2.0", "2.5", "3.0", "4.0")
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_FEW_MENTIONS = 50
_THUMBNAIL_PIXELS = 160
_COLUMNS = {
    "id": "name of the row",
    "lang": "its language",
    "tokens": "the words",
    "ner_tags": "a tag for each word, IOB2",
    "image": "the picture, or nothing",
    "caption": "what is said of the picture, where something is",
    "image_relation": "`depicts`: the picture shows an entity of the sentence; `unrelated`: it shows none of them; "
    "`none`: there is no picture. For analysis only: a model must not see it",
    "image_name": "key into `pictures.jsonl`: licence, author and source of the picture",
}


def write_card(folder: str | Path) -> Path:
    """Write ``README.md``, ``LICENSE.md`` where licences are several or unknown, and the thumbnails in ``assets/``.

    The same folder gives the same bytes.

    Args:
        folder: a finished dataset: Parquet files, and where there are ``pictures.jsonl``, ``build.json`` and
            ``load_report.json``.

    Returns:
        The path of the card.

    Raises:
        FileExistsError: one of these files is there and not by this function.
        ValueError: ``folder`` does not hold a dataset; see ``facts.count``.
    """
    folder = Path(folder)
    facts = count(folder)
    old = [LICENCE_FILE, *(f"assets/{path.name}" for path in folder.glob("assets/example-*.jpg"))]
    refuse_unlisted(folder, ["README.md", *old])
    for name in old:
        (folder / name).unlink(missing_ok=True)
    thumbnails = _thumbnails(folder, facts)
    written = ["README.md", *thumbnails.values()]
    header = _header(facts)
    licences = _licences(facts)
    if header.license == "other":
        text = "\n".join(["# Licences", "", *licences]) + "\n"
        (folder / LICENCE_FILE).write_text(text, encoding="utf-8")
        written.append(LICENCE_FILE)
    sections = [
        _introduction(facts),
        _section("Load", _load(facts)),
        _section("Provenance", _provenance(facts)),
        _section("Construction", _construction(facts)),
        _section("Statistics", _statistics(facts)),
        _section("Examples", _examples(facts, thumbnails)),
        _section("Known limits", _limits(facts)),
        _section("Licences", licences),
        _section("Rebuild", _rebuild(facts)),
        _section("Citation", _citation()),
    ]
    body = "\n".join(line for section in sections for line in section)
    card = folder / "README.md"
    card.write_text(f"---\n{header.to_yaml()}\n---\n\n{body}", encoding="utf-8")
    mark(folder, KIND, written)
    return card


def _header(facts: Facts) -> DatasetCardData:
    rows = facts.total().sentences
    licence = _common_licence(facts)
    # Labels are taken over from the sources ("found"); how those came by them is said only where a source says it.
    creators = {"found"} | {made for source in _sources(facts) for made in _listed(source.get("annotations_creators"))}
    extra = {} if licence else {"license_name": "mixed", "license_link": LICENCE_FILE}
    data = DatasetCardData(
        language=sorted(facts.languages),
        # Neither "strictest" nor "compatible" can be told by a program: one licence for all, or a list of them.
        license=licence or "other",
        annotations_creators=sorted(creators),
        language_creators=["found"],
        multilinguality="multilingual" if len(facts.languages) > 1 else "monolingual",
        size_categories=next((name for limit, name in _SIZES if rows < limit), "10M<n<100M"),
        task_categories=["token-classification"],
        task_ids=["named-entity-recognition"],
        pretty_name=_title(facts),
        tags=["multimodal", "named-entity-recognition", "image", "text"],
        **extra,
    )
    infos, configs = DatasetInfosDict(), MetadataConfigs()
    for config in ("all", *facts.languages):
        mine = {
            split: facts.total(None if config == "all" else config, split)
            for split in facts.splits
            if config == "all" or (config, split) in facts.parts
        }
        splits = datasets.SplitDict()
        for split, part in mine.items():
            splits.add(datasets.SplitInfo(split, num_bytes=part.memory_bytes, num_examples=part.sentences))
        infos[config] = datasets.DatasetInfo(
            features=facts.features,
            splits=splits,
            download_size=sum(part.file_bytes for part in mine.values()),
            dataset_size=sum(part.memory_bytes for part in mine.values()),
        )
        files = [{"split": split, "path": _patterns(part)} for split, part in mine.items()]
        configs[config] = {"data_files": files} | ({"default": True} if config == "all" else {})
    configs.to_dataset_card_data(data)
    infos.to_dataset_card_data(data)
    return data


def _patterns(part: Part) -> list[str]:
    return list(dict.fromkeys(f"{file.rpartition('-')[0]}-*.parquet" for file in part.files))


def _title(facts: Facts) -> str:
    return "MMNER: named entities in text with pictures" if facts.total().pictures else "MMNER: named entities in text"


def _introduction(facts: Facts) -> list[str]:
    total = facts.total()
    names = [_LANGUAGES[lang] for lang in facts.languages]
    columns = [[f"`{name}`", _COLUMNS.get(name, "")] for name in facts.features]
    return [
        f"# {_title(facts)}",
        "",
        f"{md.number(total.sentences)} sentences in {md.listing(names)} with {md.number(total.entities.total())} "
        f"named entities of the types {md.listing(map(md.text, facts.types))}. "
        f"{md.of(total.pictures, total.sentences)} have a picture; there are {md.number(facts.distinct_pictures)} "
        "different ones.",
        "",
        *md.table(["column", "what it is"], columns, numbers=False),
    ]


def _load(facts: Facts) -> list[str]:
    lang = facts.languages[0]
    return [
        "```python",
        "from datasets import load_dataset",
        "",
        f'dataset = load_dataset("{ADDRESS}", "{lang}")  # a language; all of them without',
        f'stream = load_dataset("{ADDRESS}", "{lang}", split="{facts.splits[0]}", streaming=True)',
        "```",
    ]


def _provenance(facts: Facts) -> list[str]:
    sources = _sources(facts)
    if not sources:
        return ["The folder has no record of its construction, so that where the sentences come from is not stated."]
    rows = [
        [
            f"[{md.text(source['name'])}](https://huggingface.co/datasets/{quote(source['name'])})"
            if _on_the_hub(source)
            else md.text(source["name"]),
            source.get("rows"),
            md.listing(source.get("languages", {})) or None,
            md.text(source.get("licence") or NOT_STATED),
        ]
        for source in sources
    ]
    lines = md.table(["source of sentences", "rows read", "languages", "licence"], rows, numbers=False)
    if facts.picture_files:
        provider = md.code(_options(facts).get("provider", NOT_STATED))
        lines += ["", f"Pictures are those of the provider {provider}; ", ""]
        lines[-2] += "`pictures.jsonl` says of each one where it comes from."
    return lines


def _construction(facts: Facts) -> list[str]:
    build = facts.build
    if not build:
        return []
    total, options = facts.total(), _options(facts)
    lines: list[str] = []
    if _constructed(facts) and total.sentences:
        lines += ["Pictures were drawn for sentences, in these shares of the rows:", ""]
        missing = 1 - total.pictures / total.sentences
        unrelated = total.relations["unrelated"] / total.sentences
        asked = [options.get("unrelated_share"), options.get("missing_share")]
        rows = [
            ["unrelated picture", md.percent(asked[0]), md.percent(unrelated)],
            ["no picture", md.percent(asked[1]), md.percent(missing)],
        ]
        lines += [*md.table(["", "asked for", "obtained"], rows), ""]
        lines += ["Sentences that name nothing for which a picture is known have none, whatever was asked for.", ""]
    chosen = [[f"`{key}`", md.text(md.words(value))] for key, value in options.items()] + [
        ["`seed`", str(build.get("seed", NOT_STATED))]
    ]
    lines += [*md.table(["option", "value"], chosen, numbers=False), ""]
    counted = [[md.text(key), value] for key, value in _flat(build.get("counts", {}))]
    if counted:
        lines += [*md.table(["counted while building", ""], counted), ""]
    left_out = build.get("left_out", {})
    if left_out:
        lines += md.table(["rows left out", ""], [[md.text(key), value] for key, value in left_out.items()])
    else:
        lines += ["No row was left out."]
    versions = ", ".join(f"{name} {version}" for name, version in build.get("versions", {}).items())
    return lines + (["", f"Made with {md.text(versions)}."] if versions else [])


def _statistics(facts: Facts) -> list[str]:
    parts = [*facts.parts.items()]
    whole = facts.total()
    whole.distinct_pictures = facts.distinct_pictures
    total = [(("all", ""), whole)]
    counts = [
        [*key, part.sentences, part.tokens, sum(part.entities.values()), part.pictures, part.distinct_pictures]
        for key, part in parts + total
    ]
    heads = ["language", "split", "sentences", "tokens", "entities", "with a picture", "different pictures"]
    lines = md.table(heads, counts)
    kinds = facts.types
    types = [[*key, *(part.entities[kind] for kind in kinds)] for key, part in parts + total]
    lines += ["", "Entities by type:", "", *md.table(["language", "split", *map(md.text, kinds)], types)]
    relations = [name for name in ("depicts", "unrelated", "none", NOT_STATED) if whole.relations[name]]
    if relations:
        shares = [
            [*key, *(md.percent(part.relations[name] / part.sentences) for name in relations)]
            for key, part in parts + total
        ]
        lines += [
            "",
            "Sentence and picture, shares of the rows:",
            "",
            *md.table(["language", "split", *relations], shares),
        ]
    if facts.overlaps:
        shared = [
            [
                what,
                split,
                one.distinct,
                md.of(one.distinct_in_train, one.distinct),
                md.of(one.uses_in_train, one.uses),
            ]
            for (what, split), one in facts.overlaps.items()
        ]
        lines += [
            "",
            "What the other splits have in common with `train`. Sentences and pictures are the same if every letter "
            "or byte is, entities if name and type are, whatever their case and language. The last column counts each "
            "as often as it occurs.",
            "",
            *md.table(["", "split", "different ones", "of them in train", "of all occurrences"], shared),
        ]
    return lines


def _examples(facts: Facts, thumbnails: dict[Example, str]) -> list[str]:
    lines: list[str] = []
    for example in facts.examples:
        credit = facts.credits.get(example.name or "", {})
        said = [md.text(credit[key]) for key in ("author", "licence", "source") if credit.get(key)]
        relation = {"depicts": "picture of an entity", "unrelated": "unrelated picture"}.get(example.relation or "")
        notes = [note for note in (relation, *said) if note]
        if example in thumbnails:
            lines += [f"![{md.text(example.name or example.id)}]({thumbnails[example]})", ""]
        about = f"{example.lang}, {example.split}, {md.code(example.id)}" + (f" ({'; '.join(notes)})" if notes else "")
        lines += [f"{_marked(example)}", "", f"<sub>{about}</sub>", ""]
    return lines[:-1] or ["No row is short enough to be shown here."]


def _limits(facts: Facts) -> list[str]:
    total = facts.total()
    limits = []
    made = {made for source in _sources(facts) for made in _listed(source.get("annotations_creators"))}
    if "machine-generated" in made:
        limits.append("Labels of at least one source were made by a program and not corrected by people.")
    limits.append("Labels are those of the sources, mapped and checked for form but not for truth.")
    limits.append("Entities are flat: none lies within another, and none has a gap.")
    if _constructed(facts):
        limits.append(
            "Sentence and picture were paired by construction: gains from the picture are an upper bound for pairs "
            f"that people made. In {md.of(total.relations['unrelated'], total.sentences)} rows the picture "
            "shows something else."
        )
    if total.sentences > total.pictures:
        limits.append(f"{md.of(total.sentences - total.pictures, total.sentences)} have no picture.")
    for (what, split), shared in facts.overlaps.items():
        if what == "entities" and shared.uses_in_train:
            limits.append(
                f"Of the entity mentions in {split}, {md.of(shared.uses_in_train, shared.uses)} are of a name "
                "that train has with the same type: part of a score may be memory."
            )
        elif shared.uses_in_train:
            limits.append(f"{md.of(shared.distinct_in_train, shared.distinct)} {what} in {split} are in train too.")
    few = [
        f"{md.text(kind)} in {lang} ({part.entities[kind]})"
        for (lang, split), part in facts.parts.items()
        if split == "test"
        for kind in facts.types
        if part.entities[kind] < _FEW_MENTIONS
    ]
    if few:
        limits.append(f"Too few mentions in test for a steady score by type: {', '.join(few)}.")
    if facts.licences[NOT_STATED]:
        limits.append(f"{md.of(facts.licences[NOT_STATED], facts.picture_files)} pictures state no licence.")
    if facts.without_author:
        limits.append(f"{md.of(facts.without_author, facts.picture_files)} pictures state no author.")
    if facts.without_source:
        limits.append(
            f"{md.of(facts.without_source, facts.picture_files)} pictures do not state where they come from."
        )
    if total.pictures and not facts.picture_files:
        limits.append("Nothing is known of the origin and the licences of the pictures.")
    report = facts.report.total() if facts.report else None
    if report and report.missing_rows + report.unreadable_rows:
        lost = md.number(report.missing_rows + report.unreadable_rows)
        limits.append(
            f"{lost} rows have no picture because its file was missing or did not open when they were loaded."
        )
    if report and report.repaired_tags:
        limits.append(f"{md.number(report.repaired_tags)} I- tags began an entity and were read as B-.")
    return [f"- {limit}" for limit in limits]


def _licences(facts: Facts) -> list[str]:
    sources = [[md.text(source["name"]), md.text(source.get("licence") or NOT_STATED)] for source in _sources(facts)]
    lines = ["Each part keeps the licence that it came with.", ""]
    lines += [*md.table(["sentences of", "licence"], sources, numbers=False), ""] if sources else []
    if facts.picture_files:
        rows = [
            [md.text(name), number] for name, number in sorted(facts.licences.items(), key=lambda it: (-it[1], it[0]))
        ]
        lines += [*md.table(["licence of pictures", "pictures"], rows), ""]
        lines += [
            "`pictures.jsonl` has licence, author and source of every picture, under the name that the column "
            "`image_name` gives: who shows a picture must name them as its licence asks."
        ]
    elif facts.total().pictures:
        lines += ["The licences of the pictures are not stated."]
    if not sources:
        lines += ["", "The licences of the sentences are not stated."]
    return lines


def _rebuild(facts: Facts) -> list[str]:
    command = facts.build.get("command")
    if not command:
        return []
    said = "With the same sources, pictures and versions this gives the same bytes (paths are shortened to names):"
    return [said, "", "```bash", shlex.join(command), "```"]


def _citation() -> list[str]:
    fields = [f"  {key} = {{{value}}}," for key, value in PAPER.items()]
    return ["The task and the method that the dataset is made for:", "", "```bibtex", "@article{2mner,", *fields] + [
        "}",
        "```",
        "",
        "Cite the sources of the sentences too, which are named above, and the authors of pictures that you show.",
    ]


def _thumbnails(folder: Path, facts: Facts) -> dict[Example, str]:
    """Example -> its small picture, relative to ``folder``."""
    assets = folder / "assets"
    made = {}
    for number, example in enumerate(facts.examples):
        file, group, row = example.place
        with pq.ParquetFile(folder / file) as parquet:
            content = parquet.read_row_group(group, columns=["image.bytes"])["image"][row].as_py()
        if content is not None:
            assets.mkdir(exist_ok=True)
            image = open_image(content["bytes"]).convert("RGB")
            image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
            made[example] = f"assets/example-{number}.jpg"
            image.save(folder / made[example], quality=85)
    return made


def _marked(example: Example) -> str:
    words = [md.text(token) for token in example.tokens]
    for start, end, kind in example.spans:
        words[start] = f"**{words[start]}"
        words[end - 1] = f"{words[end - 1]}** {md.code(kind)}"
    return " ".join(words)


def _sources(facts: Facts) -> list[dict[str, Any]]:
    return facts.build.get("sources", [])


def _options(facts: Facts) -> dict[str, Any]:
    return facts.build.get("options", {})


def _on_the_hub(source: dict[str, Any]) -> bool:
    return source["name"].count("/") == 1


def _constructed(facts: Facts) -> bool:
    return _options(facts).get("provider", "none") not in ("none", *_NATURAL_PROVIDERS)


def _common_licence(facts: Facts) -> str | None:
    stated = {source.get("licence") for source in _sources(facts)} or {None}
    stated |= set(facts.licences) if facts.picture_files or not facts.total().pictures else {None}
    slugs = {str(name).lower().replace(" ", "-") for name in stated}
    return slugs.pop() if len(slugs) == 1 and slugs <= _HUB_LICENCES else None


def _section(title: str, lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines = lines[:-1]
    return ["", f"## {title}", "", *lines, *([""] if title == "Citation" else [])] if lines else []


def _flat(counts: dict[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in counts.items():
        if isinstance(value, dict):
            numbers = all(isinstance(inner, int | dict) for inner in value.values())
            yield from _flat(value, f"{above}{key}: ") if numbers else [(above + key, len(value))]
        else:
            yield above + key, value


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
