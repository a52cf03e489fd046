"""The ONNX export against the PyTorch model."""

import copy
import math
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_one_image import save_photograph
from tiny_models import IMAGE_SIZE, tiny_batch, tiny_model
from tiny_pipelines import TEXTS, plain_image, same
from written_files import contents_of

import onnx_2mner
from modeling_2mner import TwoMNERForTokenClassification
from onnx_2mner import EXPORT_FILE, IMAGE_GRAPH, TEXT_GRAPH, OnnxEmissions, export_onnx, fingerprint
from pipeline_2mner import TwoMNERPipeline

for name in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(name)


class FixedInputs:
    """As much of a processor as an export asks for: images of one size, some sentences."""

    def __call__(self, text):
        return batch_of((0, 0, 0), (5, 7, 2))

    def pixel_values(self, image):
        return torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)


def varied_model(**options):
    """A tiny model whose image counts and whose tags vary."""
    model = tiny_model(**options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def exported(folder, model, processor=None, **options) -> OnnxEmissions:
    return OnnxEmissions(export_onnx(model, processor or FixedInputs(), folder, **options))


@pytest.fixture(scope="module")
def gated(ner, tmp_path_factory):
    """The recommended collaboration."""
    return ner.model, exported(tmp_path_factory.mktemp("gated"), ner.model, ner.processor)


@pytest.fixture(scope="module", params=["gated", "paper", "evidence"])
def any_export(request, tmp_path_factory):
    """The recommended collaboration; the paper's with its two image towers; the evidence head with two."""
    if request.param == "gated":
        return request.getfixturevalue("gated")
    options = {"collaboration": "evidence"}
    if request.param == "paper":
        options = {"text": "xlm-roberta", "vision": "clip-vision", "collaboration": "cross_attention"}
    model = varied_model(global_vision="resnet", **options)
    return model, exported(tmp_path_factory.mktemp(request.param), model)


def batch_of(image_ids, words, seed=0):
    batch = tiny_batch(len(words), image_ids, seed=seed, words=words)
    del batch["labels"]
    return batch


@torch.no_grad()
def expected_logits(model, batch):
    return model(**batch).logits.numpy()


def assert_close(got, want):
    """To 1e-5 of the largest logit, or of 1."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


# The graphs


@pytest.mark.parametrize(
    ("image_ids", "words"),
    [((1, 0, 2, 1), (5, 3, 1, 4)), ((0, 0, 0), (2, 6, 1)), ((3,), (1,)), ((4, 4), (0, 3)), (range(1, 10), range(9))],
)
def test_logits_equal_the_models(any_export, image_ids, words):
    model, emissions = any_export
    batch = batch_of(image_ids, words)
    got, want = emissions(**batch), expected_logits(model, batch)
    assert got.dtype == np.float32
    assert_close(got, want)
    mask = batch["word_starts"] >= 0
    assert model.crf.decode(torch.from_numpy(got), mask).equal(model.crf.decode(torch.from_numpy(want), mask))


def test_an_image_changes_its_row_and_no_other(any_export):
    _, emissions = any_export
    batch = batch_of((1, 0, 2, 1), (5, 3, 1, 4))
    got = emissions(**batch)
    text = emissions(**{name: batch[name] for name in ("input_ids", "attention_mask", "word_starts")})
    np.testing.assert_array_equal(got[1], text[1])  # the very same numbers, not only close ones
    for row, words in ((0, 5), (2, 1), (3, 4)):
        assert np.abs(got[row, :words] - text[row, :words]).max() > 1e-3


def test_numpy_and_torch_inputs_stored_images_and_captions(gated, ner):
    model, emissions = gated
    batch = batch_of((1, 0, 2, 1), (4, 2, 3, 1))
    got = emissions(**batch)
    np.testing.assert_array_equal(emissions(**{name: value.numpy() for name, value in batch.items()}), got)
    pixels = batch.pop("pixel_values")
    states, global_states = emissions.encode_images(pixels)
    assert global_states is None
    np.testing.assert_array_equal(emissions(**batch, image_features=states), got)
    with pytest.raises(ValueError, match=r"`pixel_values` has shape .* the size that the processor had at the export"):
        emissions(**batch, pixel_values=pixels[..., :16])
    batch = ner.processor(["Jordan won in Paris."], captions=["a man runs"])
    assert_close(emissions(**batch), expected_logits(model, batch))


def test_a_text_tagger_is_one_graph_and_int8_is_near(tmp_path):
    import onnx

    model = varied_model(collaboration="none", tagging_head="softmax").train()
    exact = exported(tmp_path / "float32", model)
    assert model.training  # as it was
    small = exported(tmp_path / "int8", model.eval(), quantize=True)
    assert (exact.precision, small.precision) == ("float32", "int8")
    assert files_of(tmp_path / "int8") == [EXPORT_FILE, TEXT_GRAPH]
    batch = batch_of((1, 0, 2, 1), (5, 3, 1, 4))
    want = expected_logits(model, batch)
    assert_close(exact(**batch), want)
    error = np.abs(small(**batch) - want).max()
    assert 1e-4 < error < 0.1 * want.std()  # rounded, but not wrong
    weights = onnx.load(tmp_path / "int8" / TEXT_GRAPH).graph.initializer
    floats = [list(weight.dims) for weight in weights if weight.data_type == onnx.TensorProto.FLOAT]
    assert all(math.prod(dims) < 100 for dims in floats), "a matrix is left in float32"


def test_products_whose_input_has_outliers_stay_exact(tmp_path, monkeypatch):
    """A feature that is blown up in one layer's inner activations, as pretrained encoders have them."""
    model = varied_model(collaboration="none")
    layer = model.model.text_model.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.bias[7] = 400.0
        layer.output.dense.weight[:, 7] = 0.01
    batch = batch_of((0, 0, 0, 0), (5, 3, 1, 4))
    want, errors = expected_logits(model, batch), []
    for widest in (50.0, 6.9):  # one of 48 features holds all there is: its value is sqrt(48) root mean squares
        monkeypatch.setattr(onnx_2mner, "MAX_INPUT_RANGE", widest)
        errors.append(np.abs(exported(tmp_path / str(widest), model, quantize=True)(**batch) - want).mean())
    assert errors[1] < errors[0] / 2


def files_of(folder) -> list[str]:
    return sorted(contents_of(folder))


def test_an_export_replaces_the_one_before_and_nothing_else(tmp_path, monkeypatch):
    """What the new model has no use for must not lie about; what no export wrote stays."""
    monkeypatch.setattr(onnx_2mner, "_export", lambda graph, inputs, outputs, path: path.write_text(path.name))
    (tmp_path / "config.json").write_text("{}")
    export_onnx(varied_model(), FixedInputs(), tmp_path)
    assert files_of(tmp_path) == ["config.json", "fusion.onnx", "image.onnx", "onnx.json", "text.onnx"]
    export_onnx(varied_model(collaboration="none"), FixedInputs(), tmp_path)
    assert files_of(tmp_path) == ["config.json", "onnx.json", "text.onnx"]
    (tmp_path / "image.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="holds image.onnx, which no export wrote; remove or move it"):
        export_onnx(varied_model(), FixedInputs(), tmp_path)
    assert (tmp_path / "image.onnx").read_text() == "mine"


@pytest.mark.parametrize("at", ["_export", "_hash_of", "replace"])
def test_an_export_that_is_broken_off_is_not_taken_for_a_whole_one(at, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_2mner, "_export", lambda graph, inputs, outputs, path: path.write_text(path.name))
    export_onnx(varied_model(collaboration="none"), FixedInputs(), tmp_path)
    before = contents_of(tmp_path)
    calls, replace = [], Path.replace

    def fail(*args):
        calls.append(args)
        if at != "replace" or len(calls) == 3:
            raise RuntimeError("stop here")
        return replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Path if at == "replace" else onnx_2mner, at, fail)
        with pytest.raises(RuntimeError, match="stop here"):
            export_onnx(varied_model(), FixedInputs(), tmp_path)
    if at == "replace":
        with pytest.raises(ValueError, match=r"does not hold what its onnx.json lists: .*export the model again"):
            OnnxEmissions(tmp_path)
    else:
        assert contents_of(tmp_path) == before
    export_onnx(varied_model(), FixedInputs(), tmp_path)
    assert files_of(tmp_path) == ["fusion.onnx", "image.onnx", "onnx.json", "text.onnx"]


def test_only_float32_is_exported(tmp_path):
    with pytest.raises(ValueError, match="in torch.bfloat16; load it with dtype=torch.float32"):
        export_onnx(tiny_model().to(torch.bfloat16), FixedInputs(), tmp_path)


# The export of a given model


@pytest.fixture
def export(gated, tmp_path):
    """A model and a copy of its export."""
    model, emissions = gated
    return model, Path(shutil.copytree(emissions.folder, tmp_path / "export"))


@pytest.mark.parametrize("place", [".", "onnx"])
def test_true_is_the_export_in_the_models_folder_as_it_is(export, place, monkeypatch, tmp_path):
    model, folder = export
    shutil.copytree(folder, tmp_path / "model" / place)
    (tmp_path / "model" / "config.json").write_text("{}")  # not of the export, and no matter
    monkeypatch.setattr(model.config, "_name_or_path", str(tmp_path / "model"))
    monkeypatch.setattr(onnx_2mner, "export_onnx", None)  # not needed
    assert OnnxEmissions.for_model(model).folder == tmp_path / "model" / place
    assert OnnxEmissions.for_model(model, folder).folder == folder


def test_without_an_export_the_error_says_what_to_type(export, monkeypatch, tmp_path):
    model, folder = export
    monkeypatch.chdir(folder)  # which is no place of a model that was not loaded
    (tmp_path / "snapshot").mkdir()
    monkeypatch.setattr(onnx_2mner, "snapshot_download", lambda *args, **options: str(tmp_path / "snapshot"))
    for place, message in (
        (str(tmp_path), f"export_onnx(model, processor, {str(tmp_path / 'onnx')!r}), and pass onnx="),
        ("org/name", "export_onnx(model, processor, 'onnx'), and pass onnx='onnx'"),  # on the Hub
        ("", "the model was not loaded from one"),
    ):
        monkeypatch.setattr(model.config, "_name_or_path", place)
        with pytest.raises(ValueError, match=re.escape(message)):
            OnnxEmissions.for_model(model)


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # perhaps of a weight: ONNX Runtime would not notice
    path.write_bytes(content)


LISTED = "does not hold what its onnx.json lists: {} .*export_onnx\\(model, processor, '.*export'\\)"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (TEXT_GRAPH, _flip_a_bit, LISTED.format(TEXT_GRAPH)),
        (IMAGE_GRAPH, Path.unlink, LISTED.format(IMAGE_GRAPH)),
        ("more.onnx", Path.touch, LISTED.format("more.onnx")),
        (EXPORT_FILE, lambda path: path.write_text("{}"), "onnx.json is damaged .*delete it .*then export the model"),
        (EXPORT_FILE, Path.unlink, "lacks onnx.json; expected a folder that export_onnx wrote"),
    ],
)
def test_a_file_that_is_missing_damaged_or_added_is_an_error(export, name, damage, message):
    model, folder = export
    damage(folder / name)
    with pytest.raises(ValueError, match=message):
        OnnxEmissions.for_model(model, folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.crf.end_transitions.data[1].add_(1e-3),
        lambda model: model.model.text_model.embeddings.word_embeddings.weight.data[3, 5].add_(1e-3),
        lambda model: model.model.vision_model.state_dict()["embeddings.cls_token"].data.add_(1e-3),
        lambda model: model.config.id2label.update({1: "B-ORG", 2: "I-ORG"}),
    ],
    ids=["crf", "text tower", "image tower", "labels"],
)
def test_the_export_of_another_model_is_refused(gated, change):
    model, emissions = gated
    other = copy.deepcopy(model)
    assert fingerprint(other) == fingerprint(model) == emissions.fingerprint
    change(other)
    with pytest.raises(ValueError, match="export of another model .* export the model again: export_onnx"):
        OnnxEmissions.for_model(other, emissions.folder)


# The pipeline's use of it


def test_the_pipeline_gives_the_same_entities(ner, gated, monkeypatch, tmp_path):
    """By one argument, in batches of texts with and without images, long ones too."""
    pipe = TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", onnx=gated[1].folder)
    texts = [*TEXTS, " ".join(["Paris"] * 300)]
    images = [plain_image("red"), None, None, plain_image("blue"), plain_image("red"), None]
    images.append(save_photograph(tmp_path / "photograph.jpg"))
    with monkeypatch.context() as patch:
        patch.setattr(TwoMNERForTokenClassification, "emissions", None)  # not needed
        got = pickle.loads(pickle.dumps(pipe))(texts, images=images, batch_size=3)
    want = ner(texts, images=images, batch_size=3)
    assert sum(map(len, want)) > 10
    same(got, want, tolerance=1e-5)


# As remote code, and without the extra


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("onnx", lambda: export_onnx(None, None, ".")),
        ("onnxscript", lambda: export_onnx(None, None, ".")),
        ("onnxruntime", lambda: OnnxEmissions(".")),
    ],
)
def test_without_the_extra_the_error_says_what_to_install(missing, call, monkeypatch):
    others = {"onnx", "onnxscript", "onnxruntime"} - {missing}
    for name in others:
        monkeypatch.setitem(sys.modules, name, sys)  # there, whatever it is
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"ONNX needs `{missing}`: pip install onnx onnxruntime onnxscript"):
        call()
