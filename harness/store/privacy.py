"""What a run keeps of its texts: everything, everything but personal data, or nothing.

``store_text`` of a config is applied here, at the one place where the config, items, answers and logs go to the disk,
so that nothing that is made from a run directory can hold more. A kept item carries the digest of the item as it was
asked: resuming and comparing work the same in every mode, and so do the verdicts. What identifies an item stays in
every mode (its id, its source, the levels of its strata, numbers); texts and token ids, which are texts too, do not.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import ConfigError, Incomplete, Problem
from harness.records import Generation, Item, Response, Scored
from harness.store import redaction

__all__ = ["NOT_STORED", "StoreText", "TextPolicy", "check", "stored_config", "without_text", "without_text_response"]

StoreText = Literal["full", "redacted", "none"]

NOT_STORED = "[not stored]"
"""Replaces a text of the config, so that a reader knows that there was one."""


def check(mode: StoreText, source: str) -> None:
    """Refuse redaction if its packages are missing. Raises ConfigError, naming the extra."""
    if mode == "redacted" and not redaction.installed():
        text = "redaction needs packages that are not installed: pip install 'quantcliff[privacy]', or store_text: none"
        raise ConfigError(source, [Problem("store_text", text)])


def without_text(item: Item) -> Item:
    """Return an item with its digest, its place and its numbers, and no text."""
    return replace(item, asked=item.digest(), prompt="", choices=("",) * len(item.choices), target="", doc={})


def stored_config(config: Mapping[str, Any], mode: StoreText) -> dict[str, Any]:
    """Return a config's plain data as a run records it: the system message, which every prompt holds, is a text too."""
    sampling = dict(config["sampling"])
    if sampling.get("system") and mode != "full":
        sampling["system"] = NOT_STORED if mode == "none" else redaction.redact(sampling["system"])
    return {**config, "sampling": sampling}


def without_text_response(response: Response) -> Response:
    """Return a response without text and token ids; log-probabilities are no text and stay."""
    return replace(response, text="", token_ids=()) if isinstance(response, Generation) else response


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """Gives what is to be stored in place of what was asked and answered."""

    mode: StoreText = "full"
    """The config's `store_text`."""
    erased: frozenset[str] = frozenset()
    """Items whose texts were erased from the run: they do not come back when it goes on."""

    def item(self, item: Item) -> Item:
        """Return an item as it is stored."""
        if self.mode == "none" or item.id in self.erased:
            return without_text(item)
        return item if self.mode == "full" else _redacted_item(item)

    def scored(self, one: Scored) -> Scored:
        """Return a results line as it is stored."""
        if self.mode == "none" or one.item_id in self.erased:
            return replace(one, response=without_text_response(one.response))
        if self.mode == "full" or not isinstance(one.response, Generation):
            return one
        return replace(one, response=replace(one.response, text=redaction.redact(one.response.text), token_ids=()))

    @contextlib.contextmanager
    def log(self, path: Path) -> Iterator[Path]:
        """Return the file that a worker is to log to, and leave at `path` what may stay of it.

        Unless texts are kept, the worker logs outside the run. What it wrote there is redacted or dropped at the end;
        if the worker died, the file stays outside, so that the reason can be looked up.
        """
        if self.mode == "full" and not self.erased:
            yield path
            return
        folder = Path(tempfile.mkdtemp(prefix="quantcliff-log-"))
        log = folder / path.name
        try:
            yield log
        except Incomplete:
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if self.mode == "redacted" and not self.erased and log.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as kept:
                kept.write(redaction.redact(log.read_text(encoding="utf-8", errors="replace")))
        shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def traces(self, folder: Path) -> Iterator[Path]:
        """Return the folder for a baseline's traces, which hold token ids: outside the run unless texts are kept."""
        if self.mode == "full":
            yield folder
            return
        outside = Path(tempfile.mkdtemp(prefix="quantcliff-traces-"))
        try:
            yield outside
        finally:
            shutil.rmtree(outside, ignore_errors=True)


def _redacted_item(item: Item) -> Item:
    kept = replace(
        item,
        prompt=redaction.redact(item.prompt),
        choices=tuple(map(redaction.redact, item.choices)),
        target=redaction.redact(item.target),
        doc=_redacted(item.doc),
    )
    return item if kept == item else replace(kept, asked=item.digest())


def _redacted(value: Any) -> Any:
    """Redact every text in plain JSON data, and every number that is personal data when written out."""
    if isinstance(value, str):
        return redaction.redact(value)
    if isinstance(value, Mapping):
        return {redaction.redact(key): _redacted(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        less = redaction.redact(str(value))
        return value if less == str(value) else less
    return value
