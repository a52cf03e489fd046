"""What the probe's pictures show: portraits, flags, maps, logos, covers and distractors, drawn from random shapes."""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

IMAGE_SIZE_PX = 96
_CANVAS_PX = 2 * IMAGE_SIZE_PX
"""Drawn at twice the size: scaling down smooths the edges, which ImageDraw does not."""

Point = tuple[float, float]
Colour = tuple[int, int, int]


class Canvas:
    """The shapes of ImageDraw on a square whose coordinates, radii and widths are fractions of its side."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (_CANVAS_PX, _CANVAS_PX))
        self._draw = ImageDraw.Draw(self.image)

    def fill(self, colour: Colour) -> None:
        self.image.paste(colour, (0, 0, _CANVAS_PX, _CANVAS_PX))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, radius: float = 0) -> None:
        corners = [(left * _CANVAS_PX, top * _CANVAS_PX), (right * _CANVAS_PX, bottom * _CANVAS_PX)]
        self._draw.rounded_rectangle(corners, radius * _CANVAS_PX, fill=colour)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.slice(x, y, rx, ry, 0, 360, colour)

    def slice(self, x: float, y: float, rx: float, ry: float, start: float, end: float, colour: Colour) -> None:
        """What a chord cuts off an ellipse, from `start` to `end` in degrees, clockwise from three o'clock."""
        corners = [((x - rx) * _CANVAS_PX, (y - ry) * _CANVAS_PX), ((x + rx) * _CANVAS_PX, (y + ry) * _CANVAS_PX)]
        self._draw.chord(corners, start, end, fill=colour)

    def polygon(self, corners: list[Point], colour: Colour) -> None:
        self._draw.polygon([(x * _CANVAS_PX, y * _CANVAS_PX) for x, y in corners], fill=colour)

    def line(self, points: list[Point], colour: Colour, width: float = 0.01) -> None:
        self._draw.line([(x * _CANVAS_PX, y * _CANVAS_PX) for x, y in points], colour, round(width * _CANVAS_PX))


def _colour(rng: random.Random, saturation: Point = (0.0, 1.0), value: Point = (0.15, 1.0)) -> Colour:
    """A random RGB colour of any hue, with saturation and value within the given bounds."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    channels = (2 - abs((hue - k) % 6 - 3) for k in (0, 2, 4))
    return tuple(round(255 * v * (1 - s * min(1.0, max(0.0, channel)))) for channel in channels)


def _near(rng: random.Random, colour: Colour, spread: int = 18) -> Colour:
    return tuple(min(255, max(0, channel + rng.randint(-spread, spread))) for channel in colour)


def _ring(x: float, y: float, radii: list[float], turn: float = 0.0) -> list[Point]:
    """The corners of a polygon around (x, y), at even angles and the given distances."""
    angles = [turn + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]


def _star(x: float, y: float, radius: float, points: int = 5) -> list[Point]:
    return _ring(x, y, [radius, 0.42 * radius] * points, -math.pi / 2)


def _flag(canvas: Canvas, rng: random.Random) -> None:
    """Bands, a cross or a triangle, edge to edge or on a plain ground; perhaps with an emblem."""
    canvas.fill(_colour(rng, value=(0.6, 1.0)))
    inset, slack = rng.choice((0.0, 0.0, rng.uniform(0.05, 0.14))), rng.uniform(0, 0.12)
    left, top, right, bottom = inset, inset + slack, 1 - inset, 1 - inset - slack
    wide, high = right - left, bottom - top
    colours = [_colour(rng, (0.75, 1.0), (0.5, 1.0)) for _ in range(3)]
    colours[rng.randrange(3)] = rng.choice(((250, 250, 250), (250, 250, 250), (25, 25, 25)))
    design, bands = rng.choice(("rows", "rows", "columns", "columns", "cross", "triangle")), rng.choice((2, 3, 3, 4))
    canvas.box(left, top, right, bottom, colours[0])
    if design == "cross":
        x, y, half = left + wide * rng.uniform(0.3, 0.5), top + high / 2, rng.uniform(0.06, 0.1)
        for colour, arm in ((colours[1], half), (colours[2], half * rng.uniform(0.3, 0.6))):
            canvas.box(x - arm, top, x + arm, bottom, colour)
            canvas.box(left, y - arm, right, y + arm, colour)
    else:
        for i in range(1, bands):
            if design == "columns":
                canvas.box(left + wide * i / bands, top, right, bottom, colours[i % 3])
            else:
                canvas.box(left, top + high * i / bands, right, bottom, colours[i % 3])
    if design == "triangle":
        tip = (left + wide * rng.uniform(0.3, 0.6), top + high / 2)
        canvas.polygon([(left, top), tip, (left, bottom)], _colour(rng, (0.6, 1.0)))
    if rng.random() < 0.4:
        x, size = left + wide * rng.choice((0.25, 0.5)), high * rng.uniform(0.08, 0.18)
        canvas.polygon(_star(x, top + high / 2, size, rng.choice((5, 6))), _colour(rng, (0.5, 1.0), (0.7, 1.0)))


def _map(canvas: Canvas, rng: random.Random) -> None:
    """A sea with meridians, ragged land with borders and rivers, and a pin."""
    canvas.fill(_near(rng, rng.choice(((150, 195, 230), (175, 215, 225), (120, 170, 210)))))
    step, shift = rng.uniform(0.15, 0.25), rng.uniform(0, 0.15)
    for i in range(7):
        canvas.line([(shift + i * step, 0), (shift + i * step, 1)], (225, 235, 240))
        canvas.line([(0, shift + i * step), (1, shift + i * step)], (225, 235, 240))
    for _ in range(rng.choice((1, 2, 2, 3))):
        x, y, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.18, 0.42)
        land = _near(rng, rng.choice(((205, 220, 160), (235, 220, 165), (165, 200, 130), (240, 235, 210))))
        coast = _ring(x, y, [radius * rng.uniform(0.65, 1.15) for _ in range(rng.randint(14, 30))], rng.uniform(0, 6))
        canvas.polygon(coast, land)
        canvas.line([*coast, coast[0]], (120, 110, 90))
        for _ in range(rng.randint(1, 3)):
            start, end = rng.sample(coast, 2)
            middle = (x + rng.uniform(-0.1, 0.1), y + rng.uniform(-0.1, 0.1))
            canvas.line([start, middle, end], rng.choice(((120, 110, 90), (90, 140, 200))))
    x, y, size = rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.75), rng.uniform(0.04, 0.08)
    canvas.polygon([(x, y), (x - size, y - 1.9 * size), (x + size, y - 1.9 * size)], (205, 40, 40))
    canvas.disc(x, y - 2.2 * size, size, size, (205, 40, 40))


_HAIR = ((30, 25, 25), (75, 45, 25), (110, 70, 35), (205, 170, 90), (150, 70, 30), (215, 215, 210))


def _portrait(canvas: Canvas, rng: random.Random) -> None:
    """Head and shoulders on a plain or two-part ground."""
    canvas.fill(_colour(rng, (0.0, 0.3), (0.4, 0.95)))
    if rng.random() < 0.4:
        canvas.box(rng.uniform(0.2, 0.8), 0, 1, 1, _colour(rng, (0.0, 0.3), (0.4, 0.95)))
    tone = rng.uniform(0.4, 1.0)
    skin = (round(45 + 200 * tone), round(30 + 165 * tone), round(20 + 135 * tone))
    shade = tuple(round(0.8 * channel) for channel in skin)
    hair = _near(rng, rng.choice(_HAIR))
    x, y, r = rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.46), rng.uniform(0.2, 0.26)
    head = rng.choice(("short", "long", "round", "bald", "hat"))
    if head == "long":
        canvas.box(x - 1.25 * r, y - r, x + 1.25 * r, y + 2.2 * r, hair, radius=r)
    if head in ("long", "round"):
        canvas.disc(x, y - 0.3 * r, 1.3 * r, 1.2 * r, hair)
    chest = rng.uniform(1.7, 2.4) * r
    canvas.box(x - 0.4 * r, y + 0.7 * r, x + 0.4 * r, y + 2 * r, shade)
    canvas.box(x - chest, y + 1.55 * r, x + chest, 1.4, _colour(rng), radius=0.9 * r)
    if rng.random() < 0.5:
        collar = [(x - 0.4 * r, y + 1.5 * r), (x + 0.4 * r, y + 1.5 * r), (x, y + rng.uniform(2.0, 2.6) * r)]
        canvas.polygon(collar, rng.choice((shade, (245, 245, 245), _colour(rng))))
    canvas.disc(x, y, 0.9 * r, 1.15 * r, skin)
    if head in ("short", "long", "round"):
        canvas.slice(x, y - 0.3 * r, 0.95 * r, r, 180, 360, hair)
    if head == "hat":
        canvas.box(x - 0.8 * r, y - 1.7 * r, x + 0.8 * r, y - 0.7 * r, hair)
        canvas.box(x - 1.4 * r, y - 0.8 * r, x + 1.4 * r, y - 0.6 * r, hair)
    if head != "long" and rng.random() < 0.25:
        canvas.slice(x, y + 0.5 * r, 0.8 * r, 0.75 * r, 10, 170, hair)
    for side in (-1, 1):
        eye = x + side * 0.38 * r
        canvas.disc(eye, y, 0.16 * r, 0.11 * r, (250, 250, 250))
        canvas.disc(eye, y, 0.08 * r, 0.1 * r, (40, 30, 30))
        canvas.line([(eye - 0.2 * r, y - 0.25 * r), (eye + 0.2 * r, y - 0.25 * r)], hair)
    canvas.line([(x, y + 0.1 * r), (x - 0.1 * r, y + 0.35 * r)], shade)
    canvas.slice(x, y + 0.5 * r, 0.35 * r, rng.uniform(0.12, 0.25) * r, 10, 170, (160, 50, 50))


def _logo(canvas: Canvas, rng: random.Random) -> None:
    """A flat, symmetrical mark on a pale ground, above the bars of a wordmark."""
    ground, ink = _colour(rng, (0.0, 0.12), (0.88, 1.0)), _colour(rng, (0.65, 1.0), (0.3, 0.95))
    second = rng.choice((ink, _colour(rng, (0.65, 1.0), (0.3, 0.95))))
    canvas.fill(ground)
    x, y, r = rng.uniform(0.42, 0.58), rng.uniform(0.33, 0.45), rng.uniform(0.18, 0.28)
    mark = rng.choice(("ring", "petals", "polygon", "chevrons", "bars"))
    corners, turn = rng.randint(3, 8), rng.random()
    if mark == "ring":
        canvas.disc(x, y, r, r, ink)
        canvas.disc(x, y, 0.7 * r, 0.7 * r, ground)
        canvas.polygon(rng.choice((_star(x, y, 0.6 * r), _ring(x, y, [0.5 * r] * corners, turn))), second)
    elif mark == "petals":
        for i, (px, py) in enumerate(_ring(x, y, [0.6 * r] * corners, turn)):
            canvas.disc(px, py, 0.36 * r, 0.36 * r, (ink, second)[i % 2])
        canvas.disc(x, y, 0.25 * r, 0.25 * r, ground)
    elif mark == "polygon":
        for size, colour in ((1.0, ink), (rng.uniform(0.45, 0.65), ground), (0.3, second)):
            canvas.polygon(_ring(x, y, [size * r] * corners, turn), colour)
    elif mark == "chevrons":
        for i in range(3):
            top = y - r + 0.6 * i * r
            upper = [(x - r, top + 0.5 * r), (x, top), (x + r, top + 0.5 * r)]
            lower = [(px, py + 0.3 * r) for px, py in reversed(upper)]
            canvas.polygon(upper + lower, (ink, second)[i % 2])
    else:
        for i in range(corners):
            left = x - r + 2 * r * i / corners
            canvas.box(left, y + r - 2 * r * (i + 1) / corners, left + 1.3 * r / corners, y + r, (ink, second)[i % 2])
    left, top, high = rng.uniform(0.12, 0.25), y + r + rng.uniform(0.08, 0.13), rng.uniform(0.05, 0.09)
    right, letters = 1 - left, rng.choice((ink, (50, 50, 55)))
    while left < right:
        wide = rng.uniform(0.03, 0.07)
        canvas.box(left, top + rng.choice((0, 0, 0.02)), left + wide, top + high, letters)
        left += wide + 0.02


def _cover(canvas: Canvas, rng: random.Random) -> None:
    """A book with its spine and page edges, or a record half out of its sleeve, lying on a table."""
    table = _near(rng, rng.choice(((120, 80, 50), (90, 65, 50), (160, 120, 80), (70, 70, 75), (110, 95, 85))))
    canvas.fill(table)
    for _ in range(6):
        y = rng.random()
        canvas.line([(0, y), (1, y)], tuple(round(0.85 * channel) for channel in table))
    ground, ink = _colour(rng, (0.3, 1.0), (0.2, 0.8)), _colour(rng, (0.0, 0.5), (0.8, 1.0))
    record = rng.random() < 0.4
    wide, high = (0.6, 0.6) if record else (rng.uniform(0.46, 0.56), rng.uniform(0.72, 0.82))
    left, top = 0.5 - wide / 2 + rng.uniform(-0.1, 0.02), 0.5 - high / 2 + rng.uniform(-0.06, 0.06)
    right, bottom = left + wide, top + high
    if record:
        black = (20, 20, 22)
        for size, colour in ((0.28, black), (0.2, (55, 55, 60)), (0.19, black), (0.1, ink), (0.02, black)):
            canvas.disc(right, (top + bottom) / 2, size, size, colour)
    else:
        canvas.box(left + 0.03, top + 0.03, right + 0.035, bottom + 0.035, (240, 235, 215))
    canvas.box(left, top, right, bottom, ground)
    if not record:
        canvas.box(left, top, left + 0.06, bottom, tuple(round(0.6 * channel) for channel in ground))
        left += 0.06
    middle = (left + right) / 2
    for i in range(rng.choice((1, 2, 2))):
        half = (right - left) * rng.uniform(0.2, 0.42)
        canvas.box(middle - half, top + 0.07 + 0.09 * i, middle + half, top + 0.12 + 0.09 * i, ink)
    y, r = top + high * rng.uniform(0.55, 0.65), rng.uniform(0.08, 0.14)
    corners = rng.choice((3, 4, 24))
    ornament = rng.choice((_star(middle, y, r), _ring(middle, y, [r] * corners, -math.pi / 2)))
    canvas.polygon(ornament, rng.choice((ink, _colour(rng))))
    canvas.line([(middle - 0.12, bottom - 0.07), (middle + 0.12, bottom - 0.07)], ink, width=0.02)


def _animal(canvas: Canvas, rng: random.Random) -> None:
    """A four-legged animal, from the side, on grass or sand."""
    ground = rng.uniform(0.65, 0.8)
    canvas.fill(_near(rng, rng.choice(((190, 220, 245), (240, 225, 190), (215, 235, 215)))))
    canvas.box(0, ground, 1, 1, _near(rng, rng.choice(((110, 160, 70), (90, 140, 80), (190, 170, 110)))))
    coat, x, r = _colour(rng, (0.1, 0.7), (0.2, 0.8)), rng.uniform(0.42, 0.55), rng.uniform(0.15, 0.2)
    y = ground - 0.8 * r
    for leg in (-1.1, -0.7, 0.7, 1.1):
        canvas.box(x + leg * r - 0.025, y, x + leg * r + 0.025, ground + 0.07, coat)
    canvas.disc(x, y, 1.4 * r, 0.7 * r, coat)
    canvas.line([(x - 1.3 * r, y), (x - 1.9 * r, y - rng.uniform(0.2, 1.0) * r)], coat, width=0.03)
    canvas.disc(x + 1.5 * r, y - 0.8 * r, 0.5 * r, 0.42 * r, coat)
    canvas.polygon([(x + 1.2 * r, y - r), (x + 1.25 * r, y - 1.7 * r), (x + 1.6 * r, y - 1.1 * r)], coat)
    canvas.disc(x + 1.6 * r, y - 0.9 * r, 0.06 * r, 0.06 * r, (10, 10, 10))


def _trees(canvas: Canvas, rng: random.Random) -> None:
    """Trees before a sky with a sun."""
    canvas.fill(_near(rng, rng.choice(((175, 215, 245), (250, 215, 170), (200, 205, 215)))))
    canvas.disc(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.25), 0.07, 0.07, (250, 220, 90))
    canvas.box(0, 0.8, 1, 1, _near(rng, (120, 150, 80)))
    for _ in range(rng.randint(1, 3)):
        x, r, leaves = rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.2), (rng.randint(20, 90), rng.randint(90, 160), 50)
        canvas.box(x - 0.025, 0.5, x + 0.025, 0.87, (100, 70, 45))
        for dx, dy in ((0, -0.6), (-0.6, 0.2), (0.6, 0.2)):
            canvas.disc(x + dx * r, 0.48 + dy * r, 0.7 * r, 0.7 * r, leaves)


def _wallpaper(canvas: Canvas, rng: random.Random) -> None:
    """Rows of triangles, diamonds or dots in two pale colours."""
    colours, count = [_colour(rng, (0.0, 0.4), (0.4, 1.0)) for _ in range(3)], rng.randint(5, 8)
    canvas.fill(colours[0])
    corners, turn, radius = rng.choice((3, 4, 24)), rng.uniform(0, 3), rng.uniform(0.3, 0.5) / count
    for i in range(count):
        for j in range(count):
            shape = _ring((i + 0.5) / count, (j + 0.5) / count, [radius] * corners, turn)
            canvas.polygon(shape, colours[1 + (i + j) % 2])


Motif = Callable[[Canvas, random.Random], None]
DRAWINGS: dict[str, tuple[Motif, ...]] = {
    "PER": (_portrait,),
    "LOC": (_flag, _map),
    "ORG": (_logo,),
    "MISC": (_cover,),
    "unrelated": (_animal, _trees, _wallpaper),
}
"""What stands for each entity type; the `unrelated` drawings stand for none."""


def draw(kind: str, rng: random.Random) -> Image.Image:
    """A new picture of a kind of ``DRAWINGS``, by one of its motifs."""
    return draw_motif(rng.choice(DRAWINGS[kind]), rng)


def draw_motif(motif: Motif, rng: random.Random) -> Image.Image:
    """A new picture of a motif: RGB, square, ``IMAGE_SIZE_PX`` wide, a little tilted and cropped."""
    canvas = Canvas()
    motif(canvas, rng)
    tilted = canvas.image.rotate(rng.uniform(-6, 6), Image.Resampling.BILINEAR)
    side = rng.uniform(0.84, 0.9) * _CANVAS_PX  # cuts off the black corners that the turn leaves
    left, top = (0.5 * (_CANVAS_PX - side) + rng.uniform(-0.01, 0.01) * _CANVAS_PX for _ in range(2))
    box = (left, top, left + side, top + side)
    picture = tilted.resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BOX, box)
    gain, offset = rng.uniform(0.8, 1.1), rng.uniform(-15, 15)
    return picture.point([min(255, max(0, round(gain * level + offset))) for level in range(256)] * 3)
