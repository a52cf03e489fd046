"""Examples in the four languages; their images are drawn here, so that nothing has to be shipped or licensed."""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw

SIZE_PX = 320


class Example(NamedTuple):
    """A text and what draws its image, if it has one."""

    text: str
    draw: Callable[[], Image.Image] | None


def person() -> Image.Image:
    """Somebody, from the shoulders up."""
    image, pen = _canvas("#dfe7ef")
    pen.ellipse((60, 215, 260, 460), fill="#34568b")
    pen.ellipse((105, 70, 215, 215), fill="#e8b892")
    pen.pieslice((98, 50, 222, 190), 180, 360, fill="#4a3222")
    for left in (135, 173):
        pen.ellipse((left, 135, left + 12, 147), fill="#2b2b2b")
    return image


def badge() -> Image.Image:
    """The badge of a club that does not exist."""
    image, pen = _canvas("#f6f6f2")
    pen.polygon([(70, 50), (250, 50), (250, 180), (160, 285), (70, 180)], fill="#a31621", outline="#1d1d1d", width=6)
    pen.ellipse((115, 110, 205, 200), fill="#fcf7f8", outline="#1d1d1d", width=4)
    pen.regular_polygon((160, 155, 22), 5, fill="#1d1d1d")
    return image


def _canvas(colour: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), colour)
    return image, ImageDraw.Draw(image)


EXAMPLES = [
    Example("Jordan was in town on Saturday and spoke to the BBC.", person),
    Example("Jordan was in town on Saturday and spoke to the BBC.", None),
    Example("Bayern gewinnt in Hamburg und bleibt Erster.", badge),
    Example("L'Amazone coule vers l'Atlantique, dit Victoria Lefèvre.", None),
    Example("Santiago amaneció con nieve en los Andes, según El Mercurio.", None),
]
