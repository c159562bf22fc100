"""What a comparison is judged by: margins, levels, which strata decide, how many items and looks were planned.

`Rules` come from a config, from another policy, or from the command line. They are fixed before the data are seen. They
know names of slices and strata, not items or scores.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from harness.config.fields import written
from harness.config.schema import Experiment, Policy
from harness.errors import UsageError
from harness.records import Item

__all__ = ["Rules", "SliceRules", "read_policy"]


@dataclass(frozen=True, slots=True)
class SliceRules:
    """What is particular to one slice."""

    margin: float | None = None
    """Its own margin; None for the policy's."""
    gating: bool = True
    """Whether its strata decide."""
    advisory: tuple[str, ...] = ()
    """Globs over stratum names that do not decide."""
    public_range: tuple[float, float] | None = None
    """Lowest and highest mean score that others report for the baseline on this task; None if not given."""
    tail_events: Mapping[str, float] | None = None
    """Its own tolerances of tail events; None for the policy's."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole of what a judgement demands. Margins are proportions: 0.02 is two points."""

    policy: Policy = field(default_factory=Policy)
    """alpha, margins, the level of the test against chance, and what inconclusive does."""
    slices: Mapping[str, SliceRules] = field(default_factory=dict)
    """By label, in the order in which a report shows them."""
    advisory: tuple[str, ...] = ()
    """Globs over ``slice/stratum`` that do not decide, in addition to those of the slices."""
    looks: int = 1
    """Interim looks planned; 1 if all items are looked at once."""
    stop_on_fail: bool = False
    """Whether a candidate is asked nothing more once it has failed."""
    plan: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(slice, stratum) to the items of the fixed plan, see `with_plan`; needed for looks of unequal size only."""
    traffic: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(slice, stratum) to the summed traffic of those items, see `with_plan`."""

    @staticmethod
    def from_experiment(experiment: Experiment) -> Rules:
        """Take the rules that a config states."""
        slices = {
            spec.key: SliceRules(
                margin=spec.margin,
                gating=spec.gating,
                advisory=spec.advisory,
                public_range=spec.public_range,
                tail_events=spec.tail_events,
            )
            for spec in experiment.slices
        }
        execution = experiment.execution
        return Rules(experiment.policy, slices, looks=execution.looks, stop_on_fail=execution.stop_on_fail)

    @staticmethod
    def from_flags(
        *,
        margin: float = 0.02,
        alpha: float = 0.05,
        margins: Mapping[str, float] | None = None,
        advisory: tuple[str, ...] = (),
        inconclusive: str = "hold",
    ) -> Rules:
        """Take the rules that a command line states. Raises UsageError with every flag that cannot be."""
        given: dict[str, Any] = {
            "margin": margin,
            "alpha": alpha,
            "margins": dict(margins or {}),
            "inconclusive": inconclusive,
        }
        return Rules(read_policy(given), advisory=advisory)

    def under(self, policy: Policy) -> Rules:
        """Return the same slices and looks under another policy."""
        return replace(self, policy=policy)

    def without_own_tolerances(self) -> Rules:
        """Return the same rules with the policy's tolerances of tail events for every slice."""
        return replace(self, slices={name: replace(one, tail_events=None) for name, one in self.slices.items()})

    def margin(self, slice_name: str, stratum: str) -> float:
        """The largest tolerated drop: the last of `policy.margins` that fits, else the slice's, else the policy's.

        It may be relative, see `harness.config.fields.allowed`.
        """
        place = f"{slice_name}/{stratum}"
        fitting = [margin for glob, margin in self.policy.margins.items() if fnmatchcase(place, glob)]
        own = self.slices.get(slice_name, SliceRules()).margin
        if fitting:
            return fitting[-1]
        return self.policy.margin if own is None else own

    def gating(self, slice_name: str, stratum: str) -> bool:
        """Whether a stratum decides."""
        own = self.slices.get(slice_name, SliceRules())
        return own.gating and not self._advisory(slice_name, stratum)

    def _advisory(self, slice_name: str, stratum: str) -> bool:
        """Return whether a stratum was declared advisory by name."""
        own = self.slices.get(slice_name, SliceRules())
        place = f"{slice_name}/{stratum}"
        by_slice = any(fnmatchcase(stratum, glob) for glob in own.advisory)
        return by_slice or any(fnmatchcase(place, glob) for glob in (*self.advisory, *self.policy.advisory))

    def tolerances(self, slice_name: str, stratum: str) -> Mapping[str, float]:
        """The tolerances of tail events in a stratum, by kind, ``*`` for every other kind; empty if none gates.

        A slice's own replace the policy's and gate whatever its `gating` says; advisory strata never gate.
        """
        own = self.slices.get(slice_name, SliceRules())
        if self._advisory(slice_name, stratum) or (own.tail_events is None and not own.gating):
            return {}
        return self.policy.tail_events if own.tail_events is None else own.tail_events

    def tolerance(self, slice_name: str, stratum: str, kind: str) -> float | None:
        """The largest tolerated rate of one kind of tail event in a stratum; None if it does not gate."""
        known = self.tolerances(slice_name, stratum)
        return known.get(kind, known.get("*"))

    @property
    def families(self) -> int:
        """Between how many families of tests the chance of a wrong fail is split: scores, and those that are gated."""
        events = bool(self.policy.tail_events or any(one.tail_events for one in self.slices.values()))
        return 1 + events + bool(self.policy.quantities)

    def with_plan(self, items: Iterable[Item]) -> Rules:
        """Note how many items, of how much traffic, each stratum would get if nothing were decided early."""
        plan, traffic = Counter[tuple[str, str]](), defaultdict[tuple[str, str], float](float)
        for item in items:
            plan[item.slice, item.stratum] += 1
            traffic[item.slice, item.stratum] += item.weight
        return replace(self, plan=plan, traffic=traffic)

    def weight(self, slice_name: str, stratum: str, found: float) -> float:
        """Summed traffic of a stratum's planned items; what was found if no plan is known."""
        return self.traffic.get((slice_name, stratum), found)

    def planned(self, slice_name: str, stratum: str, found: int) -> int | None:
        """Items of a stratum's fixed plan, not fewer than were found; None if no plan is known."""
        planned = self.plan.get((slice_name, stratum))
        return None if planned is None else max(planned, found)

    def unmatched_globs(self, places: Iterable[tuple[str, str]]) -> list[str]:
        """Return the globs that match no stratum at all, which is probably a mistake."""
        names = [f"{slice_name}/{stratum}" for slice_name, stratum in places]
        globs = (*self.policy.margins, *self.advisory, *self.policy.advisory)
        return [glob for glob in globs if not any(fnmatchcase(name, glob) for name in names)]

    def to_json(self) -> dict[str, Any]:
        """Return what a judgement prints as its policy."""
        slices = {
            name: {
                "margin": written(one.margin),
                "gating": one.gating,
                "informative": list(one.advisory),
                "tail_events": None if one.tail_events is None else dict(one.tail_events),
            }
            for name, one in self.slices.items()
        }
        policy = self.policy.model_dump(mode="json")
        return {
            **{_PUBLISHED.get(name, name): value for name, value in policy.items()},
            "looks": self.looks,
            "informative": list(self.advisory),
            "slices": slices,
        }


_PUBLISHED = {"chance_alpha": "floor_alpha"}
"""Keys of the policy that comparisons.json calls by an older name."""


def read_policy(given: Mapping[str, Any]) -> Policy:
    """Return the policy that options of a command give. Raises UsageError with every value that is wrong, once."""
    try:
        return Policy.model_validate(given)
    except ValidationError as error:
        problems: dict[str, str] = {}
        for details in error.errors():
            text = str(details.get("ctx", {}).get("error", f"{details.get('input')!r}: {details['msg']}"))
            problems.setdefault(text, ".".join(str(part) for part in details["loc"]))
        raise UsageError("\n".join(f"--{flag}: {text}" for text, flag in problems.items())) from error
