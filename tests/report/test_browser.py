"""The page in a real browser: nothing asked of the network, sorting, filtering, flips, themes, phone, print.

Needs Playwright and Chromium (``apt install chromium``, or the path in $QUANTCLIFF_CHROMIUM); skipped with a reason
where one is missing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil

import pytest
import report_data
from commands import call
from lazily import lazy

from harness.report.evidence import Evidence
from harness.store.files import read_json, write_json
from harness.store.rundir import RunDir
from harness.store.whole import write_manifest

report_html = lazy("harness.report.html")

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    """Chromium, headless."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright is not installed: pip install playwright")
    program = os.environ.get("QUANTCLIFF_CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed: apt install chromium, or name it in QUANTCLIFF_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield one
        one.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The pages on disk: the usual one, one of hostile text, one of long answers."""
    folder = tmp_path_factory.mktemp("pages")
    judged = report_data.with_tail_events(report_data.judgement())
    evidence = report_data.evidence(judged)
    hostile = dataclasses.replace(
        evidence.flips[0],
        **dict.fromkeys(("prompt", "target", "baseline_text", "item_id", "candidate"), report_data.HOSTILE),
    )
    lines = "A line that both answers share.\n" * 100
    late = dataclasses.replace(evidence.flips[0], baseline_text=f"{lines}so yes", candidate_text=f"{lines}so no")
    event = dataclasses.replace(late, candidate="nf4", kinds=("repetition",))
    made = {
        "usual": report_html.html_report(judged, evidence),
        "hostile": report_html.html_report(report_data.hostile(), Evidence(name=report_data.HOSTILE, flips=(hostile,))),
        "long": report_html.html_report(judged, dataclasses.replace(evidence, flips=(late,), tail_events=(event,))),
    }
    for name, page in made.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser, files):
    """Opens a page from disk; when the test ends, no error may have been printed and nothing asked of the network."""
    contexts, problems, asked = [], [], []

    def go(name="usual", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((files / f"{name}.html").as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []
    assert all(url.startswith("file:") for url in asked)
    assert len(asked) == len(contexts)


def column(page, index):
    """The texts of a column of the matrix, as they stand, hidden rows left out."""
    rows = page.locator("#matrix-table tbody tr:visible")
    return [rows.nth(i).locator(":is(th, td)").nth(index).get_attribute("data-value") for i in range(rows.count())]


def test_sorting_by_a_heading(visit):
    """A heading sorts ascending, then descending, then as it was; by number, not by text; and says so to readers."""
    page = visit()
    before = column(page, 6)
    heading = page.locator("#matrix-table thead th").nth(6)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    numbers = [float(one) for one in column(page, 6)]
    assert numbers == sorted(numbers)
    assert numbers[0] == pytest.approx(-0.4375)
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(one) for one in column(page, 6)] == sorted(numbers, reverse=True)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert column(page, 6) == before


def test_sorting_by_the_stratum(visit):
    """Strata sort by their names, their numbers as numbers, and not by slice, items or margin, on a phone too."""
    page = visit(viewport={"width": 390, "height": 800})
    page.locator("#matrix-table thead th").nth(1).locator("button").click()
    cells = page.locator("#matrix-table tbody th > bdi").evaluate_all("all => all.map((one) => one.title)")
    numbers = [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", cell)] for cell in cells]
    assert numbers == sorted(numbers)
    assert cells[:4] == ["all", "all", "context_tokens=256,depth=0.0", "context_tokens=256,depth=0.5"]
    assert cells[-2:] == ["language=hi,script=Deva,resources=mid", "language=ja,script=Jpan,resources=high"]


def test_a_phone_names_the_slice_to_everybody(visit):
    """Where the column of slices has no room, the slice, n and margin stand in the stratum's cell, read aloud too."""
    page = visit(viewport={"width": 390, "height": 800})
    cell = page.locator("#matrix-table tbody th").first
    assert cell.inner_text().splitlines()[0].startswith("long_context, n 400, margin 5.0")
    assert cell.locator("[aria-hidden]").count() == 0
    assert "long_context" in page.locator("#matrix .scroll").aria_snapshot()


def test_filtering_the_matrix(visit):
    """Words, verdict, slice and gating filter together, and the count is told."""
    page = visit()
    count = page.locator("#matrix-count")
    assert count.inner_text() == "27 of 28"
    page.select_option("#matrix-verdict", "fail")
    assert count.inner_text() == "16 of 28"
    page.select_option("#matrix-first", "multi_hop_math")
    assert count.inner_text() == "3 of 28"
    page.fill("#matrix-words", "hops=4")
    assert count.inner_text() == "1 of 28"
    assert page.locator("#matrix-table tbody tr:visible").count() == 1
    page.fill("#matrix-words", "no such thing")
    assert count.inner_text() == "0 of 28"


def test_a_link_from_the_answer_filters_the_matrix(visit):
    """The words "and 11 more that fail" lead to the matrix, showing what fails."""
    page = visit()
    page.get_by_role("link", name="and 11 more that fail").click()
    assert page.locator("#matrix-count").inner_text() == "16 of 28"
    assert page.url.endswith("#matrix")


def test_browsing_flips_by_button_and_by_key(visit):
    """Next, previous and the arrow keys walk through the flips; the ends are ends."""
    page = visit()
    count = page.locator("#flip-count")
    assert count.inner_text() == "1 of 25"
    assert page.locator("#flip-previous").is_disabled()
    page.locator("#flip-next").click()
    assert count.inner_text() == "2 of 25"
    page.keyboard.press("ArrowRight")
    assert count.inner_text() == "3 of 25"
    page.keyboard.press("ArrowLeft")
    assert count.inner_text() == "2 of 25"
    page.select_option("#flip-direction", "gained")
    gained = int(count.inner_text().split(" of ")[1])
    page.select_option("#flip-direction", "lost")
    assert int(count.inner_text().split(" of ")[1]) + gained == 25
    page.fill("#flip-words", "nothing has this word")
    assert count.inner_text() == "nothing fits"
    assert page.locator("#flip").inner_text() == ""


def test_flips_in_right_to_left_scripts(visit):
    """An Arabic answer runs from right to left, carries its language, and has its first differing word marked."""
    page = visit()
    page.select_option("#flip-candidate", "nf4")
    page.select_option("#flip-stratum", "low_resource_languages: language=ar,script=Arab,resources=high")
    page.select_option("#flip-direction", "lost")
    answers = page.locator("#flip .sides pre")
    assert [answers.nth(i).locator("mark").first.inner_text() for i in range(2)] == ["هي", "ليست"]
    for index in range(2):
        assert answers.nth(index).get_attribute("lang") == "ar"
        assert answers.nth(index).evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.select_option("#flip-stratum", "low_resource_languages: language=hi,script=Deva,resources=mid")
    assert answers.first.evaluate("e => getComputedStyle(e).direction") == "ltr"


def test_the_first_difference_is_in_sight(visit):
    """Long answers scroll in their boxes to the first word that differs, and only such words are marked."""
    page = visit("long")
    page.wait_for_function("[...document.querySelectorAll('#flip pre:has(mark)')].every(e => e.scrollTop > 0)")
    boxes = page.locator("#flip pre:has(mark)")
    assert [boxes.nth(i).locator("mark").all_inner_texts() for i in range(2)] == [["yes"], ["no"]]
    for index in range(2):
        box, mark = boxes.nth(index).bounding_box(), boxes.nth(index).locator("mark").bounding_box()
        assert box["y"] < mark["y"] < box["y"] + box["height"] - mark["height"]


def test_a_claim_leads_to_its_items(visit):
    """The lost and gained items of a stratum, and the events of a kind, open the answers that they count."""
    page = visit()
    place = "low_resource_languages: language=am,script=Ethi,resources=low"
    page.locator(f'#matrix a[data-candidate="nf4"][data-place="{place}"]').click()
    assert page.url.endswith("#flips")
    assert [page.locator(f"#flip-{one}").input_value() for one in ("candidate", "stratum")] == ["nf4", place]
    shown = int(page.locator("#flip-count").inner_text().split(" of ")[1])
    assert 0 < shown < 25
    page.locator('#tail a[data-candidate="nf4"][data-kind="repetition"]').first.click()
    assert page.locator("#flip-count").inner_text() == "1 of 4"
    assert "repetition" in page.locator("#flip h4").inner_text()
    page.keyboard.press("j")
    assert page.locator("#flip-count").inner_text() == "2 of 4"


SCREEN = 1_000
"""Pixels of a screen at a width of 1,280."""


def test_the_whole_tail_is_at_most_twelve_screens(browser, repository):
    """26 slices and 101 strata: twelve screens, contents with the verdicts in sight, what says nothing in one line."""
    page = browser.new_page(viewport={"width": 1280, "height": SCREEN})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    path = repository / "results" / "tail-cpu" / "report.html"
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollHeight") <= 12 * SCREEN
    assert path.stat().st_size < 6_000_000
    assert asked == [path.as_uri()]
    assert page.locator("#matrix-table tbody tr").count() == 101
    quiet = page.locator("#matrix-table tr.quiet").count()
    assert page.get_by_label(f"{quiet} more strata have no signal").count() == 1
    assert page.locator("#matrix-table tbody tr:visible").count() == 101 - quiet
    page.get_by_label(f"{quiet} more strata have no signal").check()
    assert page.locator("#matrix-table tbody tr:visible").count() == 101
    page.evaluate("window.scrollTo(0, 6000)")
    assert page.locator("nav a[href='#matrix'] .sign.fail").bounding_box()["y"] < SCREEN
    page.close()


def background(page):
    """The page's background, as the browser drew it."""
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_mode_follows_the_system_and_the_button(visit):
    """The system's choice holds until the button is pressed; pictures follow too."""
    dark, light = "rgb(17, 20, 24)", "rgb(255, 255, 255)"
    page = visit(color_scheme="dark")
    assert background(page) == dark
    axis = page.locator("#divergence svg text").first
    assert axis.evaluate("e => getComputedStyle(e).fill") == "rgb(163, 173, 186)"
    button = page.locator("#theme")
    button.click()
    assert (button.inner_text(), background(page)) == ("Theme: light", light)
    assert axis.evaluate("e => getComputedStyle(e).fill") == "rgb(89, 98, 111)"
    button.click()
    assert (button.inner_text(), background(page)) == ("Theme: dark", dark)
    assert background(visit(color_scheme="light")) == light


def test_print_is_light_and_without_controls(visit):
    """On paper: black on white from the dark theme too, no controls, the whole matrix, the pair of answers."""
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    assert background(page) == "rgb(255, 255, 255)"
    for hidden in ("nav", "#theme", "#matrix-filters", "#flip-filters", ".pager"):
        assert not page.locator(hidden).is_visible()
    assert page.locator("#flip pre:visible").count() >= 2
    scroll = page.locator("#matrix .scroll")
    assert scroll.evaluate("e => e.scrollHeight - e.clientHeight") <= 1
    page.set_viewport_size({"width": 718, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


ALONE = """() => [...document.querySelectorAll('h2, h3')].filter((one) => one.checkVisibility()
  && ![...one.parentElement.children].some((other) => other !== one && other.checkVisibility()
    && one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING)).map((one) => one.textContent)"""
SIZES = "all => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"


def on_paper(page):
    """Check a page as A4: white, no wider than the paper, short headings whole, and none without what it is of."""
    page.emulate_media(media="print")
    assert background(page) == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert [word for word, _ in page.evaluate(HALVES) if len(word) <= 12] == []
    assert page.evaluate(ALONE) == []
    (body,) = page.locator("body").evaluate_all(SIZES)
    assert all(size <= body for size in page.locator(".muted, .legend, .card li").evaluate_all(SIZES))


def test_paper_has_whole_headings_and_notes_no_larger_than_the_text(visit, browser, repository):
    """On a page of A4 a heading as short as ``candidate`` stands in one line, although long names may break."""
    on_paper(visit(viewport={"width": 718, "height": 1000}, color_scheme="dark"))
    page = browser.new_page(viewport={"width": 718, "height": 1000})
    page.goto((repository / "results" / "tail-cpu" / "report.html").as_uri())
    on_paper(page)
    page.close()


def test_pictures_stand_in_rows_and_tables_show_that_they_go_on(browser, repository):
    """The axes of a row are at one height, however long the titles; on a phone an average's change is in sight."""
    page = browser.new_page(viewport={"width": 1280, "height": SCREEN})
    page.goto((repository / "results" / "tail-cpu" / "report.html").as_uri())
    tops = "all => all.slice(0, 4).map((one) => one.getBoundingClientRect().top)"
    assert len(set(page.locator("#cliffs figure svg").evaluate_all(tops))) == 1
    assert len(set(page.locator("#cliffs figcaption").evaluate_all(tops))) == 2
    shade = page.locator("#averages .scroll").first.evaluate("e => getComputedStyle(e).backgroundAttachment")
    assert shade == "local, scroll"
    page.set_viewport_size({"width": 390, "height": 800})
    cells = page.locator("#averages-table tbody tr").first.locator("th, td")
    assert all(box["x"] + box["width"] <= 390 for box in (one.bounding_box() for one in cells.all()))
    page.close()


@pytest.mark.parametrize("name", ["usual", "hostile"])
def test_the_page_never_scrolls_sideways(visit, name):
    """On a phone and on a desk only tables and pictures scroll sideways, never the page."""
    page = visit(name)
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


def test_hostile_text_runs_nothing(visit):
    """Hostile names and answers open no dialog, make no request, and stand on the page as text."""
    page = visit("hostile")
    assert page.locator("script").count() == 2
    assert "<script>alert(1)</script>" in page.locator("#flip").inner_text()
    assert "\\u202e" in page.locator("#flip").inner_text()


def test_the_policy_stops_a_script_that_gets_in(browser, files):
    """Were a script to get into the page all the same, the page's own policy would not run it."""
    text = (files / "usual.html").read_text(encoding="utf-8")
    (files / "broken.html").write_text(text.replace("<main>", "<main><script>document.title='in'</script>"))
    page = browser.new_page()
    page.goto((files / "broken.html").as_uri())
    assert page.title() != "in"
    page.close()


def test_everything_is_reached_by_keyboard(visit):
    """Tab reaches the skip link first, then theme, navigation, filters, headings and scrolling regions."""
    page = visit()
    reached = []
    for _ in range(140):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert reached[0] == "skip"
    for expected in ("theme", "A", "matrix-words", "matrix-verdict", "matrix-gating", "scroll", "BUTTON", "chart"):
        assert expected in reached


def test_without_scripts_the_answer_still_stands(visit):
    """With scripts off: the answer and the matrix are there, the dead controls of the browser not."""
    page = visit(java_script_enabled=False)
    assert page.locator("#answer .card").count() == 3
    assert page.locator("#matrix-table tbody tr").count() == 28
    assert "report.md has five of them" in page.locator("#flips noscript").inner_text()
    assert not page.locator("#browser").is_visible()


HALVES = """() => [...document.querySelectorAll('thead th bdi')].flatMap((bdi) => {
  const range = document.createRange(), text = bdi.firstChild;
  return [...text.data.matchAll(/[^\\s-]+/g)].map((word) => {
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return [word[0], new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size];
  }).filter(([_, lines]) => lines > 1);
})"""


def test_headings_break_between_words(visit):
    """No word of a table's heading is cut in two, however many columns there are; the table scrolls sideways."""
    page = visit()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(HALVES) == [], width


@pytest.fixture(scope="module")
def history(repository, tmp_path_factory):
    """The page of two runs, the second under other versions."""
    folder = tmp_path_factory.mktemp("builds")
    for name in ("first", "second"):
        ignored = shutil.ignore_patterns("report.*", "*.parquet")
        copy = shutil.copytree(repository / "results" / "demo-cpu", folder / name, ignore=ignored)
        for path in copy.glob("*/variant.json") if name == "second" else ():
            known = read_json(path)
            write_json(path, {**known, "versions": {**known["versions"], "torch": "2.14.0+cpu.with.a.long.name" * 3}})
        write_manifest(RunDir(copy))
    assert call("history", folder, "--output", folder / "public") == 0
    return folder / "public" / "history.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_history_on_a_phone_and_on_a_desk(browser, history, width):
    """It asks for nothing, is short, never scrolls sideways, and shows what was before and after within the screen."""
    page = browser.new_page(viewport={"width": width, "height": SCREEN})
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(history.as_uri())
    assert (asked, problems) == ([history.as_uri()], [])
    assert page.evaluate("document.documentElement.scrollHeight") <= 5 * SCREEN
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".stacked td:is(:empty, :has(> bdi:empty)):visible").count() == 0 or width > 390
    page.get_by_label("strata and rates are within their margin").check()
    right = "all => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
    assert page.locator("#since tbody tr > :visible").evaluate_all(right) <= width or width > 390
    assert "at the gate ," not in page.locator("#since").inner_text()
    cells = page.locator("#changes tbody tr").first.locator("td, th")
    assert [one.get_attribute("data-heading") for one in cells.all()] == ["run", "what changed", "before", "after"]
    places = [one.bounding_box() for one in cells.all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in places)
    tops = [box["y"] for box in places]
    assert (len(set(tops)) == 4) is (width == 390)
    label = cells.nth(3).evaluate("e => getComputedStyle(e, '::before').content")
    assert ("data-heading" in label or "after" in label) is (width == 390)
    page.close()


def test_the_history_in_the_dark_and_on_paper(browser, history):
    """It is as dark as the system, its pictures too; and on paper as light and whole as a report."""
    page = browser.new_page(viewport={"width": 718, "height": SCREEN}, color_scheme="dark")
    page.goto(history.as_uri())
    assert background(page) == "rgb(17, 20, 24)"
    assert page.locator("thead th").first.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(27, 32, 39)"
    on_paper(page)
    page.close()


def test_the_history_is_reached_by_keyboard(browser, history):
    """Tab reaches the skip link, the theme, the contents, the tables and their headings, which sort by Enter."""
    page = browser.new_page(viewport={"width": 1280, "height": SCREEN})
    page.goto(history.as_uri())
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if page.evaluate("document.activeElement.closest('#runs thead th') !== null"):
            page.keyboard.press("Enter")
            break
    assert reached[:2] == ["skip", "theme"]
    assert any(one.startswith("scroll") for one in reached)
    assert page.locator("#runs thead th[aria-sort=ascending]").count() == 1
    page.close()
