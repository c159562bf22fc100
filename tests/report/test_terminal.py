"""The report on a terminal."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
import report_data
from rich.cells import cell_len
from rich.console import Console

from harness import report
from harness.judge import decisions
from harness.judge.verdicts import Judgement
from harness.records import ChoiceLogprobs, Generation, Item, Scored, Unanswered
from harness.report import words
from harness.report.blocks import strata
from harness.report.evidence import Evidence

WIDTHS = (50, 60, 80, 100, 120, 200)


def printed(judgement, evidence=None, *, width=80, encoding="utf-8", colour=False):
    """What `terminal` prints, read back in the terminal's encoding."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
    )
    report.terminal(judgement, console, evidence or Evidence())
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(width):
    """Every line fits, at 80 columns and at any other width, for every verdict and any length of names."""
    judged = report_data.judgement()
    longer = dataclasses.replace(judged.candidates[1], name="meta-llama.Llama-3.1-70B-Instruct-gptq-int4-g128")
    many = dataclasses.replace(judged, candidates=(*judged.candidates, longer))
    for one in (judged, many, report_data.hostile(), report_data.with_tail_events(judged)):
        text = printed(one, report_data.evidence(judged), width=width)
        assert max(cell_len(line) for line in text.splitlines()) <= width


def test_it_grows_with_the_width():
    """A wide terminal names strata in full, a narrow one by their levels under a heading with the axes."""
    judged = report_data.judgement()
    assert "context_tokens=8192,depth=0.5  " in printed(judged, width=120)
    narrow = printed(judged, width=80)
    assert "\n8192, 0.5 " in narrow
    assert "long_context by context_tokens, depth, margin 5.0" in narrow


def test_a_stratum_shows_all_its_figures_on_one_line_of_80_columns():
    """Slice, stratum, n, baseline, candidate, change with limits, lost/gained, verdict with its sign."""
    made = report_data.stratum("code", {"language": "go"}, n=100, base=0.6, drop=0.3, margin=0.05)
    judged = Judgement("fail", 1, {"alpha": 0.05}, (dataclasses.replace(_one(), strata=(made,)),), "bf16")
    text = printed(judged)
    assert re.search(rf"^go +100 +60\.0 nf4 +30\.0 {re.escape(words.change(made))} 31/1 ✘ fail", text, re.MULTILINE)


def _one():
    return report_data.judgement().candidates[1]


def test_a_reader_finds_everything():
    """Verdicts, sentences, averages with the worst stratum, A/A noise, cost, notes, the place and the exit code."""
    judged = report_data.judgement()
    text = " ".join(printed(judged, report_data.evidence(judged)).split())
    for expected in (
        "✘ nf4 FAIL fails 16 of 27 gating strata, worst 16384 tokens of context, depth 0.5 (long_context): -43.8",
        "⊘ gptq-int4 NOT JUDGED gptqmodel is not installed: pip install 'quantcliff[gptq]'",
        "of 400 items 177 lost, 2 gained.",
        "and 4 more, listed in report.md",
        "about 14,518 more items would decide it if the rates stay.",
        "12 hops (multi_hop_math): bf16 scores 1.0 %, which is not significantly above chance (0.0 %)",
        "The baseline against itself at another batch size flipped",
        "mean -13.1 points with 24 strata significantly worse and 0 better",
        "nf4 5.0 106.8 MiB 41.6 % 4.13 522.0 829.7 MiB",
        "The reference was itself restored from a 4-bit file",
        "! 3 items of the candidate had no partner",
        "Results: results/suite-7",
        "exit code 1, fail: at least one gating stratum is worse than its margin",
    ):
        assert expected in text


def test_a_pass_says_how_close_it_was():
    """A passing candidate names the stratum that came closest to its margin."""
    text = " ".join(printed(report_data.passing()).split())
    assert "✔ int8 PASS within its margin in all 1 gating stratum; closest typical: at worst" in text
    assert "exit code 0, pass" in text
    assert "Not measured" in text


def test_what_was_not_judged_breaks_nothing():
    """A candidate that was not judged names why, first three of many reasons, and lists no stratum as failing."""
    one = dataclasses.replace(_one(), verdict="not_judged", reasons=("the control failed.", *"abcd"))
    judged = dataclasses.replace(report_data.passing(), verdict="not_judged", exit_code=4, candidates=(one,))
    text = printed(judged)
    assert "nf4 NOT JUDGED the control failed; a; b; and 2 more" in text
    assert "Failing strata" not in text
    assert "Undecided" not in text


def test_no_figure_is_said_twice():
    """Where the gate gave a reason with the same figures, it is not repeated beside the report's own sentence."""
    made = _one().strata
    fail, open_, blind = (next(s for s in made if s.verdict == v) for v in ("fail", "inconclusive", "no_signal"))
    stuck = report_data.decided(open_, items_to_decide=None, reason="one_cluster")
    for sentence in (words.stratum_sentence(fail, "nf4", "bf16"), words.undecided_sentence(open_, "nf4")):
        assert sentence.count(words.points(fail.delta)) + sentence.count(words.points(open_.delta)) == 1
    assert words.no_signal_sentence(blind, "bf16").count(words.percent(blind.baseline_mean)) == 1
    assert words.undecided_sentence(stuck, "nf4").endswith(f"margin 5.0: {stuck.reason}.")


def test_names_break_between_their_words():
    """A name that is too long for its column goes on beside the next rows, broken after a comma or an underscore."""
    name = {"task": "lookup", "keys": "5", "subject": "high_school_us_history_of_the_nineteenth_century"}
    made = report_data.stratum("long", name, n=100, base=0.6, drop=0.3, margin=0.05)
    found = tuple(dataclasses.replace(_one(), name=f"v{index}", strata=(made,)) for index in range(3))
    judged = Judgement("fail", 1, {"alpha": 0.05}, found, "bf16")
    whole = set(re.split(r"[,_=]", ",".join(f"{axis}={level}" for axis, level in name.items())))
    for width in (80, 108):
        rows = re.search(r"^long\b.*margin 5.0.*\n((?:.+\n)+)", printed(judged, width=width), re.MULTILINE)[1]
        pieces = re.split(r"[,_=\s]+", "".join(re.match(r"(\S+ )*", line)[0] for line in rows.splitlines()).strip())
        assert len(rows.splitlines()) >= 3, width
        assert set(pieces) <= whole | {"100"}, width


def test_an_axis_that_never_changes_names_no_stratum():
    """On a narrow terminal strata are named by what tells them apart, under a heading with just those axes."""
    made = tuple(
        report_data.stratum("math", {"task": "chains", "hops": str(hops)}, n=100, base=0.6, drop=0.3, margin=0.05)
        for hops in (1, 12)
    )
    judged = Judgement("fail", 1, {"alpha": 0.05}, (dataclasses.replace(_one(), strata=made),), "bf16")
    text = printed(judged)
    assert "\nmath by hops, margin 5.0" in text
    assert re.search(r"^12 +100 ", text, re.MULTILINE)
    assert "task=chains,hops=12" in printed(judged, width=120)
    one = dataclasses.replace(judged, candidates=(dataclasses.replace(_one(), strata=made[:1]),))
    assert "\nmath by task, hops, margin 5.0" in printed(one)


def test_averages_name_the_worst_stratum_without_cutting_words():
    """A slice's own row leaves the slice out of its worst stratum; long names break after an underscore."""
    judged = report_data.judgement()
    block = printed(judged).partition("Averages next to")[2].partition("What the average hides")[0]
    assert re.search(r"^ +long_context +\d.* 16384, 0\.5 *$", block, re.MULTILINE)
    assert re.search(r"^ +low_resource_ +\d", block, re.MULTILINE)
    assert re.search(r"^ +languages +$", block, re.MULTILINE)


def test_an_undecided_stratum_says_its_figures_once():
    """Where no number of items decides, the gate's reason is told without the limits that stand before it."""
    open_ = next(s for s in _one().strata if s.verdict == "inconclusive")
    text = words.undecided_sentence(report_data.decided(open_, items_to_decide=None), "nf4")
    assert text.endswith(f": {decisions.NO_NUMBER}.")
    assert text.count(words.points(open_.low)) == 1


def test_what_the_average_hides_names_its_candidate():
    """With two candidates a reader must see whose average it is."""
    judged = report_data.judgement()
    text = printed(judged, width=200)
    hidden = [one for one in judged.candidates if one.hidden]
    assert hidden
    for one in hidden:
        assert f"  {one.name}: {words.hidden(one)}" in text
    assert "the worst is 16384 tokens of context, depth 0.5 (long_context) at -43.8 points" in text


def test_the_worst_stratum_is_not_named_after_a_slice_whose_name_ends_its_own():
    """`context/k=3` is in the text of `long_context/k=3`, and is another stratum."""
    figures = {"n": 60, "base": 0.9, "drop": 0.05, "margin": 0.1}
    strata = tuple(report_data.stratum(name, {"keys": "3"}, **figures) for name in ("context", "long_context"))
    judged = report_data.judgement()
    one = next(each for each in judged.candidates if each.averages)
    name = f"long_context/{strata[1].stratum}"
    first = dataclasses.replace(one.averages[0], worst_stratum=name)
    one = dataclasses.replace(one, strata=strata, averages=(first,), hidden=f"the worst is {name} at -5.0 points")
    assert words.hidden(one) == f"the worst is {words.place(strata[1])} at -5.0 points"
    assert "(long_context)" in words.hidden(one)


def test_one_slice_called_all_has_one_average():
    """Where the whole is one slice the same figures stand there once, on a terminal, in Markdown and on the page."""
    judged = report_data.passing()
    average = _one().averages[0]
    whole = dataclasses.replace(average, slice="all")
    twice = dataclasses.replace(judged.candidates[0], averages=(whole, whole, dataclasses.replace(whole, n=7)))
    shown = strata.averages(dataclasses.replace(judged, candidates=(twice,)))
    assert [row[2] for row in (*shown.rows, *shown.quiet)] == [str(whole.n), "7"]
    once = dataclasses.replace(judged, candidates=(dataclasses.replace(twice, averages=(whole, whole)),))
    assert len(re.findall(r"^int8 +all ", printed(once, width=80), re.MULTILINE)) == 1


def test_what_is_left_out_is_where_it_is_said_to_be():
    """A run's report.md holds the rest of a long list; a comparison that wrote no files names --json."""
    judged = report_data.judgement()
    assert "more, listed in report.md" in printed(judged, Evidence(path="results/x"))
    assert "report.md" not in printed(judged, Evidence())
    assert "more, which --json holds" in printed(judged, Evidence())


def test_colour_never_stands_alone():
    """Without escapes, the coloured report is the plain one: nothing is said by colour only."""
    judged = report_data.judgement()
    coloured = printed(judged, report_data.evidence(judged), colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed(judged, report_data.evidence(judged))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_hostile_text_harms_no_terminal(encoding):
    """Hostile names print in every encoding without a control character, a bidi override or read markup."""
    judged = report_data.hostile()
    text = printed(judged, Evidence(name=report_data.HOSTILE, path=report_data.HOSTILE), encoding=encoding)
    assert not set(text) & {"\x1b", "\x00", "\u202e", "\u2066", "\ud800"}
    assert r"\x1b[31m" in text.replace("\n", "").replace(" ", "") or r"\x1b[31m" in text


def test_markup_of_the_terminal_library_is_not_read():
    """A name that looks like rich's markup is printed as it is."""
    name = "[bold red]x[/]"
    judged = report_data.passing()
    odd = dataclasses.replace(judged.candidates[0], name=name)
    assert name in printed(dataclasses.replace(judged, candidates=(odd,)), width=120)


def test_an_empty_judgement_prints():
    """No candidate, no stratum, no evidence: the exit code is still said."""
    text = printed(Judgement("not_judged", 4, {}, ()))
    assert "exit code 4" in text


@pytest.mark.parametrize(
    ("value", "apart_from", "text"),
    [
        (None, None, "-"),
        (float("nan"), None, "-"),
        (0.0, None, "+0.0"),
        (-0.0, None, "+0.0"),
        (0.016, None, "+1.6"),
        (-0.438, None, "-43.8"),
        (-0.0201, -0.02, "-2.01"),
        (-0.02, -0.02, "-2.0"),
        (-0.0200001, -0.02, "-2.0000"),
    ],
)
def test_points(value, apart_from, text):
    """Points carry a sign and one decimal, more where a limit would read like the margin that it is not."""
    assert words.points(value, apart_from=apart_from) == text


def item(**changes):
    """An item with an answer in free text."""
    known = {
        "id": "facts_ar/7",
        "slice": "low_resource_languages",
        "task": "facts_ar",
        "kind": "generate",
        "prompt": "ما هي عاصمة فرنسا؟\n",
        "levels": {"language": "ar"},
        "stratum": "language=ar",
        "cluster": "france",
        "target": "باريس",
    }
    return Item(**{**known, **changes})


def answer(text, ids):
    """A generation."""
    return Generation(item_id="facts_ar/7", text=text, token_ids=ids, finish="eos", prompt_tokens=5)


def shown(asked, baseline, candidate, width=100, metrics=({}, {})):
    """What `side_by_side` prints of two answers, each scored by the last of its metrics."""
    sides = [
        Scored(asked.id, "", 0, next(reversed(by.values()), None), by, response, metric=next(reversed(by), ""))
        for response, by in zip((baseline, candidate), metrics, strict=True)
    ]
    console = Console(file=io.StringIO(), width=width)
    report.side_by_side(asked, *sides, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 72, 100, 160])
def test_two_answers_stand_beside_each_other(width):
    """Both answers, the first difference between signs, its place by character, at any width."""
    text = shown(item(), answer("the sum is 42", (1, 2, 3)), answer("the sum is 57", (1, 2, 9)), width=width)
    assert ">>42<<" in text
    assert ">>57<<" in text
    assert "First difference at character 12, between" in " ".join(text.split())
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_a_late_difference_is_marked_too():
    """Answers that agree for longer than is printed are not said to be the same: the ends are shown, marked."""
    text = shown(item(), answer("so " * 9_000 + "yes", (1, 2)), answer("so " * 9_000 + "yet", (1, 3)))
    assert ">>s<<" in text.replace("\n", "")
    assert ">>t<<" in text.replace("\n", "")
    assert "First difference at character 27,003, between" in " ".join(text.split())
    assert len(text) < 60_000


def test_equal_answers_are_said_to_be_equal():
    """Nothing is marked where nothing differs."""
    text = shown(item(), answer("باريس", (1,)), answer("باريس", (1,)))
    assert ">>" not in text
    assert "The two texts are the same." in text


def test_hostile_answers_harm_no_terminal():
    """An answer with ANSI, bidi overrides and a line of five megabytes is shown in escapes and cut."""
    text = shown(item(prompt="p" * 5_000_000), answer(report_data.HOSTILE * 100_000, (1,)), answer("[red]fine", (2,)))
    assert not set(text) & {"\x1b", "\x00", "\u202e", "\u2066", "\ud800"}
    assert "[red]fine" in text
    assert "4,998,800 characters left out" in text
    assert len(text) < 200_000


def test_choices_show_each_log_probability():
    """Choices show both log-probabilities, their change, the preferred and the right one."""

    def choice(*logprobs):
        return ChoiceLogprobs("x", logprobs, (1,) * len(logprobs), (False,) * len(logprobs), 5)

    text = shown(item(kind="choice", choices=(" باريس", " Lyon"), gold=0), choice(-1.0, -2.0), choice(-3.5, -2.25))
    assert re.search(r"\(right\) │ > -1\.000 │ +-3\.500 │ -2\.500", text)
    assert re.search(r"Lyon +│ +-2\.000 │ +> -2\.250 │ -0\.250", text)
    assert "> is preferred by summed log-probability: the two prefer different choices" in " ".join(text.split())
    sides = choice(-1.0, -2.0), choice(-3.5, -3.6)
    text = shown(
        item(kind="choice", choices=(" باريس", " Lyon"), gold=0), *sides, metrics=({"acc": 0.0, "acc_norm": 1.0},) * 2
    )
    assert "by log-probability per character (acc_norm): the two prefer the same" in " ".join(text.split())


def test_an_unanswered_item_is_said():
    """An item that did not fit says so beside the other side's answer."""
    text = shown(item(), answer("x", (1,)), Unanswered("facts_ar/7", "over_context", 9000))
    assert "unanswered: over_context" in text
