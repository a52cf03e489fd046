"""MMNER in one call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from .mmner import MMNER
from .parquet import is_parquet, read_parquet, write_parquet


def load(
    folder: str | Path,
    config: str = "all",
    *,
    lang: str | None = None,
    image_folder: str | Path | None = None,
    captions: str | Path | None = None,
    errors: str = "raise",
    iob2: str = "auto",
    label_map: str | Path | Mapping[str, str] | None = None,
    tag_column: int | None = None,
    parquet_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict:
    """Load a folder of sentences and images: JSONL, ``IMGID:`` CoNLL, WikiNEuRal's and MultiNERD's numbered tokens,
    the columns of CoNLL-2002 and CoNLL-2003, WikiDiverse's JSON, or Parquet from ``write_parquet``.

    The format is found by the content of the files: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``,
    ``testa``) and ``test`` (or ``testb``), as ``train.txt``, ``train_de.tsv``, ``deu.testa`` and the like, in the
    folder or in folders ``en``, ``de``, ``fr``, ``es``. An image that is missing or does not open is ``None`` in its
    row; how many are so is logged, and ``load_report(dataset)`` tells which.

    Args:
        folder: the dataset.
        config: ``en``, ``de``, ``fr``, ``es`` or ``all``.
        lang: the language of files that lie in no language folder, for rows that do not say theirs; English for
            ``IMGID:`` files if left out.
        image_folder: where the images are; by default ``images/`` or ``{name}_images/`` in the folder, or
            ``{name}_images/`` beside it. Like ``captions``, relative to the working directory or to ``folder``.
        captions: a file of ``file.jpg :caption`` lines; by default the ``.txt`` file of such lines in the folder.
        errors: what to do about a malformed row: ``"raise"``, or ``"skip"`` it and count.
        iob2: what to do about an I-X that begins an entity: ``"strict"``, its row is malformed; ``"repair"``, read it
            as B-X, as conlleval and seqeval do, and count; ``"auto"``, repair a file where at most one sentence in ten
            has such a slip, as many published sets do, or which in CoNLL's columns is IOB1, and be strict with one
            that is not IOB2 at all.
        label_map: from the entity types of the files to others: ``"other-to-misc"``, ``"multinerd-to-four"`` or
            another name in ``label_maps.yaml``, a YAML file, or a mapping; ``"O"`` where a type is no entity.
        tag_column: of files in columns, the one of the tags, counted from 1 or, if negative, from the end. Needed only
            where several look like tags and the file is of no known kind, as one of tokens, chunks and entities.
        parquet_dir: write the dataset there too (``write_parquet``).
        cache_dir: of ``datasets``. A change of the files or options makes a new entry.

    Returns:
        Splits ``train``, ``validation`` and ``test``, as far as the folder has them, with columns ``id``, ``lang``,
        ``tokens``, ``ner_tags``, ``image``, and where the source has them ``caption`` and ``image_relation``. The
        labels are those of the data: O, then B-X and I-X by name, the same in all splits and languages of the folder.
        Where ``test`` has no gold labels (null, or a list of nulls, -1 or -100 in each row), its tags are -1.

    Raises:
        FileNotFoundError: the folder holds no dataset, or a path given is not there.
        MalformedRow: a ``ValueError`` that names file and line, what came and what was expected.
        ValueError: an option makes no sense here, the label map does not name a type, or the languages asked for have
            no rows.
    """
    names = [known.name for known in MMNER.BUILDER_CONFIGS]
    if config not in names:
        raise ValueError(f"config is {config!r}; expected one of {', '.join(names)}.")
    path = Path(folder).expanduser().absolute()
    if is_parquet(path):
        options = {"lang": lang, "image_folder": image_folder, "captions": captions, "label_map": label_map}
        options["tag_column"] = tag_column
        unused = [name for name, value in options.items() if value is not None]
        usual = (("errors", errors, "raise"), ("iob2", iob2, "auto"))
        unused += [name for name, value, default in usual if value != default]
        if unused:
            raise ValueError(f"{path} is a Parquet dataset, where {', '.join(unused)} has no use: leave it out.")
        dataset = read_parquet(path, config, cache_dir)
    else:
        given: dict[str, Any] = {"lang": lang, "image_folder": _text(image_folder), "captions": _text(captions)}
        cache = str(cache_dir) if cache_dir is not None else None
        given["tag_column"] = tag_column
        given["label_map"] = dict(label_map) if isinstance(label_map, Mapping) else _text(label_map)
        builder = MMNER(config_name=config, data_dir=str(path), cache_dir=cache, errors=errors, iob2=iob2, **given)
        builder.download_and_prepare()
        dataset = builder.as_dataset()
    if parquet_dir is not None:
        write_parquet(dataset, parquet_dir)
    return dataset


def _text(path: str | Path | None) -> str | None:
    return str(path) if path is not None else None
