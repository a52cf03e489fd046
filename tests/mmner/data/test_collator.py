"""Batches: the tensors of the contract, and what becomes of an image that does not open."""

import numpy as np
import pytest
import torch
from PIL import Image
from sharded_rows import png, rows_of
from tiny_models import tiny_config

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.feature_store import FeatureStore
from processing_2mner import TwoMNERProcessor

TEXT = {"input_ids", "attention_mask", "word_starts", "labels"}
RED = png(255, 0, 0)
RED_IMAGE = Image.fromarray(np.full((8, 8, 3), (255, 0, 0), dtype=np.uint8))


@pytest.fixture(scope="module")
def processor(towers):
    return TwoMNERProcessor.from_towers(towers / "text", towers / "vision")


def feature(words: str, image=None) -> dict:
    return {"tokens": words.split(), "labels": list(range(len(words.split()))), "image": image}


def test_a_batch_is_what_the_processor_makes_of_its_rows(processor):
    features = [feature("Jordan won", RED), feature("Paris is far"), feature("Paris won", RED)]
    batch = DataCollatorForMultimodalTokenClassification(processor)(features)
    assert set(batch) == TEXT | {"pixel_values", "image_index", "image_ids"}
    assert batch["labels"].tolist() == [[0, 1, -100], [0, 1, 2], [0, 1, -100]]
    alone = processor(["Jordan won"], images=[RED_IMAGE])
    assert torch.equal(batch["pixel_values"], alone["pixel_values"])  # equal images once
    assert torch.equal(batch["image_ids"], alone["image_ids"])
    assert batch["image_index"].tolist() == [0, -1, 0]
    assert set(DataCollatorForMultimodalTokenClassification(processor)(features[1:2])) == TEXT
    padded = DataCollatorForMultimodalTokenClassification(processor, pad_to_multiple_of=8)(features)
    assert padded["input_ids"].shape[1] % 8 == 0
    text_only = tiny_config(collaboration="none", alignment="none")
    blind = DataCollatorForMultimodalTokenClassification(processor, text_only)
    assert set(blind([feature("Jordan won", {"bytes": b"no image", "path": None})])) == TEXT
    assert blind.unreadable_images == 0


def test_an_image_that_does_not_open_is_named_once_counted_always_and_left_out(processor, tmp_path, caplog):
    truncated = {"bytes": RED["bytes"][:40], "path": "half.png"}
    absent = {"bytes": None, "path": str(tmp_path / "gone.png")}
    collator = DataCollatorForMultimodalTokenClassification(processor)
    features = [feature("Jordan won", truncated), feature("Paris", RED), feature("Paris", absent)]
    batch = collator(features)
    collator(features[:1])
    assert batch["image_index"].tolist() == [-1, 0, -1] and len(batch["pixel_values"]) == 1
    assert collator.unreadable_images == 3
    half, gone = caplog.messages
    assert "half.png" in half and "gone.png" in gone and gone.endswith("Its sentences go without an image.")


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_the_count_includes_what_the_workers_of_a_data_loader_saw(processor, start, workers):
    rows = [feature("Jordan won", {"bytes": b"no image", "path": f"{number}.png"}) for number in range(4)]
    collator = DataCollatorForMultimodalTokenClassification(processor)
    options = {"num_workers": workers, "multiprocessing_context": start}
    assert len(list(torch.utils.data.DataLoader(rows, batch_size=1, collate_fn=collator, **options))) == 4
    assert collator.unreadable_images == 4


def test_a_worker_that_is_not_forked_reads_the_store_of_features(processor, tmp_path):
    collator = DataCollatorForMultimodalTokenClassification(processor)
    collator.features = FeatureStore(tmp_path, "tower")
    features = {number: torch.randn(4, 8) for number in (7, 9)}
    for number, states in features.items():
        collator.features.add(number, [states])
    rows = [feature("Jordan won", 7), feature("Paris"), feature("Paris is far", 9), feature("Paris", 7)]
    rows += [feature("Jordan", 0)] * 4  # 0: an image that does not open
    options = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    with_images, without = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collator, **options)
    assert with_images["image_ids"].tolist() == [7, 9] and with_images["image_index"].tolist() == [0, -1, 1, 0]
    assert torch.equal(with_images["image_features"], torch.stack([features[7], features[9]]))
    assert set(without) == TEXT


def test_plain_rows_are_read_by_the_names_of_their_tags(processor):
    """The order of the dataset's tags is not the model's; the labels are the model's."""
    config = tiny_config()  # O, B-PER, I-PER, B-LOC, I-LOC
    tokens, names = [["Jordan", "won"], ["in", "New", "York"]], [["B-PER", "O"], ["O", "B-LOC", "I-LOC"]]
    by_name = [
        {"tokens": words, "ner_tags": tags, "image": image, "caption": "a red square", "id": 7}
        for words, tags, image in zip(tokens, names, (RED_IMAGE, None), strict=True)
    ]
    rows = rows_of(tokens, [[3, 0], [0, 1, 2]], [RED, None])  # O, B-LOC, I-LOC, B-PER, I-PER
    label_names = rows.features["ner_tags"].feature.names
    collators = {
        "names": (DataCollatorForMultimodalTokenClassification(processor, config), by_name),
        "ids": (DataCollatorForMultimodalTokenClassification(processor, config, label_names=label_names), rows),
    }
    expected = processor(tokens, images=[RED_IMAGE, None], word_labels=[[1, 0], [0, 3, 4]])
    for collator, given in collators.values():
        batch = collator([given[0], given[1]])
        assert set(batch) == set(expected)
        for name, value in expected.items():
            assert torch.equal(batch[name], value), name
    without = [{"tokens": row["tokens"]} for row in by_name]  # to predict
    assert set(collators["ids"][0](without)) == TEXT - {"labels"}


@pytest.mark.parametrize(
    ("tags", "options", "message"),
    [
        (
            [1, 0],
            {},
            "Row 7: 1 came as tag 1 .token 'Jordan'.; expected O, B-TYPE or I-TYPE. If the tags are ids",
        ),
        ([9, 0], {"label_names": ["O", "B-PER"]}, "9 came as tag 1 .* expected a number from 0 .O. to 1 .B-PER."),
        (["B-PER"], {}, "2 tokens and 1 ner_tags came"),
        (["I-PER", "O"], {}, "in IOB2 an entity begins with B-"),
        (["B-DISH", "O"], {}, "has the tags B-DISH, which the model does not know; it knows O, B-PER"),
        (["B-PER", "O"], None, "pass the collator model.config"),
    ],
)
def test_tags_that_cannot_be_read_are_refused(processor, tags, options, message):
    config = {} if options is None else {"config": tiny_config(), **options}
    collator = DataCollatorForMultimodalTokenClassification(processor, **config)
    with pytest.raises(ValueError, match=message):
        collator([{"id": 7, "tokens": ["Jordan", "won"], "ner_tags": tags}])


def test_only_some_rows_with_tags_are_refused_and_a_softmax_takes_any_labels(processor):
    collator = DataCollatorForMultimodalTokenClassification(processor, tiny_config())
    with pytest.raises(ValueError, match="ner_tags is None; expected a tag for each token"):
        collator([{"tokens": ["Jordan"], "ner_tags": ["B-PER"]}, {"tokens": ["won"], "ner_tags": None}])
    verbs = tiny_config(labels=["NOUN", "VERB"], tagging_head="softmax")
    batch = DataCollatorForMultimodalTokenClassification(processor, verbs)(
        [{"tokens": ["Jordan", "won"], "ner_tags": ["NOUN", "VERB"]}]
    )
    assert batch["labels"].tolist() == [[0, 1]]
