"""MMNER in one call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from .mmner import MMNER
from .parquet import is_parquet, read_parquet
from .rows import LANGUAGE


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
    text_column: str | None = None,
    tags_column: int | str | None = None,
    image_column: str | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict:
    """Load sentences and images, as tokens with tags or text with spans: the formats are those of ``docs/data.md``.

    The format is found by the content of the files: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``,
    ``testa``) and ``test`` (or ``testb``), as ``train.txt``, ``train_de.tsv``, ``deu.testa`` and the like, in the
    folder or in folders named by a language. Tags of any scheme become IOB2. An image that is missing or does
    not open is ``None`` in its row; their number is logged, and ``load_report(dataset)`` names them.

    Args:
        folder: the dataset, or one file of it: the split that its name says, else ``train``.
        config: a language (``en``, ``it``, ``pt-BR``) or ``all``.
        lang: the language of files that lie in no language folder, for rows that do not state theirs; English for
            ``IMGID:`` files and ``und`` for others if left out.
        image_folder: where the images are; by default ``images/`` or ``{name}_images/`` in the folder, or
            ``{name}_images/`` beside it. Like ``captions``, relative to the working directory or to ``folder``.
        captions: a file of ``file.jpg :caption`` lines.
        errors: what to do about a malformed row: ``"raise"``, or ``"skip"`` it and count.
        iob2: what to do about an I-X that begins an entity: ``"strict"``, its row is malformed; ``"repair"``, read it
            as B-X, as conlleval and seqeval do, and count; ``"auto"``, repair a file where at most one sentence in ten
            has such a tag, or which is IOB1, and be strict with any other.
        label_map: from the entity types of the files to others: ``"other-to-misc"``, ``"multinerd-to-four"`` or
            another name in ``label_maps.yaml``, a YAML file, or a mapping; ``"O"`` where a type is no entity.
        text_column: of records and tables, the column of the tokens, or of a text with spans.
        tags_column: the column of the tags or spans: its name or, in files of columns, its number from 1 or, if
            negative, from the end. Needed where several look like tags and the file is of no known kind, such as
            token, chunk and entity, or where the name is none that is known.
        image_column: of records and tables, the column of the image: a file name, or the image itself.
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
    if config != "all" and not LANGUAGE.fullmatch(config):
        raise ValueError(
            f"config (--dataset_config) is {config!r}; expected all, or a language such as en, it or pt-BR."
        )
    path = Path(folder).expanduser().absolute()
    options: dict[str, Any] = {"lang": lang, "image_folder": image_folder, "captions": captions}
    options |= {"label_map": label_map, "errors": errors, "iob2": iob2}
    options |= {"text_column": text_column, "tags_column": tags_column, "image_column": image_column}
    if is_parquet(path):
        if unused := [name for name, value in options.items() if value not in (None, "raise", "auto")]:
            raise ValueError(f"{path} is a Parquet dataset, where {', '.join(unused)} has no use: leave it out.")
        return read_parquet(path, config, cache_dir)
    cache = str(cache_dir) if cache_dir is not None else None
    builder = MMNER(config_name=config, data_dir=str(path), cache_dir=cache, **options)
    builder.download_and_prepare()
    return builder.as_dataset()
