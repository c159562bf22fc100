"""From an answer to the program that it means: a fenced block, bare code in prose, or the rest of what was begun.

A continuation ends at the next top-level statement (Chen et al. 2021, arXiv:2107.03374), in JavaScript at the
function's brace (HumanEval-X); fences are read as in CommonMark. Code with a syntax error stays. Nothing is run.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.suite.tail.text import repetition
from harness.suite.toolkit.datafiles import read_tsv
from harness.suite.toolkit.thinking import split

_CLOSED = re.compile(r"\s*```[ \t]*(?:\n|\Z)")
_FENCE_LINE = re.compile(r"^[ \t>]*(?:`{3,}|~{3,})[^\n`]*$", re.MULTILINE)
_FENCE_AFTER_TEXT = re.compile(r"^(?=[^\n`]*[^\s`>])([^\n`]*+)(`{3,}[ \t]*[\w+#.{}-]*[ \t]*)$", re.MULTILINE)
# How a definition of ``{name}`` begins (defines), and how a line of code does, unlike one of prose (line), by language.
_PATTERNS = read_tsv(Path(__file__).with_name("code_patterns.tsv"), ["of", "language", "pattern"])
_DEFINES = {row["language"]: row["pattern"] for row in _PATTERNS if row["of"] == "defines"}
_CODE_LINE = {row["language"]: re.compile(row["pattern"]) for row in _PATTERNS if row["of"] == "line"}
_LANGUAGE = re.compile(r"^(?:python3?|py|js|javascript)[ \t\n]+(?=\S)", re.IGNORECASE)
_WORD = re.compile(r"\[?[A-Za-z]+\]?")
_MOST_TRIES = 200
_MOST_READ = 400_000  # characters in all these tries: about a second of Python's own parser


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for."""

    language: str  # python or javascript
    entry: str = ""  # the function to be written; empty where any program will do
    head: str = ""  # what stands before it: imports and helpers, which an answer that starts over need not repeat
    begun: str = ""  # the beginning of the program that the answer continues, `head` included; empty if there is none
    names: tuple[str, ...] = ()  # all that must be defined, where it is more than `entry`


def program_of(answer: str, asked: Asked) -> str:
    """Give the program that an answer means.

    In this order: the first fenced block that defines what was asked for, after those that define helpers; all blocks;
    the bare answer without prose; the beginning and what continues it; all fenced blocks, or the answer.
    """
    answer = split(answer)[0].replace("\r\n", "\n").lstrip("\ufeff")
    closed = _CLOSED.match(answer) if asked.begun else None  # the fence that the question opened, nothing in it
    answer = answer[closed.end() :] if closed else answer
    raw = _blocks(answer)
    blocks = [_unwrapped(one, asked.language) for one in raw]
    rest = re.split(r"\n(?:`{3,}|~{3,})", answer, maxsplit=1)[0]
    meant = [code for code in _candidates(answer, rest, blocks, asked) if _defines(code, asked)]
    if meant:  # the first that is a program; code with an error in it stays as it is
        return _whole(next((code for code in meant if _parses(code, asked.language)), meant[0]), asked)
    if asked.begun:
        body = raw[0] if raw and not re.split("`{3}|~{3}", answer, maxsplit=1)[0].strip() else rest
        if asked.language == "javascript" and (end := re.search(r"^\}", body, re.MULTILINE)):
            body = body[: end.end()]  # Python's end is the stop texts of the task
        return asked.begun + ("" if closed else body)
    good = _good(blocks, asked.language)
    return _ready("\n".join(good) if good else _bare(rest, asked.language), asked.language)


def _candidates(answer: str, rest: str, blocks: Sequence[str], asked: Asked) -> Iterator[str]:
    fenced = [one for one in blocks if _defines(one, asked)]  # counts whole: what follows inside is no prose
    for block in fenced:
        before = blocks[: blocks.index(block)] if asked.language == "python" else ()
        yield "\n".join((*filter(_only_defines, before), block))
    if len(blocks) > 1:
        yield "\n".join(_good(blocks, asked.language))
    for text in (rest, _FENCE_LINE.sub("", answer), _unwrapped(answer, asked.language), re.sub("(?m)^> ?", "", answer)):
        yield text if fenced else _bare(text, asked.language)
    yield from (text for kind, text in _markdown(answer) if kind in {"code_inline", "code_block"})


def _good(blocks: Sequence[str], language: str) -> Sequence[str]:
    """The blocks that parse, or all of them if none does."""
    return [one for one in blocks if _parses(one, language)] or blocks


def _markdown(answer: str) -> list[tuple[str, str]]:
    """Kind and content of every piece of code in Markdown, in order; a fence that begins after text counts too."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"maxNesting": 40}).disable(["html_block", "html_inline", "link", "image"])
    tokens = reader.parse(_FENCE_AFTER_TEXT.sub(r"\1\n\2", answer))
    return [
        (one.type, _LANGUAGE.sub("", f"{one.info}\n{one.content}" if "(" in one.info else one.content))  # in its line
        for token in tokens
        for one in (token, *(token.children or ()))
    ]


def _blocks(answer: str) -> list[str]:
    """The fenced blocks; one that a fence inside its own docstring cut is put together, if it is Python only then."""
    if "```" not in answer and "~~~" not in answer:
        return []
    blocks = [text for kind, text in _markdown(answer) if kind == "fence" and text.strip()]
    lines = answer.split("\n")
    marks = [number for number, line in enumerate(lines) if re.match(r"[ \t]*(?:`{3,}|~{3,})", line)]
    closed = len(marks) <= 2  # noqa: PLR2004 - an opening and a closing fence
    if closed or not blocks or _parses(textwrap.dedent(blocks[0])):
        return blocks
    for last in reversed(marks[2:20]):
        whole = "\n".join(lines[marks[0] + 1 : last])
        if _parses(textwrap.dedent(whole)):
            return [whole, *(one for one in blocks if one.strip() not in whole)]
    return blocks


def _unwrapped(code: str, language: str) -> str:
    """Code without common indentation, line of a fence that did not close, prompts of a session and odd spaces."""
    code = textwrap.dedent(code)
    if language == "python" and _parses(code):
        return code
    code = re.split(r"^(?:`{3,}|~{3,})", code, maxsplit=1, flags=re.MULTILINE)[0]
    if language != "python":
        return code
    code = code.replace("\u00a0", " ").replace("\u200b", "")
    if re.search(r"^>>> ", code, re.MULTILINE):
        code = "\n".join(line[4:] for line in code.split("\n") if re.match(r"(?:>>>|\.\.\.)(?: |$)", line))
    return code


def _bare(text: str, language: str) -> str:
    """Code without the prose before and after it; the text itself if it holds none or something else is wrong."""
    if language == "python" and _parses(text):
        return _without_words(text)
    lines = textwrap.dedent(text).split("\n")
    starts = [at for at, line in enumerate(lines) if _CODE_LINE[language].match(line)]
    if language == "javascript":
        ends = [at for at, line in enumerate(lines) if re.search(r"[};)]\s*(?://.*)?$", line)]
        return "\n".join(lines[starts[0] : ends[-1] + 1]) if starts and ends else text
    ends = [at for at in range(len(lines), 0, -1) if at == len(lines) or lines[at][:1].strip()]
    spans = ((start, end) for start in starts for end in ends if end > start)
    for start, end in islice(spans, min(_MOST_TRIES, 1 + _MOST_READ // (len(text) + 1))):
        code = "\n".join(lines[start:end])
        if _parses(code):
            broken = end < len(lines) and (_CODE_LINE[language].match(lines[end]) or repetition("\n".join(lines[end:])))
            return text if broken else _without_words(code)
    return text


def _without_words(code: str) -> str:
    """Code without lines that are a mere word, such as `Done` or `[BEGIN]`: Python, but not meant as such."""
    body = ast.parse(code).body
    words = [one for one in body if isinstance(one, ast.Expr) and _WORD.fullmatch(ast.unparse(one))]
    lines = code.split("\n")
    for one in reversed(words if len(words) < len(body) else []):
        del lines[one.lineno - 1 : one.end_lineno]
    return "\n".join(lines)


def _parses(code: str, language: str = "python") -> bool:
    """Whether code is Python; what JavaScript is only node knows."""
    if language == "python":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            try:
                ast.parse(code)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return False
    return True


def _only_defines(code: str) -> bool:
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign
    return _parses(code) and all(isinstance(one, kinds) for one in ast.parse(code).body)


def _defines(code: str, asked: Asked) -> bool:
    wanted, pattern = asked.names or ((asked.entry,) if asked.entry else ()), _DEFINES[asked.language]
    return bool(wanted) and all(re.search(pattern.format(name=re.escape(one)), code, re.MULTILINE) for one in wanted)


def _whole(code: str, asked: Asked) -> str:
    """Put the head before a function that stands alone; JavaScript allows a helper to be declared but once."""
    code = _ready(code, asked.language)
    helpers = re.findall(r"^const (\w+)", asked.head, re.MULTILINE) if asked.language == "javascript" else []
    if any(name in code for name in helpers):
        return code
    future = re.findall(r"^from __future__ import .*$", code, re.MULTILINE)
    return "\n".join((*future, asked.head, code if not future else code.replace("from __future__ import", "#")))


def _ready(code: str, language: str) -> str:
    """JavaScript as a script, not a module: without `export`."""
    if language != "javascript":
        return code
    exported = r"^export[ \t]+(?:default[ \t]+)?(?=(?:async|function|class|const|let|var)\b)"
    code = re.sub(exported, "", code, flags=re.MULTILINE)
    return re.sub(r"^export[ \t]+(?:default\b[^\n]*|\{[^}]*\};?)", "", code, flags=re.MULTILINE)
