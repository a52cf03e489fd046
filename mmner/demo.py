"""Reads posts in four languages with the bundled model, prints and shows what it finds with and without their images.

python -m mmner.demo --output outputs/demo.html
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from transformers import pipeline

from explain_2mner import figure, highlight, page_head

from . import MODEL

NOTICE = "Invented posts with drawn images, read by 2m-ner-small on this machine. It errs; its card says how often."
TITLE = "2M-NER: posts"
STYLE = """article { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) 9rem; gap: 0 1.5rem;
  margin: 1.5rem 0; border-top: 1px solid #ddd }
article h2 { font-size: .8rem; font-weight: 600; margin: .6rem 0 0 } article img { margin-top: .6rem }
@media (max-width: 40rem) { article { grid-template-columns: minmax(0, 1fr) } article img { max-width: 9rem } }"""
Post = tuple[str, Image.Image | None]


def storm() -> Image.Image:
    """A spiral of clouds over the sea, as satellites see a storm."""
    image, pen = _canvas("#16425b")
    for step in range(400):
        angle, radius = step / 18, 8 + step / 3
        x, y = 160 + radius * math.cos(angle), 160 + radius * math.sin(angle)
        size = 6 + step / 16
        pen.ellipse((x - size, y - size, x + size, y + size), fill="#e8eef2" if step % 3 else "#c4d3dd")
    pen.ellipse((150, 150, 170, 170), fill="#16425b")
    return image


def stage() -> Image.Image:
    """A singer on a stage, in beams of light."""
    image, pen = _canvas("#1b1026")
    for left, colour in ((20, "#6a2c8c"), (120, "#8c2c5a"), (220, "#2c5a8c")):
        pen.polygon([(left + 40, 0), (left - 20, 320), (left + 100, 320)], fill=colour)
    pen.rectangle((0, 270, 320, 320), fill="#0c0712")
    pen.ellipse((140, 110, 180, 155), fill="#e8b892")
    pen.polygon([(160, 150), (120, 275), (200, 275)], fill="#d9b310")
    pen.line((176, 150, 200, 170), fill="#eeeeee", width=5)
    return image


def badge() -> Image.Image:
    """The badge of a club that does not exist."""
    image, pen = _canvas("#f6f6f2")
    pen.polygon([(70, 50), (250, 50), (250, 180), (160, 285), (70, 180)], fill="#a31621", outline="#1d1d1d", width=6)
    pen.ellipse((115, 110, 205, 200), fill="#fcf7f8", outline="#1d1d1d", width=4)
    pen.regular_polygon((160, 155, 22), 5, fill="#1d1d1d")
    return image


def street() -> Image.Image:
    """Houses along a street at night, with police lights."""
    image, pen = _canvas("#22304a")
    for left, top in ((0, 120), (80, 80), (160, 140), (240, 60)):
        pen.rectangle((left, top, left + 76, 260), fill="#3c4d6b")
        for x in range(left + 10, left + 70, 20):
            pen.rectangle((x, top + 15, x + 9, top + 28), fill="#f2d16b")
    pen.rectangle((0, 260, 320, 320), fill="#2b2b2b")
    pen.ellipse((120, 230, 150, 260), fill="#d7263d")
    pen.ellipse((160, 230, 190, 260), fill="#1b6ef3")
    return image


def _canvas(colour: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (320, 320), colour)
    return image, ImageDraw.Draw(image)


POSTS: list[tuple[str, Callable[[], Image.Image] | None]] = [
    ("Katrina is now a category 4 and heading for Tampa. Stay safe everyone!! #Florida #wx http://t.co/a1b2c3", storm),
    ("RT @gigs_ldn: Katrina was unreal at Brixton Academy last night 😭🎤 #KatrinaLive", stage),
    ("++ Eilmeldung ++ Sturmtief Sabine erreicht Hamburg, die Bahn stellt den Verkehr ein #sabine", storm),
    ("bayern gewinnt 3:1 in leverkusen und bleibt erster 💪 #FCBayern", badge),
    ("URGENT Fusillade rue de Charonne à Paris, la police sur place selon BFMTV #Paris11", street),
    ("Angèle en concert ce soir à Forest National, j'ai trop hâteee 🥹 merci @ticketmaster_be", stage),
    ("El huracán Otis toca tierra en Acapulco, informa Protección Civil #Guerrero http://t.co/x9y8z7", storm),
    ("jajaja santiago se quedó dormido en el metro de santiago otra vez", None),
]
"""Posts that nobody wrote about events that did not happen, and what draws their images."""


def report(ner: Callable, posts: Sequence[Post]) -> tuple[str, str]:
    """What a pipeline finds in each post with its image and without: as text, and as a page."""
    texts, images = [text for text, _ in posts], [image for _, image in posts]
    with_image, without = ner(texts, images=images), ner(texts)
    lines, articles = [NOTICE], []
    for text, image, own, other in zip(texts, images, with_image, without, strict=True):
        lines += ["", text]
        cells = [_cell("without an image", text, other)]
        if image is not None:
            lines.append(f"  with its image:    {_shown(own)}")
            cells.insert(0, _cell("with its image", text, own))
            cells.append(f"<div>{figure(image)}</div>")
        lines.append(f"  without an image:  {_shown(other)}")
        articles.append(f"<article>{''.join(cells)}</article>")
    page = [page_head(TITLE, STYLE), f"<p>{NOTICE}</p>", *articles, "</body></html>\n"]
    return "\n".join(lines), "\n".join(page)


def _cell(title: str, text: str, entities: Sequence[dict[str, Any]]) -> str:
    return f'<div><h2>{title}</h2><p class="text" dir="auto">{highlight(text, entities)}</p></div>'


def _shown(entities: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{e['word']} {e['entity_group']} ({e['score']:.2f})" for e in entities) or "nothing"


def main() -> None:
    """Reads the posts, prints what is found, writes the page."""
    parser = argparse.ArgumentParser(prog="python -m mmner.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MODEL), help="a folder or a name on the Hub")
    parser.add_argument("--output", type=Path, default=Path("outputs") / "demo.html", help="the page")
    arguments = parser.parse_args()
    ner = pipeline("token-classification", model=arguments.model, trust_remote_code=True)
    text, page = report(ner, [(text, draw and draw()) for text, draw in POSTS])
    mine = f"<title>{TITLE}</title>"
    if arguments.output.exists() and mine not in arguments.output.read_text(encoding="utf-8", errors="replace"):
        parser.error(f"--output {arguments.output} is a file of something else: name another.")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page, encoding="utf-8")
    sys.stdout.write(f"{text}\n\n{arguments.output.resolve()}\n")


if __name__ == "__main__":
    main()
