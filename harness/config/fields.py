"""The types of single config values: what they accept, and what is said of a value that they refuse."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from harness.config.methods import METHODS
from harness.records import LATENCY_KINDS, QUANTITIES, TAIL_KINDS

__all__ = [
    "LatencyKind",
    "Margin",
    "Name",
    "Real",
    "RelativeMargin",
    "Share",
    "TailTolerances",
    "Whole",
    "allowed",
    "looks_field",
    "method_name",
    "range_field",
    "share_field",
    "spending_field",
    "suggestion",
    "written",
]

NAMED = 12
"""At most so many known names in a suggestion."""

MANY_LOOKS = 10
"""Looks where they are on and no number is given: more save hardly any items."""

LARGEST_MARGIN = 0.5
"""A drop of more than half is not a tolerance."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def suggestion(word: str, known: list[str] | tuple[str, ...] | frozenset[str] | dict[str, Any]) -> str:
    """Give ' Did you mean ...?' where a known name is near, else the known names."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    names = ", ".join(sorted(known)[:NAMED]) + (", ..." if len(known) > NAMED else "")
    return f" Did you mean {near[0]!r}? ({names})" if near else f" Known: {names}."


def _number(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and re.match(r"[+-]?0_*\d", value)):
        msg = f"{value!r} is not a number: write it in decimal digits, without a leading zero"
        raise ValueError(msg)  # pydantic would read true as 1 and 020 as 20
    return value


def _proportion(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{value!r} is not a number: write a proportion in (0, 0.5], such as 0.02"
        raise ValueError(msg)  # noqa: TRY004 - pydantic collects ValueErrors
    if not 0 < value <= LARGEST_MARGIN:
        guess = f" Did you mean {value / 100:g}?" if 1 <= value <= 100 * LARGEST_MARGIN else ""
        msg = f"{value!r} is not a proportion in (0, 0.5].{guess}"
        raise ValueError(msg)
    return value


class RelativeMargin(float):
    """A margin that is a share of the baseline's score, ``5%`` in a config."""

    def __str__(self) -> str:
        """Return it as a config writes it."""
        return f"{100.0 * self:g}%"


def allowed(margin: float, score: float) -> float:
    """Return the largest tolerated drop from a baseline's mean score."""
    return float(margin) * score if isinstance(margin, RelativeMargin) else margin


def written(margin: float | None) -> float | str | None:
    """Return a margin as JSON and YAML hold it."""
    return str(margin) if isinstance(margin, RelativeMargin) else margin


def _margin(value: object) -> object:
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,2}(\.\d+)?) ?%", value, re.ASCII)):
        return RelativeMargin(float(str(_proportion(float(found[1]) / 100.0))))
    return value if isinstance(value, RelativeMargin) else _proportion(value)


def share_field(value: object) -> object:
    """Accept true, false or a share of the items."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, (int, float)) or not 0 < value <= 1:
        msg = f"{value!r} is not a share of the items: write true, false, or a number in (0, 1], such as 0.25"
        raise ValueError(msg)
    return True if value == 1 else float(value)


def looks_field(value: object) -> object:
    """Accept a number of looks, or true for ten and false for one."""
    return {True: MANY_LOOKS, False: 1}[value] if isinstance(value, bool) else _number(value)


def spending_field(value: object) -> object:
    """Accept the name of a spending function, with its parameter."""
    known = r"obrien-fleming|hwang-shih-decani:-?\d{1,2}(\.\d{1,3})?|power:(?!0+(\.0+)?$)\d(\.\d{1,3})?"
    if not isinstance(value, str) or not re.fullmatch(known, value, re.ASCII):
        msg = f"{value!r} is not a spending function: obrien-fleming, hwang-shih-decani:-1 or power:2, with a number"
        raise ValueError(msg)
    return value


def range_field(value: object) -> object:
    """Accept a lowest and a highest score."""
    ends = list(value) if isinstance(value, (list, tuple)) else []
    numbers = [one for one in ends if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if len(ends) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:  # noqa: PLR2004 - a pair
        msg = f"{value!r} is not a range of scores: write [low, high], such as [0.45, 0.6]"
        raise ValueError(msg)
    return value


def method_name(value: object) -> object:
    """Accept the name of a quantization method."""
    if not isinstance(value, str) or value not in METHODS:
        msg = f"{value!r} is not a method.{suggestion(str(value), METHODS)}"
        raise ValueError(msg)
    return value


def _kind(value: object) -> object:
    if value != "*" and value not in (known := TAIL_KINDS | LATENCY_KINDS):
        near = suggestion(str(value), known)
        msg = f"{value!r} is not a kind of tail event, nor '*' for every kind.{near}"
        raise ValueError(msg)
    return value


def _quantity(value: object) -> object:
    if value not in QUANTITIES:
        raise ValueError(f"{value!r} is not a quantity.{suggestion(str(value), QUANTITIES)}")
    return value


def _name(value: object) -> object:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        msg = f"{value!r} is not a name: letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit"
        raise ValueError(msg)
    return value


def _latency_kind(value: object) -> object:
    if value not in LATENCY_KINDS:
        raise ValueError(f"{value!r} is nothing that can be late.{suggestion(str(value), LATENCY_KINDS)}")
    return value


LatencyKind = Annotated[str, BeforeValidator(_latency_kind)]
Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_proportion)]
Margin = Annotated[float, PlainValidator(_margin), PlainSerializer(written)]
"""A drop in proportions, or a share of the baseline's score: ``5%``."""
Name = Annotated[str, BeforeValidator(_name)]
TailTolerances = dict[Annotated[str, BeforeValidator(_kind)], Share]
"""Kind of tail event, or ``*`` for every other kind, to the largest tolerated share of items."""
RatioTolerances = dict[Annotated[str, BeforeValidator(_quantity)], Annotated[Real, Field(gt=1)]]
"""Quantity to the largest tolerated ratio of the candidate's to the baseline's: 1.5 is half as much again."""


class Strict(BaseModel):
    """A part of a config: no key but its own, and nothing of it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
