"""The widget's sentences: of the right languages, and with the model's own answers."""

from mmner.results.examples import SENTENCES, own_sentences, widget_examples


def test_sentences_of_the_languages_that_there_are():
    assert own_sentences({"fr", None, "de", "xx"}) == [SENTENCES["de"], SENTENCES["fr"]]
    assert own_sentences([]) == own_sentences([None]) == [SENTENCES["en"]]


def test_an_example_has_the_answer_of_the_model():
    entity = {"entity_group": "PER", "score": 0.123456, "word": "Paula", "start": 7, "end": 12}
    answers = {"Da ist Paula": [entity], "nichts": []}
    found = widget_examples(lambda texts: [answers[text] for text in texts], list(answers))
    assert found == [
        {"text": "Da ist Paula", "output": [entity | {"score": 0.1235}]},
        {"text": "nichts", "output": []},
    ]
