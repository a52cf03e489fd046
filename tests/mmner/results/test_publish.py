"""From a run to the Hub and back: trained, pushed, cut off, pushed again, and loaded where nothing of ours is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stranger
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import same

from mmner.results.publish import publish
from modeling_2mner import CODE_FILES, TwoMNERForTokenClassification
from onnx_2mner import export_onnx
from pipeline_2mner import TwoMNERPipeline
from processing_2mner import TwoMNERProcessor

ROOT = Path(__file__).resolve().parents[3]
RUN = "2000 the winter: term #1/run"
RECIPE = """{
dataset: probe, probe_sentences: 160, text_model: tiny, vision_model: tiny, freeze_vision_model: all,
num_train_epochs: 6, per_device_train_batch_size: 8, per_device_eval_batch_size: 32, learning_rate: 3e-3,
crf_learning_rate: 1e-2, logging_steps: 5, use_cpu: true, disable_tqdm: true}
"""
# What a stranger does: four ways to load, and what the model says. Prints JSON.
STRANGER = """
import importlib.util, json, os, sys
repo, revision, image = sys.argv[1:]
texts = json.loads(sys.stdin.read())
for name in ("modeling_2mner", "processing_2mner", "mmner", "dataset_script"):
    assert importlib.util.find_spec(name) is None, name + " can be imported"
import torch
from transformers import AutoModel, AutoModelForTokenClassification, AutoProcessor, pipeline
options = {"trust_remote_code": True, "revision": revision}
base = AutoModel.from_pretrained(repo, **options)
model = AutoModelForTokenClassification.from_pretrained(repo, **options)
processor = AutoProcessor.from_pretrained(repo, **options)
batch = processor(texts, images=[image] * len(texts))
with torch.no_grad():
    outputs, states = model(**batch), base(**batch)
ner = pipeline("token-classification", model=repo, **options)
print(json.dumps({
    "classes": [type(thing).__name__ for thing in (base, model, processor, ner)],
    "width": states.word_states.shape[-1],
    "tags": outputs.predictions.tolist(),
    "text": ner(texts),
    "image": ner(texts, images=[image] * len(texts)),
}))
"""


def run_python(hub: HubServer, home: Path, *arguments: str, cwd: Path = ROOT, succeeds: bool = True, **options):
    environment = hub.environment(home) | {"OMP_NUM_THREADS": "1"}
    options |= {"cwd": cwd, "env": environment, "capture_output": True, "text": True, "timeout": 180}
    done = subprocess.run([sys.executable, *arguments], **options)  # noqa: PLW1510
    assert (done.returncode == 0) == succeeds, done.stderr
    return done


def texts_of(folder: Path) -> list[str]:
    """Sentences of the run's test split, and an empty one."""
    lines = (folder / RUN / "predictions_test.jsonl").read_text(encoding="utf-8").splitlines()
    return ["", *(json.loads(line)["text"] for line in lines[:12])]


def ask_stranger(hub: HubServer, folder: Path, repo: str, revision: str = "main") -> dict:
    """In a process of its own, in another folder, with an empty cache, with nothing of ours."""
    home = folder / f"home-{revision[:8]}"
    home.mkdir(exist_ok=True)
    code = [*stranger.OPTIONS, stranger.script(STRANGER), repo, revision, str(folder / "photo.jpg")]
    done = run_python(hub, home, *code, cwd=home, input=json.dumps(texts_of(folder)))
    return json.loads(done.stdout.splitlines()[-1])


def pipeline_of(folder: Path) -> TwoMNERPipeline:
    model = TwoMNERForTokenClassification.from_pretrained(folder)
    return TwoMNERPipeline(model=model, processor=TwoMNERProcessor.from_pretrained(folder), device="cpu")


def predictions_here(folder: Path, image: Path) -> dict:
    """The same from the run's folder, before any push."""
    texts, ner = texts_of(image.parent), pipeline_of(folder)
    images = [str(image)] * len(texts)
    with torch.no_grad():
        tags = ner.model(**ner.processor(texts, images=images)).predictions.tolist()
    return {"tags": tags, "text": ner(texts), "image": ner(texts, images=images)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """The folder of a run whose push was cut off and then repeated, and what was asked of the Hub in each."""
    folder = tmp_path_factory.mktemp("publish")
    Image.new("RGB", (40, 24), "red").save(folder / "photo.jpg")
    (folder / "recipe.yaml").write_text(RECIPE)
    output = str(folder / RUN)
    hub.fail_next("POST /api/models/org/probe/commit", times=20)
    train = ["run_mmner.py", str(folder / "recipe.yaml"), "--output_dir", output]
    push = ["--push_to_hub", "--hub_model_id", "org/probe"]
    first = run_python(hub, folder / "home", *train, *push, succeeds=False)
    cut_off = list(hub.requests)
    present = list(hub.files("model", "org/probe"))
    hub.faults.clear()
    run_python(hub, folder / "home", "-m", "mmner", "publish", output, "org/probe")
    return folder, first, cut_off, present, hub.requests[len(cut_off) :]


def test_a_push_that_is_cut_off_leaves_nothing_half_done_and_says_how_to_go_on(pushed):
    folder, first, cut_off, present, _ = pushed
    assert f"mmner publish '{folder / RUN}' org/probe" in first.stderr
    assert present == [".gitattributes"]  # all in one commit, or nothing
    assert any(request.startswith("PUT /lfs") for request in cut_off)


def test_repeated_it_completes_in_one_commit_and_sends_nothing_twice(hub, pushed):
    folder, _, cut_off, _, again = pushed
    assert not [request for request in again if request.startswith("PUT")]
    uploads = [request for request in cut_off if request.startswith("PUT")]
    assert len(uploads) == len(set(uploads)) > 0
    assert sum("/commit/" in request for request in again) == 1
    files = hub.files("model", "org/probe")
    for name, kept in files.items():
        if name not in (".gitattributes", "README.md"):
            assert kept.read_bytes() == (folder / RUN / name).read_bytes(), name
    expected = {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "README.md"}
    expected |= {"recipe.yaml", "all_results.json", "training_curve.png", "f1_test.png", *CODE_FILES}
    assert expected <= set(files)
    assert not [name for name in files if "predictions" in name or name.endswith(".bin") or "/" in name]


def test_what_is_published_is_of_its_repository_and_tells_nothing_of_the_machine(hub, pushed):
    folder, *_ = pushed
    files = hub.files("model", "org/probe")
    published = ModelCard.load(files["README.md"])
    assert published.data.model_name == "probe" and published.text.startswith("\n# probe\n")
    assert published.text.count('"org/probe", trust_remote_code=True)') == 5 and "this-model" not in published.content
    for name, kept in files.items():
        for part in (folder.name, "winter", str(ROOT)):
            assert part.encode() not in kept.read_bytes(), (name, part)


def test_a_stranger_loads_it_and_gets_the_predictions_of_before_the_push(hub, pushed):
    folder, *_ = pushed
    found = ask_stranger(hub, folder, "org/probe")
    names = ["TwoMNERModel", "TwoMNERForTokenClassification", "TwoMNERProcessor", "TwoMNERPipeline"]
    assert found["classes"] == names and found["width"] == 128
    expected = predictions_here(folder / RUN, folder / "photo.jpg")
    assert sum(map(len, expected["image"])) > 0
    assert found["tags"] == expected["tags"]
    same(found["text"], expected["text"], tolerance=1e-5)
    same(found["image"], expected["image"], tolerance=1e-5)


def test_the_card_is_valid_here_and_for_the_hub(pushed):
    card = ModelCard.load(pushed[0] / RUN / "README.md", ignore_metadata_errors=False)
    told = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert set(told) >= {"F1", "F1, text only", "F1, shuffled", "F1 (language de)"}
    results = json.loads((pushed[0] / RUN / "all_results.json").read_text())
    assert told["F1"] == round(results["test_f1"], 4)
    assert told["F1, text only (language fr)"] == round(results["test_text_only_f1_fr"], 4)
    assert "**Synthetic data.**" in card.text and len(card.data.widget) == 4
    assert str(pushed[0]) not in card.content
    assert "POST /api/validate-yaml" in pushed[-1], "which refuses a card that is not valid"


PUSH_ON = """
import sys
from transformers import AutoModel, AutoModelForTokenClassification, AutoProcessor, pipeline
options = {"trust_remote_code": True}
model = AutoModelForTokenClassification.from_pretrained("org/probe", **options)
processor = AutoProcessor.from_pretrained("org/probe", **options)
model.push_to_hub("org/model")
processor.push_to_hub("org/processor")
model.push_to_hub("org/both")
processor.push_to_hub("org/both")
ner = pipeline("ner", model="org/probe", **options)
ner.push_to_hub("org/pipeline")
ner.save_pretrained("here", push_to_hub=True, repo_id="org/saved")
"""
LOAD_AGAIN = """
from transformers import AutoModel, AutoModelForTokenClassification, AutoProcessor, pipeline
options = {"trust_remote_code": True}
for name in ("org/model", "org/both", "org/pipeline", "org/saved"):
    AutoModel.from_pretrained(name, **options)
    assert AutoModelForTokenClassification.from_pretrained(name, **options).crf is not None
for name in ("org/processor", "org/both", "org/pipeline", "org/saved"):
    assert AutoProcessor.from_pretrained(name, **options)(["a b"])["word_starts"].shape == (1, 2)
assert type(pipeline("token-classification", model="org/pipeline", **options)).__name__ == "TwoMNERPipeline"
"""


def test_what_a_stranger_pushes_on_loads_again(hub, pushed):
    """Loaded from the Hub, pushed under other names as model, processor, both, pipeline; loaded with another cache."""
    folder, *_ = pushed
    for home, code in (("home-main", PUSH_ON), ("home-again", LOAD_AGAIN)):
        (folder / home).mkdir(exist_ok=True)
        run_python(hub, folder / home, *stranger.OPTIONS, stranger.script(code), cwd=folder / home)
    assert set(CODE_FILES) <= set(hub.files("model", "org/both"))
    for name in ("model", "processor", "both", "pipeline", "saved"):
        card = ModelCard.load(hub.files("model", f"org/{name}")["README.md"])
        assert card.data.pipeline_tag == "token-classification" and f'model="org/{name}"' in card.text


def test_a_pinned_revision_stays_what_it_was_after_a_second_push(hub, pushed):
    folder, *_ = pushed
    run = folder / RUN
    old = hub.repo("model", "org/probe").sha()
    before = predictions_here(run, folder / "photo.jpg")
    weights = load_file(run / "model.safetensors")
    kept = (run / "model.safetensors").read_bytes()
    try:
        weights["classifier.bias"] = weights["classifier.bias"] + torch.tensor([9.0] + [0.0] * 8)  # all is O now
        save_file(weights, run / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
        (run / "model.safetensors").unlink()
        uploads = len([request for request in hub.requests if request.startswith("PUT")])
        run_python(hub, folder / "home", "-m", "mmner", "publish", str(run), "org/probe")
    finally:
        (run / "model.safetensors").write_bytes(kept)
        (run / "model-00001-of-00001.safetensors").unlink()
    assert len([request for request in hub.requests if request.startswith("PUT")]) == uploads + 1  # the weights alone
    assert hub.repo("model", "org/probe").sha() != old
    # The weights of before would be loaded by mistake.
    weights = {name for name in hub.files("model", "org/probe") if name.endswith(".safetensors")}
    assert weights == {"model-00001-of-00001.safetensors"}
    same(ask_stranger(hub, folder, "org/probe", old)["image"], before["image"], tolerance=1e-5)


def test_a_folder_that_is_no_finished_run_is_not_published(tmp_path):
    with pytest.raises(ValueError, match="has no config.json and .* the output_dir of a finished training"):
        publish(tmp_path, "org/x")


ONNX_READER = """
import json, sys
from transformers import pipeline
texts = json.loads(sys.stdin.read())
ner = pipeline("token-classification", model=sys.argv[1], trust_remote_code=True, onnx=True)
print(json.dumps({"folder": ner._onnx.folder.name, "precision": ner._onnx.precision, "found": ner(texts)}))
"""


@pytest.mark.parametrize("place", [".", "onnx"])
def test_an_export_travels_with_its_model_and_answers_as_before(pushed, hub, tmp_path, place):
    folder, *_ = pushed
    run = tmp_path / "run"
    shutil.copytree(folder / RUN, run, ignore=shutil.ignore_patterns("checkpoint*", "_*"))
    here = pipeline_of(run)
    export_onnx(here.model, here.processor, run / place, quantize=True)
    own = TwoMNERPipeline(model=here.model, processor=here.processor, onnx=str(run / place))
    name = f"org/exported{place.replace('.', '')}"
    run_python(hub, tmp_path / "home", "-m", "mmner", "publish", str(run), name)
    texts = texts_of(folder)
    (tmp_path / "stranger").mkdir()
    code = [*stranger.OPTIONS, stranger.script(ONNX_READER), name]
    done = run_python(hub, tmp_path / "stranger", *code, cwd=tmp_path / "stranger", input=json.dumps(texts))
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["precision"] == "int8"
    same(answer["found"], own(texts), tolerance=1e-5)
