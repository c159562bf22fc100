"""The search alone, on made-up scores: what it finds, how it goes on after a kill, what it writes."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from harness.damage.search import Counts, Journal, children, coarse, null_share, random_set, search, total_bytes
from harness.errors import NotComparable, StoreError
from harness.report.damage import write_page

PLACES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
SIZES = {f"model.layers.{layer}.{place}": 100 for layer in range(6) for place in PLACES} | {"lm_head": 500}
LOST = {f"lost/{at}": 1.0 for at in range(12)}
KEPT = {f"kept/{at}": 1.0 for at in range(12)}
CULPRITS = ("model.layers.3.mlp.down_proj", "model.layers.5.self_attn.q_proj")


def planted(modules: frozenset[str], _base: frozenset[str]) -> SimpleNamespace:
    """Scores of a model in which one module costs 8 of 12 items, a second one 3, and no other any."""
    back = 8 * (CULPRITS[0] in modules) + 3 * (CULPRITS[1] in modules)
    scores = {name: float(at < back) for at, name in enumerate(LOST)} | KEPT
    return SimpleNamespace(scores=scores, kl=1.0 - 0.01 * len(modules))


def run(path, ask=planted, key="a", most=400):
    """Search with a clock that ticks a second per reading."""
    ticks = iter(range(10**6))
    with contextlib.closing(Journal(path, key, clock=lambda: float(next(ticks)))) as journal:
        found = search(journal, ask, LOST | KEPT, SIZES, kept=KEPT.keys(), most=most, seconds=300)
    return found, journal


def test_the_planted_modules_are_found_and_no_other(tmp_path):
    """The chosen set is the culprits, in the order of what they win, and random sets of equal bytes fall short."""
    found, _ = run(tmp_path / "damage.jsonl")
    chosen = found.chosen(400)
    assert chosen.modules == CULPRITS
    assert [one.name for one in found.steps] == list(CULPRITS)
    assert (chosen.bytes, chosen.counts.won, chosen.counts.newly_lost) == (200, 11, 0)
    assert found.chosen(100).modules == CULPRITS[:1]
    assert found.everything.won == 11
    assert len(found.null) == 10
    assert max(one.net for one in found.null) < 11
    assert null_share(chosen.counts, found.null) == pytest.approx(1 / 11)


def test_losses_that_do_not_come_back_are_no_damage(tmp_path):
    """Where every lost item is right when it is asked again, or every one is wrong, that is said."""
    for lost, kept in ((1.0, 1.0), (1.0, 0.0)):
        scores = dict.fromkeys(LOST, lost) | dict.fromkeys(KEPT, kept)
        with pytest.raises(NotComparable, match="none of the lost items is lost when it is asked again"):
            run(tmp_path / f"{kept}", ask=lambda *_, all_=scores: SimpleNamespace(scores=all_, kl=0.0))


def test_divergence_alone_chooses_by_its_own_measure(tmp_path):
    """The set that lowers the divergence most per byte has the bytes of the chosen one, and need not be it."""
    found, _ = run(tmp_path / "damage.jsonl")
    modules = found.by_divergence(SIZES, 200)
    assert total_bytes(modules, SIZES) <= 200
    assert "lm_head" not in modules


def test_interaction_is_measured_and_not_added_up(tmp_path):
    """Two groups that win the same items back: the second is not added on top of the first."""

    def same(modules, base):
        back = 6 * bool(set(CULPRITS) & modules)
        return SimpleNamespace(scores={n: float(at < back) for at, n in enumerate(LOST)} | KEPT, kl=1.0)

    found, _ = run(tmp_path / "damage.jsonl", same)
    assert len(found.steps) == 1
    assert found.steps[0].gain.won == 6


def test_what_breaks_kept_items_counts_against_it(tmp_path):
    """A module that wins 4 items back and loses 6 kept ones is not chosen."""

    def harmful(modules, base):
        on = CULPRITS[0] in modules
        scores = {name: float(on and at < 4) for at, name in enumerate(LOST)}
        return SimpleNamespace(scores=scores | {n: float(not (on and at < 6)) for at, n in enumerate(KEPT)}, kl=1.0)

    found, _ = run(tmp_path / "damage.jsonl", harmful)
    assert found.chosen(400) is None
    assert found.everything.net == -2


@pytest.mark.parametrize("cut", [False, True], ids=["between lines", "in a line"])
def test_a_killed_search_goes_on_where_it_was(tmp_path, cut):
    """A search that is stopped after some measurements asks only the rest, and comes to the same."""
    whole, journal = run(tmp_path / "whole.jsonl")
    asked = []

    def dies(modules, base):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(modules)
        return planted(modules, base)

    path = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path, dies)
    if cut:
        path.write_bytes(path.read_bytes()[:-20])
    again, second = run(path)
    assert second.fresh == journal.fresh - 7 + cut
    assert again == whole
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_journal_of_another_search_is_refused(tmp_path):
    """What was measured of other items or models is not taken for this search's."""
    run(tmp_path / "damage.jsonl")
    with pytest.raises(StoreError, match="remove it to search again"):
        run(tmp_path / "damage.jsonl", key="b")


def test_time_bounds_a_search(tmp_path):
    """With no time left, what is unasked is counted, and the few random sets are still asked."""
    ticks = iter(range(10**6))
    with contextlib.closing(Journal(tmp_path / "damage.jsonl", "a", clock=lambda: 60.0 * next(ticks))) as journal:
        found = search(journal, planted, LOST | KEPT, SIZES, kept=KEPT.keys(), most=400, seconds=600)
    assert len(found.groups) < 8
    assert found.unasked > 0


def test_a_limit_below_zero_does_not_favour_large_groups():
    """Of two groups that surely win nothing the one with the larger net comes first, whatever it costs."""
    good, none = Counts(5, 2, 62), Counts(1, 1, 62)
    assert good.limit("low") < 0
    assert good.rank(100) < good.rank(101) < none.rank(1000)
    sure = Counts(8, 1, 62)
    assert sure.rank(10) < sure.rank(20) < good.rank(1)


def test_time_that_adding_leaves_goes_to_more_groups(tmp_path):
    """Where nothing more can be added, groups are asked up to the second share; a killed search comes to the same."""

    def searched(path, ask):
        ticks = iter(range(10**6))
        with contextlib.closing(Journal(path, "a", clock=lambda: float(next(ticks)))) as journal:
            return search(journal, ask, LOST | KEPT, SIZES, kept=KEPT.keys(), most=400, seconds=60), journal

    whole, journal = searched(tmp_path / "whole.jsonl", planted)
    assert journal.seconds <= 60
    assert len(whole.groups) > 0.55 * 60
    assert whole.chosen(400).modules == CULPRITS
    asked = []

    def dies(modules, base):
        if len(asked) == 36:
            raise KeyboardInterrupt
        asked.append(modules)
        return planted(modules, base)

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "killed.jsonl", dies)
    again, _ = searched(tmp_path / "killed.jsonl", planted)
    assert again == whole


def test_groups_cover_all_modules():
    """Projections, layers and the head; a layer's parts are its attention and its MLP, and theirs single modules."""
    groups = {one.name: one for one in coarse(SIZES)}
    assert len(groups) == len(PLACES) + 1 + 6
    assert list(groups)[-6:] == [f"layer {number}" for number in (5, 4, 3, 2, 1, 0)]
    assert groups["self_attn.v_proj"].bytes == 600
    parts = children(groups["layer 2"], SIZES)
    assert [one.name for one in parts] == ["layer 2 self_attn", "layer 2 mlp"]
    assert [one.modules for one in children(parts[1], SIZES)] == [
        ("model.layers.2.mlp.up_proj",),
        ("model.layers.2.mlp.down_proj",),
    ]
    assert children(groups["lm_head"], SIZES) == []
    assert random_set(SIZES, 250, 1) == random_set(SIZES, 250, 1)
    assert total_bytes(random_set(SIZES, 250, 1), SIZES) <= 250


def summary(**changes):
    """What a search writes, with a name that would break a page."""
    count = {"won": 8, "newly_lost": 0, "low": 6.0, "high": 9.0}
    module = "model.layers.3.<b>mlp"
    group = {"name": module, "level": "module", "layer": 3, "bytes": 100, "divergence": 0.5, **count}
    step = {"added": module, "bytes": 100, "modules": [module], "alone": 8, "on_top": 8, **count}
    return {
        "run": "demo",
        "baseline": "bf16",
        "candidate": "nf4",
        "strata": ["long/keys=12"],
        "asked": {"lost": 12, "kept": 12, "lost_again": 12, "kept_again": 12},
        "bytes": {"candidate": 2000, "restorable": 3000, "limit": 200},
        "divergence": 1.0,
        "everything": {**count, "won": 12},
        "groups": [group],
        "unasked": 0,
        "frontier": [step],
        "chosen": 0,
        "null": {"net": [0, 1], "p": 0.33},
        "sets": {"repaired": [module], "by-divergence": [], "random": []},
        "seconds": 1.0,
        **changes,
    }


def test_the_page_shows_map_frontier_and_proof(tmp_path):
    """The page holds the figures, runs no script but its own, and escapes what comes from a model."""
    row = {"bytes": 2100, "more": 0.05, "score": 0.7, "won": 9, "low": 0.5, "high": 0.9, "newly_lost": 1}
    names = ("nf4", "nf4-repaired", "nf4-by-divergence", "nf4-random")
    rows = [{"name": name, **row, "verdict": "pass", "p_repaired_better": 0.01} for name in names]
    held = {"items": 60, "seen_before": 2, "lost": 15, "baseline_score": 0.75, "variants": rows}
    write_page(tmp_path / "page.html", summary(held_out=held))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<script") == 1  # the page's own, which its content security policy names by digest
    assert "<b>mlp" not in text
    assert "+8" in text
    assert "9 of 15" in text
    assert "2 more had been in the run" in text
    assert "<svg" in text
    assert "random sets of equal bytes" in text
    assert "bits, for" not in text


def test_the_page_says_what_the_same_modules_win_at_fewer_bits(tmp_path):
    """The row is in the table, its bytes and its verdict are in a sentence."""
    row = {"score": 0.7, "low": 0.5, "high": 0.9, "newly_lost": 1, "p_repaired_better": 0.01}
    rows = [
        {"name": "nf4", **row, "bytes": 2000, "more": 0.0, "won": 0, "verdict": "fail"},
        {"name": "nf4-repaired", **row, "bytes": 2100, "more": 0.05, "won": 9, "verdict": "pass"},
        {"name": "nf4-repaired-8bit", **row, "bytes": 2050, "more": 0.025, "won": 7, "verdict": "inconclusive"},
    ]
    held = {"items": 60, "seen_before": 0, "lost": 15, "baseline_score": 0.75, "variants": rows, "module_bits": 8}
    write_page(tmp_path / "page.html", summary(held_out=held))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The same modules at 8 bits, for 2.5 % more bytes: 7 won back (50 to 90 %)" in text
    assert "1 newly lost: inconclusive" in text
    assert "nf4-repaired-8bit" in text


def test_the_page_of_a_search_that_found_nothing(tmp_path):
    """No chosen set is a result too."""
    nothing = summary(chosen=None, frontier=[], groups=[], null={"net": [], "p": None})
    write_page(tmp_path / "page.html", json.loads(json.dumps(nothing)))
    assert "wins more items back than it newly loses" in (tmp_path / "page.html").read_text(encoding="utf-8")
