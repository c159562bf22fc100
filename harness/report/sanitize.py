"""Foreign text made harmless before it reaches a terminal, a page, a Markdown comment or an XML file.

Control characters drive terminals, bidi overrides turn lines around, a five-megabyte line hangs a page.
"""

import re
import unicodedata

_ACTING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode general categories whose characters act on their surroundings, or have no agreed form."""
_READ = frozenset((0x200C, 0x200D, *range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD))
"""Format characters that are read: zero-width (non-)joiner, which is spelling in Persian, the scripts of India and
emoji, and the number signs and marks of Arabic, Syriac and Kaithi, which are drawn."""
_MARKUP = re.compile(r"[\\`*\[<>#|~@&$]|(?<![^\W_])_|_(?![^\W_])|(?<=[Ww])\.|:(?=//|\w)")


class _Table(dict[int, str]):
    """A translation table that is filled as characters are met: scanning all of Unicode up front is slow."""

    def __missing__(self, code: int) -> str:
        acts = unicodedata.category(chr(code)) in _ACTING and code not in _READ
        escape = f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004
        self[code] = escape if acts else chr(code)
        return self[code]


_LINES, _LINE = _Table({ord("\n"): "\n", ord("\t"): "\t"}), _Table({ord(char): repr(char)[1:-1] for char in "\n\t\r"})


def visible(text: str) -> str:
    r"""Show every acting character as an escape (``\x1b``); new lines and tabs stay, and ``\r\n`` is one."""
    return text if text.isprintable() else text.replace("\r\n", "\n").translate(_LINES)


def one_line(text: str) -> str:
    r"""As `visible`, with new lines and tabs shown as ``\n`` and ``\t``, so that the text stays on its line."""
    return text if text.isprintable() else text.translate(_LINE)


def clip(text: str, limit: int) -> str:
    """Cut a text to `limit` characters and say how many were left out. Cut first, then escape."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def _entities(text: str) -> str:
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", one_line(text))


def markdown(text: str) -> str:
    """Make a text safe in a line or table cell of GitHub's Markdown: no markup, no HTML, no link, no mention.

    GitHub looks for mentions after it has read the entities, but not across a comment; hence the comment.
    """
    return _entities(text).replace("&#64;", "&#64;<!-- -->")


def markdown_code(text: str) -> str:
    """As `markdown`, set as code: GitHub looks for no mention, emoji or issue number in there."""
    return f"<code>{_entities(text)}</code>"
