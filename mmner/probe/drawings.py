"""The images of the probe: portraits, flags, logos, book covers and distractors, drawn from random shapes."""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

IMAGE_SIZE_PX = 96
_CANVAS_PX = 2 * IMAGE_SIZE_PX  # twice the size: scaling down smooths the edges, which ImageDraw does not

Point = tuple[float, float]
Colour = tuple[int, ...]
WHITE, BLACK, BROWN = (250, 250, 250), (25, 25, 25), (110, 80, 50)


class Canvas:
    """The shapes of ImageDraw on a square whose coordinates, radii and widths are fractions of its side."""

    def __init__(self, ground: Colour) -> None:
        self.image = Image.new("RGB", (_CANVAS_PX, _CANVAS_PX), ground)
        self._draw = ImageDraw.Draw(self.image)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, radius: float = 0) -> None:
        corners = [(left * _CANVAS_PX, top * _CANVAS_PX), (right * _CANVAS_PX, bottom * _CANVAS_PX)]
        self._draw.rounded_rectangle(corners, radius * _CANVAS_PX, fill=colour)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        corners = [((x - rx) * _CANVAS_PX, (y - ry) * _CANVAS_PX), ((x + rx) * _CANVAS_PX, (y + ry) * _CANVAS_PX)]
        self._draw.ellipse(corners, fill=colour)

    def polygon(self, corners: list[Point], colour: Colour) -> None:
        self._draw.polygon([(x * _CANVAS_PX, y * _CANVAS_PX) for x, y in corners], fill=colour)


def _colour(rng: random.Random, saturation: Point = (0.0, 1.0), value: Point = (0.15, 1.0)) -> Colour:
    """A random RGB colour of any hue, with saturation and value within the given bounds."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    channels = (2 - abs((hue - k) % 6 - 3) for k in (0, 2, 4))
    return tuple(round(255 * v * (1 - s * min(1.0, max(0.0, channel)))) for channel in channels)


def _darker(colour: Colour, factor: float = 0.8) -> Colour:
    return tuple(round(factor * channel) for channel in colour)


def _ring(x: float, y: float, radii: list[float], turn: float = -math.pi / 2) -> list[Point]:
    """The corners of a polygon around (x, y), at even angles and the given distances."""
    angles = [turn + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]


def _star(x: float, y: float, radius: float, points: int = 5) -> list[Point]:
    return _ring(x, y, [radius, 0.42 * radius] * points)


def _portrait(rng: random.Random) -> Canvas:
    """Head and shoulders on a plain ground."""
    canvas = Canvas(_colour(rng, (0.0, 0.3), (0.4, 0.95)))
    tone = rng.uniform(0.4, 1.0)
    skin = (round(45 + 200 * tone), round(30 + 165 * tone), round(20 + 135 * tone))
    hair = _darker(rng.choice((BROWN, (205, 170, 90), (60, 55, 55), (215, 215, 210))), rng.uniform(0.7, 1.0))
    x, y, r = rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.46), rng.uniform(0.2, 0.26)
    length = rng.choice((-1.0, 0.2, 2.0))  # of the hair, below the ears
    if length > -1:
        canvas.box(x - 1.2 * r, y - 1.5 * r, x + 1.2 * r, y + length * r, hair, radius=r)
    chest = rng.uniform(1.7, 2.4) * r
    canvas.box(x - 0.4 * r, y + 0.7 * r, x + 0.4 * r, y + 2 * r, _darker(skin))
    canvas.box(x - chest, y + 1.55 * r, x + chest, 1.4, _colour(rng), radius=0.9 * r)
    canvas.disc(x, y, 0.9 * r, 1.15 * r, skin)
    for eye in (x - 0.38 * r, x + 0.38 * r):
        canvas.disc(eye, y, 0.16 * r, 0.11 * r, WHITE)
        canvas.disc(eye, y, 0.08 * r, 0.1 * r, BLACK)
    canvas.disc(x, y + 0.6 * r, 0.3 * r, rng.uniform(0.05, 0.15) * r, (160, 50, 50))
    return canvas


def _flag(rng: random.Random) -> Canvas:
    """Bands, perhaps with a triangle or a star, edge to edge or on a plain ground."""
    canvas = Canvas(_colour(rng, value=(0.6, 1.0)))
    left = rng.choice((0.0, rng.uniform(0.05, 0.14)))
    top = left + rng.uniform(0, 0.12)
    side, high = 1 - 2 * left, 1 - 2 * top
    colours = [_colour(rng, (0.75, 1.0), (0.5, 1.0)) for _ in range(3)]
    colours[rng.randrange(3)] = rng.choice((WHITE, WHITE, BLACK))
    is_vertical, bands = rng.random() < 0.5, rng.choice((2, 3, 3, 4))
    for i in range(bands):
        start = (left + side * i / bands, top) if is_vertical else (left, top + high * i / bands)
        canvas.box(*start, left + side, top + high, colours[i % 3])
    if rng.random() < 0.3:
        tip = (left + side * rng.uniform(0.3, 0.6), top + high / 2)
        canvas.polygon([(left, top), tip, (left, top + high)], _colour(rng, (0.6, 1.0)))
    if rng.random() < 0.4:
        star = _star(left + side * rng.choice((0.25, 0.5)), top + high / 2, high * rng.uniform(0.08, 0.18))
        canvas.polygon(star, _colour(rng, (0.5, 1.0), (0.7, 1.0)))
    return canvas


def _logo(rng: random.Random) -> Canvas:
    """A flat, symmetrical mark on a pale ground, above the letters of a name."""
    ground, ink = _colour(rng, (0.0, 0.12), (0.88, 1.0)), _colour(rng, (0.65, 1.0), (0.3, 0.95))
    second = rng.choice((ink, _colour(rng, (0.65, 1.0), (0.3, 0.95))))
    canvas = Canvas(ground)
    x, y, r = rng.uniform(0.42, 0.58), rng.uniform(0.33, 0.45), rng.uniform(0.18, 0.28)
    mark, corners, turn = rng.choice(("ring", "petals", "polygon")), rng.randint(3, 8), rng.random()
    if mark == "petals":
        for i, (px, py) in enumerate(_ring(x, y, [0.6 * r] * corners, turn)):
            canvas.disc(px, py, 0.36 * r, 0.36 * r, (ink, second)[i % 2])
    else:
        edges = 48 if mark == "ring" else corners
        for size, colour in ((1.0, ink), (0.65, ground)):
            canvas.polygon(_ring(x, y, [size * r] * edges, turn), colour)
        canvas.polygon(rng.choice((_star(x, y, 0.5 * r), _ring(x, y, [0.4 * r] * corners, turn))), second)
    left, top, high = rng.uniform(0.12, 0.25), y + r + rng.uniform(0.08, 0.13), rng.uniform(0.05, 0.09)
    right, letters = 1 - left, rng.choice((ink, (50, 50, 55)))
    while left < right:
        wide = rng.uniform(0.03, 0.07)
        canvas.box(left, top + rng.choice((0, 0, 0.02)), left + wide, top + high, letters)
        left += wide + 0.02
    return canvas


def _cover(rng: random.Random) -> Canvas:
    """A book with its spine and page edges, lying on a table."""
    canvas = Canvas(_darker(rng.choice(((150, 100, 65), (200, 150, 100), (90, 90, 95))), rng.uniform(0.7, 1.0)))
    ground, ink = _colour(rng, (0.3, 1.0), (0.2, 0.8)), _colour(rng, (0.0, 0.5), (0.8, 1.0))
    wide, high = rng.uniform(0.46, 0.56), rng.uniform(0.72, 0.82)
    left, top = 0.5 - wide / 2 + rng.uniform(-0.1, 0.02), 0.5 - high / 2 + rng.uniform(-0.06, 0.06)
    right, bottom = left + wide, top + high
    canvas.box(left + 0.03, top + 0.03, right + 0.035, bottom + 0.035, (240, 235, 215))
    canvas.box(left, top, right, bottom, ground)
    canvas.box(left, top, left + 0.06, bottom, _darker(ground, 0.6))
    middle = (left + 0.06 + right) / 2
    for i in range(rng.choice((1, 2, 2))):
        half = wide * rng.uniform(0.2, 0.36)
        canvas.box(middle - half, top + 0.07 + 0.09 * i, middle + half, top + 0.12 + 0.09 * i, ink)
    y, r = top + high * rng.uniform(0.55, 0.65), rng.uniform(0.08, 0.14)
    ornament = rng.choice((_star(middle, y, r), _ring(middle, y, [r] * rng.choice((3, 4, 24)))))
    canvas.polygon(ornament, rng.choice((ink, _colour(rng))))
    return canvas


def _trees(rng: random.Random) -> Canvas:
    """Trees before a sky with a sun."""
    canvas = Canvas(_colour(rng, (0.1, 0.3), (0.85, 1.0)))
    canvas.disc(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.25), 0.07, 0.07, (250, 220, 90))
    canvas.box(0, 0.8, 1, 1, (120, rng.randint(130, 170), 80))
    for _ in range(rng.randint(1, 3)):
        x, r, leaves = rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.2), (rng.randint(20, 90), rng.randint(90, 160), 50)
        canvas.box(x - 0.025, 0.5, x + 0.025, 0.87, BROWN)
        for dx, dy in ((0, -0.6), (-0.6, 0.2), (0.6, 0.2)):
            canvas.disc(x + dx * r, 0.48 + dy * r, 0.7 * r, 0.7 * r, leaves)
    return canvas


def _wallpaper(rng: random.Random) -> Canvas:
    """Rows of triangles, diamonds or dots in two pale colours."""
    colours, count = [_colour(rng, (0.0, 0.4), (0.4, 1.0)) for _ in range(3)], rng.randint(5, 8)
    canvas = Canvas(colours[0])
    corners, turn, radius = rng.choice((3, 4, 24)), rng.uniform(0, 3), rng.uniform(0.3, 0.5) / count
    for i in range(count):
        for j in range(count):
            shape = _ring((i + 0.5) / count, (j + 0.5) / count, [radius] * corners, turn)
            canvas.polygon(shape, colours[1 + (i + j) % 2])
    return canvas


Motif = Callable[[random.Random], Canvas]
DRAWINGS: dict[str, tuple[Motif, ...]] = {
    "PER": (_portrait,),
    "LOC": (_flag,),
    "ORG": (_logo,),
    "MISC": (_cover,),
    "unrelated": (_trees, _wallpaper),
}
"""What stands for each entity type; the `unrelated` drawings stand for none."""


def draw(motif: Motif, rng: random.Random) -> Image.Image:
    """A new image of a motif: RGB, square, `IMAGE_SIZE_PX` wide, a little tilted, cropped, and brighter or darker."""
    tilted = motif(rng).image.rotate(rng.uniform(-6, 6), Image.Resampling.BILINEAR)
    side = rng.uniform(0.84, 0.9) * _CANVAS_PX  # cuts off the black corners that the rotation leaves
    left, top = (0.5 * (_CANVAS_PX - side) + rng.uniform(-0.01, 0.01) * _CANVAS_PX for _ in range(2))
    image = tilted.resize((IMAGE_SIZE_PX,) * 2, Image.Resampling.BOX, (left, top, left + side, top + side))
    gain, offset = rng.uniform(0.8, 1.1), rng.uniform(-15, 15)
    return image.point([min(255, max(0, round(gain * level + offset))) for level in range(256)] * 3)
