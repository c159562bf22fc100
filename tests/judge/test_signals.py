"""What a baseline alone shows: floor, ceiling, too few; and `quantcliff slices --check` on a real small run."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from click.testing import CliRunner

from harness.cli import program as cli
from harness.judge import compare, gate
from harness.judge.outcomes import build
from harness.judge.rules import Rules
from harness.judge.signals import Signal, signals, unusable_strata
from harness.records import Generation, Item, Scored
from harness.suite.tail.detectors import examine

RULES = Rules.from_flags(margin=0.05)


def look(scores: list[float], probabilities: list[float] | None = None, **changes) -> Signal:
    """One stratum with these scores."""
    base = Item("", "s", "t", "choice" if probabilities else "generate", "?", {}, "a", "")
    items = [
        dataclasses.replace(base, **{"id": f"t/{at}", "cluster": f"t/{at}", **changes}) for at in range(len(scores))
    ]
    by_item = dict(zip((item.id for item in items), scores, strict=True))
    known = dict(zip(by_item, probabilities or [], strict=False))
    (found,) = signals(items, by_item, known, RULES)
    return found


def test_a_sound_stratum_has_signal():
    """Two in three of 300 right: nothing to say."""
    found = look([1.0, 1.0, 0.0] * 100)
    assert (found.items, found.right, found.blind, found.notes) == (300, 200, (), ())
    assert found.baseline_mean == pytest.approx(2 / 3)


def test_a_baseline_that_guesses_is_at_the_floor():
    """A quarter right among four choices: nothing to lose."""
    found = look([1.0, 0.0, 0.0, 0.0] * 100, [0.3] * 400, chance=0.25)
    assert [one.split(":")[0] for one in found.blind] == ["chance level"]


def test_a_handful_of_right_answers_cannot_show_a_fail():
    """Of 300 items 20 right: losing them all is 6.7 points, not shown to be more than the margin of 5."""
    found = look([1.0] * 20 + [0.0] * 280)
    assert any("losing all 20 would not show a fail" in one for one in found.blind)


def test_choices_that_are_all_right_and_certain_are_a_ceiling():
    """Certain choices are blind; right but uncertain ones are not, and free text is only noted."""
    assert any("ceiling without margin" in one for one in look([1.0] * 300, [0.999] * 300).blind)
    unsure = look([1.0] * 300, [0.6] * 300)
    assert unsure.blind == ()
    assert unsure.choice_probability == pytest.approx(0.6)
    text = look([1.0] * 300)
    assert (text.blind, len(text.notes)) == ((), 1)


def test_few_sources_are_noted():
    """300 questions on five texts cannot pass 5 points whatever is answered."""
    items = [Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"text {at % 5}") for at in range(300)]
    (found,) = signals(items, {item.id: float(at % 3 > 0) for at, item in enumerate(items)}, {}, RULES)
    assert found.sources == 5
    assert any("cannot pass" in one for one in found.notes)


def test_nothing_answered_is_blind():
    """Unanswered items are no signal."""
    assert look([float("nan")] * 10).blind == ("nothing was answered",)


def answers(text: str, finish: str = "stop", target: str = "7", count: int = 10, score: float = 0.0) -> list[Scored]:
    """So many answers of one text, looked at as the runner does."""
    found = []
    for at in range(count):
        item = Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"t/{at}", target=target)
        given = Generation(item.id, text, (1,), finish, 3)
        found.append(Scored(item.id, "", 0, score, {}, given, examine(item, given, score, {}).signs))
    return found


ITEMS = [Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"t/{at}", target="7") for at in range(10)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answers(""), "10 of 10 answers are empty"),
        (answers("\n\n"), "10 of 10 answers are empty"),
        (answers("I think that", "length"), "10 of 10 answers are cut at the token limit"),
        (answers("Hello there"), "10 of 10 answers are without the number asked for"),
        ([*answers("", count=8), *answers("8")[8:]], "8 of 10 answers are empty"),
    ],
)
def test_answers_that_say_nothing_are_said_to(given, said):
    """Empty, cut and unparsed answers are named with their number, instead of the chance level."""
    found = unusable_strata(ITEMS, given)
    assert said in found["s", "a"]
    (signal,) = signals(ITEMS, {one.item_id: 0.0 for one in given}, {}, RULES, found)
    assert signal.blind == (f"not measured: {found['s', 'a']}",)


def test_wrong_or_right_answers_are_usable():
    """A wrong number, or an answer that is cut after the right one, is an answer; so are two numbers in ten."""
    assert unusable_strata(ITEMS, answers("8")) == {}
    assert unusable_strata(ITEMS, answers("It isn't listed.")) == {}
    assert unusable_strata(ITEMS, answers("7 and so on", "length", score=1.0)) == {}
    assert unusable_strata(ITEMS, [*answers("", count=7), *answers("8")[7:]]) == {}


def test_the_gate_says_that_nothing_was_measured():
    """A baseline with empty answers alone: not 'no signal' but what the answers are, in the reasons as well."""
    ids = [one.id for one in ITEMS]
    table = [build(name, ids, [0.0] * 10) for name in ("base", "cand")]
    material = compare.compare(table[0], [table[1]], RULES)
    (candidate,) = material.candidates
    strata = tuple(dataclasses.replace(one, unusable="10 of 10 answers are empty") for one in candidate.strata)
    said = dataclasses.replace(material, candidates=(dataclasses.replace(candidate, strata=strata),))
    judgement = gate.judge(said, RULES)
    (stratum,) = judgement.candidates[0].strata
    assert (stratum.verdict, stratum.reason, judgement.exit_code) == ("no_signal", "10 of 10 answers are empty", 3)
    assert "was not measured: 10 of 10" in judgement.candidates[0].reasons[0]


def test_check_asks_the_baseline_alone_and_the_run_goes_on_from_there(tiny_llama, tmp_path):
    """Exit code 3 with a blind gating stratum; the baseline's answers are kept, and `run` asks only the others."""
    config = {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(tiny_llama)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [
            {"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1},
            {"name": "typical", "items": 60, "margin": 0.1, "gating": False},
        ],
        "execution": {"device": "cpu", "control": False, "rehearsal": {"accuracy": 0.05}},
    }
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(config))
    told = CliRunner().invoke(
        cli.commands, ["slices", "--check", str(path), "-o", str(tmp_path), "--json"], standalone_mode=False
    )
    assert told.exception is None, told.output
    found = json.loads(told.stdout)
    assert told.return_value == 3
    assert found["signal"] is False
    assert [one["gating"] for one in found["strata"]].count(True) == 1
    assert all("chance level" in one["blind"][0] for one in found["strata"] if one["gating"])
    folder = tmp_path / "trial"
    kept = {file: file.read_bytes() for file in sorted((folder / "bf16").glob("*-1of1.jsonl"))} or {
        file: file.read_bytes() for file in sorted((folder / "bf16").glob("*.jsonl"))
    }
    assert kept
    assert not (folder / "nf4").exists()
    CliRunner().invoke(cli.commands, ["run", str(path), "-o", str(tmp_path), "--quiet"], standalone_mode=False)
    assert (folder / "comparisons.json").is_file()
    assert {file: file.read_bytes() for file in kept} == kept


def test_check_wants_a_config(tmp_path):
    """A slice's name and --check together are refused, and so is a config that is not there."""
    told = CliRunner().invoke(cli.commands, ["slices", "typical", "--check", "demo"], standalone_mode=False)
    assert "either the name of a slice" in str(told.exception)
    told = CliRunner().invoke(cli.commands, ["slices", "--check", str(tmp_path / "no.yaml")], standalone_mode=False)
    assert "there is no such file" in str(told.exception)
