"""Text with its names marked in place."""

import pytest
from written_files import write_file

from dataset_script import load
from dataset_script.formats.markup import read_markup
from dataset_script.rows import MalformedRow


def rows(tmp_path, text):
    path = tmp_path / "train.txt"
    path.write_text(text, encoding="utf-8")
    return list(read_markup(path))


def test_words_and_tags(tmp_path):
    first, second, third = rows(
        tmp_path,
        "RT @bbc: [Katrina|MISC] heads for [New Orleans|LOC]'s coast! [#NewOrleans|LOC] http://t.co/a1?b=2 👍🏽\n\n"
        "L'[Ukraine|LOC], 1,5 % #calme\nnothing here\n",
    )
    words = "RT @bbc : Katrina heads for New Orleans 's coast ! #NewOrleans http://t.co/a1?b=2 👍🏽".split()
    assert first.tokens == words and first.id == "0" and first.line == 1
    tags = {"Katrina": "B-MISC", "New": "B-LOC", "Orleans": "I-LOC", "#NewOrleans": "B-LOC"}
    assert first.tags == [tags.get(word, "O") for word in words]
    assert second.tokens == ["L'", "Ukraine", ",", "1,5", "%", "#calme"] and second.line == 3
    assert second.tags == ["O", "B-LOC", "O", "O", "O", "O"]
    assert third.tags == ["O", "O"] and third.id == "2"


@pytest.mark.parametrize(
    "line, message",
    [
        ("an open [Katrina|MISC bracket", r"'\[' came"),
        ("a bar | alone", r"'\|' came"),
        ("[|LOC]", r"'\[' came"),
        ("[Berlin|LOC]s Mauer", "'Berlin' came; expected whole words"),
        ("#[Paris|LOC]", "'Paris' came; expected whole words, a hashtag with its sign"),
        ("[ Paris|LOC]", "' Paris' came"),
    ],
)
def test_what_is_no_markup_is_named_with_its_line(tmp_path, line, message):
    good, problem = rows(tmp_path, f"[Rome|LOC]\n{line}\n")
    assert good.tags == ["B-LOC"]
    assert isinstance(problem, MalformedRow) and problem.line == 2
    with pytest.raises(MalformedRow, match=message):
        raise problem


def test_a_folder_is_recognized(tmp_path):
    for lang in ("de", "en"):
        write_file(tmp_path / lang / "train.txt", "no name\n[Rome|LOC] burns\n")
    train = load(tmp_path, cache_dir=tmp_path / "cache")["train"]
    assert train["lang"] == ["en", "en", "de", "de"] and train["tokens"][1] == ["Rome", "burns"]
