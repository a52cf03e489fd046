"""The MMNER dataset as a ``datasets`` builder: a config for each language, by its code, and ``all``.

The rows are the contract of this project: ``id``, ``lang``, ``tokens``, ``ner_tags``, ``image``, and where the source
has them ``caption`` and ``image_relation`` (for analysis only, never an input).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
from datasets.builder import Key

from .formats.corpus import Corpus, Inventory, Options
from .formats.registry import Source
from .report import load_report


@dataclass(eq=False)
class MMNERConfig(datasets.BuilderConfig, Options):
    """Which language of ``data_dir`` to read, and how; the options are those of ``load``."""

    name: str = "all"

    @property
    def languages(self) -> tuple[str, ...] | None:
        """The language of this config, ``None`` for all."""
        return None if self.name == "all" else (self.name,)

    def corpus(self) -> Corpus:
        """The folder, its files found but not read."""
        if self.data_dir is None:
            raise ValueError("MMNER has no data_dir: expected the folder of a dataset.")
        options = {option.name: getattr(self, option.name) for option in fields(Options)}
        return Corpus(Path(self.data_dir), **options)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """The name of the cache folder: anew when an option, the code, a source file or an image changes."""
        if custom_features is not None:
            raise ValueError("features were given: MMNER takes its own from the data, cast the dataset afterwards.")
        return f"{self.name}-{self.corpus().fingerprint()}"


class MMNER(datasets.GeneratorBasedBuilder):
    """``MMNER(config_name="de", data_dir=folder)``, then ``download_and_prepare()`` and ``as_dataset()``, or
    ``as_streaming_dataset()``. ``dataset_script.load`` is the same in one call."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = MMNERConfig
    DEFAULT_CONFIG_NAME = "all"

    def _info(self) -> datasets.DatasetInfo:
        # The features need the labels, which the data alone knows: _split_generators fills them in.
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        languages = self.config.languages
        corpus = self.config.corpus()
        inventory = corpus.scan(languages)
        self.info.features = features(inventory.labels, inventory.columns)
        self.info.description = inventory.report.describe()
        by_split: dict[str, list[Source]] = {}
        for source in corpus.sources:
            if (languages is None or source.lang in (None, *languages)) and inventory.report.total(source.split).rows:
                by_split.setdefault(source.split, []).append(source)
        shared = {"corpus": corpus, "inventory": inventory}
        # A list in gen_kwargs is what datasets shares out among processes.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={**shared, "sources": sources})
            for split, sources in by_split.items()
        ]

    def _generate_examples(
        self, corpus: Corpus, inventory: Inventory, sources: list[Source]
    ) -> Iterator[tuple[Key, dict[str, Any]]]:
        for number, source in enumerate(sources):
            for position, example in enumerate(corpus.examples(source, inventory, self.config.languages)):
                yield Key(number, position), example

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """As ``datasets`` has it; logs the report, from the cache too."""
        dataset = super().as_dataset(*args, **kwargs)
        load_report(dataset).log()
        return dataset


def features(labels: list[str], columns: list[str]) -> datasets.Features:
    """The columns of a row; ``labels`` in id order, ``columns`` the optional ones that the source has."""
    optional: dict[str, Any] = {
        name: datasets.Value("string") for name in ("caption", "image_relation") if name in columns
    }
    if "known_types" in columns:
        optional["known_types"] = datasets.List(datasets.Value("string"))
    required: dict[str, Any] = {
        "id": datasets.Value("string"),
        "lang": datasets.Value("string"),
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=labels)),
        "image": datasets.Image(),
    }
    return datasets.Features(required | optional)
