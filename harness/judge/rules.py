"""What a comparison is judged by, fixed before the data are seen: margins, levels, which strata decide, the plan."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from harness.config.fields import suggestion, written
from harness.config.schema import Experiment, Policy, SliceSpec
from harness.errors import UsageError
from harness.records import Item
from harness.store.units import grouped

Place = tuple[str, str]  # slice and stratum


def by_stratum(items: Iterable[Item]) -> dict[Place, list[Item]]:
    """Group items by slice and stratum, in their order."""
    return grouped(((item.slice, item.stratum), item) for item in items)


_NOT_NAMED = SliceSpec(name="all")  # of a slice that has no rules of its own


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole of what a judgement demands. Margins are proportions: 0.02 is two points."""

    policy: Policy = field(default_factory=Policy)
    slices: Mapping[str, SliceSpec] = field(default_factory=dict)  # by label, in the order of a report
    looks: int = 1  # interim looks planned; 1 if all items are looked at once
    stop_on_fail: bool = False  # whether a candidate is asked nothing more once it has failed
    plan: Mapping[Place, int] = field(default_factory=dict)  # items of the fixed plan, for looks of unequal size
    traffic: Mapping[Place, float] = field(default_factory=dict)  # summed traffic of those items

    @staticmethod
    def from_experiment(experiment: Experiment) -> Rules:
        """Take the rules that a config states."""
        slices, execution = {one.key: one for one in experiment.slices}, experiment.execution
        return Rules(experiment.policy, slices, execution.looks, execution.stop_on_fail)

    @staticmethod
    def from_flags(**policy: Any) -> Rules:
        """Take the rules that a command line states. Raises UsageError with every flag that cannot be."""
        return Rules(read_policy(policy))

    def _own(self, slice_name: str) -> SliceSpec:
        return self.slices.get(slice_name, _NOT_NAMED)

    def margin(self, slice_name: str, stratum: str) -> float:
        """The largest tolerated drop: the last of `policy.margins` that fits, else the slice's, else the policy's."""
        own, globs, place = self._own(slice_name).margin, self.policy.margins, f"{slice_name}/{stratum}"
        fitting = [globs[glob] for glob in globs if fnmatch.fnmatchcase(place, glob)]
        return fitting[-1] if fitting else self.policy.margin if own is None else own

    def gating(self, slice_name: str, stratum: str) -> bool:
        """Whether a stratum decides."""
        return self._own(slice_name).gating and not self._advisory(slice_name, stratum)

    def _advisory(self, slice_name: str, stratum: str) -> bool:
        place = f"{slice_name}/{stratum}"
        by_slice = any(fnmatch.fnmatchcase(stratum, glob) for glob in self._own(slice_name).advisory)
        return by_slice or any(fnmatch.fnmatchcase(place, glob) for glob in self.policy.advisory)

    def tolerances(self, slice_name: str, stratum: str) -> Mapping[str, float]:
        """The tolerances of tail events in a stratum, by kind, ``*`` for every other kind; empty if none gates.

        A slice's own replace the policy's and gate whatever its `gating` says; advisory strata never gate.
        """
        own = self._own(slice_name)
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
        strata = by_stratum(items)
        plan = {place: len(members) for place, members in strata.items()}
        traffic = {place: sum(item.weight for item in members) for place, members in strata.items()}
        return replace(self, plan=plan, traffic=traffic)

    def unmatched_globs(self, places: Iterable[Place]) -> list[str]:
        """Say of each glob without an effect, probably a mistake, why: a margin may be overruled by another."""
        names, margins = ["/".join(place) for place in places], [*self.policy.margins]
        own = [f"{name}/{glob}" for name, one in self.slices.items() for glob in one.advisory]
        found = {glob: set(fnmatch.filter(names, glob)) for glob in (*margins, *self.policy.advisory, *own)}
        unused = "matches no stratum and has no effect."
        said = {glob: unused + suggestion(glob, names) for glob, fits in found.items() if not fits}
        for glob, later in itertools.combinations(margins, 2):  # the last that matches counts
            if found[glob] and found[glob] < found[later]:
                said[glob] = f"has no effect among margins, since {later!r} after it overrules it: put it last"
        return [f"the pattern {glob!r} {why}" for glob, why in said.items()]

    def to_json(self) -> dict[str, Any]:
        """Return what a judgement prints as its policy."""
        policy, slices = self.policy.model_dump(mode="json"), {}
        for name, one in self.slices.items():
            events = None if one.tail_events is None else dict(one.tail_events)
            own = {"margin": written(one.margin), "gating": one.gating, "informative": list(one.advisory)}
            slices[name] = own | {"tail_events": events}
        # Keys of comparisons.json that are older than their names elsewhere.
        shown = {"floor_alpha" if name == "chance_alpha" else name: value for name, value in policy.items()}
        return {**shown, "looks": self.looks, "informative": [], "slices": slices}


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
