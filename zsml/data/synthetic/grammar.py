"""The classes: a family of objects and the choices that set one class of it apart from the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zsml.data.synthetic import animals, critters, household, outdoors, vehicles
from zsml.data.synthetic.shapes import Figure, Part
from zsml.data.synthetic.traits import Traits, Vary
from zsml.errors import InputError

Family = Callable[[Traits, Vary, Figure], None]

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

    >>> [c.name for c in object_classes(3, seed=0)] == [c.name for c in object_classes(50, seed=0)[:3]]
    True
    """
    names = list(FAMILIES)
    found: dict[str, list[Traits]] = {name: [] for name in names}
    classes: list[ObjectClass] = []
    tried = dict.fromkeys(names, 0)
    while len(classes) < number:
        before = len(classes)
        for name in names:
            traits = _next_class(name, found[name], tried, seed)
            if traits is not None and len(classes) < number:
                found[name].append(traits)
                adjectives = [choice for choice in traits.picks.values() if choice]
                classes.append(ObjectClass(" ".join([*adjectives, name]), FAMILIES[name], traits))
        if len(classes) == before:
            raise InputError(
                f"num_classes={number}: the synthetic set has only {before} classes that differ enough; ask for at most that many"
            )
    return classes


def _next_class(name: str, others: list[Traits], tried: dict[str, int], seed: int) -> Traits | None:
    for _ in range(300):
        traits = Traits(seed, name, tried[name])
        tried[name] += 1
        FAMILIES[name](traits, Vary(np.random.RandomState(0)), Figure())
        if all(_difference(traits, other) >= 3 for other in others):
            return traits
    return None


def _difference(a: Traits, b: Traits) -> int:
    """In how many choices two classes of a family differ; the first two are the large shapes and count double."""
    return sum((2 if k < 2 else 1) * (x != y) for k, (x, y) in enumerate(zip(a.picks.values(), b.picks.values(), strict=True)))
