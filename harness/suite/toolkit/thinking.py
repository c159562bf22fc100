"""What a model thought, apart from its answer: blocks by the marks of the families, where one begins a line."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from harness.config.schema import Thinking

_TABLE = Path(__file__).with_name("thinking.tsv").read_text(encoding="utf-8").splitlines()
_FAMILIES = [(opened, closed) for opened, closed, *_ in (line.split("\t") for line in _TABLE)]  # and whose they are
_MARKS = re.compile("|".join(re.escape(one) for marks in _FAMILIES for one in marks), re.IGNORECASE)
_CHANNEL = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?(?:<\|message\|>)?")
_FINAL_END = re.compile(r"(?:<\|(?:return|end)\|>.*)?\Z", re.DOTALL)
# The same channels after a tokenizer has left out its special tokens.
_BARE_CHANNEL = re.compile(r"analysis(?=[A-Z])")
_BARE_FINAL = "assistantfinal"


def split(text: str, thinking: Thinking = "auto", prompt: str = "") -> tuple[str, str]:
    """The answer, and what was thought before it, to the end if nothing closes it; the prompt may have opened it."""
    if thinking == "off":
        return text, ""
    if thinking == "auto" and (channels := _channels(text.lstrip())):
        return channels
    if thinking == "auto" and not prompt and not _MARKS.search(text):
        return text, ""
    for marks in _FAMILIES if thinking == "auto" else (thinking,):
        spans = list(_blocks(text, marks, opened=prompt.rstrip().endswith(marks[0])))
        if spans:
            edges = [0, *(edge for span in spans for edge in span), len(text)]
            pieces = [text[start:end] for start, end in pairwise(edges)]
            return "".join(pieces[::2]).lstrip("\n"), "".join(pieces[1::2])
    return text, ""


def opening(prompt: str) -> str:
    """The mark that a prompt ends with, which opens a thought for the answer; empty if there is none."""
    return next((mark for mark, _ in _FAMILIES if prompt.rstrip().endswith(mark)), "")


def _channels(text: str) -> tuple[str, str] | None:
    """The final channel of the harmony format (gpt-oss); an answer without one is thinking, cut."""
    if _CHANNEL.match(text):
        final = list(_FINAL.finditer(text))
        if not final:
            return "", text
        end = final[-1].end()
        return text[end : _FINAL_END.search(text, end).start()], text[: final[-1].start()]  # type: ignore[union-attr]
    if _BARE_CHANNEL.match(text):
        before, found, after = text.rpartition(_BARE_FINAL)
        return (after, before) if found else ("", text)
    return None


def _blocks(text: str, marks: tuple[str, str], *, opened: bool) -> Iterator[tuple[int, int]]:
    """Start and end of every block. A closing mark alone closes what the prompt opened, or a block from the start."""
    mark = re.compile("|".join(f"({re.escape(one)})" for one in marks), re.IGNORECASE)
    start, depth, ended = 0, int(opened), 0
    for match in mark.finditer(text):
        before, after = text[: match.start()], text[match.end() : match.end() + 1]
        if match[1] and depth:
            depth += 1
        elif match[1] and (match.start() == ended or not before.rpartition("\n")[2].strip()):
            start, depth = match.start(), 1
        elif match[2] and depth:
            depth -= 1
            ended = match.end()
            if not depth:
                yield start, ended
        elif match[2] and not ended and not {before[-1:], after} & set("\"'`"):
            ended = match.end()
            yield 0, ended
    if depth:
        yield start, len(text)
