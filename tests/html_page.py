"""A page of HTML as a parser reads it: what it shows, and whether its tags match."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Elements in order, each with its attributes and all text within; ``text``: that of the page, styles left out."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self._open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data
        self.text += data if not self._open or self._open[-1]["tag"] != "style" else ""

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [one for one in self.elements if one["tag"] == tag and wanted.items() <= one.items()]
