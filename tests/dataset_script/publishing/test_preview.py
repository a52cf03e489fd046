"""The page of the preview, read by a parser and not by the code that wrote it."""

import base64
import io

import pytest
from html_page import Page
from PIL import Image
from written_files import write_jsonl

import dataset_script
from dataset_script.__main__ import main
from dataset_script.publishing.parquet import write_parquet
from dataset_script.publishing.preview import preview


@pytest.fixture
def folder(tmp_path):
    """Six rows: hostile text, an image, a broken one, an absent one."""
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    Image.new("RGBA", (900, 300), (0, 200, 0, 255)).save(images / "a.png")
    (images / "b.png").write_bytes(b"no picture")
    rows = [
        ("1", "de", "<script> alert(1) </script> &amp;".split(), "B-PER I-PER O B-LOC".split(), "a.png", "depicts"),
        ("2", "de", ["Köln", '"x"'], ["B-LOC", "O"], "b.png", "unrelated"),
        ("3", "fr", ["rien"], ["O"], None, "none"),
        ("4", "fr", ["Ann"], ["B-'><b>"], "gone.png", None),
        ("5", "fr", ["Bo", "Li"], ["I-PER", "I-PER"], None, None),
        ("6", "es", ["bad"], ["O", "O"], None, None),
    ]
    keys = ("id", "lang", "tokens", "ner_tags", "image", "image_relation")
    records = [dict(zip(keys, row, strict=True)) for row in rows]
    records[0]["caption"] = "A <i>green</i> field"
    return write_jsonl(tmp_path / "set" / "train.jsonl", *records).parent


def page(folder, tmp_path, **options):
    path = preview(folder, tmp_path / "out" / "page.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def test_text_is_shown_and_never_run(folder, tmp_path):
    read = page(folder, tmp_path)
    assert not read.all("script") and not read.all("i") and not read.all("b")
    sentences = [one["text"] for one in read.all("p", class_="sentence")]
    assert sentences == [
        "<script> alert(1)PER </script> &amp;LOC",
        'KölnLOC "x"',
        "rien",
        "Ann'><b>",
        "Bo LiPER",
    ]
    assert [one["lang"] for one in read.all("p", class_="sentence")] == ["de", "de", "fr", "fr", "fr"]
    texts = [one["text"] for one in read.all("dd")]
    assert "A <i>green</i> field" in texts
    summary = read.all("header")[0]["text"]
    assert "1 I-X began an entity and are shown as B-X. 1 malformed rows were left out: length mismatch 1." in summary


def test_images_are_inside_and_nothing_is_asked_for(folder, tmp_path):
    read = page(folder, tmp_path)
    (image,) = read.all("img")
    kind, data = image["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as thumbnail:
        assert thumbnail.size == (320, 107)
        assert thumbnail.getpixel((100, 50))[1] > 180
    placeholders = [one["text"] for one in read.all("span", class_="none")]
    assert placeholders[0].startswith("does not open: it is of no format of JPEG")
    assert placeholders[1:] == ["no image", "its file is not here", "no image"]
    (policy,) = [one["content"] for one in read.all("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not read.all("link") and all("src" not in one or one["src"].startswith("data:") for one in read.elements)
    assert "url(" not in read.all("style")[0]["text"] and "@import" not in read.all("style")[0]["text"]


def test_draw_depends_on_the_seed_and_the_options(folder, tmp_path):
    row = {"tokens": ["a"], "ner_tags": ["O"]}
    rows = (row | {"id": str(number), "lang": ("en", "de")[number % 2]} for number in range(300))
    write_jsonl(tmp_path / "many" / "test.jsonl", *rows)

    def drawn(**options):
        read = page(tmp_path / "many", tmp_path, rows=20, **options)
        return [one["text"] for one in read.all("dd") if "test" in one["text"]]

    assert len(drawn()) == 20 and drawn() == drawn() != drawn(seed=1)
    assert len(drawn(lang="de")) == 20 and all("(de, " in text for text in drawn(lang="de"))
    assert len({text for seed in range(30) for text in drawn(seed=seed)}) > 240
    with pytest.raises(ValueError, match=r"no rows in fr, any split; it has test en, test de"):
        drawn(lang="fr")
    with pytest.raises(ValueError, match="--rows is 0; expected 1 or more"):
        preview(folder, tmp_path / "x.html", rows=0)


def test_parquet_and_command_line(folder, tmp_path, capsys):
    write_parquet(dataset_script.load(folder, cache_dir=tmp_path / "cache", errors="skip"), tmp_path / "parquet")
    arguments = [str(tmp_path / "parquet"), "--output", str(tmp_path / "p.html"), "--lang", "de"]
    assert main(["preview", *arguments]) == 0
    assert capsys.readouterr().out == f"{(tmp_path / 'p.html').as_posix()}\n"
    read = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert len(read.all("article")) == 2 and len(read.all("img")) == 1


def test_a_language_of_a_folder_a_language_and_what_is_not_ours(folder, tmp_path):
    for lang in ("de", "fr"):
        write_jsonl(tmp_path / "two" / lang / "train.jsonl", {"tokens": ["Ann"], "ner_tags": ["B-PER"]})
    text = preview(tmp_path / "two", tmp_path / "page.html", lang="de").read_text(encoding="utf-8")
    assert "1 of 1 rows" in text
    preview(tmp_path / "two", tmp_path / "page.html")  # a preview may be replaced
    with pytest.raises(FileExistsError, match="is no preview"):
        preview(tmp_path / "two", folder / "train.jsonl")
    assert "tokens" in (folder / "train.jsonl").read_text(encoding="utf-8")
