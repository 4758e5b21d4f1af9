"""The painter of a phantom: from who is on an image and how it was taken to a film and its masks.

An image is a map of attenuation (tissue, bone, air and findings added along the beam), exposed (scatter, quantum
noise) and developed (a film curve). Chest coordinates: x runs to the image's right (the patient's left), y downwards,
1 stands for 200 mm, and the film is about 350 mm wide.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scotoma.data.phantom.drawing import Strokes, axis, blur, smooth, step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotoma.data.phantom.drawing import Array, Field

    Mask = NDArray[np.uint8]

MASKS = ("heart", "lungs", "lesion")
_MILLIMETRE = 1 / 200
_FINE, _COARSE = 0.0075, 0.018
_LETTERS = {
    "L": ((0, 0), (0, 1), (0.6, 1)),
    "R": ((0, 1), (0, 0), (0.5, 0.05), (0.6, 0.25), (0.5, 0.45), (0, 0.5), (0.6, 1)),
}

# The kinds of draw; each has a generator of its own.
ORDER, PATIENT, VISIT, ANATOMY, DISEASE, FILM, QUANTUM = range(7)


class Person(NamedTuple):
    """What the painter needs to know of an image: the truth, typed, and who it is."""

    number: int
    visit: int
    age: int
    female: bool
    ap: bool
    ctr: float
    nodule: bool
    effusion: bool
    pneumothorax: bool


def generator(seed: int, kind: int, index: int) -> np.random.Generator:
    """The generator of one kind of draw for one patient or image; 2**128 counts lie between neighbours."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, index, kind]))


@lru_cache(maxsize=4)
def _rib_profile() -> Field:
    """Attenuation across one rib and the gap after it, 256 steps: a tube with denser walls."""
    t = np.abs((np.arange(256) + 0.5) / 256 - 0.5)
    tube = 1 / (1 + np.exp((t - 0.20) / 0.022))
    return (0.70 * tube + 0.45 * np.exp(-0.5 * ((t - 0.18) / 0.03) ** 2)).astype(np.float32)


class Painter:
    """One image: the shape of the chest, then layer by layer its attenuation, then the film."""

    def __init__(self, seed: int, index: int, person: Person, side: int) -> None:
        self.person, self.side = person, side
        self.anatomy, self.film = generator(seed, ANATOMY, person.number), generator(seed, FILM, index)
        # Findings have a generator of their own: the anatomy around them is the same with and without.
        self.disease, self.quantum = generator(seed, DISEASE, person.number), generator(seed, QUANTUM, index)
        self.masks = {name: np.zeros((side, side), np.uint8) for name in MASKS}
        self._shape()
        self._place()

    def paint(self) -> tuple[Mask, dict[str, Mask]]:
        """The developed film and the masks."""
        air = self._lungs()
        lung_detail = self._texture(0.07) + self._draw(self._vessels())
        dense, deep = self._findings(air, lung_detail)
        attenuation = self._body() + self._bones() + dense
        attenuation -= self.air_depth * air
        attenuation += air * lung_detail
        attenuation += deep
        attenuation += self._draw(self._devices())
        return self._develop(attenuation), self.masks

    def _shape(self) -> None:
        """The patient's build (constant) and the posture of the day, from age, sex and chance."""
        p = self.person
        z = self.anatomy.standard_normal(16).tolist()
        w = self.film.standard_normal(12).tolist()
        old = (p.age - 55) / 20
        self.width = (0.705 if p.female else 0.73) + 0.035 * z[0]
        self.fat = 0.10 + 0.035 * abs(z[1])
        self.bone = max((0.98 if p.female else 1.05) - 0.11 * old + 0.09 * z[2], 0.5)
        self.upper = (0.98 if p.female else 1.015) + 0.040 * z[3] - 0.015 * old + 0.02 * w[0]
        self.waist = 0.18
        dome = (0.345 if p.female else 0.36) + 0.03 * z[4] - 0.012 * old + 0.035 * w[1] - 0.05 * p.ap
        self.dome = (dome, dome + 0.055 + 0.015 * z[5])
        self.breast = 0.15 * math.exp(0.70 * z[6]) if p.female else max(0.04 + 0.06 * z[6], 0.0)
        self.breast_y = 0.22 + 0.06 * z[7] + 0.03 * old
        self.aorta = 0.205 + 0.018 * old + 0.012 * z[8]
        self.unfolding = max(0.03 * old + 0.015 * z[9], 0.0)
        self.rib_gap, self.rib_start = 0.150 + 0.008 * z[10], 0.03 * z[11]
        self.trachea = 0.010 + 0.008 * z[12]
        self.tilt = 0.62 + 0.12 * z[13]
        self.air_depth = 1.12 + 0.08 * z[14] + 0.04 * old + 0.05 * w[2] - 0.06 * p.ap
        magnified = 1.16 + 0.06 * math.tanh(w[3]) if p.ap else 1.0
        self.half = p.ctr * magnified * self.width
        self.heart_x = 0.26 * self.half
        # The semi-axes of the tilted ellipse whose bounding box is as wide as the heart and 0.86 times as high.
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        self.axes = (self.half, 0.74 * self.half)
        stretch = self.half / math.hypot(self.axes[0] * cos, self.axes[1] * sin)
        self.axes = (self.axes[0] * stretch, self.axes[1] * stretch)
        self.high = math.hypot(self.axes[0] * sin, self.axes[1] * cos)
        self.heart_y = self.dome[1] + 0.07 - 0.80 * self.high
        self.gas = w[8] > -0.2
        self.pose = (1.13 + 0.04 * w[4], 0.022 * w[5], 0.025 * w[6], 0.03 * w[7] + 0.08)

    def _place(self) -> None:
        """Chest coordinates of every pixel under today's pose, and the fields that several layers share."""
        scale, turn, dx, dy = self.pose
        cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
        gx, gy = (axis(self.side) - dx)[None, :], (axis(self.side) - dy)[:, None]
        self.x = cos * gx + sin * gy
        self.y = cos * gy - sin * gx
        self.row = gy / scale
        self.u = np.abs(self.x)
        right = self.x < 0
        self.centre = 0.42 * self.width
        off = self.u - self.centre
        across = np.where(off > 0, off / (self.width - self.centre), off / (0.86 * self.centre))
        along = 0.20 - self.y
        along = np.where(along > 0, along / self.upper, along * (self.waist / 0.35))
        across *= across
        self.apical = np.clip(along, 0, 1)
        along *= along
        # 1 on the inner chest wall: an ellipse pushed out at its shoulders.
        self.cage = across + along - 0.45 * across * along
        drop = np.where(off > 0, off / (self.width - self.centre), off * (0.70 / self.centre))
        drop *= drop
        drop = drop * 0.09 + drop * drop * drop * 0.20
        self.below = self.y - np.where(right, self.dome[0], self.dome[1]).astype(np.float32) - drop
        knob = np.exp(-0.5 * ((self.row + 0.30) / 0.085) ** 2)
        trunk = np.exp(-0.5 * ((self.row + 0.10) / 0.10) ** 2)
        neck = 0.105 + 0.02 * step((-0.35 - self.row) / 0.4)
        cone = step((self.row + 0.38) / (self.heart_y + 0.45))
        bulge = (self.aorta - 0.115) * knob + 0.045 * trunk + 0.5 * self.unfolding * step((self.row + 0.4) / 0.3)
        self.edge_left = neck + bulge + max(0.55 * (self.half + self.heart_x) - 0.12, 0) * cone
        bulge = 0.015 + 0.8 * self.unfolding * np.exp(-0.5 * ((self.row + 0.12) / 0.16) ** 2)
        self.edge_right = neck + bulge + max(0.70 * (self.half - self.heart_x) - 0.12, 0) * cone
        self.medial = self.u - np.where(right, self.edge_right, self.edge_left)
        hx, hy = self.x - self.heart_x, self.y - self.heart_y
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        a, b = self.axes
        self.heart = ((cos * hx + sin * hy) / a) ** 2 + ((cos * hy - sin * hx) / b) ** 2
        field = (self.cage < 1) & (self.below < 0) & (self.medial > 0)
        inside = self.heart < 1
        self.masks["heart"] = inside.astype(np.uint8)
        self.masks["lungs"] = (field & ~inside).astype(np.uint8)

    def _to_film(self, x: Array, y: Array) -> tuple[Array, Array]:
        scale, turn, dx, dy = self.pose
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        return dx + cos * x - sin * y, dy + sin * x + cos * y

    def _draw(self, strokes: tuple[Strokes, ...]) -> Field:
        """Lay the points of each stroke width on the pixel grid, bilinearly, and blur."""
        side = self.side
        total = np.zeros((side, side), np.float32)
        for stroke in strokes:
            if not stroke.points:
                continue
            x, y, weight = (np.concatenate(part) for part in zip(*stroke.points, strict=True))
            x, y = self._to_film(x, y)
            px, py = (x + 1) * (side / 2) - 0.5, (y + 1) * (side / 2) - 0.5
            kept = (px >= 0) & (py >= 0) & (px < side - 1) & (py < side - 1)
            px, py, weight = px[kept], py[kept], weight[kept] * (self.pose[0] * side / 2) ** 2
            ix, iy = px.astype(np.intp), py.astype(np.intp)
            fx, fy = px - ix, py - iy
            at = iy * side + ix
            where = np.concatenate((at, at + 1, at + side, at + side + 1))
            low, high = weight * (1 - fy), weight * fy
            share = np.concatenate((low * (1 - fx), low * fx, high * (1 - fx), high * fx))
            total += blur(np.bincount(where, share, side * side).astype(np.float32).reshape(side, side), stroke.sigma)
        return total

    def _lungs(self) -> Field:
        """How much air the beam meets, 0 to 1: thin at the chest wall, cut sharply by diaphragm and mediastinum."""
        air = step((1 - self.cage) * 6.0)
        air *= 0.80 + 0.20 * step((1 - self.cage) * 1.4)
        air *= step(self.below * -30)
        air *= 0.50 + 0.50 * np.minimum(step(self.medial * 22), step((self.heart - 0.98) * 3))
        return air

    def _body(self) -> Field:
        """Soft tissue: trunk, mediastinum, heart, abdomen, breasts."""
        chest = self.width + self.fat
        down = (-1.0, -0.90, -0.82, -0.72, -0.56, -0.1, 1.0)
        out = (0.28, 0.38, 0.68, 0.96, 1.10, chest + 0.10, chest + 0.06)
        outline = np.interp(self.row[:, 0], down, out)
        u = self.u / outline.astype(np.float32)[:, None]
        trunk = np.sqrt(np.clip(1 - u * u, 0, 1))
        total = (1.55 + 0.8 * self.fat) * trunk + 0.45 * step((1 - u) * 6)
        deep = step(self.below * 12)
        heart = 0.58 * step((1.05 - self.heart) * 2.8)
        total += np.maximum(0.52 * step(self.medial * -10) * step((self.row + 1.25) * 2) * (1 - 0.7 * deep), heart)
        total += (0.42 * step(self.below * 25) + 0.10 * deep) * trunk
        pipe = step((0.052 - np.abs(self.x - self.trachea)) * 40) * step((-0.22 - self.row) * 8)
        total -= 0.34 * pipe
        if self.gas:
            gas = ((self.x - 0.36) / 0.17) ** 2 + ((self.y - self.dome[1] - 0.13) / 0.075) ** 2
            total -= 0.38 * step((1 - gas) * 2) * step(self.below * 25)
        if self.breast > 0:
            total += self._breasts()
        return total

    def _breasts(self) -> Field:
        """Thickening of the lower chest on both sides, sharpest along its lower edge."""
        x, y = self.u - 0.60 * self.width, self.y - self.breast_y
        y = np.where(y > 0, y * (1 / 0.22), y * (1 / 0.40))
        inside = 1 - (x * (1 / (0.46 * self.width))) ** 2 - y * y
        return self.breast * step(inside * 1.8)

    def _bones(self) -> Field:
        """Spine, clavicles, shoulder blades, ribs: posterior ones slope out and down, anterior ones in and down."""
        u = self.u * (1 / self.width)
        wall = step((1.10 - self.cage) * 8) * step((0.30 - self.below) * 5)
        ripple = 0.012 * np.sin(9 * self.y + 4 * u)
        level = ripple + self.y - (0.34 - 0.20 * self.y) * u * u + 0.10 * u - self.rib_start
        profile = _rib_profile()
        ribs = profile[(level * (256 / self.rib_gap)).astype(np.int32) & 255] * (0.26 + 0.03 * u)
        level = ripple + self.y + 0.10 + 0.62 * u - 0.16 * u * u - self.rib_start
        ribs += profile[(level * (256 / (1.12 * self.rib_gap))).astype(np.int32) & 255] * (0.20 * step((u - 0.34) * 4))
        ribs *= wall * (self.bone * (1 - 0.35 * step((1.05 - self.heart) * 3)))

        disc = 0.5 + 0.5 * np.cos((self.row - self.rib_start) * (2 * math.pi / 0.135))
        spine = (0.10 + 0.09 * disc) * step((0.12 - np.abs(self.x)) * 18)
        bend = self.u - 0.10
        off = np.abs(self.y + 0.60 + 0.24 * bend + 0.045 * np.sin(bend * (2 * math.pi / 0.66)))
        collar = (0.30 * step((0.036 - off) * 55)) * step(bend * 30 + 0.5) * step((0.80 - self.u) * 20)
        blade = step((self.u - self.width * (0.80 if self.person.ap else 0.95) - 0.12 * (self.y + 0.3)) * 30)
        blade *= step((self.y + 0.72) * 6) * step((0.02 - self.y) * 5)
        return (spine + collar + 0.17 * blade) * self.bone + ribs

    def _texture(self, amount: float) -> Field:
        """Clutter without shape, coarse to fine."""
        total = np.zeros((self.side, self.side), np.float32)
        for knots, share in ((10, 1.0), (22, 0.7), (44, 0.5)):
            basis = smooth(self.side, knots)
            total += (amount * share) * (basis @ self.anatomy.standard_normal((knots, knots), np.float32) @ basis.T)
        return total

    def _vessels(self) -> tuple[Strokes, ...]:
        """Vessels fanning out from the hila, with branches; what mimics nodules: vessels end-on, granuloma, nipples."""
        rng = self.anatomy
        t = np.linspace(0, 1, 40)
        fine, coarse = Strokes(_FINE), Strokes(_COARSE)
        for side in (-1, 1):
            n = 24
            angle = np.sort(rng.uniform(-1.5, 1.5, n))
            reach = (0.60 - 0.12 * np.cos(angle)) * rng.uniform(0.55, 1.1, n)
            bend = rng.normal(0, (0.7, 0.5), (n, 2))
            way = angle[:, None] + bend[:, :1] * t + bend[:, 1:] * np.sin(5 * t)
            pace = reach[:, None] / len(t)
            x = (0.12 + rng.normal(0.05, 0.03, n))[:, None] + np.cumsum(np.cos(way) * pace, 1)
            y = (-0.08 - 0.02 * side + 0.13 * np.sin(angle) + rng.normal(0, 0.03, n))[:, None]
            y = y + np.cumsum(np.sin(way) * pace, 1)
            peak = (rng.uniform(0.08, 0.34, n) * (1 + 0.3 * np.sin(angle)))[:, None] * (1 - t) ** 0.8
            fine.line(side * x, y, peak)
            trunk = slice(0, 18)
            coarse.line(side * x[:, trunk], y[:, trunk], 0.40 * peak[:, trunk] * (1 - t[trunk] / 0.45))
            parent, start = np.repeat(np.arange(n), 2), rng.integers(6, 30, 2 * n)
            turn = np.tile((-1.0, 1.0), n) * rng.uniform(0.3, 0.8, 2 * n)
            way = (way[parent, start] + turn)[:, None] - 0.6 * turn[:, None] * t
            pace = 0.45 * reach[parent][:, None] / len(t)
            bx = x[parent, start][:, None] + np.cumsum(np.cos(way) * pace, 1)
            by = y[parent, start][:, None] + np.cumsum(np.sin(way) * pace, 1)
            fine.line(side * bx, by, 0.75 * peak[parent, start][:, None] * (1 - t))
            ends = rng.integers(2, 7)
            place = rng.normal((0.24, -0.08), (0.06, 0.14), (ends, 2))
            coarse.dots(side * place[:, 0], place[:, 1], rng.uniform(0.05, 0.16, ends))
        fine.dots(rng.uniform(-0.5, 0.5, 1), rng.uniform(-0.6, 0.3, 1), 0.9 * float(rng.random() < 0.25))
        nipple = 0.13 * (rng.random() < 0.15)
        coarse.dots(np.array((-0.42, 0.43)), np.full(2, self.breast_y + 0.06), nipple)
        return fine, coarse

    def _findings(self, air: Field, detail: Field) -> tuple[Field, Field]:
        """Attenuation added by fluid; by nodule, pleural line and free air. Changes ``air`` and ``detail`` in place."""
        p, lesion = self.person, np.zeros((self.side, self.side), bool)
        where, today = self.disease.random(12).tolist(), self.film.random(8).tolist()
        fluid, small = np.zeros_like(self.x), np.zeros_like(self.x)
        if p.effusion:
            left = where[0] > 0.55
            lung = (self.x > 0) if left else (self.x < 0)
            size = 0.6 * where[1] + 0.4 * today[0]
            level = self.dome[left] + 0.14 - 0.55 * size * size
            climb = np.clip((self.u - 0.25 * self.width) * (1 / (0.75 * self.width)), 0, 1)
            depth = (self.y - level + (0.05 + 0.22 * size) * climb * climb * climb) * lung
            region = step((1.0 - self.cage) * 8) * step(self.medial * 10) * step(0.5 - self.below * 20)
            region *= 1 - 0.85 * step((1.05 - self.heart) * 2.8)
            fluid = 0.46 * step(depth * 9) * region
            air *= 1 - 0.92 * step(depth * 9)
            lesion |= (depth > 0.02) & (self.masks["lungs"] > 0)
        if p.pneumothorax:
            lung = (self.x < 0) if where[2] < 0.5 else (self.x > 0)
            size = 0.26 + 0.50 * where[3] * (0.5 + 0.5 * today[1])
            gap = self.cage - 1 + size * (0.22 + 0.78 * self.apical)
            free = step(gap * 25) * lung
            detail *= 1 - free
            small -= 0.22 * free * air
            small += 0.17 * step(1 - np.abs(gap - 0.01) * 18) * lung * step(air * 5)
            lesion |= (gap > 0) & lung & (self.masks["lungs"] > 0)
        if p.nodule:
            x, y = self._spot(where[4], where[5], where[6])
            radius = (4 + 5 * where[7] * (0.75 + 0.25 * today[2])) * _MILLIMETRE
            away = ((self.x - x) ** 2 + (self.y - y) ** 2) * (1 / radius**2)
            small += (0.30 + 0.20 * where[7]) * (0.85 + 0.3 * where[8]) * step((1.25 - away) * 0.9)
            lesion |= away < 1
        self.masks["lesion"] = lesion.astype(np.uint8)
        return fluid, small

    def _spot(self, side: float, height: float, across: float) -> tuple[float, float]:
        """A place in a lung field from three numbers in [0, 1]: between heart or mediastinum and the chest wall."""
        left = side > 0.5
        top = 0.20 - 0.80 * self.upper
        y = top + (0.06 + 0.86 * height) * (self.dome[left] - top)
        along = min(max(0.20 - y, 0) / self.upper, 1) ** 2
        outer = self.centre + (self.width - self.centre) * math.sqrt((1 - along) / (1 - 0.45 * along))
        inner = 0.20
        inside = 1 - ((y - self.heart_y) / self.high) ** 2
        if inside > 0:
            inner = max(inner, self.half * math.sqrt(inside) + (self.heart_x if left else -self.heart_x))
        u = inner + (0.12 + 0.76 * across) * (outer - inner)
        return (u if left else -u), y

    def _devices(self) -> tuple[Strokes, ...]:
        """A side marker on most films; leads, electrodes and a central line on many AP ones."""
        rng = self.film
        fine, coarse = Strokes(_FINE), Strokes(_COARSE)
        t = np.linspace(0, 1, 160)
        if rng.random() < 0.75:
            letter = "R" if rng.random() < 0.5 else "L"
            corner = np.array(_LETTERS[letter], dtype=np.float64) * 0.10
            steps = np.linspace(0, len(corner) - 1, 60)
            at = np.arange(len(corner))
            x = np.interp(steps, at, corner[:, 0]) + (-0.80 if letter == "R" else 0.70) + rng.normal(0, 0.02)
            y = np.interp(steps, at, corner[:, 1]) - 0.88 + rng.uniform(0, 0.12)
            fine.line(x, y, 1.6)
        if rng.random() < (0.45 if self.person.ap else 0.03):
            for _ in range(rng.integers(1, 4)):
                ends = rng.uniform((-0.7, -0.7), (0.7, 0.5), (2, 2))
                pull = rng.normal(0, 0.35, (2, 1))
                path = ends[0][:, None] * (1 - t) + ends[1][:, None] * t + pull * np.sin(math.pi * t)
                fine.line(path[0], path[1], 0.35)
                coarse.dots(ends[1][:1], ends[1][1:], 0.7)
        if rng.random() < (0.35 if self.person.ap else 0.02):
            side = -1.0 if rng.random() < 0.7 else 1.0
            path = np.stack((side * 0.50 * (1 - t) ** 2 - 0.10 * t, -0.62 - 0.12 * np.sin(math.pi * t) + 0.62 * t**2))
            fine.line(path[0], path[1], 0.45)
        return fine, coarse

    def _develop(self, attenuation: Field) -> Mask:
        """Expose (scatter, quantum noise), then an automatic window and a film curve that never clips."""
        side, ap, rng = self.side, self.person.ap, self.film
        glow, dose, gain, bright = rng.standard_normal(4).tolist()
        coarse = smooth(side, 12)
        gather = coarse.T / coarse.sum(0)[:, None]
        light = np.exp(-attenuation)
        haze = (0.35 + 0.15 * ap) * math.exp(0.25 * glow)
        uneven = 1 + 0.10 * rng.standard_normal((12, 12), np.float32)
        light += coarse @ ((gather @ light @ gather.T) * uneven * np.float32(haze)) @ coarse.T
        density = -np.log(light)
        grain = 0.0075 * math.exp(0.30 * dose + 0.25 * ap) * (side / 128)
        density += self.quantum.standard_normal((side, side), np.float32) * (grain / np.sqrt(light))
        zones = np.sort(gather @ density @ gather.T, axis=None)
        low, high = float(zones[14]), float(zones[-10])
        middle = low + (0.35 - 0.05 * bright) * (high - low)
        film = (density - middle) * (2.2 * math.exp(0.12 * gain) / (high - low))
        film /= np.sqrt(1 + film * film)
        return np.rint(film * 127 + 127.5).clip(0, 255).astype(np.uint8)
