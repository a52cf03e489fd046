"""The command `mmner`: what it does, and that a wrong command or input ends in one line that says what to type."""

import json
from pathlib import Path

import pytest
from transformers import pipeline
from written_files import write_file

import mmner
from mmner.cli import COMMANDS, main

TEXT = "Lionel Messi llega a Miami"
MODEL = str(mmner.MODEL)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, but for some files that are used below."""
    monkeypatch.chdir(tmp_path)
    Path("posts.txt").write_text(TEXT + "\n", encoding="utf-8")
    Path("posts.csv").write_text("name,body\na,b\n", encoding="utf-8")
    Path("posts.jsonl").write_text(json.dumps({"content": TEXT}), encoding="utf-8")
    Path("mine.jsonl").write_text("mine", encoding="utf-8")
    Path("photo.jpg").write_bytes(b"")
    Path("latin.csv").write_bytes("text\nMüller\n".encode("latin-1"))
    Path("empty").mkdir()
    write_file(Path("set/train.jsonl"), '{"id": "1", "lang": "en", "tokens": ["a"], "ner_tags": []}\n')
    write_file(Path("good/es/test.txt"), f"{TEXT}\n[Ana|PER]\n")
    Path("bad.yaml").write_text("learning_rat: 1e-4\n")
    Path("list.yaml").write_text("- 1\n")
    return tmp_path


def test_predict_to_standard_output_from_a_file_and_from_standard_input(capsys, monkeypatch):
    expected = pipeline("token-classification", model=MODEL, trust_remote_code=True)(TEXT)
    assert [entity["word"] for entity in expected] == ["Lionel Messi", "Miami"]
    for words in (["posts.txt"], [MODEL, "posts.txt"], ["-"]):
        with Path("posts.txt").open(encoding="utf-8") as file:
            monkeypatch.setattr("sys.stdin", file)
            assert main(["predict", *words]) == 0
        row = json.loads(capsys.readouterr().out)
        assert row == {"id": "1", "text": TEXT, "entities": expected}
    assert main(["predict", "posts.txt", "--entity_types", "LOC", "--min_score", "0.5"]) == 0
    assert [entity["word"] for entity in json.loads(capsys.readouterr().out)["entities"]] == ["Miami"]


def test_a_row_with_an_error_gives_the_status_one(capsys):
    Path("posts.jsonl").write_text(json.dumps({"text": TEXT, "image": "lost.jpg"}))
    assert main(["predict", "posts.jsonl", "--output", "out.jsonl"]) == 1
    assert "1 rows have an error" in capsys.readouterr().err
    assert "lost.jpg" in json.loads(Path("out.jsonl").read_text())["error"]


def test_explain_writes_a_page_or_json(capsys):
    assert main(["explain", TEXT, "--output", "page.html"]) == 0
    assert "Lionel Messi" in Path("page.html").read_text(encoding="utf-8")
    assert main(["explain", TEXT]) == 0
    assert json.loads(capsys.readouterr().out)["entities"][1]["word"] == "Miami"


def test_no_export_of_another_model_goes_into_a_model(capsys):
    write_file(Path("mine/config.json"), "{}")
    assert main(["export", "mine"]) == 2
    assert "mine is a model; say where its export goes: mmner export mine FOLDER" in capsys.readouterr().err


def test_export_in_int8_is_read_by_predict(capsys):
    assert main(["export", "onnx", "--int8"]) == 0
    assert json.loads(Path("onnx/onnx.json").read_text())["precision"] == "int8"
    capsys.readouterr()
    assert main(["predict", "posts.txt", "--onnx", "onnx"]) == 0
    assert [entity["word"] for entity in json.loads(capsys.readouterr().out)["entities"]] == ["Lionel Messi", "Miami"]


def test_evaluate_scores_a_set_that_a_person_wrote(capsys):
    Path("set/train.jsonl").unlink()
    Path("set/validation.txt").write_text("[Lionel Messi|PER] llega a [Miami|LOC]\nhola a todos\n", encoding="utf-8")
    assert main(["evaluate", "set", "--dataset_lang", "es", "--use_cpu"]) == 0
    assert "eval_f1 1.0000" in capsys.readouterr().out
    assert json.loads(Path("outputs/set-scores/all_results.json").read_text())["eval_f1"] == 1


def test_evaluate_scores_one_file_whose_name_says_no_split(capsys):
    Path("rows.conll").write_text("Lionel B-PER\nMessi E-PER\nllega O\na O\nMiami S-LOC\n\nhola O\n", encoding="utf-8")
    assert main(["evaluate", "rows.conll", "--dataset_lang", "es", "--use_cpu"]) == 0
    assert "test_f1 1.0000" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("2m-ner ")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_one_screen(name, capsys):
    words = ["--help"] if not name else [name, "--help"]
    try:
        assert main(words) == 0
    except SystemExit as ended:  # argparse's own help
        assert ended.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert 3 < len(lines) <= 40 and max(map(len, lines)) <= 120


WRONG = {
    "predct posts.txt": "no command 'predct'; expected one of predict, explain",
    "predict": "the following arguments are required: INPUT; see mmner predict --help",
    "predict lost.txt": "no file or folder lost.txt; expected .txt, .jsonl",
    "predict empty": "empty holds no images; expected images with their captions",
    "predict set": "Of a dataset, give one file",
    "predict bad.yaml": "the suffix '.yaml'; expected one of .txt",
    "predict posts.csv": "has the columns name, body; expected text or caption or tokens or words, or --text_column",
    "predict posts.jsonl": "has the columns content; expected text",
    "predict posts.csv --text_column text": "no column text (--text_column); its columns are name, body",
    "predict posts.csv --text_column body --image_column photo": "no column photo (--image_column)",
    "predict posts.txt --output out.doc": "--output out.doc ends with '.doc'; expected one of .jsonl, .csv",
    "predict posts.txt --output out": "--output out ends with ''; expected one of .jsonl",
    "predict posts.txt --output mine.jsonl": "--output mine.jsonl is there already; remove it or give another name",
    "predict - --output out.jsonl": "leave out --output, or give a file as INPUT",
    "predict posts.txt --min_score high": "argument --min_score: invalid float value: 'high'",
    "predict posts.txt --min_score 2": "`min_score` is 2.0; expected a number from 0 to 1",
    "predict posts.txt --entity_types PERSON": "no entities of ['PERSON']; its types are ['LOC', 'MISC'",
    "predict posts.txt --top_k 0": "`top_k` is 0; expected a whole number, 1 or more",
    "predict posts.txt --batch_size -1": "`batch_size` is -1; expected a whole number, 1 or more",
    "predict posts.txt --offsets bytes": "argument --offsets: invalid choice: 'bytes'",
    "predict posts.txt --threshold 0.5": "unrecognized arguments: --threshold 0.5; see mmner predict --help",
    "predict posts.txt --onnx": "onnx=True found no onnx.json",
    "predict posts.txt --onnx lost": "lost lacks onnx.json; expected a folder that export_onnx wrote",
    "predict posts.txt --device tpu9": "tpu9",
    "predict lost.jpg": "no file or folder lost.jpg",
    "predict photo.jpg": "photo.jpg is an image; give a folder of images, or: mmner explain TEXT --image photo.jpg",
    "predict latin.csv": "the input is not UTF-8",
    "predict lost.model posts.txt": "There is no file or folder lost.model; MODEL is a folder or a name on the Hub",
    "train small_data --dataset lost.json --output_dir out": "There is no folder or file lost.json",
    "predict empty posts.txt": "empty is no folder of a model; expected one with a config.json",
    "predict ./lost posts.txt": "./lost is no folder of a model",
    "explain": "the following arguments are required: TEXT",
    "explain Text --image lost.jpg": "Image lost.jpg does not exist or is no file; expected a path, a URL",
    "explain Text --output mine.jsonl": "mine.jsonl is there already; remove it or give another name",
    "train lost.yaml": "There is no recipe lost.yaml; expected a YAML file, or one of those in recipes/: base.yaml",
    "train bad.yaml": "Unknown option 'learning_rat' in bad.yaml. Did you mean learning_rate",
    "train list.yaml": "list.yaml holds a list; expected lines of `name: value`",
    "train probe --learning_rat 1": "option '--learning_rat' on the command line. Did you mean --learning_rate",
    "train probe --learning_rate fast": "--learning_rate/--learning-rate: invalid float value: 'fast'",
    "train probe posts.txt": "Cannot place 'posts.txt' on the command line; expected at most one recipe",
    "train base --dataset lost --output_dir out": "lost",
    "train base --dataset set --output_dir out": "1 tokens and 0 ner_tags came; expected as many tags as tokens",
    "evaluate": "the following arguments are required: DATA",
    "evaluate lost_set": "lost_set",
    "evaluate ./lost good": "./lost",
    "export": "the following arguments are required: FOLDER",
    "export ./lost out": "./lost is no folder of a model",
    "serve ./lost --port 0": "./lost is no folder of a model",
    "serve --port 99999": "Cannot serve at 127.0.0.1, port 99999: ",
    "serve --port http": "argument --port: invalid int value: 'http'",
    "publish": "the following arguments are required: folder, repo_id",
    "publish empty org/name": "empty has no config.json",
    "data": "the following arguments are required: command",
    "data buil": "invalid choice: 'buil'",
    "data audit lost": "lost",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_ends_in_one_line(line, capsys):
    try:
        assert main(line.split()) == 2
    except SystemExit as ended:
        raise AssertionError(f"it ended by itself: {ended.code}") from ended
    told = capsys.readouterr().err.strip().splitlines()
    assert WRONG[line] in told[-1] and told[-1].startswith("mmner ")
    assert not any("Traceback" in one for one in told)
    assert Path("mine.jsonl").read_text() == "mine"


def test_debug_shows_where_an_error_came_from():
    with pytest.raises(ValueError, match="no file or folder lost.txt"):
        main(["predict", "lost.txt", "--debug"])
