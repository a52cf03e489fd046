"""Training from Parquet files as they lie: the same windows as from memory, and a run that goes on where it was."""

import itertools
import json
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import datasets
import own_process
import pytest
import tiny_runs
import torch
from sharded_rows import FEATURES, LABELS, make_rows, write

from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.sentences import WindowedSentences
from mmner.data.shards import ParquetShards, find_shards
from mmner.options import DataArguments, TrainingArguments
from mmner.training.streaming import POSITION, Position, SentenceStream, check_streaming, collate_stream
from mmner.training.trainer import TwoMNERTrainer

LABEL2ID = {label: index for index, label in enumerate(LABELS)}
TOKENS = 14  # of a window: the longest sentences take several


def shards_in(folder: Path) -> ParquetShards:
    files, features = find_shards(str(folder), None)
    return ParquetShards(files["train"], features)


def make_model(towers: Path):
    model, processor = tiny_runs.make_model(towers, alignment="clip", modality_dropout=0.3)
    processor.tokenizer.mask_token = processor.tokenizer.unk_token  # what a mention is hidden behind
    return model, processor


@pytest.fixture(scope="module")
def processor(towers):
    return make_model(towers)[1]


def make_stream(shards, processor, batches=(1, 0, 1, 0), **options) -> SentenceStream:
    stream = SentenceStream(shards, processor, LABEL2ID, **{"shuffle_buffer": 35, "max_length": TOKENS, **options})
    stream.use_batches(*batches)
    return stream


def key(window: dict) -> tuple:
    return tuple(window["tokens"]), tuple(window["labels"]), window["image"] and window["image"]["bytes"]


def epoch_of(stream: SentenceStream, epoch: int = 0) -> list[tuple]:
    """The windows that one process reads in an epoch."""
    batches = itertools.takewhile(lambda item: item[0].epoch == epoch, stream.batches(Position(0, epoch)))
    return [key(window) for _, batch in batches for window in batch]


@pytest.fixture(scope="module")
def from_memory(parquet_folder, processor) -> list[tuple]:
    """What the loaded set gives."""
    rows = datasets.Dataset.from_parquet(sorted(map(str, parquet_folder.glob("train-*"))), keep_in_memory=True)
    windows = WindowedSentences(rows, processor, LABEL2ID, training=True, max_length=TOKENS)
    assert len(windows) > len(rows)
    return [key(windows[index]) for index in range(len(windows))]


@pytest.mark.parametrize("readers", [1, 21])
@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
def test_all_readers_together_give_every_window_of_the_loaded_set_once_an_epoch(
    shards, processor, from_memory, readers, order
):
    streams = [make_stream(shards, processor, (1, reader, readers, 0), order=order) for reader in range(readers)]
    shares = [epoch_of(stream) for stream in streams]
    assert all(shares) and Counter(sum(shares, [])) == Counter(from_memory)
    assert (readers == 1 and shares[0] == from_memory) == (readers == 1 and order == "sequential")
    again = [epoch_of(stream, epoch=1) for stream in streams]
    assert Counter(sum(again, [])) == Counter(from_memory)
    assert (again == shares) == (order == "sequential")


def batches_of(stream: SentenceStream, processor, count: int, workers: int) -> list[dict]:
    collate = partial(collate_stream, DataCollatorForMultimodalTokenClassification(processor))
    start = None if workers == 0 else "fork" if workers > 1 else "spawn"
    options = {"num_workers": workers, "multiprocessing_context": start}
    loader = torch.utils.data.DataLoader(stream, batch_size=None, collate_fn=collate, **options)
    return list(itertools.islice(loader, count))


def assert_same_batches(batches: list[dict], expected: list[dict]) -> None:
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


@pytest.mark.parametrize(("workers", "order"), [(0, "random"), (1, "sequential"), (3, "group_by_length")])
def test_a_data_loader_goes_on_whichever_worker_s_turn_it_is(shards, processor, workers, order):
    shape, options = (8, 1, 2, workers), {"order": order, "mention_dropout": 0.5}
    batches = batches_of(make_stream(shards, processor, shape, **options), processor, 60, workers)
    assert batches[-1][POSITION].epoch > 0
    stream, states = make_stream(shards, processor, shape, **options), []
    for batch in batches:
        stream.advance(batch[POSITION])
        states.append(json.loads(json.dumps(stream.state_dict())))
    for count in (1, 2, 4, 7, 55):
        torch.manual_seed(count)  # what others draw must not matter
        other = make_stream(shards, processor, shape, **options)
        other.load_state_dict(states[count - 1])
        # The number of a reader is that of its batches, whichever worker reads them now.
        assert_same_batches(batches_of(other, processor, 4, workers), batches[count : count + 4])


def make_trainer(towers: Path, shards, output: Path, **options) -> TwoMNERTrainer:
    model, processor = make_model(towers)
    fixed = {"seed": 3, "learning_rate": 1e-3, "save_total_limit": 5, "logging_steps": 4}
    batches = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 6}
    stream = make_stream(shards, processor, mention_dropout=0.3)
    options = tiny_runs.EVERY_SECOND_STEP | fixed | batches | options
    return tiny_runs.trainer_of(model, processor, output, stream, **options)


def weights(trainer: TwoMNERTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_with_the_same_weights_to_the_last_bit(towers, shards, tmp_path, workers):
    options = {"dataloader_num_workers": workers}
    whole = make_trainer(towers, shards, tmp_path / "whole", **options)
    before = weights(whole)
    metrics = whole.train().metrics
    with pytest.raises(AssertionError):
        assert_same(weights(whole), before)
    for step in (2, 4, 6):
        torch.manual_seed(step)
        resumed = make_trainer(towers, shards, tmp_path / f"resumed-{step}", **options)
        again = resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}")).metrics
        assert_same(weights(resumed), weights(whole))
        assert resumed.state.global_step == 6 and again["epoch"] == metrics["epoch"] == 1
        assert again["train_loss"] == metrics["train_loss"]


def test_a_checkpoint_of_another_stream_is_refused(towers, shards, tmp_path):
    make_trainer(towers, shards, tmp_path / "run", max_steps=2).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    for options, message in (
        ({"per_device_train_batch_size": 2}, "batch_size was 4, is 2"),
        ({"dataloader_num_workers": 2}, "readers was 1, is 2"),
    ):
        with pytest.raises(ValueError, match=f"The stream is not that of the checkpoint.*{message}"):
            make_trainer(towers, shards, tmp_path / "other", **options).train(resume_from_checkpoint=checkpoint)


def run_process(towers: str, folder: str, output: str) -> None:
    """One of two processes: a run, and the same from its first checkpoint."""
    torch.set_num_threads(1)
    got = {}
    for name, checkpoint in (("whole", None), ("resumed", str(Path(output, "whole", "checkpoint-2")))):
        options = {"ddp_backend": "gloo", "ddp_find_unused_parameters": True, "max_steps": 4}
        trainer = make_trainer(Path(towers), shards_in(Path(folder)), Path(output, name), **options)
        trainer.train(resume_from_checkpoint=checkpoint)
        got[name] = weights(trainer)
        got[f"{name}_turns"] = trainer.train_dataset.state_dict()["turns"]
    trainer.end()
    torch.save(got, Path(output, f"{os.environ['RANK']}.pt"))


def test_two_processes_read_different_rows_and_resume_exactly(towers, parquet_folder, tmp_path):
    own_process.run(*own_process.TORCHRUN, __file__, towers, parquet_folder, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert_same(first["whole"], second["whole"])
    for process in (first, second):
        assert_same(process["resumed"], process["whole"])
        assert process["resumed_turns"] == process["whole_turns"]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({}, {"max_steps": -1}, "needs --max_steps"),
        (
            {"max_train_samples": 3, "image_feature_store": "store"},
            {"save_strategy": "epoch", "dataloader_in_order": False},
            "with --save_strategy epoch, --dataloader_in_order false, --max_train_samples, --image_feature_store: the",
        ),
        ({"train_languages": "en"}, {"eval_strategy": "epoch"}, "with --eval_strategy epoch, --train_languages: the"),
    ],
)
def test_what_a_stream_cannot_do_is_told_before_it_begins(data, options, message):
    given = {"max_steps": 5, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    check_streaming(DataArguments(), TrainingArguments(use_cpu=True, **given))
    with pytest.raises(ValueError, match=message):
        check_streaming(DataArguments(**data), TrainingArguments(use_cpu=True, **(given | options)))


def test_what_is_wrong_with_a_stream_or_its_first_rows_is_told_at_once(shards, processor):
    with pytest.raises(ValueError, match="--shuffle_buffer is 0"):
        make_stream(shards, processor, shuffle_buffer=0)
    with pytest.raises(ValueError, match="24 readers .* only 21 row groups"):
        make_stream(shards, processor, (4, 0, 8, 3))
    with pytest.raises(ValueError, match="tags B-PER, which the model does not know"):
        SentenceStream(shards, processor, {"O": 0, "B-LOC": 1})


def test_a_bad_row_is_told_with_its_file_when_it_is_read(processor, tmp_path):
    rows = make_rows(60).to_list()
    rows[45]["ner_tags"] = [2] + rows[45]["ner_tags"][1:]
    write(datasets.Dataset.from_list(rows, features=FEATURES), tmp_path)
    with pytest.raises(ValueError, match=r"r45.*I-LOC.*train-00002-of-00003"):
        epoch_of(make_stream(shards_in(tmp_path), processor, order="sequential"))


def test_a_run_from_the_command_line(parquet_folder, towers, tmp_path):
    import run_mmner

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"text_model: {towers / 'text'}\nvision_model: {towers / 'vision'}\ndataset: {parquet_folder}\n"
        "streaming: true\nshuffle_buffer: 40\nmax_steps: 4\nper_device_train_batch_size: 4\n"
        "eval_strategy: steps\neval_steps: 2\nsave_strategy: steps\nsave_steps: 2\nsave_total_limit: 3\n"
        "use_cpu: true\ndisable_tqdm: true\ndo_predict: false\n"
    )
    results = run_mmner.main([str(recipe), "--output_dir", str(tmp_path / "run")])
    assert results["train_samples"] == 200 and results["eval_samples"] == 9 and 0 <= results["eval_f1"] <= 1
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["SentenceStream"][0]["turns"] == [[0, 0, 0, 2]]
    assert "200" in (tmp_path / "run" / "README.md").read_text()


if __name__ == "__main__":
    run_process(*sys.argv[1:])
