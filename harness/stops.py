"""Where a stop text ends an answer: one rule for every engine."""

from collections.abc import Sequence


def stop_begins(text: str, stop: str) -> int:
    """Give where a stop text begins, or -1; one of white space counts only after the first other character."""
    return text.find(stop, 0 if stop.strip() else len(text) - len(text.lstrip()))


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """Give the text before any stop text, as lm_eval does, but white space that begins an answer never ends it."""
    for stop in filter(None, stops):
        if (at := stop_begins(text, stop)) >= 0:
            text = text[:at]
    return text
