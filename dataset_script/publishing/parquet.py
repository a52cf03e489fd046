"""Writing a dataset as a finished one: Parquet files with the images inside, the load report and the card."""

import logging
from pathlib import Path

import datasets
from datasets.table import embed_table_storage, table_cast

from ..files import DATASET, replacing
from ..parquet import REPORT_FILE, ROWS_PER_GROUP, ShardWriter, check_columns, count_rows
from ..report import LoadReport, load_report
from ..rows import language_order
from .card import write_card

logger = logging.getLogger(__name__)


def write_parquet(dataset: datasets.DatasetDict, folder: str | Path) -> Path:
    """Write ``dataset`` as ``{lang}/{split}-{number}.parquet``, image bytes embedded, and the dataset card.

    ``datasets.load_dataset(folder, "de")``, or ``"all"``, the default, reads it back, streaming too. The same dataset
    gives the same bytes.

    Args:
        dataset: from ``dataset_script.load``, changed or not.
        folder: new, empty, or a dataset that this package wrote and nobody added to: then it is replaced.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the dataset lacks columns, or has no rows.
    """
    folder = Path(folder).expanduser().absolute()
    for split in dataset.values():
        check_columns(split.features, "The dataset")
    if not any(len(split) for split in dataset.values()):
        raise ValueError("The dataset has no rows to write.")
    with replacing(folder, DATASET) as written:
        for split, rows in dataset.items():
            positions: dict[str, list[int]] = {}
            for position, lang in enumerate(rows["lang"]):
                positions.setdefault(lang, []).append(position)
            for lang in sorted(positions, key=language_order):
                with ShardWriter(written / lang, split, rows.features) as writer:
                    for table in rows.select(positions[lang]).with_format("arrow").iter(ROWS_PER_GROUP):
                        writer.write(embed_table_storage(table_cast(table, writer.schema)))
        (written / REPORT_FILE).write_text(_report(dataset).to_json() + "\n", encoding="utf-8")
        write_card(written)
    return folder


def _report(dataset: datasets.DatasetDict) -> LoadReport:
    """The report of loading if it still describes these rows, else one that counts them."""
    counted = count_rows(dataset)
    try:
        report = load_report(dataset)
    except ValueError:
        return counted
    sizes = [
        {(split, lang): part.rows for split, parts in one.parts.items() for lang, part in parts.items() if part.rows}
        for one in (report, counted)
    ]
    if sizes[0] == sizes[1]:
        return report
    logger.warning("The rows are not those that were loaded: the names of missing images are not written with them.")
    return counted
