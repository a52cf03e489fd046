"""MMNER in one call."""

from pathlib import Path

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
    parquet_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict:
    """Load a folder of sentences and images: JSONL, ``IMGID:`` CoNLL, or Parquet from ``write_parquet``.

    The format is found by the files: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``) and ``test``, as
    ``.jsonl`` or ``.txt``, in the folder or in folders ``en``, ``de``, ``fr``, ``es``. An image that is missing or
    does not open is ``None`` in its row; how many are so is logged, and ``load_report(dataset)`` tells which.

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
            has such a slip, as many published sets do, and be strict with one that is not IOB2 at all.
        parquet_dir: write the dataset there too (``write_parquet``).
        cache_dir: of ``datasets``. A change of the files or options makes a new entry.

    Returns:
        Splits ``train``, ``validation`` and ``test``, as far as the folder has them, with columns ``id``, ``lang``,
        ``tokens``, ``ner_tags``, ``image``, and where the source has them ``caption`` and ``image_relation``. The
        labels are those of the data: O, then B-X and I-X by name, the same in all splits and languages of the folder.

    Raises:
        FileNotFoundError: the folder holds no dataset, or a path given is not there.
        MalformedRow: a ``ValueError`` that names file and line, what came and what was expected.
        ValueError: an option makes no sense here, or the languages asked for have no rows.
    """
    names = [known.name for known in MMNER.BUILDER_CONFIGS]
    if config not in names:
        raise ValueError(f"config is {config!r}; expected one of {', '.join(names)}.")
    path = Path(folder).expanduser().absolute()
    if is_parquet(path):
        options = {"lang": lang, "image_folder": image_folder, "captions": captions}
        unused = [name for name, value in options.items() if value is not None]
        if unused:
            raise ValueError(f"{path} is a Parquet dataset, where {', '.join(unused)} has no use: leave it out.")
        dataset = read_parquet(path, config, cache_dir)
    else:
        given = {"lang": lang, "image_folder": _text(image_folder), "captions": _text(captions)}
        cache = str(cache_dir) if cache_dir is not None else None
        builder = MMNER(config_name=config, data_dir=str(path), cache_dir=cache, errors=errors, iob2=iob2, **given)
        builder.download_and_prepare()
        dataset = builder.as_dataset()
    if parquet_dir is not None:
        write_parquet(dataset, parquet_dir)
    return dataset


def _text(path: str | Path | None) -> str | None:
    return str(path) if path is not None else None
