"""Models side by side: what counts, and in which language."""

from pathlib import Path

from benchmarks.accuracy.peers import comparable, f1_by_language, image_controls, score
from dataset_script.rows import Row


def row(lang, tags, known=None):
    return Row(Path("x"), 1, "0", lang, ["w"] * len(tags), tags, known_types=known)


ROWS = [row("en", ["B-PER", "O"], ["PER"]), row("en", ["B-LOC", "I-LOC"]), row("fr", ["O", "B-MISC"])]


class Reader:
    """Finds everything, and a MISC too many; with an image it does not see the place."""

    languages = ("en",)

    def __call__(self, rows, images):
        tags = [list(one.tags) for one in rows]
        tags[0][1] = "B-MISC"
        for place, image in enumerate(images):
            if image is not None:
                tags[place] = ["O", "O"]
        return tags


def test_types_that_nobody_tagged_do_not_count_and_languages_are_apart():
    tags = comparable(ROWS, [["B-PER", "B-MISC"], ["B-LOC", "O"], ["O", "B-MISC"]])
    assert tags[0] == ["B-PER", "O"]
    assert f1_by_language(ROWS, tags) == {"all": 66.67, "en": 50.0, "fr": 100.0, "PER": 100.0, "LOC": 0, "MISC": 100.0}
    facts = score(Reader(), {"a": (ROWS, [None] * 3), "b": (ROWS[2:], [None])})
    assert facts["sets"] == {"a": {"f1": {"all": 100.0, "en": 100.0, "PER": 100.0, "LOC": 100.0}, "rows": 2}}
    assert facts["words_per_s"] > 0


def test_what_own_images_change():
    images = [Path("a"), None, Path("b")]
    own = comparable(ROWS, Reader()(ROWS, images))
    facts = image_controls(Reader(), ROWS, images, own)
    assert facts["hidden"]["f1"]["all"] == 100 and facts["hidden"]["own_less"] == -50.0
    assert facts["shuffled"]["own_less"] == 0
    low, high = facts["hidden"]["interval"]
    assert low <= -50 <= high <= 0
