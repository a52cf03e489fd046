"""Training from Parquet files as they lie: the same windows as from memory, and a run that goes on where it was."""

import io
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mmner.data.collator import MultimodalCollator  # noqa: E402
from mmner.data.sentences import WindowedSentences, count_images, label_names, load_splits  # noqa: E402
from mmner.data.shards import ParquetShards, find_shards  # noqa: E402
from mmner.options import DataArguments, ModelArguments, TrainingArguments  # noqa: E402
from mmner.probe.tiny_towers import make_tiny_towers  # noqa: E402
from mmner.training.model import build_model  # noqa: E402
from mmner.training.streaming import (  # noqa: E402
    START,
    BatchReader,
    Position,
    SentenceStream,
    StreamCollator,
    StreamTrainer,
    check_streaming,
)

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
WORDS = ["Jordan", "won", "in", "Paris", "today", "."]
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "lang": datasets.Value("string"),
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
        "image": datasets.Image(),
    }
)
PIECES = 14  # of a window: the longest sentences take several


def make_rows(count: int, seed: int = 0) -> datasets.Dataset:
    """Sentences of 1 to 40 words, each with a first word that no other has; two in three with a picture of its own."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        words = [f"w{number}"] + [rng.choice(WORDS) for _ in range(rng.choice([0, 2, 4, 6, 9, 39]))]
        image = None
        if rng.random() < 0.66:
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(buffer, "PNG")
            image = {"bytes": buffer.getvalue(), "path": f"{number}.png"}
        tags = [{"Jordan": 3, "Paris": 1}.get(word, 0) for word in words]
        rows.append({"id": f"r{number}", "lang": "en", "tokens": words, "ner_tags": tags, "image": image})
    return datasets.Dataset.from_list(rows, features=FEATURES)


def write(rows: datasets.Dataset, folder: Path, split: str = "train", files: int = 3, group: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = rows.shard(files, number, contiguous=True).with_format("arrow")[:]
        pq.write_table(part, folder / f"{split}-{number:05d}-of-{files:05d}.parquet", row_group_size=group)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write(make_rows(200), folder)
    write(make_rows(9, seed=1), folder, "validation", files=1)
    return folder


@pytest.fixture(scope="module")
def shards(folder) -> ParquetShards:
    files, features = find_shards(str(folder), None)
    return ParquetShards(files["train"], features)


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    make_tiny_towers(folder, [WORDS], vocab_size=300, text_width=32, image_size_px=32)
    return folder


def make_model(towers: Path):
    torch.manual_seed(0)
    names = {"text_model": str(towers / "text"), "vision_model": str(towers / "vision")}
    arguments = ModelArguments(**names, alignment="clip", modality_dropout=0.3)
    model, processor = build_model(arguments, LABELS, [], towers, build=False)
    processor.tokenizer.mask_token = processor.tokenizer.unk_token  # what a mention is hidden behind
    return model, processor


@pytest.fixture(scope="module")
def processor(towers):
    return make_model(towers)[1]


LABEL2ID = {label: index for index, label in enumerate(LABELS)}


def test_a_tag_that_is_none_names_the_file_and_the_row(processor, tmp_path):
    write(make_rows(60), tmp_path)
    path = tmp_path / "train-00001-of-00003.parquet"
    table = pq.read_table(path)
    for bad, message in ((-1, "-1 came as tag 1 .token 'w25'., which is no gold label"), (99, "99 came as tag 1")):
        tags = table["ner_tags"].to_pylist()
        tags[5][0] = bad
        column = pa.array(tags, table.schema.field("ner_tags").type)
        pq.write_table(table.set_column(3, table.schema.field("ner_tags"), column), path, row_group_size=10)
        files, features = find_shards(str(tmp_path), None)
        stream = SentenceStream(
            ParquetShards(files["train"], features), processor, LABEL2ID, order="sequential", shuffle_buffer=10
        )
        with pytest.raises(ValueError, match=rf"train, row r25: {message}.*\(Read from .*{path.name}.*\)"):
            list(itertools.islice(stream.batches(0, 1, 4), 30))


def make_stream(shards, processor, **options) -> SentenceStream:
    return SentenceStream(shards, processor, LABEL2ID, **{"shuffle_buffer": 35, "max_length": PIECES, **options})


def key(window: dict) -> tuple:
    return tuple(window["tokens"]), tuple(window["labels"]), window["image"] and window["image"]["bytes"]


def epoch_of(stream: SentenceStream, reader: int, readers: int, epoch: int = 0, batch_size: int = 1) -> list[dict]:
    """The windows that one reader gives in an epoch."""
    batches = stream.batches(reader, readers, batch_size, Position(epoch))
    found = itertools.takewhile(lambda item: item[0].epoch == epoch, batches)
    return [window for _, batch in found for window in batch]


@pytest.fixture(scope="module")
def loaded(folder, tmp_path_factory) -> datasets.Dataset:
    """The same rows, loaded."""
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path_factory.mktemp("cache")))
    assert len(rows) == 200
    return rows


@pytest.fixture(scope="module")
def from_memory(loaded, processor) -> list[tuple]:
    """What the loaded set gives."""
    windows = WindowedSentences(loaded, processor, LABEL2ID, training=True, max_length=PIECES)
    assert windows.has_long_sentences
    return [key(windows[index]) for index in range(len(windows))]


@pytest.mark.parametrize("readers", [1, 3, 21])
@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
def test_all_readers_together_give_every_window_of_the_loaded_set_once_an_epoch(
    shards, processor, from_memory, readers, order
):
    stream = make_stream(shards, processor, order=order)
    shares = [[key(w) for w in epoch_of(stream, reader, readers)] for reader in range(readers)]
    assert all(shares) and Counter(sum(shares, [])) == Counter(from_memory)
    assert (readers == 1 and shares[0] == from_memory) == (readers == 1 and order == "sequential")
    again = [[key(w) for w in epoch_of(stream, reader, readers, epoch=1)] for reader in range(readers)]
    assert Counter(sum(again, [])) == Counter(from_memory)
    assert (again == shares) == (order == "sequential")


def test_no_word_is_lost_and_words_of_far_shards_meet(shards, processor):
    stream = make_stream(shards, processor, order="random")
    words = Counter(word for window in epoch_of(stream, 0, 1) for word in window["tokens"])
    assert words == Counter(word for row in make_rows(200)["tokens"] for word in row)
    firsts = [window["tokens"][0] for window in epoch_of(stream, 0, 1)[:40]]
    numbers = [int(word[1:]) for word in firsts if word[1:].isdigit()]
    assert max(numbers) - min(numbers) > 100
    other = make_stream(shards, processor, order="random", seed=1)
    assert [key(w) for w in epoch_of(other, 0, 1)] != [key(w) for w in epoch_of(stream, 0, 1)]


def test_batches_are_whole_and_of_about_one_length(shards, processor):
    stream = make_stream(shards, processor, shuffle_buffer=70)
    found = list(itertools.islice(stream.batches(0, 1, 8), 60))
    assert {len(batch) for _, batch in found} == {8}
    stretches: dict[tuple, list[tuple[int, int]]] = {}
    for position, batch in found:
        if position.taken >= 8:  # all of it from one stretch
            lengths = [sum(processor.token_counts(window["tokens"])) for window in batch]
            stretches.setdefault(position[:2], []).append((min(lengths), max(lengths)))
    assert len(stretches) > 3 and max(map(len, stretches.values())) > 6
    assert any(ranges != sorted(ranges) and ranges[::-1] != sorted(ranges) for ranges in stretches.values())
    for ranges in stretches.values():
        ranges.sort()
        assert all(longest <= shortest for (_, longest), (shortest, _) in itertools.pairwise(ranges))


@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
def test_after_any_position_the_same_batches_come(shards, processor, order):
    stream = make_stream(shards, processor, order=order, mention_dropout=0.5)
    expected = list(itertools.islice(stream.batches(1, 2, 7), 45))
    assert expected[-1][0].epoch > 0 and any(position.begun for position, _ in expected)
    hidden = [window["tokens"].count(processor.tokenizer.mask_token) for _, batch in expected for window in batch]
    assert any(hidden) and not all(hidden)
    for done in range(45):
        torch.manual_seed(done)  # what others draw must not matter
        start = expected[done - 1][0] if done else START
        assert list(itertools.islice(stream.batches(1, 2, 7, start), 3))[: 45 - done] == expected[done : done + 3]


def make_loader(reader: BatchReader, processor, workers: int, start: str | None) -> torch.utils.data.DataLoader:
    collate = StreamCollator(MultimodalCollator(processor))
    return torch.utils.data.DataLoader(
        reader, batch_size=None, collate_fn=collate, num_workers=workers, multiprocessing_context=start
    )


def assert_same_batches(batches: list[dict], expected: list[dict]) -> None:
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_data_loader_goes_on_behind_empty_batches(shards, processor, workers):
    stream, start = make_stream(shards, processor), "fork" if workers else None
    reader = BatchReader(stream, 4, 1, 2, workers)
    batches = list(itertools.islice(make_loader(reader, processor, workers, start), 12))
    states = []
    for batch in batches:
        number, *position = batch["stream_position"]
        reader.took(number, Position(*position))
        states.append(json.loads(json.dumps(list(reader.turns))))
    for count in (1, 2, 4, 7):
        other = BatchReader(stream, 4, 1, 2, workers)
        other.skip(count + 1, [(number, Position(*position)) for number, position in states[count - 1]])
        found = list(itertools.islice(make_loader(other, processor, workers, start), count + 1 + 4))
        # As many empty ones as the trainer leaves out, which need not be as many as were taken: of a run that once
        # began its stream anew they are more.
        assert found[: count + 1] == [{}] * (count + 1)
        assert_same_batches(found[count + 1 :], batches[count : count + 4])
    with pytest.raises(RuntimeError, match="of reader 9 came"):
        reader.took(9, START)


def test_workers_that_are_not_forked_give_the_same(shards, processor):
    stream = make_stream(shards, processor)
    here = list(itertools.islice(make_loader(BatchReader(stream, 4, 0, 1, 1), processor, 0, None), 5))
    there = make_loader(BatchReader(stream, 4, 0, 1, 1), processor, 1, "spawn")
    assert_same_batches(list(itertools.islice(there, 5)), here)


class Recorded(MultimodalCollator):
    """A collator that keeps the input ids of its batches, where it is called by no other process."""

    def __call__(self, features):
        batch = super().__call__(features)
        self.__dict__.setdefault("seen", []).append(batch["input_ids"])
        return batch


def make_trainer(towers: Path, shards, output: Path, **options) -> StreamTrainer:
    model, processor = make_model(towers)
    args = TrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        seed=3,
        **{
            "max_steps": 6,
            "save_strategy": "steps",
            "save_steps": 2,
            "save_total_limit": 5,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "eval_strategy": "no",
            "load_best_model_at_end": False,
            "learning_rate": 1e-3,
            **options,
        },
    )
    stream = make_stream(shards, processor, mention_dropout=0.3)
    return StreamTrainer(
        model=model, args=args, data_collator=Recorded(processor), train_dataset=stream, processing_class=processor
    )


def weights(trainer: StreamTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], same: bool = True) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items()) == same


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_with_the_same_weights_to_the_last_bit(towers, shards, tmp_path, workers):
    options = {"dataloader_num_workers": workers}
    whole = make_trainer(towers, shards, tmp_path / "whole", **options)
    before = weights(whole)
    whole.train()
    assert_same(weights(whole), before, same=False)
    for step in (2, 4):
        torch.manual_seed(step)
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        resumed = make_trainer(towers, shards, tmp_path / f"resumed-{step}", **options)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert_same(weights(resumed), weights(whole))
        assert resumed.state.global_step == 6
        if not workers:
            seen, expected = resumed.data_collator.seen, whole.data_collator.seen
            assert len(seen) == len(expected) - 2 * step == 13 - 2 * step  # one more, which the loader has ready
            assert all(torch.equal(a, b) for a, b in zip(seen, expected[2 * step :], strict=True))
    over = make_trainer(towers, shards, tmp_path / "over", **options)
    over.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert over.state.global_step == 6
    assert_same(weights(over), weights(whole))


def test_a_checkpoint_of_another_stream_is_refused_unless_the_place_is_to_be_forgotten(towers, shards, tmp_path):
    make_trainer(towers, shards, tmp_path / "run", max_steps=2).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"

    def go_on(**options):
        trainer = make_trainer(towers, shards, tmp_path / "other", **options)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return trainer

    with pytest.raises(ValueError, match="batch_size was 4, is 2.*ignore_data_skip"):
        go_on(per_device_train_batch_size=2)
    with pytest.raises(ValueError, match="workers was 1, is 2"):
        go_on(dataloader_num_workers=2)
    anew = go_on(ignore_data_skip=True)
    assert torch.equal(anew.data_collator.seen[0], go_on_first_batch(towers, shards, tmp_path))
    (checkpoint / "stream_0.json").unlink()
    with pytest.raises(ValueError, match="place in the stream is not known"):
        go_on()


def go_on_first_batch(towers, shards, folder) -> torch.Tensor:
    trainer = make_trainer(towers, shards, folder / "first", max_steps=1)
    trainer.train()
    return trainer.data_collator.seen[0]


def run_process(towers: str, shards: str, output: str) -> None:
    """One of two processes: a run, and the same from its first checkpoint."""
    torch.set_num_threads(1)
    files, features = find_shards(shards, None)
    rank = os.environ["RANK"]
    got = {}
    for name, checkpoint in (("whole", None), ("resumed", Path(output, "whole", "checkpoint-2"))):
        options = {"ddp_backend": "gloo", "ddp_find_unused_parameters": True}
        trainer = make_trainer(
            Path(towers), ParquetShards(files["train"], features), Path(output, name), max_steps=4, **options
        )
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        got[name] = weights(trainer)
        got[f"{name}_batches"] = trainer.data_collator.seen
        got[f"{name}_turns"] = [(reader, tuple(position)) for reader, position in trainer._reader.turns]
    torch.save(got, Path(output, f"{rank}.pt"))


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_processes_read_different_rows_and_resume_exactly(towers, folder, tmp_path):
    done = subprocess.run(
        [sys.executable, *TORCHRUN, __file__, str(towers), str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert_same(first["whole"], second["whole"])
    for process in (first, second):
        assert_same(process["resumed"], process["whole"])
        assert len(process["whole_batches"]) == 9  # 4 steps of 2 batches, and one that lies ready: on each the same
        assert all(
            torch.equal(a, b) for a, b in zip(process["resumed_batches"], process["whole_batches"][4:], strict=True)
        )
        assert process["resumed_turns"] == process["whole_turns"]
    assert not torch.equal(first["whole_batches"][0], second["whole_batches"][0])


def test_what_a_stream_cannot_do_is_told_before_it_begins():
    def check(data=(), **options):
        given = {"max_steps": 5, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        check_streaming(DataArguments(**dict(data)), TrainingArguments(use_cpu=True, **(given | options)))

    check()
    with pytest.raises(ValueError, match="needs --max_steps"):
        check(max_steps=-1)
    with pytest.raises(ValueError, match="save_strategy is epoch.*--save_steps"):
        check(save_strategy="epoch")
    with pytest.raises(ValueError, match="eval_strategy is epoch"):
        check(eval_strategy="epoch")
    with pytest.raises(ValueError, match="max_train_samples"):
        check({"max_train_samples": 3})
    with pytest.raises(ValueError, match="image_feature_store"):
        check({"image_feature_store": "store"})
    with pytest.raises(ValueError, match="dataloader_in_order"):
        check(dataloader_in_order=False)


def test_options_of_the_stream_are_checked(shards, processor):
    with pytest.raises(ValueError, match="`order` is 'longest'; expected group_by_length"):
        make_stream(shards, processor, order="longest")
    with pytest.raises(ValueError, match="`shuffle_buffer` is 0"):
        make_stream(shards, processor, shuffle_buffer=0)
    with pytest.raises(ValueError, match="24 readers .* only 21 row groups"):
        BatchReader(make_stream(shards, processor), 4, 0, 8, 3)


def read_on(folder: Path, processor) -> None:
    files, features = find_shards(str(folder), None)
    epoch_of(make_stream(ParquetShards(files["train"], features), processor, order="sequential"), 0, 1)


def test_a_bad_row_is_told_with_its_file_when_it_is_read(processor, tmp_path):
    rows = make_rows(60).to_list()
    rows[45]["ner_tags"] = [2] + rows[45]["ner_tags"][1:]
    write(datasets.Dataset.from_list(rows, features=FEATURES), tmp_path)
    with pytest.raises(ValueError, match=r"train, row r45: 'I-LOC' came as tag 1 .*train-00002-of-00003"):
        read_on(tmp_path, processor)
    unnamed = datasets.Dataset.from_list(rows, features=FEATURES).remove_columns(["id", "lang", "image"])
    write(unnamed, tmp_path / "unnamed")
    with pytest.raises(ValueError, match=r"row 5 of row group 0 of \S*train-00002-of-00003.parquet: 'I-LOC'"):
        read_on(tmp_path / "unnamed", processor)


def test_tags_that_the_model_does_not_know(shards, processor):
    with pytest.raises(ValueError, match="tags B-PER, which the model does not know"):
        SentenceStream(shards, processor, {"O": 0, "B-LOC": 1})


def test_files_that_do_not_go_together_are_refused(folder, tmp_path):
    files = find_shards(str(folder), None)[0]["train"]
    table = pq.read_table(files[0])
    other = tmp_path / "other.parquet"
    pq.write_table(table.drop_columns("image"), other)
    with pytest.raises(ValueError, match=r"other.parquet has no column image, which others have"):
        ParquetShards([*files, str(other)])
    swapped = FEATURES | {"ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "B-LOC"]))}
    pq.write_table(table.replace_schema_metadata(datasets.Features(swapped).arrow_schema.metadata), other)
    with pytest.raises(ValueError, match=r"other.parquet has the tags O, B-PER, B-LOC, where others have O, B-L"):
        ParquetShards([*files, str(other)])
    other.write_bytes(Path(files[0]).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"other.parquet cannot be read as Parquet"):
        ParquetShards([*files, str(other)])
    pq.write_table(table.slice(0, 0), other)
    with pytest.raises(ValueError, match="hold no rows"):
        ParquetShards([str(other)])
    assert len(ParquetShards([files[0], str(other), files[1]])) == 67 + 67
    with pytest.raises(ValueError, match="No Parquet files"):
        ParquetShards([])


def test_files_without_names_of_tags_take_them_from_the_card(folder, processor, tmp_path):
    write(make_rows(30), tmp_path)
    for path in tmp_path.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata(None).cast(pa.schema(list(table.schema))), path)
    files = sorted(map(str, tmp_path.glob("*.parquet")))
    with pytest.raises(ValueError, match="expected a list of class labels"):
        label_names(ParquetShards(files))
    shards = ParquetShards(files, FEATURES)
    assert label_names(shards) == LABELS
    assert len(epoch_of(make_stream(shards, processor, max_length=None), 0, 1)) >= 30


def test_footers_tell_how_many_rows_have_an_image(loaded, shards):
    assert shards.counts == count_images(loaded) and 100 < shards.counts["samples_with_image"] < 200
    assert shards.select_columns(["tokens", "ner_tags"]).counts == {"samples": 200, "samples_with_image": 0}


def test_the_name_of_the_shards_is_that_of_their_rows(folder, shards, tmp_path):
    write(make_rows(200), tmp_path / folder.name)
    files = find_shards(str(tmp_path / folder.name), None)[0]["train"]
    assert ParquetShards(files).fingerprint == shards.fingerprint
    write(make_rows(200), tmp_path / folder.name, group=11)
    assert ParquetShards(files).fingerprint != shards.fingerprint


def test_only_what_is_needed_of_a_set_is_loaded(folder, tmp_path, monkeypatch):
    loaded = []
    whole = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: loaded.append(k["data_files"]) or whole(*a, **k))
    args = DataArguments(dataset=str(folder), streaming=True, max_eval_samples=5, use_images=False)
    splits = load_splits(args, ["train", "validation"], tmp_path)
    assert isinstance(splits["train"], ParquetShards) and len(splits["validation"]) == 5
    assert "image" not in splits["train"].column_names and "image" not in splits["validation"].column_names
    assert [list(files) for files in loaded] == [["validation"]]
    assert list(load_splits(args, ["train"], tmp_path)) == ["train"] and len(loaded) == 1
    with pytest.raises(ValueError, match="has the splits train, validation, but test would be needed"):
        load_splits(args, ["test"], tmp_path)


def test_a_set_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    for dataset, message in ((str(tmp_path), "holds none. Write them once"), ("probe", "the dataset is probe")):
        with pytest.raises(ValueError, match=message):
            load_splits(DataArguments(dataset=dataset, streaming=True), ["train"], tmp_path)
    with pytest.raises(ValueError, match="where captions mean nothing"):
        load_splits(DataArguments(dataset=str(tmp_path), streaming=True, captions="x"), ["train"], tmp_path)


def test_a_set_on_the_hub_is_read_where_it_lies(folder, tmp_path):
    from hub_server import HubServer

    code = """
import sys
from huggingface_hub import HfApi
from mmner.data.sentences.shards import ParquetShards, find_shards
HfApi().create_repo("org/set", repo_type="dataset")
HfApi().upload_folder(repo_id="org/set", repo_type="dataset", folder_path=sys.argv[1], allow_patterns="*.parquet")
files, features = find_shards("org/set", None)
assert list(files) == ["train", "validation"], files
assert all(file.startswith("hf://datasets/org/set@") for file in files["train"]), files
shards = ParquetShards(files["train"], features)
print(shards.counts)
print([row for group in (0, 20) for row in shards.read([group])["id"]])
"""
    with HubServer(tmp_path / "hub") as hub:
        (tmp_path / "home").mkdir()
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "home")}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "HF_HUB_DISABLE_XET": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr[-3000:]
    counts, ids = done.stdout.splitlines()[-2:]
    assert "'samples': 200" in counts
    ids = eval(ids, {})
    assert ids[:10] == [f"r{n}" for n in range(10)] and ids[10:] == [f"r{n}" for n in range(194, 200)]
    assert not list((tmp_path / "home").rglob("*.parquet"))  # nothing was downloaded whole


def test_a_run_from_the_command_line(folder, towers, tmp_path):
    import run_mmner

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"text_model: {towers / 'text'}\nvision_model: {towers / 'vision'}\ndataset: {folder}\nstreaming: true\n"
        "shuffle_buffer: 40\nmax_steps: 4\neval_strategy: steps\neval_steps: 2\nsave_strategy: steps\nsave_steps: 2\n"
        "save_total_limit: 3\nper_device_train_batch_size: 4\nuse_cpu: true\ndisable_tqdm: true\ndo_predict: false\n"
    )
    results = run_mmner.main([str(recipe), "--output_dir", str(tmp_path / "run")])
    assert results["train_samples"] == 200 and results["eval_samples"] == 9 and 0 <= results["eval_f1"] <= 1
    assert (tmp_path / "run" / "checkpoint-2" / "stream_0.json").is_file()
    assert "200" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(ValueError, match="needs --max_steps"):
        run_mmner.main([str(recipe), "--output_dir", str(tmp_path / "other"), "--max_steps", "-1"])


if __name__ == "__main__":
    run_process(*sys.argv[1:])
