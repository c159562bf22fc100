"""Where a stop text ends an answer: one rule for every engine."""

from collections.abc import Sequence


def stop_begins(text: str, stop: str) -> int:
    """Give where a stop text begins, or -1; one of white space counts only after the first other character."""
    return text.find(stop, 0 if stop.strip() else len(text) - len(text.lstrip()))


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """Give the text before the first occurrence of any stop text; empty stop texts count for nothing.

    As lm_eval's `postprocess_generated_text` (lm_eval/models/utils.py), except that white space at the beginning never
    ends an answer: a base model often starts with a line break.
    """
    for stop in filter(None, stops):
        if (at := stop_begins(text, stop)) >= 0:
            text = text[:at]
    return text
