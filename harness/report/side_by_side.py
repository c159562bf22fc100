"""Both answers to one item side by side on a terminal, the first difference marked.

For generations the texts stand beside each other (one above the other where the terminal is narrow); for choices
the log-probabilities of every choice. The answers are hostile: every text is made visible before it is printed.
"""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.judge.choice_probability import preferred_choice
from harness.records import ChoiceLogprobs, Generation, Item, Response, Scored
from harness.report import words
from harness.report.diff import around_difference, first_difference, split_at_difference
from harness.report.sanitize import clip, one_line, plain_ascii, visible

__all__ = ["side_by_side"]

_NARROW = 72
"""Below this width the answers stand one above the other."""

_LONGEST = 20_000
_BY = {
    "acc": "by summed log-probability",
    "acc_norm": "by log-probability per character (acc_norm)",
    "acc_bytes": "by log-probability per byte (acc_bytes)",
}
_PROMPT_HEAD, _PROMPT_TAIL = 600, 600


def side_by_side(item: Item, baseline: Scored, candidate: Scored, console: Console) -> None:
    """Print the item and both answers, which must be answers to `item`."""
    baseline_response, candidate_response = baseline.response, candidate.response
    metric = (baseline.metric or candidate.metric).partition(",")[0]
    ascii_only = console.options.ascii_only
    console.print(_text(f"{item.id}  ({item.slice}, {item.stratum})", ascii_only, style="bold"))
    if item.asked and not item.prompt:
        console.print(words.NOT_STORED)
        if isinstance(baseline_response, ChoiceLogprobs) and isinstance(candidate_response, ChoiceLogprobs):
            console.print(_choices(item, baseline_response, candidate_response, metric, ascii_only))
        return
    prompt = item.prompt
    if len(prompt) > _PROMPT_HEAD + _PROMPT_TAIL:
        left_out = len(prompt) - _PROMPT_HEAD - _PROMPT_TAIL
        prompt = f"{prompt[:_PROMPT_HEAD]}\n[{left_out:,} characters left out]\n{prompt[-_PROMPT_TAIL:]}"
    console.print(Panel(_text(prompt, ascii_only), title="prompt", title_align="left"))
    if item.target:
        console.print(_text(f"right: {clip(item.target, _LONGEST)}", ascii_only))
    if isinstance(baseline_response, ChoiceLogprobs) and isinstance(candidate_response, ChoiceLogprobs):
        console.print(_choices(item, baseline_response, candidate_response, metric, ascii_only))
        return
    _answers(baseline_response, candidate_response, console, ascii_only)


def _text(text: str, ascii_only: bool, style: str = "") -> Text:  # noqa: FBT001 - a property of the terminal
    safe = visible(text)
    return Text(plain_ascii(safe) if ascii_only else safe, style=style)


def _answer(response: Response) -> tuple[str, str]:
    """Give an answer's text and what else there is to say of it."""
    if isinstance(response, Generation):
        counted = f"{len(response.token_ids)} tokens, " if response.token_ids or not response.text else ""
        return response.text, f"{counted}ended by {response.finish}"
    if isinstance(response, ChoiceLogprobs):
        return " ".join(f"{one:.3f}" for one in response.logprobs), "log-probabilities"
    return "", f"unanswered: {response.reason}"


def _answers(baseline: Response, candidate: Response, console: Console, ascii_only: bool) -> None:  # noqa: FBT001
    (one, about_one), (other, about_other) = _answer(baseline), _answer(candidate)
    parts = split_at_difference(*around_difference(one, other, _LONGEST))
    token = _first_token(baseline, candidate)
    panels: list[RenderableType] = []
    width = console.width if console.width < _NARROW else console.width // 2 - 1
    for who, cut, about in zip(("baseline", "candidate"), parts, (about_one, about_other), strict=True):
        panels.append(
            Panel(
                _marked(cut, ascii_only),
                title=who,
                subtitle=_text(about, ascii_only),
                title_align="left",
                subtitle_align="left",
                width=width,
            )
        )
    if console.width < _NARROW:
        for panel in panels:
            console.print(panel)
    else:
        console.print(Columns(panels, padding=(0, 1)))
    index = first_difference(one, other)
    if index is None:
        console.print("The two texts are the same.")
    else:
        where = f", at token {token + 1}" if token is not None else ""
        console.print(f"First difference at character {index + 1:,}{where}, between the signs >> and <<.")


def _first_token(one: Response, other: Response) -> int | None:
    """Give the index of the first token that differs, None where that is not known or none does."""
    if not isinstance(one, Generation) or not isinstance(other, Generation):
        return None
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if shared is not None or one.token_ids == other.token_ids:
        return shared
    return min(len(one.token_ids), len(other.token_ids))


def _marked(cut: tuple[str, str, str], ascii_only: bool) -> Text:  # noqa: FBT001
    shared, differs, rest = cut
    text = _text(shared, ascii_only)
    if differs:
        text.append(">>", style="bold")
        text.append_text(_text(differs, ascii_only, style="bold reverse"))
        text.append("<<", style="bold")
    text.append_text(_text(rest, ascii_only))
    return text


def _choices(item: Item, one: ChoiceLogprobs, other: ChoiceLogprobs, metric: str, ascii_only: bool) -> Table:  # noqa: FBT001
    table = Table(title="log-probability of each choice", title_justify="left")
    table.add_column("choice", overflow="fold")
    for heading in ("baseline", "candidate", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = [preferred_choice(item, response, metric) for response in (one, other)]
    for index, (before, after) in enumerate(zip(one.logprobs, other.logprobs, strict=True)):
        choice = (item.choices[index] if index < len(item.choices) else "") or f"choice {index + 1}"
        label = _text(one_line(clip(choice, 300)), ascii_only)
        if index == item.gold:
            label.append("  (right)", style="bold")
        table.add_row(
            label,
            f"{'> ' if index == best[0] else ''}{before:.3f}",
            f"{'> ' if index == best[1] else ''}{after:.3f}",
            f"{after - before:+.3f}",
        )
    first, second = best
    preferred = "prefer the same choice" if first == second else "prefer different choices"
    table.caption = f"> is preferred {_BY.get(metric, _BY['acc'])}: the two {preferred}"
    table.caption_justify = "left"
    return table
