"""The plain prose of an answer, without what is rightly in another script or language than the rest.

Code, addresses, formulas, and short quotations and remarks in brackets: "Moscow (Москва)" is good English. Knows no
language and no item.
"""

from __future__ import annotations

import re

__all__ = ["letters", "prose"]

LONGEST_QUOTE = 60
"""Characters of a quotation or bracket that is taken out; a longer one is an answer of its own."""

LONGEST = 20_000
"""Characters of an answer that are looked at: of a longer one as many from its beginning as from its end."""

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]{1,200}\$|\\[A-Za-z]+", re.DOTALL)
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+|[^\s@]{1,64}@[^\s@]{1,255}")
_PAIRS = ['""', "“”", "„“", "«»", "‹›", "「」", "『』", "《》", "〈〉", "()", "（）", "[]", "【】", "<>"]  # noqa: RUF001 - brackets of many scripts
_QUOTED = re.compile(
    "|".join(
        f"{re.escape(pair[0])}[^{re.escape(pair[1])}\\n]{{1,{LONGEST_QUOTE}}}{re.escape(pair[1])}" for pair in _PAIRS
    )
)


def letters(text: str) -> str:
    """Give the letters of a text alone: general categories L, without digits, marks, punctuation and white space."""
    return "".join(filter(str.isalpha, text))


def prose(text: str) -> str:
    """Give an answer without code, formulas, addresses, and quotations and brackets up to `LONGEST_QUOTE` characters.

    Where nothing but a quotation would be left out of (the whole answer is quoted), the quotation is the prose.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    bare = _ADDRESS.sub(" ", _CODE.sub(" ", text))
    outside = _QUOTED.sub(" ", bare)
    return outside if letters(outside) else bare
