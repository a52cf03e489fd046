"""Examples in the four languages, and their pictures, which are drawn here: nothing has to be shipped or licensed."""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw

SIZE_PX = 320


class Example(NamedTuple):
    """A text and what draws its picture, if it has one."""

    lang: str
    text: str
    draw: Callable[[], Image.Image] | None


def person() -> Image.Image:
    """Somebody, from the shoulders up."""
    image, pen = _canvas("#dfe7ef")
    pen.ellipse((60, 215, 260, 460), fill="#34568b")
    pen.rectangle((140, 190, 180, 240), fill="#d9a57f")
    pen.ellipse((105, 70, 215, 215), fill="#e8b892")
    pen.pieslice((98, 50, 222, 190), 180, 360, fill="#4a3222")
    for left in (135, 173):
        pen.ellipse((left, 135, left + 12, 147), fill="#2b2b2b")
    pen.arc((135, 145, 185, 190), 20, 160, fill="#8c3b3b", width=4)
    return image


def badge() -> Image.Image:
    """The badge of a club that does not exist."""
    image, pen = _canvas("#f6f6f2")
    pen.polygon([(70, 50), (250, 50), (250, 180), (160, 285), (70, 180)], fill="#a31621", outline="#1d1d1d", width=6)
    pen.polygon([(70, 90), (250, 90), (250, 130), (70, 130)], fill="#fcf7f8")
    pen.ellipse((115, 150, 205, 240), fill="#fcf7f8", outline="#1d1d1d", width=4)
    pen.regular_polygon((160, 195, 22), 5, fill="#1d1d1d")
    return image


def river() -> Image.Image:
    """A river through a forest, from above."""
    image, pen = _canvas("#2f6b3a")
    for x in range(10, SIZE_PX, 34):
        for y in range(12, SIZE_PX, 30):
            pen.ellipse((x + y % 13, y, x + y % 13 + 22, y + 22), fill="#3f8a4c" if (x + y) % 4 else "#255a30")
    bends = [(0, 60), (70, 90), (130, 170), (210, 150), (260, 220), (320, 260)]
    pen.line(bends, fill="#3d85c6", width=46, joint="curve")
    pen.line(bends, fill="#6fb1e8", width=22, joint="curve")
    return image


def city() -> Image.Image:
    """A city before mountains."""
    image, pen = _canvas("#bcd9ee")
    pen.polygon([(0, 210), (80, 70), (150, 160), (225, 50), (320, 190), (320, 320), (0, 320)], fill="#7b8794")
    for left, top in ((80, 70), (225, 50)):
        pen.polygon([(left - 20, top + 36), (left, top), (left + 22, top + 34)], fill="#ffffff")
    for number, top in enumerate((210, 170, 230, 190, 150, 220, 200)):
        left = 10 + number * 44
        pen.rectangle((left, top, left + 36, SIZE_PX), fill=("#465362", "#5b6b7d")[number % 2])
        for y in range(top + 10, SIZE_PX, 22):
            for x in (left + 7, left + 22):
                pen.rectangle((x, y, x + 7, y + 9), fill="#f3d36b")
    return image


def _canvas(colour: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), colour)
    return image, ImageDraw.Draw(image)


EXAMPLES = [
    Example("en", "Jordan was in town on Saturday and spoke to the BBC.", person),
    Example("de", "Bayern gewinnt in Hamburg und bleibt Erster.", badge),
    Example("fr", "L'Amazone coule vers l'Atlantique, dit Victoria Lefèvre.", river),
    Example("es", "Santiago amaneció con nieve en los Andes, según El Mercurio.", city),
    Example("en", "Jordan was in town on Saturday and spoke to the BBC.", None),
]
