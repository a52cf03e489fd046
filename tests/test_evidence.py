"""The evidence collaboration: its mixture and its losses against loops, what reaches the text, what it can learn."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_batch, tiny_config, tiny_model

import run_mmner
from collaboration_2mner import Collaboration, EvidenceCollaboration

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PER, LOC = 1, 3


def make_module(seed=0, **options) -> EvidenceCollaboration:
    torch.manual_seed(seed)
    module = EvidenceCollaboration(tiny_config(labels=LABELS, collaboration="evidence", **options))
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    return module.eval()


def make_fused(module, rows=3, words=4, seed=1) -> Collaboration:
    torch.manual_seed(seed)
    width = module.image_projection.linear.out_features
    return Collaboration(torch.randn(rows, words, width), image_evidence=torch.randn(rows, 3))


def fits(fused, image, kind) -> float:
    """exp f of an image and a type."""
    return math.exp(float(fused.image_evidence[image, kind]))


def anything(fused, image) -> float:
    return math.exp(float(fused.image_evidence[image, 2]))


def test_evidence_is_the_mixtures_log_ratio_between_types():
    module = make_module()
    fused = make_fused(module)
    logits = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    has_image = torch.tensor([True, True, False])
    with torch.no_grad():
        found, gates = module.weigh(logits, fused, mask, has_image)
        shown = torch.sigmoid(module.shown(module.word_norm(fused.word_states))).squeeze(-1)
        expected = logits.clone()
        for row in (0, 1):
            words = range(int(mask[row].sum()))
            posterior = logits[row].softmax(-1)
            g = anything(fused, row)
            ratio = {
                (word, kind): s * fits(fused, row, kind) + (1 - s) * g
                for word, s in zip(words, shown[row].tolist(), strict=False)
                for kind in (0, 1)
            }

            def mixture(entities, g=g):  # [(expected number, ratio)], and the grain that is not shown
                return (0.01 * g + sum(n * r for n, r in entities)) / (0.01 + sum(n for n, _ in entities))

            for word in words:
                others = [
                    (posterior[other, tag].item(), ratio[other, kind])
                    for other in words
                    for kind, tag in enumerate((PER, LOC))
                    if other != word
                ]
                there = [mixture([*others, (1.0, ratio[word, kind])]) ** module.WEIGHT for kind in (0, 1)]
                share = posterior[word, PER].item() / (posterior[word, PER] + posterior[word, LOC]).item()
                mean = share * there[0] + (1 - share) * there[1]
                for kind, tag in enumerate((PER, LOC)):
                    expected[row, word, tag] += math.log(there[kind]) - math.log(mean)
    assert torch.allclose(found, expected, atol=1e-4)
    odds = (found[:2].exp()[..., [PER, LOC]].sum(-1), logits[:2].exp()[..., [PER, LOC]].sum(-1))
    assert torch.allclose(*odds, rtol=1e-4)  # that an entity begins there is as likely as before
    assert ((gates[:2] >= 0) & (gates[:2] <= 1)).all()
    assert (gates.sum(1) <= 1 + 1e-6).all()  # at most one entity is the one that is shown
    assert not gates[2].any()
    assert not gates[1, 3]


def test_loss_tells_own_images_from_others():
    module = make_module()
    fused = make_fused(module, rows=4)
    fused.image_evidence[2] = fused.image_evidence[0]  # rows 0 and 2 show one image
    ids, has_image = torch.tensor([7, 8, 7, 0]), torch.tensor([True, True, True, False])
    labels = torch.tensor([[PER, 2, 0, LOC], [0, LOC, 0, -100], [0, 0, 0, 0], [PER, 0, 0, 0]])
    own, others = [], []
    with torch.no_grad():
        found = module.loss(fused, labels, has_image, ids)
        shown = torch.sigmoid(module.shown(module.word_norm(fused.word_states))).squeeze(-1).tolist()
        for row in (0, 1):  # row 2 has no entity, row 3 no image
            entities = [
                (s, (PER, LOC).index(tag))
                for s, tag in zip(shown[row], labels[row].tolist(), strict=True)
                if tag in (PER, LOC)
            ]
            for image in (0, 1, 2):
                ratio = sum(
                    (1 - s) * anything(fused, image) + s * fits(fused, image, kind) for s, kind in entities
                ) / len(entities)
                if image == row:
                    own.append(-math.log(ratio / (1 + ratio)))
                elif ids[image] != ids[row]:
                    others.append(-math.log(1 / (1 + ratio)))
    assert len(others) == 3
    assert found.item() == pytest.approx(sum(own) / len(own) + sum(others) / len(others), abs=1e-5)
    assert module.loss(fused, torch.zeros_like(labels), has_image, ids).item() == 0


def test_the_text_is_trained_as_it_would_be_without_images():
    model, batch = tiny_model(collaboration="evidence").train(), tiny_batch()
    model(**batch).evidence_loss.backward()
    towers = dict(model.model.text_model.named_parameters()) | dict(model.classifier.named_parameters())
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in towers.values())
    reading = [name for name, value in model.model.collaboration.named_parameters() if value.grad.any()]
    assert {"shown.weight", "image_types.weight", "image_projection.linear.weight"} <= set(reading)


@pytest.mark.parametrize("global_vision", [None, "resnet"])
def test_a_fresh_model_has_the_text_model_of_one_without_images(global_vision):
    expected = tiny_model(collaboration="none").state_dict()
    found = tiny_model(collaboration="evidence", global_vision=global_vision).state_dict()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_images_take_no_random_number_from_the_text():
    """Neither in a batch, whose image tower is trained and drops out, too, nor from the next one."""
    model, batch = tiny_model(collaboration="evidence", dropout=0.3).train(), tiny_batch()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    losses = []
    for inputs in (batch, {name: value for name, value in batch.items() if name not in ("pixel_values", "image_ids")}):
        torch.manual_seed(5)
        losses.append(torch.stack([model(**inputs).ner_loss for _ in range(2)]))
    assert torch.equal(*losses)
    assert losses[0][0] != losses[0][1]


def test_consistency_teaches_the_text():
    model = tiny_model(collaboration="evidence", consistency_weight=1.0).train()
    assert not model.config.leaves_text_alone
    model(**tiny_batch()).consistency_loss.backward()
    assert model.classifier.weight.grad.any()


def test_a_run_has_the_text_model_of_a_run_without_images(tmp_path):
    options = ["--probe_sentences", "80", "--max_steps", "3", "--learning_rate", "5e-3", "--use_cpu", "true"]
    options += ["--alignment", "none", "--modality_dropout", "0.2", "--disable_tqdm", "true", "--max_grad_norm", "0.5"]
    options += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--do_eval", "false"]
    options += ["--do_predict", "false", "--gradient_accumulation_steps", "2"]
    weights = {}
    for collaboration in ("evidence", "none"):
        run_mmner.main([*options, "--collaboration", collaboration, "--output_dir", str(tmp_path / collaboration)])
        weights[collaboration] = load_file(tmp_path / collaboration / "model.safetensors")
    assert all(torch.equal(weights["evidence"][name], value) for name, value in weights["none"].items())
    assert any("collaboration" in name for name in weights["evidence"])


def test_the_learned_ratio_is_the_ratio_of_densities():
    """Two images; one entity a sentence. What is learned is log p(image | type) / p(image), known here."""
    torch.manual_seed(0)
    module = EvidenceCollaboration(tiny_config(labels=LABELS, collaboration="evidence", dropout=0.0)).train()
    width = module.image_projection.linear.in_features
    pictures, words = torch.randn(2, 1, width), torch.zeros(256, 1, module.image_types.in_features)
    given_type = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # type, image
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    has_image = torch.ones(256, dtype=torch.bool)
    for _ in range(400):
        kinds = torch.randint(2, (256,))
        images = torch.multinomial(given_type[kinds], 1).squeeze(1)
        fused = module(words, has_image, pictures[images], None, has_image)
        # As far as the loss knows, no two images are equal: then others are drawn as often as they come.
        loss = module.loss(fused, torch.tensor([PER, LOC])[kinds][:, None], has_image, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        fused = module(words[:2], has_image[:2], pictures, None, has_image[:2])
        ratio, s = fused.image_evidence.exp(), torch.sigmoid(module.shown(module.word_norm(words[0, 0])))
        learned = ((1 - s) * ratio[:, 2:] + s * ratio[:, :2]).log().T  # type, image
    marginal = given_type.mean(0)
    assert torch.allclose(learned, (given_type / marginal).log(), atol=0.15)


def test_types_of_images_are_learned_without_being_told_which_entity_is_shown():
    """Half of the images are unrelated; a related one shows one of two entities: only their types are given."""
    module = make_module(dropout=0.0).train()
    torch.manual_seed(3)
    width = module.image_projection.linear.in_features
    centres = torch.randn(2, width)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(150):
        labels = torch.where(torch.rand(16, 2) < 0.5, PER, LOC)
        shown = torch.where(torch.rand(16) < 0.5, labels[:, 0], torch.where(torch.rand(16) < 0.5, PER, LOC))
        pixels = centres[(shown == LOC).long()][:, None] + 0.3 * torch.randn(16, 1, width)
        has_image = torch.ones(16, dtype=torch.bool)
        words = torch.randn(16, 2, module.image_types.in_features)
        fused = module(words, has_image, pixels, None, has_image)
        loss = module.loss(fused, labels, has_image, torch.arange(1, 17))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        yes = torch.ones(2, dtype=torch.bool)
        types = module(torch.zeros(2, 1, words.shape[-1]), yes, centres[:, None], None, yes).image_evidence[:, :2]
    difference = types[:, 0] - types[:, 1]
    assert difference[0] > 1 > -1 > difference[1]


def test_what_is_shown_is_told_by_its_word():
    """Beside one word the image is that of the type, beside the other any: s is high for the first alone."""
    torch.manual_seed(0)
    module = EvidenceCollaboration(tiny_config(labels=LABELS, collaboration="evidence", dropout=0.0)).train()
    width = module.image_projection.linear.in_features
    pictures, words = torch.randn(2, width), torch.randn(2, module.shown.in_features)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    has_image = torch.ones(64, dtype=torch.bool)
    for _ in range(150):
        kinds, word = torch.randint(2, (2, 64))
        images = torch.where(word == 0, kinds, torch.randint(2, (64,)))
        fused = module(words[word][:, None], has_image, pictures[images][:, None], None, has_image)
        loss = module.loss(fused, torch.tensor([PER, LOC])[kinds][:, None], has_image, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        often, seldom = torch.sigmoid(module.shown(module.word_norm(words))).squeeze(-1).tolist()
    assert often > 0.8 > 0.3 > seldom


def test_labels_without_entities_are_refused():
    config = tiny_config(labels=("LABEL_0", "LABEL_1"), collaboration="evidence")
    with pytest.raises(ValueError, match='LABEL_0, LABEL_1; `collaboration="evidence"`.*Give IOB2 labels'):
        EvidenceCollaboration(config)
