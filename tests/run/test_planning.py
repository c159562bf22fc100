"""The plan: which items are asked together, and what they can decide."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from harness.config.loading import load, parse, with_overrides
from harness.config.schema import Experiment, Policy
from harness.errors import ConfigError
from harness.records import Item
from harness.run.planning import check_power, power_table
from harness.store.units import idle_share, plan_units, planned_tokens, split_units


def item(number: int, stratum: str = "all", **changes: Any) -> Item:
    """An item of a stratum."""
    base = Item(
        id=f"t/{stratum}/{number}",
        slice="s",
        task="t",
        kind="generate",
        prompt="?",
        levels={},
        stratum=stratum,
        cluster=f"{stratum}/{number}",
        max_tokens=5,
        prompt_tokens=10,
    )
    return dataclasses.replace(base, **changes)


def experiment(items: int, looks: int = 1, **changes: Any) -> Experiment:
    """A config with one slice."""
    return parse(
        {
            "name": "trial",
            "baseline": {"name": "b", "model": "m"},
            "candidates": [{"name": "c", "quantization": "bnb-nf4"}],
            "slices": [{"name": "s", "items": items, "margin": 0.02, **changes}],
            "execution": {"looks": looks},
        }
    )


@given(
    strata=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    size=st.integers(1, 50),
    looks=st.integers(1, 5),
)
def test_every_item_is_asked_exactly_once(strata: list[int], size: int, looks: int) -> None:
    """Units neither lose nor repeat an item, whatever the sizes; without shared prefixes none is larger than asked."""
    items = [item(number, f"k={name}") for name, count in enumerate(strata) for number in range(count)]
    units = plan_units(items, size, looks)
    asked = [one.id for unit in units for one in unit.items]
    assert sorted(asked) == sorted(one.id for one in items)
    assert max(len(unit.items) for unit in units) <= size
    assert [unit.index for unit in units] == list(range(len(units)))
    assert [unit.look for unit in units] == sorted(unit.look for unit in units)


def test_a_unit_holds_one_stratum() -> None:
    """A stratum that is decided takes whole units with it."""
    items = [item(number, f"k={number % 3}") for number in range(30)]
    assert all(len({one.stratum for one in unit.items}) == 1 for unit in plan_units(items, 8, 1))


def test_questions_on_one_haystack_stay_together_across_strata() -> None:
    """Items that share a prefix are in one unit, also where it becomes larger than asked."""
    items = [item(number, f"depth={number % 4}", prefix_group=f"h{number // 8}") for number in range(32)]
    units = plan_units(items, 4, 1)
    for group in {one.prefix_group for one in items}:
        holding = [unit for unit in units if any(one.prefix_group == group for one in unit.items)]
        assert len(holding) == 1


def test_a_unit_is_capped_by_tokens_and_a_shared_beginning_counts_once() -> None:
    """Questions on one text of 64k tokens cost one reading of it, and two such texts do not share a unit of 65,536."""
    items = [item(number, prefix_group=f"h{number // 4}", prompt_tokens=65000) for number in range(12)]
    units = plan_units(items, 64, 1, unit_tokens=65536, samples=2)
    assert [len(unit.items) for unit in units] == [4, 4, 4]
    assert planned_tokens(units[0].items, 2) == 65000 + 4 * 2 * items[0].max_tokens
    assert len(plan_units(items, 64, 1)) == 1


def like_shipped(name: str) -> list[Item]:
    """Items in the numbers and of the lengths that a shipped config makes; six questions on each text."""
    found = []
    for spec in load(ROOT / "configs" / f"{name}.yaml").slices:
        lengths = spec.axes.get("context_tokens", (60, 400))
        for length, number in itertools.product(lengths, range(spec.items * (2 if len(lengths) > 2 else 6))):
            group = f"{spec.key} {length} {number // 6}" if int(length) > 500 else ""
            place = f"{length}, {number % 2 if group else number // spec.items}"
            one = item(len(found), place, prefix_group=group, prompt_tokens=int(length), max_tokens=24)
            found.append(dataclasses.replace(one, slice=spec.key, cluster=group or one.id))
    return found


@pytest.mark.parametrize("name", ["llama-8b", "rollout-gate", "ten kinds"])
def test_shards_share_the_work_evenly(name: str) -> None:
    """The slowest of 2 to 32 shards takes at most 1.1 times the ideal, waiting at each look included."""
    if name == "ten kinds":  # of two lengths each, in turn
        items = [
            dataclasses.replace(item(number, f"{kind} {length}", prompt_tokens=length), id=f"{kind}/{length}/{number}")
            for kind in range(10)
            for length in (4096, 65536)
            for number in range(32)
        ]
        units = plan_units(items, 32, 1, unit_tokens=65536)
    else:
        ours = load(ROOT / "configs" / f"{name}.yaml").execution
        units = plan_units(like_shipped(name), ours.unit_items, ours.looks, unit_tokens=ours.unit_tokens)
    for count in (2, 8, 32):
        split = split_units(units, count, 1)
        assert set(split) == set(range(1, count + 1))
        assert 1 / (1 - idle_share(units, count, 1)) <= 1.1


def test_looks_split_every_stratum_evenly_and_no_cluster() -> None:
    """Five looks take a fifth of the clusters of each stratum each; a problem in several languages is asked at once."""
    items = [
        item(number, f"lang={language}", cluster=f"p{number}")
        for number in range(50)
        for language in ("de", "sw", "th")
    ]
    units = plan_units(items, 100, 5)
    look = {one.id: unit.look for unit in units for one in unit.items}
    for stratum in ("lang=de", "lang=sw", "lang=th"):
        found = [look[one.id] for one in items if one.stratum == stratum]
        assert [found.count(number) for number in range(1, 6)] == [10] * 5
    for number in range(50):
        assert len({look[one.id] for one in items if one.cluster == f"p{number}"}) == 1


def test_a_stratum_that_can_never_pass_is_refused_before_the_run() -> None:
    """At a margin of 2 points 100 items are too few even when none is lost; 155 are named, and they suffice."""
    small = experiment(100)
    with pytest.raises(
        ConfigError, match=r"slices\[0\]\.items: 100 items in all can never pass a margin of 0\.02"
    ) as caught:
        check_power(small, power_table(small, [item(number) for number in range(100)]), "trial.yaml")
    needed = int(str(caught.value).split(" are needed")[0].rsplit(" ", 1)[1])
    assert needed == 155
    enough = experiment(needed)
    check_power(enough, power_table(enough, [item(number) for number in range(needed)]), "trial.yaml")


def test_an_advisory_stratum_may_be_small() -> None:
    """What does not decide needs no power."""
    shown = experiment(20, gating=False)
    (row,) = power_table(shown, [item(number) for number in range(20)])
    assert not row.can_pass
    check_power(shown, [row], "trial.yaml")


def test_the_power_table_counts_tokens_and_clusters() -> None:
    """Costs are sums over the items of the stratum."""
    items = [item(number, cluster=f"c{number // 4}") for number in range(200)]
    (row,) = power_table(experiment(200), items)
    assert (row.items, row.clusters, row.prompt_tokens, row.output_tokens) == (200, 50, 2000, 1000)


def test_many_items_of_few_sources_can_never_pass() -> None:
    """2,000 items from 40 haystacks say what 40 haystacks can: refused, with the sources that would do."""
    crowded = [item(number, cluster=f"c{number % 40}") for number in range(2000)]
    few = experiment(2000)
    with pytest.raises(ConfigError, match=r"2000 items from 40 sources in all can never pass") as caught:
        check_power(few, power_table(few, crowded), "trial.yaml")
    sources = int(str(caught.value).split(" sources of one size")[0].rsplit(" ", 1)[1])
    enough = [item(number, cluster=f"c{number % sources}") for number in range(50 * sources)]
    check_power(few, power_table(few, enough), "trial.yaml")
    one_less = [item(number, cluster=f"c{number % (sources - 1)}") for number in range(50 * (sources - 1))]
    assert not power_table(few, one_less)[0].can_pass


def test_many_gating_strata_find_only_larger_drops() -> None:
    """A fail among forty gating strata has Holm's strictest level; advisory ones make no bar higher."""
    one = [item(number) for number in range(500)]
    many = [item(number, f"s{at}") for at in range(40) for number in range(500)]
    alone, among = (power_table(experiment(500), items)[0] for items in (one, many))
    shown = power_table(experiment(500, gating=False), many)[0]
    assert alone.detectable_drop is not None
    assert among.detectable_drop is not None
    assert among.detectable_drop > alone.detectable_drop + 0.01
    assert shown.detectable_drop == alone.detectable_drop
    assert among.items_for_pass == alone.items_for_pass  # all must pass: no correction


def test_looks_leave_less_of_alpha_for_the_last_one() -> None:
    """155 items pass a margin of 2 points in one look and never in five: the first four have spent some of alpha."""
    items = [item(number) for number in range(155)]
    assert power_table(experiment(155), items)[0].can_pass
    looking = experiment(155, looks=5)
    assert not power_table(looking, items)[0].can_pass
    with pytest.raises(ConfigError, match=r"155 items in all can never pass .*: 1\d\d are needed"):
        check_power(looking, power_table(looking, items), "trial.yaml")


def test_a_slices_own_advisory_pattern_that_matches_nothing_is_refused() -> None:
    """Its stratum would gate though it was meant to be shown only."""
    found = experiment(100)
    (own,) = found.slices
    slices = (own.model_copy(update={"advisory": ("hop=12*",)}),)
    found = found.model_copy(update={"slices": slices, "policy": Policy(margin=0.5, refuse_hopeless=False)})
    items = [item(at, one) for at, one in enumerate(("hops=3", "hops=12"))]
    with pytest.raises(ConfigError, match=r"'s/hop=12\*' matches no stratum"):
        check_power(found, power_table(found, items), "trial.yaml")


@pytest.mark.parametrize(
    ("margins", "said"),
    [
        ({"s/hop=12": 0.01}, "'s/hop=12' matches no stratum and has no effect. Did you mean 's/hops=12'"),
        (
            {"s/hops=12": 0.01, "*": 0.1},
            r"'s/hops=12' has no effect among margins, since '\*' after it",
        ),
        ({"*": 0.1, "s/*": 0.05, "s/hops=12": 0.01}, ""),
    ],
)
def test_a_margin_that_holds_nowhere_is_refused(margins: dict[str, float], said: str) -> None:
    """Its stratum would be held to another margin, which may be wider."""
    found = experiment(100)
    found = found.model_copy(update={"policy": Policy(margin=0.5, margins=margins, refuse_hopeless=False)})
    items = [item(at, one) for at, one in enumerate(("hops=3", "hops=12"))]
    with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
        check_power(found, power_table(found, items), "trial.yaml")
    part = with_overrides(found, "trial.yaml", limit=50)  # of which others may have been left out
    check_power(part, power_table(part, items), "trial.yaml")
