"""The classes: a family of objects and the choices that set one class of it apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from zsml.data.synthetic import animals, critters, household, outdoors, vehicles
from zsml.data.synthetic.shapes import Figure, Part
from zsml.data.synthetic.traits import Traits, Vary
from zsml.errors import InputError

Family = Callable[[Traits, Vary, Figure], None]
MOST_CLASSES = 1000

FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        animals.beast,
        vehicles.car,
        household.vessel,
        outdoors.tree,
        animals.bird,
        outdoors.house,
        household.tool,
        animals.fish,
        vehicles.ship,
        outdoors.treat,
        household.robot,
        household.lamp,
        critters.bug,
        vehicles.rocket,
        outdoors.plant,
        household.seat,
        vehicles.balloon,
        critters.jelly,
        critters.starfish,
    )
}


class ObjectClass(NamedTuple):
    """One class: its name, and what draws a specimen of it."""

    name: str
    family: Family
    traits: Traits

    def specimen(self, random: np.random.RandomState) -> list[Part]:
        """The parts of one specimen, in painting order, object coordinates."""
        figure = Figure()
        self.family(self.traits, Vary(random), figure)
        return figure.parts


def object_classes(number: int, seed: int) -> list[ObjectClass]:
    """So many classes that differ in structure, the families taking turns; the first n do not depend on the number.

    Raises:
        InputError: a number above 1000. (Another seed gives other classes.)

    >>> [c.name for c in object_classes(3, seed=0)] == [c.name for c in object_classes(50, seed=0)[:3]]
    True
    """
    if number > MOST_CLASSES:
        raise InputError(f"num_classes={number} must be at most {MOST_CLASSES}; for other classes take another seed")
    supplies = [_supply(name, seed) for name in FAMILIES]
    classes: list[ObjectClass] = []
    while len(classes) < number:
        classes += [thing for supply in supplies if (thing := next(supply, None))]
    return classes[:number]


def _supply(name: str, seed: int) -> Iterator[ObjectClass]:
    """Classes of a family, each as different from those before as can be had without a long search."""
    found: list[Traits] = []
    number, vain, apart = 0, 0, 3
    while apart > 0:
        traits = Traits(seed, name, number)
        number += 1
        FAMILIES[name](traits, Vary(np.random.RandomState(0)), Figure())  # draws one, to learn the choices
        if all(_difference(traits, other) >= apart for other in found):
            vain = 0
            found.append(traits)
            adjectives = [choice for choice in traits.picks.values() if choice]
            yield ObjectClass(" ".join([*adjectives, name]), FAMILIES[name], traits)
        else:
            vain += 1
            if vain == 100:
                vain, apart = 0, apart - 1


def _difference(a: Traits, b: Traits) -> int:
    """In how many choices two classes of a family differ; the first two are the large shapes and count double."""
    return sum((2 if k < 2 else 1) * (x != y) for k, (x, y) in enumerate(zip(a.picks.values(), b.picks.values(), strict=True)))
