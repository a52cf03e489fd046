"""The widget's sentences: of the right languages, and with the model's own answers."""

from mmner.results.examples import SENTENCES, own_sentences, probe_sentences, widget_examples


class Upper:
    """A pipeline that takes every capitalised word after the first for a person."""

    def __call__(self, texts):
        return [
            [
                {"entity_group": "PER", "score": 0.123456, "word": word, "start": text.index(word)}
                for word in text.split()[1:]
                if word[0].isupper()
            ]
            for text in texts
        ]


def row(lang, text):
    return {"lang": lang, "text": text, "tokens": text.split()}


def test_sentences_of_the_languages_that_there_are():
    assert own_sentences({"fr", None, "de", "xx"}) == [SENTENCES["de"], SENTENCES["fr"]]
    assert own_sentences([]) == own_sentences([None]) == [SENTENCES["en"]]


def test_an_example_has_the_answer_of_the_model():
    assert widget_examples(Upper(), ["Da ist Paula", "nichts"]) == [
        {
            "text": "Da ist Paula",
            "output": [{"entity_group": "PER", "score": 0.1235, "word": "Paula", "start": 7}],
        },
        {"text": "nichts", "output": []},
    ]


def test_of_the_probe_a_short_sentence_with_an_entity_is_taken():
    rows = [
        row("en", "Anna " * 30),
        row("en", "nobody here"),
        row("en", "here is Anna"),
        row("en", "here is Otto"),
        row("de", "niemand da"),
        row("de", "gar niemand"),
    ]
    assert probe_sentences(Upper(), rows) == ["niemand da", "here is Anna"]
