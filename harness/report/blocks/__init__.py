"""The blocks of a report, a file each: a module in here with ``BLOCKS`` is shown by every format that it names."""

import pkgutil
from functools import cache
from importlib import import_module

from harness.judge.verdicts import Judgement
from harness.report.evidence import Evidence
from harness.report.section import Block, Format, Section

__all__ = ["filled"]


@cache
def _blocks() -> tuple[Block, ...]:
    modules = (import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__))
    return tuple(block for module in modules for block in module.BLOCKS)


def filled(name: Format, judgement: Judgement, evidence: Evidence) -> list[tuple[Block, list[Section]]]:
    """Return the blocks that a format shows, in its order, each with the sections that have something to show."""
    shown = sorted((one for one in _blocks() if name in one.places), key=lambda one: one.places[name])
    made = ((block, block.fill(judgement, evidence)) for block in shown)
    found = ((block, [own] if isinstance(own, Section) else own) for block, own in made)
    return [(block, [one for one in own if one and name in one.formats]) for block, own in found]
