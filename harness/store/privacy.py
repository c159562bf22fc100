"""What a run keeps of its texts: everything, everything but personal data, or nothing (docs/report.md).

A kept item carries the digest of the item as it was asked: resuming and comparing work the same in every mode. Patterns
only propose what is personal data, and libraries decide; in doubt a text loses a word.
"""

import contextlib
import importlib.util
import ipaddress
import re
import shutil
import tempfile
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from harness.errors import ConfigError, Incomplete, Problem
from harness.records import Generation, Item, Scored

StoreText = Literal["full", "redacted", "none"]
NOT_STORED = "[not stored]"  # replaces a text of the config, so that a reader knows that there was one
_READ = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
REGIONS = tuple(_READ["regions"])
_PATTERNS = {name: re.compile(pattern) for name, pattern in _READ["patterns"].items()}
_CARD = re.compile(r"[2-6]\d{12,18}")
_SHORTEST_IBAN, _SHORTEST_PLAIN = 15, 10


def check(mode: StoreText, source: str) -> None:
    """Refuse redaction if its packages are missing. Raises ConfigError, naming the extra."""
    if mode == "redacted" and None in map(importlib.util.find_spec, ("phonenumbers", "stdnum")):
        text = "redaction needs packages that are not installed: pip install 'quantcliff[privacy]', or store_text: none"
        raise ConfigError(source, [Problem("store_text", text)])


def stored_config(config: Mapping[str, Any], mode: StoreText) -> dict[str, Any]:
    """Return a config's plain data as a run records it: the system message, which every prompt holds, is a text too."""
    sampling = dict(config["sampling"])
    if sampling.get("system") and mode != "full":
        sampling["system"] = NOT_STORED if mode == "none" else redact(sampling["system"])
    return {**config, "sampling": sampling}


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """Gives what is to be stored in place of what was asked and answered."""

    mode: StoreText = "full"  # the config's `store_text`
    erased: frozenset[str] = frozenset()  # items whose texts were erased: they do not come back when the run goes on

    def item(self, item: Item) -> Item:
        """Return an item as it is stored."""
        if self.mode == "none" or item.id in self.erased:
            return replace(item, asked=item.digest(), prompt="", choices=("",) * len(item.choices), target="", doc={})
        if self.mode == "full":
            return item
        prompt, target, *choices = map(redact, (item.prompt, item.target, *item.choices))
        kept = replace(item, prompt=prompt, target=target, choices=tuple(choices), doc=_redacted(item.doc))
        return item if kept == item else replace(kept, asked=item.digest())

    def scored(self, one: Scored) -> Scored:
        """Return a results line as it is stored."""
        gone = self.mode == "none" or one.item_id in self.erased
        if not isinstance(one.response, Generation) or (self.mode == "full" and not gone):
            return one  # log-probabilities are no text
        text = "" if gone else redact(one.response.text)
        return replace(one, response=replace(one.response, text=text, token_ids=()))

    @contextlib.contextmanager
    def log(self, path: Path) -> Iterator[Path]:
        """Give a worker's log file: outside the run unless texts are kept, and left there if the worker died."""
        if self.mode == "full" and not self.erased:
            yield path
            return
        log = Path(tempfile.mkdtemp(prefix="quantcliff-log-"), path.name)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, log.parent, ignore_errors=True)
            try:
                yield log
            except Incomplete:
                stack.pop_all()
                raise
            if self.mode == "redacted" and not self.erased and log.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as kept:
                    kept.write(redact(log.read_text(encoding="utf-8", errors="replace")))

    @contextlib.contextmanager
    def traces(self, folder: Path) -> Iterator[Path]:
        """Return the folder for a baseline's traces, which hold token ids: outside the run unless texts are kept."""
        if self.mode == "full":
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="quantcliff-traces-", ignore_cleanup_errors=True) as outside:
            yield Path(outside)


def _redacted(value: Any) -> Any:
    """Redact every text in plain JSON data, and every number that is personal data when written out."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(key): _redacted(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        less = redact(str(value))
        return value if less == str(value) else less
    return value


def redact(text: str) -> str:
    """Return the text with every piece of personal data replaced by its kind in brackets."""
    while (less := _once(text)) != text:  # what one find hid in its neighbour shows in the next pass
        text = less
    return text


def _once(text: str) -> str:
    found = [(start, end, kind) for kind, finder in _FINDERS.items() for start, end in finder(text)]
    parts, at = [], 0
    for start, end, kind in _merged(found):
        parts += [text[at:start], f"[{kind}]"]
        at = end
    return "".join([*parts, text[at:]])


def _merged(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Join what overlaps, under the name of the longest."""
    groups: list[list[tuple[int, int, str]]] = []
    for one in sorted(found, key=lambda one: (one[0], -one[1])):
        if groups and one[0] < max(end for _, end, _ in groups[-1]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [(own[0][0], max(end for _, end, _ in own), max(own, key=lambda one: one[1] - one[0])[2]) for own in groups]


def _digits(text: str) -> str:
    """Return the digits of any script as ASCII, and nothing else."""
    return "".join(str(unicodedata.decimal(sign)) for sign in text if sign.isdecimal())


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """Return runs of digit groups that pass Luhn's check, wherever in a longer run of groups they stand."""
    from stdnum import luhn

    for match in _PATTERNS["card"].finditer(text):
        groups = [group.span() for group in re.finditer(r"\d+", match[0])]
        for first, (start, _) in enumerate(groups):
            for _, end in groups[first:]:
                digits = _digits(match[0][start:end])
                if _CARD.fullmatch(digits) and luhn.is_valid(digits):
                    yield match.start() + start, match.start() + end


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    from stdnum import iban

    for match in _PATTERNS["iban"].finditer(text):
        run = match[0]
        for end in range(len(run), _SHORTEST_IBAN - 1, -1):
            whole_group = run.isalnum() or (run[end - 1].isalnum() and (end == len(run) or not run[end].isalnum()))
            if whole_group and iban.is_valid(run[:end]):
                yield match.start(), match.start() + end
                break


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for match in (*_PATTERNS["ip4"].finditer(text), *_PATTERNS["ip6"].finditer(text)):
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(match[0])
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _PATTERNS["phone"].finditer(text):
        for start, end in _numbers(match[0]):
            yield match.start() + start, match.start() + end


@lru_cache(maxsize=65536)
def _numbers(window: str) -> tuple[tuple[int, int], ...]:
    """Return the telephone numbers in a run of digits and separators."""
    import phonenumbers

    spans = set()
    for region in (None, *REGIONS):
        for found in phonenumbers.PhoneNumberMatcher(window, region, leniency=phonenumbers.Leniency.VALID):
            number = window[found.start : found.end]
            short = number.isdecimal() and len(number) < _SHORTEST_PLAIN
            if not short or _digits(number).startswith("0"):  # a short one shows no sign of being dialled
                spans.add((found.start, found.end))
    return tuple(sorted(spans))


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "e-mail": lambda text: (match.span() for match in _PATTERNS["email"].finditer(text)) if "@" in text else iter(()),
    "card": _cards,
    "IBAN": _ibans,
    "IP": _addresses,
    "phone": _phones,
}
KINDS = tuple(_FINDERS)  # what a redacted text says in place of the data, in brackets: ``[e-mail]``
