"""The page, read as text and as a tree; a browser reads it in report/test_browser.py."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_data
import yaml
from lazily import lazy

from harness import report
from harness.judge.verdicts import Judgement
from harness.report import answers, charts, words
from harness.report.blocks import axes, behaviour, routing
from harness.report.blocks.programs import COLUMNS, comparisons
from harness.report.blocks.routing import plans
from harness.report.evidence import Evidence, FlipPair
from harness.report.writer import csv_text, file_name, model_index, parquet_bytes

report_html = lazy("harness.report.html")

TEMPLATES = Path(report.__file__).parent / "templates"


class Tree(HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    VOID = frozenset({"meta", "link", "br", "input", "img", "hr", "wbr"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        """Takes an element, and opens it unless it is of a kind that is never closed."""
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Takes an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Closes the last open element, which must be of this kind."""
        assert self._open.pop() == tag

    def handle_data(self, data):
        """Keeps what a reader sees apart from scripts and styles."""
        if self._open and self._open[-1] in {"script", "style"}:
            self.scripts.append(data)
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def judged():
    """The judgement that most tests read."""
    return report_data.judgement()


@pytest.fixture(scope="module")
def whole(judged):
    """Its page, as text."""
    return report_html.html_report(judged, report_data.evidence(judged))


@pytest.fixture(scope="module")
def tree(whole):
    """Its page, as a tree: every element closed in order."""
    return Tree(whole)


def test_a_newcomer_finds_every_answer(tree, judged):
    """May we ship, for which traffic, what breaks and how, how sure, what next, how measured: each on the page."""
    text = " ".join(" ".join(tree.text).split())
    for expected in (
        "May we ship it?",
        "fails 16 of 27 gating strata, worst 16384 tokens of context, depth 0.5 (long_context): -43.8 points",
        "about 14,518 more items would decide it if the rates stay.",
        "gptqmodel is not installed: pip install 'quantcliff[gptq]'",
        "For which traffic?",
        "of the traffic can move from bf16 to a cheaper variant that passed where it goes",
        "How sure is this?",
        f"flipped {sum(one.floor_flips for one in judged.candidates[0].strata)} of 11,164 items",
        "What next?",
        "Run it again: quantcliff run configs/suite.yaml",
        "How it was measured",
        "quantcliff run configs/suite.yaml",
        "NVIDIA H100 80GB HBM3",
        "Over all strata, advisory ones too: mean -13.1 points with 24 strata significantly worse",
        "the baseline is not shown to be above chance, so no damage could be seen",
        "1 stratum is advisory and did not count.",
        "Next to bf16, as measured here:",
    ):
        assert expected in text


def test_the_whole_tails_page_answers_before_any_scrolling(repository):
    """Its first section has the kinds of damage beyond the noise, the noise where it decides, and commands to go on."""
    text = " ".join(Tree((repository / "results" / "tail-cpu" / "report.html").read_text(encoding="utf-8")).text)
    first = re.sub(r" ([,.;)])", r"\1", " ".join(text.split())).partition("For which traffic?")[0]
    for expected in (
        "Tail events at more than twice the A/A noise: none.",
        "code that does not parse 7/18 (A/A 2/18), cut at the token limit 53/509 (A/A 13/509), ends in a loop 21/509",
        "the largest difference is +50.0 points in product forms (traffic). In the gating strata it is at most 2.1",
        "Which modules cost the items of nf4: quantcliff localize results/tail-cpu nf4.",
        "Undecided strata: give their slices more items in the config",
        "quantcliff show results/tail-cpu ITEM",
        "Run it again: quantcliff run tail --allow-code-execution; versions",
    ):
        assert expected in first


def test_a_variant_has_one_colour_in_all_pictures(judged):
    """The control comes after the candidates, in pictures and tables."""
    evidence, names = report_data.evidence(judged), [one.name for one in judged.candidates if one.strata]
    control = [dataclasses.replace(one, candidate="control") for one in evidence.divergence]
    evidence = dataclasses.replace(evidence, divergence=(*control, *evidence.divergence))
    drawn = behaviour.divergence(judged, evidence), axes.cliffs(judged, evidence)
    marks = [dict(charts.legend(one, base=judged.baseline)) for one in drawn]
    assert "control" in marks[0]
    assert drawn[0].rows[-1][1] == "control"
    assert [marks[0][name] for name in names] == [marks[1][name] for name in names]


def test_a_pass_says_what_it_leaves_out():
    """Advisory strata are counted on the card, those that fail and those that show nothing by number."""
    judged = report_data.judgement()
    one, *rest = judged.candidates
    told = {"n": 50, "base": 0.5, "drop": 0.2, "margin": 0.05, "gating": False}
    more = [
        report_data.stratum("code", {"of": str(number)}, verdict=verdict, **told)
        for number, verdict in enumerate(("fail", "fail", "no_signal"))
    ]
    judged = dataclasses.replace(judged, candidates=(dataclasses.replace(one, strata=(*one.strata, *more)), *rest))
    text = " ".join(re.sub(r"<[^>]+>", " ", report_html.html_report(judged, Evidence())).split())
    assert "4 strata are advisory and did not count; 2 of them fail ; in 1 of them no damage could be seen." in text


def test_costs_stand_beside_the_baselines():
    """Shares of what was measured on both sides; what one side lacks is left out."""
    known = {"bf16": {"weight_bytes": 200, "tokens_per_second": 50}, "int8": {"weight_bytes": 122, "peak_bytes": 9}}
    judged = report_data.passing()
    assert routing.relative_cost(judged, Evidence(costs=known), "int8") == "61.0 % of its weights"
    assert routing.relative_cost(judged, Evidence(), "int8") == ""
    for speed, text in ((20, "2.5 times slower (20.0 tokens per second)"), (100, "2.0 times faster"), (49, "as fast")):
        known["int8"]["tokens_per_second"] = speed
        told = routing.relative_cost(judged, Evidence(costs=known), "int8")
        assert told.startswith(text)
        assert told.endswith(", 61.0 % of its weights")


def test_sections_come_in_their_order(tree):
    """The answer first, provenance last, as a reader decides."""
    sections = [attributes["id"] for tag, attributes in tree.elements if tag == "section"]
    assert sections == [
        "answer",
        "routing",
        "matrix",
        "cliffs",
        "averages",
        "tail",
        "divergence",
        "flips",
        "cost",
        "provenance",
    ]
    links = [a["href"].removeprefix("#") for tag, a in tree.elements if tag == "a" and "class" not in a]
    assert links[:10] == sections


def test_the_page_stands_alone(tree, whole):
    """No element names a place outside the page, and its own policy forbids what could."""
    for tag, attributes in tree.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "default-src 'none'" in whole
    assert "@import" not in whole
    assert not re.search(r"url\((?!#)", whole)


def test_ids_are_unique_and_every_reference_has_its_target(tree):
    """No two pictures share an id, and every label, reference and link finds what it names."""
    ids = [attributes["id"] for _, attributes in tree.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in tree.elements:
        for reference in attributes.get("aria-labelledby", "").split():
            assert reference in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        for found in re.findall(r"url\(#([^)]+)\)", " ".join(str(v) for v in attributes.values())):
            assert found in ids


def test_every_picture_is_named_and_follows_the_theme(whole, tree):
    """Every picture has a role, a title and a description, and its colours are the page's variables."""
    pictures = [a for tag, a in tree.elements if tag == "svg" and a.get("aria-hidden") != "true"]
    assert len(pictures) >= 7
    assert all(one["role"] == "img" and one["aria-labelledby"] for one in pictures)
    drawn = "".join(re.findall(r"<svg.*?</svg>", whole, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    assert set(re.findall(r"var\((--[a-z0-9_-]+)\)", drawn)) <= set(re.findall(r"(--[\w-]+):", css))


def test_hostile_text_stays_text():
    """Hostile names and answers leave no element, no attribute, no script and no acting character of their own."""
    pair = dataclasses.replace(
        report_data.evidence(report_data.judgement()).flips[0],
        **dict.fromkeys(
            ("prompt", "target", "baseline_text", "candidate_text", "item_id", "language"), report_data.HOSTILE
        ),
    )
    evidence = Evidence(
        name=report_data.HOSTILE,
        path=report_data.HOSTILE,
        notes=(report_data.HOSTILE,),
        flips=(pair,),
        provenance={report_data.HOSTILE: {report_data.HOSTILE: report_data.HOSTILE}},
        proofs={report_data.HOSTILE: {"method": report_data.HOSTILE}},
    )
    text = report_html.html_report(report_data.hostile(), evidence)
    assert not set(text) & {"\x1b", "\x00", "\u202e", "\u2066", "\ud800"}
    text.encode()
    read = Tree(text)
    assert sum(tag == "script" for tag, _ in read.elements) == 2
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert "49" not in "".join(read.text).replace("490", "")
    assert html.unescape("<script>alert(1)</script>") in "".join(read.text)


def test_a_line_of_five_megabytes_is_cut():
    """An answer of five megabytes leaves a small page, and says what was cut."""
    pair = dataclasses.replace(
        report_data.evidence(report_data.judgement()).flips[0], candidate_text="x" * 5_000_000, prompt="y" * 5_000_000
    )
    text = report_html.html_report(report_data.passing(), Evidence(flips=(pair,), name="z" * 5_000_000))
    assert len(text) < 300_000
    assert "4,996,000 more characters" in text


def test_two_thousand_flips_stay_under_six_megabytes():
    """As many flips as a report carries, of two candidates and with prompts of 16k tokens, fit 6 MB."""
    rng = random.Random(5)
    judged = report_data.judgement()
    long = "".join(rng.choice("ابتثجحخ دذرزسش") for _ in range(30_000))
    many = tuple(
        FlipPair(
            name,
            "long_context",
            "all",
            f"i/{i}",
            long[i:],
            long[:300],
            long[i : i + 900],
            long[i + 5 : i + 900],
            1.0,
            0.0,
        )
        for i in range(1_000)
        for name in ("int8", "nf4")
    )
    page = report_html.html_report(judged, dataclasses.replace(report_data.evidence(judged), flips=many))
    assert 4_000_000 < len(page.encode()) < 6_000_000
    inside = json.loads(re.search(r'id="flip-data">(.*?)</script>', page, re.DOTALL)[1])
    left_out = 2_000 + 4 - len(inside) + 310
    assert f"{left_out:,} more pairs have no room on this page" in page
    assert {one["candidate"] for one in inside} == {"int8", "nf4"}


@pytest.mark.parametrize("sign", ["語", "&", "\x00", "\U000e0001", '"'])
def test_long_tail_events_and_flips_share_one_room(sign):
    """Sixty long tail events and 150 flips fit 6 MB in any script; some of each candidate and kind are on the page."""
    pair = FlipPair(
        "nf4", "s", "all", "i", 20_000 * sign, 20_000 * sign, 20_000 * sign, f"x{20_000 * sign}", 1.0, 0.0, "zh"
    )
    pairs = [dataclasses.replace(pair, item_id=f"i/{i}", candidate=("int8", "nf4")[i % 2]) for i in range(150)]
    events = [
        dataclasses.replace(pair, item_id=f"e/{i}", candidate=candidate, kinds=(kind,))
        for candidate in ("int8", "nf4")
        for kind in ("wrong_script", "repetition")
        for i in range(15)
    ]
    judged = report_data.judgement()
    evidence = dataclasses.replace(report_data.evidence(judged), flips=tuple(pairs), tail_events=tuple(events))
    page = report_html.html_report(judged, evidence)
    assert 3_500_000 < len(page.encode()) < 6_000_000
    inside = json.loads(re.search(r'id="flip-data">(.*?)</script>', page, re.DOTALL)[1])
    assert f"{150 + 30 - len(inside) + 310:,} more pairs have no room on this page" in page
    found = {(one["candidate"], kind) for one in inside for kind in one["kinds"]}
    assert found == {(name, kind) for name in ("int8", "nf4") for kind in ("wrong_script", "repetition")}


@pytest.mark.parametrize(
    ("shared", "one", "other", "before"),
    [
        ("語" * 4_500, "右 right", "左 wrong", 3_500),
        ("word " * 3_000, "right", "wrong", 14_000),
        ("word " * 3_000, "", "and more", 14_000),
        ("short ", "right", "wrong", 0),
        ("a" * 3_000 + "e\u0301" + "b" * 999, "right", "wrong", 3_000),
        ("e" + "\u0301" * 9_000, "right", "wrong", 7_001),
    ],
)
def test_a_late_difference_is_found_and_shown(shared, one, other, before):
    """However long the answers agree, the first difference is in what the page gets, with what is left out before."""
    pair = dataclasses.replace(
        report_data.flips(random.Random(3), 1)[0],
        baseline_text=f"{shared}{one} end" if one else shared,
        candidate_text=f"{shared}{other} end",
    )
    found = answers.browsable(pair)
    assert len(found["answer"]) < 4_100
    assert found["baseline"][: found["at"]] == found["answer"][: found["at"]]
    assert found["answer"][found["at"] :] == f"{other} end"
    assert found["baseline"][found["at"] :] == (f"{one} end" if one else "")
    assert found["baseline"].startswith(f"({before:,} characters before) …" if before else shared[:10])


def test_gated_tail_events_stand_on_the_card():
    """Failing and undecided rates are listed under what breaks and what is undecided, the worst first."""
    judged = report_data.with_tail_events(report_data.judgement())
    read = report_html.html_report(judged, Evidence()).partition('class="card fail"')[2].partition("</article>")[0]
    text = html.unescape(" ".join(re.sub(r"<[^>]+>", " ", read).split()))
    breaks, _, open_ = text.partition("What breaks")[2].partition("Undecided")
    assert re.match(
        r" wrong_script in language am, script Ethi, resources low \(low_resource_languages\) ?"
        r"\(written in another script than "
        r"the language's\): 36 of 250 items \(14 %, limits 11 % to 18 %\), tolerated 2 %; the baseline itself: 0",
        breaks,
    )
    assert "wrong_script in language he" in open_
    assert "About 1,000 more items would decide it." in open_
    assert "empty in" not in text


def test_without_evidence_each_section_says_so():
    """A bare judgement still gives a page; what is not there is said, not left blank."""
    read = Tree(report_html.html_report(report_data.passing(), Evidence()))
    absent = sum(attributes.get("class") == "absent" for _, attributes in read.elements)
    assert absent == 6
    empty = Tree(report_html.html_report(Judgement("not_judged", 4, {}, ()), Evidence()))
    assert sum(attributes.get("class") == "absent" for _, attributes in empty.elements) == 8


def contrast(one, other):
    """The contrast ratio of two colours (WCAG 2.1, relative luminance)."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_white_and_black_is_21():
    """The helper agrees with the standard's own example."""
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


def test_text_has_contrast_in_light_dark_and_print():
    """Every text colour stands at 4.5 to 1 or more on what it is written on (WCAG 2.1 AA), in all three themes."""
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r"\{([^{}]*--bg:[^{}]*)\}", css)
    ]
    assert len(themes) == 4
    assert themes[1] == themes[2]
    verdicts = ("pass", "fail", "inconclusive", "no_signal", "not_judged")
    series = tuple(f"series-{i}" for i in range(6))
    for theme in themes:
        pairs = [(ink, on) for ink in ("ink", "muted", "link", *verdicts, *series) for on in ("bg", "panel")]
        pairs += [("heat-ink", on) for on in ("heat-0", "heat-n1", "heat-n2", "heat-p1")]
        pairs += [("heat-ink-strong", on) for on in ("heat-n3", "heat-n4", "heat-p2")] + [("mark-ink", "mark")]
        for ink, on in pairs:
            assert contrast(theme[ink], theme[on]) >= 4.5, (ink, theme[ink], on, theme[on])


def test_the_frontier_holds_what_nothing_beats(judged):
    """By weights int8 and nf4 are on the frontier and bf16 is not (int8 is as good and smaller); by time only bf16."""
    found = {one.x: one.lines for one in routing.cost_charts(judged, report_data.evidence(judged))}
    assert {line.name for line in found["weights, MiB"] if not line.hollow} == {"int8", "nf4"}
    assert {line.name for line in found["time, ms per token"] if not line.hollow} == {"bf16"}
    assert found["time, ms per token"][0].points[0][0] == pytest.approx(1000 / 812)


def routed(verdicts, weights, costs):
    """A routing plan by bytes for two candidates over strata with the given verdicts."""
    candidates = []
    for name in ("int8", "nf4"):
        strata = tuple(
            report_data.numbered(
                report_data.stratum("s", {"i": str(i)}, n=10, base=0.5, drop=0, margin=0.1, verdict=found[name]),
                weight=weight,
            )
            for i, (found, weight) in enumerate(zip(verdicts, weights, strict=True))
        )
        candidates.append(dataclasses.replace(report_data.passing().candidates[0], name=name, strata=strata))
    judged = dataclasses.replace(report_data.passing(), candidates=tuple(candidates))
    made = plans(judged, Evidence(costs={name: {"weight_bytes": value} for name, value in costs.items()}))
    assert len(made) == 1
    return made[0]


def test_routing_takes_the_cheapest_that_passed():
    """Worked by hand: weights 1, 2, 1; nf4 at a quarter where it passed, int8 at a half, bf16 where none passed."""
    plan = routed(
        [
            {"int8": "pass", "nf4": "pass"},
            {"int8": "pass", "nf4": "fail"},
            {"int8": "inconclusive", "nf4": "no_signal"},
        ],
        [1.0, 2.0, 1.0],
        {"bf16": 100, "int8": 50, "nf4": 25},
    )
    assert plan.variants == ("nf4", "int8", "bf16")
    assert plan.leaving == pytest.approx(0.75)
    assert plan.blended == pytest.approx(0.25 * 0.25 + 0.5 * 0.5 + 0.25 * 1)


def test_routing_leaves_the_baseline_for_nothing_dearer_or_unmeasured():
    """A candidate that passed but costs as much, or whose cost is unknown, takes no traffic."""
    both = [{"int8": "pass", "nf4": "pass"}]
    assert routed(both, [1.0], {"bf16": 100, "int8": 100}).variants == ("bf16",)
    assert routed(both, [1.0], {"bf16": 100, "int8": 101, "nf4": float("nan")}).leaving == 0


def test_routing_trusts_no_candidate_that_was_not_judged():
    """Strata that passed count for nothing where the candidate as a whole was not judged: its control failed, say."""
    made = report_data.passing().candidates[0]
    costs = {"bf16": {"weight_bytes": 100}, "int8": {"weight_bytes": 50}}
    for verdict, leaving in (("pass", [1.0]), ("not_judged", [])):
        judged = dataclasses.replace(report_data.passing(), candidates=(dataclasses.replace(made, verdict=verdict),))
        assert [plan.leaving for plan in plans(judged, Evidence(costs=costs))] == leaving


@pytest.mark.parametrize(
    ("verdict", "stratum", "leaving"),
    [
        ("pass", "i=0", 1.0),
        (None, "i=0", 1.0),
        ("fail", "i=0", 0.5),
        ("inconclusive", "i=0", 0.5),
        ("not_judged", "i=0", 0.5),
        ("not_judged", "all", 0.0),
        ("fail", "i=2", 1.0),
    ],
)
def test_routing_heeds_tail_events(verdict, stratum, leaving):
    """Scores that pass are not enough: where a gated rate of tail events does not pass, nothing may leave."""
    made = report_data.passing().candidates[0]
    strata = tuple(
        report_data.stratum("s", {"i": str(i)}, n=10, base=0.5, drop=0, margin=0.1, verdict="pass") for i in range(2)
    )
    tolerance = None if verdict is None else 0.01
    rates = (
        report_data.rate("s", stratum, "wrong_script", 3, 10, tolerance=tolerance, verdict=verdict),
        report_data.rate("s", "i=1", "empty", 0, 10, tolerance=0.5),
        report_data.rate("other", "i=1", "empty", 5, 10, tolerance=0.01),
    )
    one = dataclasses.replace(made, strata=strata, tail_events=rates)
    judged = dataclasses.replace(report_data.passing(), candidates=(one,))
    (plan,) = plans(judged, Evidence(costs={"bf16": {"weight_bytes": 100}, "int8": {"weight_bytes": 50}}))
    assert plan.leaving == pytest.approx(leaving)
    assert [bool(passed) for _, passed in routing.traffic(judged).values()].count(True) == 2 * leaving


def test_no_cost_no_plan(judged):
    """Without the baseline's cost nothing is relative to anything; who passed is shown all the same."""
    known = Evidence(costs={"int8": {"weight_bytes": 5}})
    assert plans(judged, known) == []
    section = routing.routing(judged, known)
    assert section.sentences[0].startswith("No routing plan: the cost of the baseline and of a candidate was not")
    assert {row[-1] for row in section.rows} == {"int8", "none", "int8, nf4"}


def test_csv_and_parquet_hold_every_figure_unrounded(judged):
    """Both tables read back as the judgement's own numbers; a missing one is empty."""
    from pyarrow import parquet

    rows = list(csv.DictReader(io.StringIO(csv_text(comparisons(judged)), newline="")))
    table = parquet.read_table(io.BytesIO(parquet_bytes(comparisons(judged)))).to_pylist()
    strata = [(c.name, one) for c in judged.candidates for one in c.strata]
    assert len(rows) == len(table) == len(strata)
    assert tuple(rows[0]) == tuple(table[0]) == tuple(one.heading for one in COLUMNS)
    for text, typed, (name, one) in zip(rows, table, strata, strict=True):
        assert text["candidate"] == typed["candidate"] == name
        assert float(text["low"]) == typed["low"] == one.low
        assert text["items_to_decide"] == ("" if one.items_to_decide is None else str(one.items_to_decide))
        assert typed["items_to_decide"] == one.items_to_decide


def test_tables_survive_hostile_names():
    """A cell that begins like a formula is text to a spreadsheet, and no acting character is left."""
    from pyarrow import parquet

    judged = report_data.hostile()
    named = dataclasses.replace(judged.candidates[0], name="=cmd|' /C calc'!A0")
    text = csv_text(comparisons(dataclasses.replace(judged, candidates=(named,))))
    assert "\n'=cmd" in text
    assert not set(text) & {"\x1b", "\x00", "\u202e", "\ud800"}
    assert parquet.read_table(io.BytesIO(parquet_bytes(comparisons(judged)))).num_rows == 5


def test_an_empty_parquet_has_its_types():
    """A judgement without strata gives an empty table whose columns still have their types."""
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(parquet_bytes(comparisons(Judgement("not_judged", 4, {}, ())))))
    assert table.num_rows == 0
    assert str(table.schema.field("delta").type) == "double"


def test_model_card_metadata_reads_as_hugging_face_reads_it(judged):
    """The YAML under ``model-index`` is accepted by huggingface_hub's own reader, with the scores in it."""
    hub = pytest.importorskip("huggingface_hub.repocard_data")
    nf4 = judged.candidates[1]
    data = yaml.safe_load(model_index(judged, nf4, Evidence(name="suite")))
    name, results = hub.model_index_to_eval_results(data["model-index"])
    assert name == "nf4"
    scores = [one for one in results if one.metric_name == "score"]
    assert [one.metric_value for one in scores] == [one.candidate_mean for one in nf4.strata]
    yaml.safe_load(model_index(report_data.hostile(), report_data.hostile().candidates[0], Evidence()))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ".hidden", "x" * 300, "", "\ud800"])
def test_file_names_stay_in_the_directory(name):
    """No candidate's name leads out of the run directory, and two names never share a file."""
    made = file_name(name)
    assert re.fullmatch(r"model-index-[A-Za-z0-9_-][A-Za-z0-9._-]*\.yaml", made)
    assert made != file_name(name + "!")
    assert file_name("a/b") != file_name("a:b")


def test_write_removes_the_answers_that_an_older_version_left(tmp_path, judged, monkeypatch):
    """Such a file lay beside the page, and would outlive texts that are erased."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (tmp_path / "report-flips.json").write_text("old")
    paths = report.write(tmp_path, judged, report_data.evidence(judged))
    assert {path.name for path in paths} == {
        "report.md",
        "junit.xml",
        "report.html",
        "comparisons.csv",
        "comparisons.parquet",
        "model-index-int8.yaml",
        "model-index-nf4.yaml",
    }
    assert not (tmp_path / "report-flips.json").exists()


def test_charts_of_a_section_share_their_scale():
    """Slices far apart in divergence are drawn on one logarithmic axis with plain numbers; each has its own title."""
    judged = report_data.judgement()
    page = report_html.html_report(judged, report_data.evidence(judged))
    section = page[page.index('id="divergence"') : page.index('id="flips"')]
    ticks = [re.findall(r'text-anchor="end">([^<]+)<', one) for one in section.split("<figure")[1:]]
    assert len(ticks) == 3
    assert all(one == ticks[0] for one in ticks)
    assert ticks[0] == ["0.001", "0.01", "0.1", "1"]


def test_choices_have_no_picture_of_their_divergence():
    """They have rows, and a sentence in place of empty axes."""
    judged = report_data.judgement()
    evidence = report_data.evidence(judged)
    rows = tuple(dataclasses.replace(one, slice="choices", position="") for one in evidence.divergence)
    page = report_html.html_report(judged, dataclasses.replace(evidence, divergence=rows))
    section = page[page.index('id="divergence"') : page.index('id="flips"')]
    assert "Choices have no token positions" in section
    assert "<figure" not in section
    assert section.count("<tr>") > 1


@pytest.mark.parametrize(
    ("stratum", "name"),
    [
        ("long_context/task=lookup,keys=12,answer=present", "retrieval among 12 keys, answer present (long_context)"),
        ("task=lookup,keys=12,answer=present", "retrieval among 12 keys, answer present"),
        ("product=a/b,tier=c/d", "product a/b, tier c/d"),
        ("typical/all", "typical/all"),
    ],
)
def test_the_worst_stratum_of_all_slices_is_named_as_elsewhere(stratum, name):
    """The average over everything says of its worst stratum what the cards say, with the slice in brackets."""
    assert words.readable(stratum) == name
