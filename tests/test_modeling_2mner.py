"""The model: towers, the batch contract, collaborations, losses, saving and loading, a transformers model's duties."""

import functools
import itertools
from pathlib import Path

import own_process
import pytest
import stranger
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_models import (
    CLIP,
    IMAGE_SIZE,
    LABELS,
    TEXT_CONFIGS,
    VISION_CONFIGS,
    save_tower,
    tiny_batch,
    tiny_config,
    tiny_model,
)
from transformers import AutoModel, ViTMAEConfig

from configuration_2mner import ALIGNMENTS, COLLABORATIONS
from modeling_2mner import TwoMNERForTokenClassification, TwoMNERModel

IMAGE_KEYS = ("pixel_values", "image_index", "image_ids")
FUSIONS = [name for name in COLLABORATIONS if name != "none"]


def without(batch: dict, *names: str) -> dict:
    return {name: value for name, value in batch.items() if name not in names}


def text_of(batch: dict) -> dict:
    return without(batch, *IMAGE_KEYS, "labels")


def rows_of(batch: dict, rows: list[int]) -> dict:
    """Some rows of a batch, cut to what they need, as if they had been batched alone."""
    part = {name: value[rows] for name, value in without(batch, *IMAGE_KEYS).items()}
    index = batch["image_index"][rows]
    if used := sorted({*index.tolist()} - {-1}):
        part |= {name: batch[name][used] for name in ("pixel_values", "image_ids") if batch[name] is not None}
        part["image_index"] = torch.tensor([used.index(image) if image >= 0 else -1 for image in index.tolist()])
    tokens = int(part["attention_mask"].sum(1).max())
    words = max(1, int((part["word_starts"] >= 0).sum(1).max()))
    for name, length in (("input_ids", tokens), ("attention_mask", tokens), ("word_starts", words), ("labels", words)):
        part[name] = part[name][:, :length]
    return part


# Towers


@pytest.mark.parametrize(
    ("text", "vision"),
    [(text, "vit") for text in TEXT_CONFIGS] + [("bert", vision) for vision in VISION_CONFIGS if vision != "vit"],
)
def test_any_pair_of_towers_trains_and_keeps_its_weights(text, vision, tmp_path):
    configs = {"text": TEXT_CONFIGS[text], "vision": VISION_CONFIGS[vision]}
    folders = [save_tower(config, tmp_path / side) for side, config in configs.items()]
    options = {"labels": LABELS, "collaboration": "gated", "alignment": "clip", "projection_dim": 16}
    model = TwoMNERForTokenClassification.from_towers(*folders, **options)
    for folder, tower in zip(folders, (model.model.text_model, model.model.vision_model), strict=True):
        saved = AutoModel.from_pretrained(folder).state_dict()
        assert all(torch.equal(value, saved[name]) for name, value in tower.state_dict().items())
    model.train()
    model(**tiny_batch()).loss.backward()
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    model.requires_grad_(True)
    model(**tiny_batch()).loss.backward()
    assert frozen == [name for name, p in model.named_parameters() if p.grad is None]

    # Restored by `from_pretrained` from both formats, and by `load_state_dict`, as Trainer does (which only logs what
    # does not fit).
    model.save_pretrained(tmp_path / "now")
    model.save_pretrained(tmp_path / "original", save_original_format=True)
    restored = [TwoMNERForTokenClassification.from_pretrained(tmp_path / name) for name in ("now", "original")]
    assert frozen == [name for name, p in restored[0].named_parameters() if not p.requires_grad]
    restored.append(TwoMNERForTokenClassification(model.config))
    result = restored[-1].load_state_dict(load_file(tmp_path / "now" / "model.safetensors"), strict=False)
    assert not result.missing_keys and not result.unexpected_keys
    for again in restored:
        torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_masked_autoencoder_is_refused_unless_it_is_not_read(tmp_path):
    config = ViTMAEConfig(**VISION_CONFIGS["vit"].to_diff_dict())
    folders = save_tower(TEXT_CONFIGS["bert"], tmp_path / "text"), save_tower(config, tmp_path / "mae")
    with pytest.raises(Exception, match="`vit_mae`, which hides most patches at random"):
        TwoMNERForTokenClassification.from_towers(*folders, labels=LABELS)
    TwoMNERForTokenClassification.from_towers(*folders, labels=LABELS, collaboration="none")


def test_the_sides_of_a_text_image_model_are_towers(tmp_path):
    folder = save_tower(CLIP, tmp_path / "clip")
    model = TwoMNERForTokenClassification.from_towers(folder, folder, labels=LABELS)
    assert type(model.model.text_model).__name__ == "CLIPTextModel"
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    expected = AutoModel.from_pretrained(folder).vision_model(pixels).last_hidden_state
    torch.testing.assert_close(model.model.encode_images(pixels)[0], expected)


def test_second_tower_sees_the_pixels_in_its_own_normalization_and_size():
    model = tiny_model(
        collaboration="cross_attention",
        global_vision="resnet",
        image_normalization={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        global_image_normalization={"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]},
    )
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)

    def normalized(by):
        return (image - torch.tensor(by["mean"]).view(3, 1, 1)) / torch.tensor(by["std"]).view(3, 1, 1)

    _, pooled = model.model.encode_images(normalized(model.config.image_normalization))
    tower = model.model.global_vision_model
    expected = tower(normalized(model.config.global_image_normalization)).last_hidden_state.mean((2, 3))
    torch.testing.assert_close(pooled[:, 0], expected, atol=1e-5, rtol=1e-4)
    config = tiny_config(global_vision="vit")
    config.global_vision_config.image_size = 16  # and in its own size
    _, pooled = TwoMNERModel(config).encode_images(torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert pooled.shape == (2, 1, 24)


# Batch contract


@pytest.mark.parametrize("collaboration", FUSIONS)
@pytest.mark.parametrize("global_vision", [None, "resnet"])
def test_a_row_without_image_is_text_only(collaboration, global_vision):
    model = tiny_model(collaboration=collaboration, global_vision=global_vision)
    batch = tiny_batch()
    mixed, text_only = model(**batch), model(**text_of(batch))
    absent = batch["image_index"] < 0
    torch.testing.assert_close(mixed.logits[absent], text_only.logits[absent], atol=1e-5, rtol=0)
    assert torch.equal(mixed.predictions[absent], text_only.predictions[absent])
    # and the image of the others counts
    assert (mixed.logits[~absent] - text_only.logits[~absent]).abs().amax(dim=(1, 2)).min() > 1e-5


@pytest.mark.parametrize("collaboration", COLLABORATIONS)
def test_batch_equals_single(collaboration):
    model = tiny_model(collaboration=collaboration)
    batch = tiny_batch(num_rows=5, images=(1, 0, 2, 1, 3), words=(5, 3, 1, 4, 0))
    together = model(**batch)
    for row in range(5):
        alone = rows_of(batch, [row])
        single = model(**alone)
        num_words = alone["word_starts"].shape[1]
        torch.testing.assert_close(together.logits[row, :num_words], single.logits[0], atol=1e-5, rtol=0)
        assert torch.equal(together.predictions[row, :num_words], single.predictions[0])
        assert (together.predictions[row, num_words:] == -100).all()


def test_each_distinct_image_is_encoded_once_and_none_for_a_row_without():
    model, batch = tiny_model(), tiny_batch(num_rows=6, images=(5, 0, 9, 5, 5, 0), words=(2, 2, 2, 2, 2, 2))
    seen = []
    tower = model.model.vision_model
    tower.register_forward_pre_hook(lambda *call: seen.append(len(call[2]["pixel_values"])), with_kwargs=True)
    shared = model(**batch).logits
    assert seen == [2]
    index = batch["image_index"]
    pixels = batch["pixel_values"][index[index >= 0]]
    one_each = {"pixel_values": pixels, "image_index": torch.tensor([0, -1, 1, 2, 3, -1]), "image_ids": None}
    separate = model(**batch | one_each).logits
    assert seen == [2, 4]
    torch.testing.assert_close(shared, separate, atol=1e-5, rtol=0)
    model(**text_of(batch))
    assert seen == [2, 4]
    batch = tiny_batch(images=(1, 2, 3, 4))  # without an index, image i belongs to row i
    torch.testing.assert_close(model(**without(batch, "image_index")).logits, model(**batch).logits)


def test_a_word_is_read_at_its_first_token_and_without_word_starts_every_token_is_a_word():
    model, batch = tiny_model(collaboration="none"), tiny_batch()
    states = model.model.text_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    words, mask = model.model(**text_of(batch)).word_states, batch["word_starts"] >= 0
    rows = torch.arange(4)[:, None].expand_as(mask)
    torch.testing.assert_close(words[mask], states[rows[mask], batch["word_starts"][mask]])
    assert not words[~mask].any()
    # Wherever the padding is:
    ids, mask = torch.tensor([[7, 8, 9, 1, 1]]), torch.tensor([[1, 1, 1, 0, 0]])
    right = model(ids, mask)
    same_positions = torch.tensor([[0, 0, 0, 1, 2]])
    left = model(ids.roll(2, dims=1), mask.roll(2, dims=1), position_ids=same_positions)
    assert (right.predictions[0] >= 0).tolist() == [True] * 3 + [False] * 2
    torch.testing.assert_close(right.logits, left.logits, atol=1e-5, rtol=0)


# Training


@pytest.mark.parametrize("collaboration", COLLABORATIONS)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_option_learns_ten_rows_by_heart(collaboration, alignment):
    batch = tiny_batch(10, images=(1, 2, 0, 3, 4, 5, 0, 6, 7, 1), words=(4, 5, 3, 4, 5, 3, 4, 5, 3, 4))
    global_vision = "resnet" if collaboration == "cross_attention" else None
    options = {"collaboration": collaboration, "alignment": alignment, "alignment_weight": 0.1}
    model = tiny_model(global_vision=global_vision, **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    moved = {name for name, p in model.named_parameters() if not p.requires_grad}
    for _ in range(150):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        learnt = torch.equal(model.eval()(**batch).predictions, batch["labels"])
        model.train()
        if learnt:
            break
    assert learnt, f"not learnt in 150 steps, loss {loss.item():.3f}"
    # Constant keys are cancelled by the softmax over them: their bias is the one gradient that is zero by design.
    still = [name for name, _ in model.named_parameters() if name not in moved]
    assert not [name for name in still if not name.endswith("k_proj.bias") and "key.bias" not in name]


def test_loss_is_the_weighted_sum_of_its_parts():
    weights = {"ner_weight": 1.6, "alignment_weight": 0.4, "consistency_weight": 0.7}
    output = tiny_model(alignment="siglip", collaboration="umt", **weights)(**tiny_batch())
    parts = 1.6 * output.ner_loss + 0.4 * output.alignment_loss + 0.7 * output.consistency_loss
    torch.testing.assert_close(output.loss, parts)
    assert min(output.ner_loss, output.alignment_loss, output.consistency_loss) > 0


@pytest.mark.parametrize("saved", [None, "softmax", "crf"])
def test_softmax_head_is_cross_entropy_and_argmax(saved, tmp_path):
    model, batch = tiny_model(tagging_head=saved or "softmax"), tiny_batch()
    if saved is not None:
        torch.nn.init.normal_(model.crf.transitions)
        model.save_pretrained(tmp_path)
        model = TwoMNERForTokenClassification.from_pretrained(tmp_path, tagging_head="softmax")
    output = model(**batch)
    words = batch["word_starts"] >= 0
    expected = F.cross_entropy(output.logits[words], batch["labels"][words], reduction="sum") / 4
    torch.testing.assert_close(output.ner_loss, expected)
    assert torch.equal(output.predictions[words], output.logits.argmax(-1)[words])
    assert not any(p.requires_grad for p in model.crf.parameters())


def test_consistency_is_the_kl_of_the_posteriors():
    model, batch = tiny_model(consistency_weight=1.0, collaboration="cross_attention"), tiny_batch()
    output, text = model(**batch), model(**text_of(batch))
    mask = batch["word_starts"] >= 0
    p, q = model.crf.marginals(output.logits, mask)[mask], model.crf.marginals(text.logits, mask)[mask]
    expected = torch.where(p > 0, p * (p / q).log(), 0).sum() / 4
    torch.testing.assert_close(output.consistency_loss, expected, atol=1e-5, rtol=1e-4)


def test_modality_dropout_hides_images_in_training_alone():
    batch = tiny_batch(num_rows=4, images=(1, 2, 3, 4), words=(2, 2, 2, 2))
    model = tiny_model(modality_dropout=1.0)
    text = model(**text_of(batch)).logits
    assert not torch.allclose(model(**batch).logits, text, atol=1e-4)
    torch.testing.assert_close(model.train()(**batch).logits, text, atol=1e-5, rtol=0)
    half = tiny_model(modality_dropout=0.5).train()
    torch.manual_seed(0)
    shown = sum(int((half.model(**without(batch, "labels")).image_index >= 0).sum()) for _ in range(200))
    assert 340 < shown < 460


@pytest.mark.parametrize("collaboration", COLLABORATIONS)
@pytest.mark.parametrize("alignment", ["none", "token"])
def test_a_training_batch_without_images_leaves_no_parameter_out(collaboration, alignment):
    model = tiny_model(collaboration=collaboration, alignment=alignment).train()
    model(**without(tiny_batch(), *IMAGE_KEYS)).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name in missing if not name.startswith("model.vision_model.")]


@pytest.mark.parametrize("vision", ["resnet", "efficientnet"])
def test_batch_norm_keeps_its_statistics(vision):
    model = tiny_model(vision=vision).train()
    before = {name: value.clone() for name, value in model.named_buffers() if name.endswith("running_mean")}
    model(**tiny_batch()).loss.backward()
    assert before and all(torch.equal(value, model.get_buffer(name)) for name, value in before.items())


def test_frozen_parts_rest_and_the_others_train():
    model = tiny_model()
    model.model.vision_model.requires_grad_(False)
    model.model.text_model.embeddings.requires_grad_(False)
    model.train()
    assert not any(m.training for m in model.model.vision_model.modules())
    assert not any(m.training for m in model.model.text_model.embeddings.modules())
    assert model.model.text_model.encoder.layer[0].training and model.dropout.training
    model.model.requires_grad_(True)
    assert model.train().model.text_model.embeddings.training


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(alignment="clip").train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**tiny_batch()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("collaboration", [name for name in FUSIONS if name != "evidence"])
@pytest.mark.parametrize("global_vision", [None, "resnet"])
def test_only_rows_with_an_image_run_through_the_collaboration(collaboration, global_vision, monkeypatch):
    """The result and the gradient are those of running all rows, as sharded processes do."""
    model = tiny_model(collaboration=collaboration, global_vision=global_vision, alignment="clip")
    batch = tiny_batch(num_rows=6, images=(1, 0, 2, 1, 0, 4), words=(2, 5, 3, 4, 2, 3))
    outcomes, rows = [], []
    model.model.collaboration.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    for way in ("some", "all"):
        if way == "all":
            monkeypatch.setattr("modeling_2mner.is_sharded", lambda module: module is model.model.collaboration)
        model.zero_grad()
        outputs = model(**batch)
        outputs.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        outcomes.append((outputs.loss, outputs.logits, gradients))
    assert rows == [4, 6]
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-4, atol=1e-6)


# Processes


TOGETHER = [*((alignment, "gated") for alignment in ALIGNMENTS), ("none", "evidence"), ("token", "evidence")]
# With ids, an image that both processes show is known to be the same; without, all images differ.
SIX_ROWS = {"with ids": (1, 0, 2, 1, 3, 4), "without ids": (1, 0, 2, 5, 3, 4)}


def _model_of(alignment: str, collaboration: str) -> TwoMNERForTokenClassification:
    """With new layers large enough for the influence of other rows to be seen in the loss."""
    return tiny_model(alignment=alignment, collaboration=collaboration, initializer_range=0.5).train()


def _six_rows(kind: str) -> dict[str, torch.Tensor]:
    batch = tiny_batch(num_rows=6, images=SIX_ROWS[kind], words=(2, 5, 3, 4, 2, 3))
    return batch if kind == "with ids" else batch | {"image_ids": None}


def run_process(folder: str):
    """On each of two processes: loss and gradients of its half of a batch, and of a step in which one has no image."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)  # a forked child has no OpenMP threads but its own
    rank = dist.get_rank()
    results = {}
    for (alignment, collaboration), kind in itertools.product(TOGETHER, SIX_ROWS):
        half = rows_of(_six_rows(kind), [3 * rank, 3 * rank + 1, 3 * rank + 2])
        model = DistributedDataParallel(_model_of(alignment, collaboration))
        loss = model(**half).loss
        loss.backward()
        losses = torch.stack([loss.detach(), model.eval()(**half).loss.detach()])
        dist.all_reduce(losses)
        gradients = {name: p.grad.clone() for name, p in model.module.named_parameters()}
        results[alignment, collaboration, kind] = (losses / 2, gradients)
        # One process without any image, the other with: nobody waits, no parameter is missing.
        for steps in range(2):
            step = half if rank == steps else without(half, *IMAGE_KEYS)
            model.train()(**step).loss.backward()
            with torch.no_grad():
                model.eval()(**step)
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict:
    return own_process.run_two(__file__, tmp_path_factory.mktemp("processes"))[0]


@pytest.mark.parametrize("kind", SIX_ROWS)
@pytest.mark.parametrize(("alignment", "collaboration"), TOGETHER)
def test_two_processes_equal_one_of_twice_the_batch(two_processes, alignment, collaboration, kind):
    batch = _six_rows(kind)
    model = _model_of(alignment, collaboration)
    loss = model(**batch).loss
    loss.backward()
    losses, gradients = two_processes[alignment, collaboration, kind]
    expected = torch.stack([loss, model.eval()(**batch).loss]).detach()
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    expected_gradients = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-5)


# Saving and loading

LOADER = """
import torch
from transformers import AutoModel, AutoModelForTokenClassification
batch = torch.load("batch.pt")
tagger = AutoModelForTokenClassification.from_pretrained("model", trust_remote_code=True)
base = AutoModel.from_pretrained("model", trust_remote_code=True)
batch.pop("labels")
torch.save({"logits": tagger(**batch).logits, "words": base(**batch).word_states}, "out.pt")
tagger.save_pretrained("again")
"""


def test_saved_folder_works_alone_offline_in_another_process(tmp_path):
    model, batch = tiny_model(alignment="token", collaboration="umt"), tiny_batch()
    torch.nn.init.normal_(model.crf.transitions)
    torch.nn.init.constant_(model.classifier.bias[LABELS.index("I-LOC")], 3)  # the CRF's constraints will matter
    model.save_pretrained(tmp_path / "model")
    torch.save(batch, tmp_path / "batch.pt")
    _, said = stranger.run(LOADER, tmp_path)
    for word in ("UNEXPECTED", "MISSING", "newly initialized", "not used", "Warning"):
        assert word not in said, said
    loaded, again = torch.load(tmp_path / "out.pt"), tmp_path / "again"
    torch.testing.assert_close(loaded["logits"], model(**batch).logits, atol=0, rtol=0)
    words = model.model(**without(batch, "labels")).word_states
    torch.testing.assert_close(loaded["words"], words, atol=0, rtol=0)
    assert {path.name for path in again.iterdir()} == {path.name for path in (tmp_path / "model").iterdir()}
    loaded = TwoMNERForTokenClassification.from_pretrained(again)
    assert torch.equal(loaded(**batch).predictions, model(**batch).predictions)


def test_base_and_tagger_share_their_weights(tmp_path):
    model = tiny_model(alignment="clip")
    model.save_pretrained(tmp_path / "tagger")
    TwoMNERModel.from_pretrained(tmp_path / "tagger").save_pretrained(tmp_path / "base")
    tagger = TwoMNERForTokenClassification.from_pretrained(tmp_path / "base")
    torch.testing.assert_close(tagger.model.state_dict(), model.model.state_dict(), rtol=0, atol=0)


# Duties of a transformers model


@pytest.mark.parametrize("collaboration", FUSIONS)
def test_eager_attention_is_that_of_fused_kernels(collaboration):
    towers = {"vision": "siglip-vision", "global_vision": "vit"}
    model, batch = tiny_model(collaboration=collaboration, **towers), tiny_batch()
    model.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == 2 and len(output.hidden_states) == 3
    model.set_attn_implementation("sdpa")
    assert model.model.text_model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(output.logits, model(**batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_crf_in_full(dtype, tmp_path):
    model, batch = tiny_model(), tiny_batch()
    model.save_pretrained(tmp_path)
    half = TwoMNERForTokenClassification.from_pretrained(tmp_path, dtype=dtype)
    assert half.dtype == dtype and half.crf.transitions.dtype == torch.float32
    folder = save_tower(CLIP, tmp_path / "clip")
    new = TwoMNERForTokenClassification.from_towers(folder, folder, labels=LABELS, dtype=dtype)
    assert new.classifier.weight.dtype == dtype and new.crf.transitions.dtype == torch.float32
    output = half(**batch)
    assert output.logits.dtype == dtype and output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.float(), model(**batch).logits, atol=0.05, rtol=0.05)


def test_autocast_computes_the_crf_in_full_precision():
    model, batch = tiny_model(alignment="clip"), tiny_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model.train()(**batch)
    assert output.logits.dtype == torch.bfloat16
    mask = batch["word_starts"] >= 0
    expected = -model.crf.log_likelihood(output.logits.float(), batch["labels"], mask).mean()
    torch.testing.assert_close(output.ner_loss, expected)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Errors


def test_a_replica_of_data_parallel_is_refused():
    model = tiny_model()
    model.model._is_replica = True
    with pytest.raises(ValueError, match="Launch one process per GPU"):
        model(**tiny_batch())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(4, 2, dtype=torch.long)}, r"`labels` has shape \(4, 2\); expected \(4, 5\)"),
        ({"pixel_values": torch.zeros(4, 3, 32)}, r"`pixel_values` has shape \(4, 3, 32\)"),
        ({"word_starts": torch.zeros(5, 2, dtype=torch.long)}, r"`word_starts` has shape \(5, 2\)"),
        ({"input_ids": None}, "Pass either `input_ids` or `inputs_embeds`"),
    ],
)
def test_bad_input_says_what_was_expected(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{**tiny_batch(), **change})


def test_labels_that_are_not_iob2_need_a_softmax(tmp_path):
    labels = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    with pytest.raises(ValueError, match="an IOB2 label is .* A CRF .* take tagging_head='softmax'"):
        tiny_model(labels=labels)
    output = tiny_model(labels=labels, tagging_head="softmax")(**tiny_batch())
    assert output.logits.shape[-1] == 5 and output.loss.isfinite()
    folder = save_tower(TEXT_CONFIGS["bert"], tmp_path)
    from_towers = functools.partial(TwoMNERForTokenClassification.from_towers, folder, folder, collaboration="none")
    with pytest.raises(ValueError, match="A CRF .* take tagging_head='softmax'"):
        from_towers(labels=labels)
    assert from_towers(labels=labels, tagging_head="softmax").config.labels == labels
    assert from_towers(labels=["LABEL_0", "LABEL_1"]).crf.allowed_start is None
    for head, wrong in itertools.product(("crf", "softmax"), ([], ["O", "O"])):
        with pytest.raises(ValueError, match="expected at least one label, and each once"):
            from_towers(labels=wrong, tagging_head=head)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alignment": "cosine"}, "`alignment` is 'cosine'; expected one of none, nt_xent, clip, siglip, token"),
        ({"modality_dropout": 1.5}, "`modality_dropout` is 1.5; expected a probability"),
        ({"alignment_weight": -1}, "`alignment_weight` is -1; expected 0 or more"),
        ({"image_normalization": {"mean": [0], "std": [1]}}, "needs both, or neither"),
        ({"collaboration_heads": 5}, "`collaboration_heads` is 5; expected a divisor"),
    ],
)
def test_bad_options_say_what_was_expected(options, message):
    with pytest.raises(Exception, match=message):  # StrictDataclassClassValidationError, of no public module
        tiny_model(**options)
