"""Modules that can be restored, in groups: a projection in all layers, a layer, its attention or its MLP, one module.

Knows the names of modules and the bytes that restoring costs, and no model.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Group", "children", "coarse", "layer_of", "random_set", "total_bytes"]

_IN_LAYER = re.compile(r"^(?:.*?\.)?(\d+)\.(.+)$")
"""``model.layers.12.self_attn.q_proj``: the first number is the layer, the rest the module's place in it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that are restored together."""

    name: str
    """``layer 3``, ``layer 3 mlp``, ``self_attn.v_proj``, or the module's own name."""
    level: str
    """``projection``, ``layer``, ``block``, ``module`` or ``other`` (in no layer: the head)."""
    modules: tuple[str, ...]
    """Their names."""
    bytes: int
    """What it costs to restore them."""


def layer_of(module: str) -> int | None:
    """Return the number of the layer that a module is in; None for one in no layer."""
    found = _IN_LAYER.match(module)
    return int(found[1]) if found else None


def _place(module: str) -> str:
    found = _IN_LAYER.match(module)
    return found[2] if found else module


def total_bytes(modules: Iterable[str], sizes: Mapping[str, int]) -> int:
    """Return what it costs to restore modules."""
    return sum(sizes[name] for name in modules)


def _grouped(names: Mapping[str, str], level: str, sizes: Mapping[str, int]) -> list[Group]:
    """Return the groups of modules that have the same name in `names`."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, name in names.items():
        found[name].append(module)
    return [Group(name, level, tuple(own), total_bytes(own, sizes)) for name, own in found.items()]


def coarse(sizes: Mapping[str, int]) -> list[Group]:
    """Return the groups that are asked first: projections, what is in no layer, and layers."""
    inside = {name: layer for name in sizes if (layer := layer_of(name)) is not None}
    projections = _grouped({name: _place(name) for name in inside}, "projection", sizes)
    layers = _grouped({name: f"layer {layer}" for name, layer in inside.items()}, "layer", sizes)
    return [*projections, *_grouped({name: name for name in sizes if name not in inside}, "other", sizes), *layers]


def children(group: Group, sizes: Mapping[str, int]) -> list[Group]:
    """Return the parts of a group: a layer's attention and MLP, else its single modules; none of a single module."""
    if group.level == "layer":
        names = {name: f"{group.name} {_place(name).partition('.')[0]}" for name in group.modules}
        return _grouped(names, "block", sizes)
    return [Group(name, "module", (name,), sizes[name]) for name in group.modules] if len(group.modules) > 1 else []


def random_set(sizes: Mapping[str, int], most: int, seed: int) -> tuple[str, ...]:
    """Return single modules in random order for as long as they fit into so many bytes."""
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    return fitted([(name,) for name in order], sizes, most)


def fitted(groups: Iterable[Sequence[str]], sizes: Mapping[str, int], most: int) -> tuple[str, ...]:
    """Return the modules of the groups that fit into so many bytes, in this order; one that does not fit is left."""
    chosen: dict[str, None] = {}
    left = most
    for group in groups:
        new = [name for name in group if name not in chosen]
        if (cost := total_bytes(new, sizes)) <= left:
            chosen.update(dict.fromkeys(new))
            left -= cost
    return tuple(sorted(chosen))
