"""The types of single config values: what they accept, and what is said of a value that they refuse."""

import difflib
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, model_serializer

from harness.config.methods import METHODS
from harness.records import LATENCY_KINDS, QUANTITIES, TAIL_KINDS

NAMED = 12  # at most so many known names in a suggestion
MANY_LOOKS = 10  # looks where they are on and no number is given: more save hardly any items
LARGEST_MARGIN = 0.5  # a drop of more than half is not a tolerance
ARGUMENTS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("arguments.toml").read_text("utf-8"))


def suggestion(word: str, known: Collection[str]) -> str:
    """Give ' Did you mean ...?' where a known name is near, else the known names."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    names = ", ".join(sorted(known)[:NAMED]) + f" and {len(known) - NAMED} more" * (len(known) > NAMED)
    return f" Did you mean {near[0]!r}? ({names})" if near else f" Known: {names}."


# A refusal is a ValueError, which pydantic collects, also where a TypeError would be usual.


def _number(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and re.match(r"[+-]?0_*\d", value)):
        # pydantic would read true as 1 and 020 as 20
        raise ValueError(f"{value!r} is not a number: write it in decimal digits, without a leading zero")
    return value


def _proportion(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number: write a proportion in (0, 0.5], such as 0.02")  # noqa: TRY004
    if not 0 < value <= LARGEST_MARGIN:
        guess = f" Did you mean {value / 100:g}?" if 1 <= value <= 100 * LARGEST_MARGIN else ""
        raise ValueError(f"{value!r} is not a proportion in (0, 0.5].{guess}")
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


def _share_of_items(value: object) -> object:
    if isinstance(value, bool):
        return value
    if not isinstance(value, (int, float)) or not 0 < value <= 1:
        text = "is not a share of the items: write true, false, or a number in (0, 1], such as 0.25"
        raise ValueError(f"{value!r} {text}")
    return True if value == 1 else float(value)


def _looks(value: object) -> object:
    return {True: MANY_LOOKS, False: 1}[value] if isinstance(value, bool) else _number(value)


def _range(value: object) -> object:
    match value:
        case [int() | float() as low, int() | float() as high] if not {bool} & {type(low), type(high)}:
            if 0 <= low <= high <= 1:
                return value
    raise ValueError(f"{value!r} is not a range of scores: write [low, high], such as [0.45, 0.6]")


def _text(otherwise: str, *, known: Collection[str] = (), pattern: str = "") -> BeforeValidator:
    """Accept a known name, or text of a pattern. otherwise: what is said of another value."""

    def checked(value: object) -> object:
        if not isinstance(value, str) or not (value in known if known else re.fullmatch(pattern, value, re.ASCII)):
            raise ValueError(f"{value!r} is {otherwise}{'.' + suggestion(str(value), known) if known else ''}")
        return value

    return BeforeValidator(checked)


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Bits = Annotated[Literal[1, 2, 3, 4, 8], BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_proportion)]
Margin = Annotated[float, PlainValidator(_margin), PlainSerializer(written)]
"""A drop in proportions, or a share of the baseline's score: ``5%``."""
ShareOfItems = Annotated[bool | float, BeforeValidator(_share_of_items)]
Looks = Annotated[int, BeforeValidator(_looks)]  # a number of looks, or true for ten and false for one
_FUNCTIONS = r"obrien-fleming|hwang-shih-decani:-?\d{1,2}(\.\d{1,3})?|power:(?!0+(\.0+)?$)\d(\.\d{1,3})?"
_NO_FUNCTION = "not a spending function: obrien-fleming, hwang-shih-decani:-1 or power:2, with a number"
SpendingName = Annotated[str, _text(_NO_FUNCTION, pattern=_FUNCTIONS)]
Range = Annotated[tuple[float, float], BeforeValidator(_range)]
_NO_NAME = "not a name: letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit"
Name = Annotated[str, _text(_NO_NAME, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")]
MethodName = Annotated[str, _text("not a method", known=METHODS)]
LatencyKind = Annotated[str, _text("nothing that can be late", known=LATENCY_KINDS)]
_Quantity = Annotated[str, _text("not a quantity", known=QUANTITIES)]
_EVENTS = ("*", *TAIL_KINDS, *LATENCY_KINDS)
_Kind = Annotated[str, _text("not a kind of tail event, nor '*' for every kind", known=_EVENTS)]
TailTolerances = dict[_Kind, Share]
"""Kind of tail event, or ``*`` for every other kind, to the largest tolerated share of items."""
RatioTolerances = dict[_Quantity, Annotated[Real, Field(gt=1, le=10)]]
"""Quantity to the largest tolerated ratio of the candidate's to the baseline's: 1.5 is half as much again."""


class Strict(BaseModel):
    """A part of a config: no key but its own, and nothing of it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    later: ClassVar[tuple[str, ...]] = ()
    """Keys that earlier versions did not have: left out at their defaults, so that older configs keep their digests."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        fields = type(self).model_fields
        old = {one for one in self.later if getattr(self, one) == fields[one].get_default(call_default_factory=True)}
        return {name: value for name, value in handler(self).items() if name not in old}


class Layers(Strict):
    """Which part of a stratum candidates are asked, by how sure the baseline was of its own answers."""

    unsure: Annotated[Real, Field(gt=0, lt=1)]
    """Share of the items on which the baseline was least sure: asked in full."""
    sure_share: Annotated[Real, Field(gt=0, lt=1)]
    """Share of the others that is drawn; never 0, since damage may be anywhere."""
