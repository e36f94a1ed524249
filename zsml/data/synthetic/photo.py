"""The photo-like rendering: coloured, textured, shaded objects in front of clutter.

Colour, texture, light and background are drawn per picture and say nothing about the class.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zsml.data.synthetic.pose import place
from zsml.data.synthetic.shapes import BODY, DARK, LIGHT, SECOND, TAU, Part

Random = np.random.RandomState


def draw_photo(parts: list[Part], random: Random, size: int) -> Image.Image:
    """An RGB picture of size x size pixels."""
    frame = 2 * size  # shapes are drawn at twice the size, then averaged
    points, unit = place(parts, random, frame, turn=0.04, fill=(0.74, 0.92))
    index = Image.new("P", (frame, frame), 0)
    draw = ImageDraw.Draw(index)
    for k, (part, outline) in enumerate(zip(parts, points, strict=True), start=1):
        if part.closed:
            draw.polygon(outline.ravel().tolist(), fill=k)
        else:
            _thick_line(draw, outline, max(2.0, part.width * unit), k)
    backdrop, brightness = _backdrop(random, size)
    colours = _colours(parts, random, brightness)
    index.putpalette(colours.ravel().tolist())
    colour = np.asarray(index.convert("RGB").reduce(2), dtype=np.float32)  # [S, S, 3]
    heights = np.zeros(256, dtype=np.uint8)
    heights[1 : len(parts) + 1] = np.linspace(130, 255, len(parts))  # what is painted later lies nearer
    small = index.resize((size, size), Image.Resampling.NEAREST)
    height = Image.fromarray(heights[np.asarray(small)])
    alpha = np.asarray(Image.fromarray(np.uint8(255) * (np.asarray(index) > 0)).reduce(2), dtype=np.float32) / 255
    light = random.random_sample() * TAU
    fine = np.asarray(height.filter(ImageFilter.GaussianBlur(size / 64)), dtype=np.float32)
    broad = np.asarray(height.filter(ImageFilter.GaussianBlur(size / 16)), dtype=np.float32)
    shade = 1 + (_slope(fine, light) * 0.004 + _slope(broad, light) * 0.012) * (size / 96) * random.uniform(0.5, 1.2)
    shade += _texture(random, size)
    drop = int(size * random.uniform(0.02, 0.07))
    shadow = np.roll(broad, (drop, int(drop * np.cos(light))), axis=(0, 1)) * (random.uniform(0.0, 0.55) / 255)
    backdrop *= (1 - shadow)[..., None]
    scene = backdrop + alpha[..., None] * (np.clip(colour * shade[..., None], 0, 255) - backdrop)
    return _develop(scene, random, size)


def _thick_line(draw: ImageDraw.ImageDraw, line: np.ndarray, width: float, fill: int) -> None:
    draw.line(line.ravel().tolist(), fill=fill, width=round(width))
    r = width / 2
    if r > 2:
        for x, y in line.tolist():
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _paint(hue: float, saturation: float, brightness: float) -> np.ndarray:
    """The colour of a hue that looks this bright (luma in [0, 1]), saturated as far as that allows, -> float64 [3]."""
    rgb = np.array(colorsys.hsv_to_rgb(hue, saturation, 1.0))
    luma = float(rgb @ (0.299, 0.587, 0.114))
    if brightness <= luma:
        return rgb * (brightness / luma)
    return rgb + (1 - rgb) * min(1.0, (brightness - luma) / max(1e-6, 1 - luma))


def _colours(parts: list[Part], random: Random, backdrop: float) -> np.ndarray:
    """One colour per part, material by material, the body set off from the backdrop, -> uint8 [parts + 1, 3]."""
    away = random.uniform(0.3, 0.55)
    body = float(np.clip(backdrop + away if random.uniform(0.35, 0.65) > backdrop else backdrop - away, 0.14, 0.95))
    hue, saturation = random.random_sample(), random.uniform(0.15, 1.0)
    second = hue + random.choice([0.0, 0.08, 0.33, 0.5])
    table = {
        BODY: _paint(hue, saturation, body),
        SECOND: _paint(second % 1, random.uniform(0.1, 0.9), body + random.uniform(-0.2, 0.2)),
        DARK: _paint(random.random_sample(), random.uniform(0.1, 0.7), max(0.05, body - random.uniform(0.25, 0.45))),
        LIGHT: _paint(random.random_sample(), random.uniform(0.05, 0.6), min(0.97, body + random.uniform(0.2, 0.4))),
    }
    wobble = random.uniform(0.92, 1.08, size=len(parts))
    rows = [np.zeros(3), *(table[part.tone] * (255 * w) for part, w in zip(parts, wobble, strict=True))]
    return np.clip(rows, 0, 255).astype(np.uint8)


def _slope(height: np.ndarray, light: float) -> np.ndarray:
    """How far each point of a height map faces the light, -> float32 [S, S]."""
    across = np.zeros_like(height)
    down = np.zeros_like(height)
    across[:, 1:-1] = height[:, 2:] - height[:, :-2]
    down[1:-1] = height[2:] - height[:-2]
    return across * np.float32(np.cos(light)) + down * np.float32(np.sin(light))


def _blotches(random: Random, size: int, cells: int) -> np.ndarray:
    """Smooth noise in [-1, 1], so many cells across, -> float32 [S, S]."""
    grid = Image.fromarray(random.randint(0, 256, (cells, cells)).astype(np.uint8))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1


def _texture(random: Random, size: int) -> np.ndarray:
    """Relative brightness changes of a surface: blotched, striped, chequered or nearly plain, -> float32 [S, S]."""
    kind = random.randint(4)
    if kind == 0:
        return np.float32(random.uniform(0.06, 0.18)) * _blotches(random, size, random.randint(6, 20))
    if kind == 1:
        x = np.arange(size, dtype=np.float32) * np.float32(TAU * random.uniform(6, 14) / size)
        a = random.random_sample() * TAU
        wave = np.sin(x[None] * np.float32(np.cos(a)) + x[:, None] * np.float32(np.sin(a)))
        return np.float32(random.uniform(0.04, 0.12)) * wave
    if kind == 2:
        cell = max(2, int(size / random.randint(10, 20)))
        at = np.arange(size) // cell
        return np.float32(random.uniform(0.03, 0.08)) * ((at[None] + at[:, None]) % 2 * 2 - 1).astype(np.float32)
    return np.float32(0.06) * _blotches(random, size, 5)


def _backdrop(random: Random, size: int) -> tuple[np.ndarray, float]:
    """A room, a field or a wall with things out of focus, and its mean brightness, -> float32 [S, S, 3]."""
    value = random.uniform(0.2, 0.9)
    hues, vivid, values = random.random_sample(8), random.uniform(0, 0.7, 8), value + random.uniform(-0.15, 0.15, 8)
    colours = [tuple(int(255 * c) for c in _paint(*look)) for look in zip(hues, vivid, np.clip(values, 0.05, 1), strict=True)]
    image = Image.new("RGB", (size, size), colours[0])
    draw = ImageDraw.Draw(image)
    horizon = random.uniform(0.35, 0.9) * size
    if random.random_sample() < 0.6:
        tilt = random.uniform(-0.08, 0.08) * size
        draw.polygon([(0, horizon - tilt), (size, horizon + tilt), (size, size), (0, size)], fill=colours[1])
    for k in range(random.randint(2, 8)):
        x, y, w, h = random.uniform(-0.1, 1.1, 4) * size
        w, h = 0.05 * size + 0.3 * abs(w), 0.05 * size + 0.3 * abs(h)
        shape = random.randint(4)
        colour = colours[2 + k % 6]
        if shape == 0:
            draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)
        elif shape == 1:
            draw.rectangle((x - w, y - h, x + w, y + h), fill=colour)
        elif shape == 2:
            draw.polygon([(x - w, y + h), (x + w * 0.2, y - h), (x + w, y + h * 0.6)], fill=colour)
        else:
            draw.line((x - w * 2, y - h, x + w * 2, y + h), fill=colour, width=max(1, size // 24))
    image = image.filter(ImageFilter.GaussianBlur(size * random.uniform(0.03, 0.07)))
    field = np.asarray(image, dtype=np.float32)
    grain = _blotches(random, size, random.randint(4, 16)) * np.float32(random.uniform(1, 7))
    return field + grain[..., None], value


def _develop(scene: np.ndarray, random: Random, size: int) -> Image.Image:
    """Exposure, colour cast and sensor noise."""
    noise = np.frombuffer(random.bytes(size * size), dtype=np.uint8).reshape(size, size, 1).astype(np.float32) - 127.5
    gain = (random.uniform(0.85, 1.12) * random.uniform(0.93, 1.07, 3)).astype(np.float32)
    scene = scene * gain + noise * np.float32(random.uniform(0.01, 0.06))
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
