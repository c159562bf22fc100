"""Both answers to one item side by side on a terminal, the first difference marked.

For generations the texts are next to each other (one above the other on a narrow terminal); for choices
the log-probabilities of every choice. The answers are hostile: every text is made visible before it is printed.
"""

from __future__ import annotations

from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.judge.choice_probability import preferred_choice
from harness.records import ChoiceLogprobs, Generation, Item, Response, Scored
from harness.report import words
from harness.report.answers import around_difference, first_difference, split_at_difference
from harness.report.sanitize import clip, one_line, plain_ascii, visible

__all__ = ["side_by_side"]

_NARROW = 72  # below this width the answers are one above the other
_LONGEST, _PROMPT_END = 20_000, 600
_BY = {
    "acc": "by summed log-probability",
    "acc_norm": "by log-probability per character (acc_norm)",
    "acc_bytes": "by log-probability per byte (acc_bytes)",
}


def side_by_side(item: Item, baseline: Scored, candidate: Scored, console: Console) -> None:
    """Print the item and both answers, which must be answers to `item`."""
    sides = baseline.response, candidate.response
    ascii_only, stored = console.options.ascii_only, bool(item.prompt or not item.asked)
    console.print(_text(f"{item.id}  ({item.slice}, {item.stratum})", ascii_only, style="bold"))
    if not stored:
        console.print(words.NOT_STORED)
    else:
        prompt = item.prompt
        if (left_out := len(prompt) - 2 * _PROMPT_END) > 0:
            prompt = f"{prompt[:_PROMPT_END]}\n[{left_out:,} characters left out]\n{prompt[-_PROMPT_END:]}"
        console.print(Panel(_text(prompt, ascii_only), title="prompt", title_align="left"))
        if item.target:
            console.print(_text(f"right: {clip(item.target, _LONGEST)}", ascii_only))
    choices = [one for one in sides if isinstance(one, ChoiceLogprobs)]
    if len(choices) == len(sides):
        metric = (baseline.metric or candidate.metric).partition(",")[0]
        console.print(_choices(item, choices, metric, ascii_only))
    elif stored:
        _answers(*sides, console, ascii_only)


def _text(text: str, ascii_only: bool, style: str = "") -> Text:  # noqa: FBT001 - a property of the terminal
    safe = visible(text)
    return Text(plain_ascii(safe) if ascii_only else safe, style=style)


def _answer(response: Response) -> tuple[str, str]:
    """Return an answer's text and what else there is to say of it."""
    if isinstance(response, Generation):
        counted = f"{len(response.token_ids)} tokens, " if response.token_ids or not response.text else ""
        return response.text, f"{counted}ended by {response.finish}"
    if isinstance(response, ChoiceLogprobs):
        return " ".join(f"{one:.3f}" for one in response.logprobs), "log-probabilities"
    return "", f"unanswered: {response.reason}"


def _answers(baseline: Response, candidate: Response, console: Console, ascii_only: bool) -> None:  # noqa: FBT001
    (one, about_one), (other, about_other) = _answer(baseline), _answer(candidate)
    narrow = console.width < _NARROW
    width = console.width if narrow else console.width // 2 - 1
    options: dict[str, Any] = {"title_align": "left", "subtitle_align": "left", "width": width}
    cuts = split_at_difference(*around_difference(one, other, _LONGEST))
    panels = [
        Panel(_marked(cut, ascii_only), title=who, subtitle=_text(about, ascii_only), **options)
        for who, cut, about in zip(("baseline", "candidate"), cuts, (about_one, about_other), strict=True)
    ]
    for shown in panels if narrow else (Columns(panels, padding=(0, 1)),):
        console.print(shown)
    if (index := first_difference(one, other)) is None:
        console.print("The two texts are the same.")
    else:
        token = _first_token(baseline, candidate)
        where = f", at token {token + 1}" if token is not None else ""
        console.print(f"First difference at character {index + 1:,}{where}, between the signs >> and <<.")


def _first_token(one: Response, other: Response) -> int | None:
    """Return the index of the first token that differs, None if that is not known or none does."""
    if not isinstance(one, Generation) or not isinstance(other, Generation) or one.token_ids == other.token_ids:
        return None
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    shorter = min(len(one.token_ids), len(other.token_ids))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)


def _marked(cut: tuple[str, str, str], ascii_only: bool) -> Text:  # noqa: FBT001
    shared, differs, rest = cut
    text = _text(shared, ascii_only)
    if differs:
        text.append(">>", style="bold")
        text.append_text(_text(differs, ascii_only, style="bold reverse"))
        text.append("<<", style="bold")
    return text.append_text(_text(rest, ascii_only))


def _choices(item: Item, sides: list[ChoiceLogprobs], metric: str, ascii_only: bool) -> Table:  # noqa: FBT001
    table = Table(title="log-probability of each choice", title_justify="left")
    table.add_column("choice", overflow="fold")
    for heading in ("baseline", "candidate", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = [preferred_choice(item, response, metric) for response in sides]
    for index, values in enumerate(zip(*(one.logprobs for one in sides), strict=True)):
        choice = (item.choices[index] if index < len(item.choices) else "") or f"choice {index + 1}"
        label = _text(one_line(clip(choice, 300)), ascii_only)
        if index == item.gold:
            label.append("  (right)", style="bold")
        cells = (f"{'> ' if index == top else ''}{value:.3f}" for top, value in zip(best, values, strict=True))
        table.add_row(label, *cells, f"{values[1] - values[0]:+.3f}")
    preferred = "prefer the same choice" if best[0] == best[1] else "prefer different choices"
    table.caption = f"> is preferred {_BY.get(metric, _BY['acc'])}: the two {preferred}"
    table.caption_justify = "left"
    return table
