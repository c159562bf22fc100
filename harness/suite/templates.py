"""A chat template, rendered as transformers does, within limits: no message is dropped, and its clock stands still."""

import contextlib
import random
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.errors import UsageError
from harness.suite.toolkit.scoring import OverLimit, limited
from harness.suite.toolkit.thinking import split

Messages = Sequence[Mapping[str, str]]
_PROBE = "quantcliff-probe-5b1f"
_ASKED = {"role": "user", "content": "quantcliff-probe-question"}
_SECONDS = 20.0  # the longest time to write one prompt
_MEMORY = 2 << 30  # bytes that writing one prompt may add to this process
_LARGEST = 1_000_000  # characters that a template may add to its messages
_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, OverLimit, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer with what it is given beside the messages."""

    tokenizer: Any  # the baseline's
    arguments: Mapping[str, Any] = field(default_factory=dict)  # sampling.chat_template_kwargs
    clock: datetime = datetime(2025, 1, 1, 12)  # noqa: DTZ001 - local time, as transformers takes it

    def write(self, messages: Messages, *, answer_next: bool = True, tools: Sequence[Any] = ()) -> str:
        """Write a conversation; without a system role, the system message goes into the first turn of the user.

        tools: what may be called, as in OpenAI's API, for a template that takes tools. Raises UsageError if the
        template fails, takes too long or writes too much, or leaves a message out.
        """
        keep = all(one["role"] != "system" for one in messages) or self.takes_system
        text = self._render(messages if keep else _merged(messages), answer_next=answer_next, tools=tools)
        written = "".join(text.split())
        for number, one in sorted(enumerate(messages, 1), key=lambda both: -len(both[1]["content"])):
            kept = split(one["content"])[0] if one["role"] == "assistant" else one["content"]
            kept = "".join(kept.split())  # white space may change, and the thought of an earlier answer go
            before, found, behind = written.partition(kept or written or " ")
            written = f"{before}\0{behind}" if kept else written  # `Hi` is not there because `Hi there` is
            if not found:
                said = f"leaves out or changes message {number} of {len(messages)}, the {one['role']}'s"
                raise UsageError(f"the baseline's chat template {said}: mend it, or set sampling.chat_template: false")
        return text

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes the tools that it is given."""
        parameters = {"type": "object", "properties": {}, "required": []}
        function = {"name": _PROBE, "description": "probe", "parameters": parameters}
        with contextlib.suppress(UsageError):
            return _PROBE in self._render([_ASKED], tools=[{"type": "function", "function": function}])
        return False

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template writes system messages; if it writes them nowhere, UsageError."""
        asked = [{"role": "system", "content": _PROBE}, _ASKED]
        with contextlib.suppress(UsageError):
            if _PROBE in self._render(asked):
                return True
        if _PROBE in self._render(_merged(asked)):
            return False
        raise UsageError("the baseline's chat template writes neither system messages nor the first turn of the user")

    def notes(self) -> list[str]:
        """Say what a reader of the report must know."""
        from jinja2 import meta
        from transformers.utils import chat_template_utils

        found = []
        if not self.takes_system:
            found.append("The chat template has no system role: system messages stand before the user's first turn.")
        later = ChatTemplate(self.tokenizer, self.arguments, self.clock + timedelta(days=401, hours=7, seconds=61))
        if later._render([_ASKED]) != self._render([_ASKED]):
            found.append(f"The chat template reads the clock: in all prompts it is {self.clock} (sampling.clock).")
        text = self.tokenizer.get_chat_template() if self.arguments else ""
        environment = chat_template_utils._compile_jinja_template(text).environment  # noqa: SLF001 - its extensions
        read = meta.find_undeclared_variables(environment.parse(text))
        unread = "The chat template does not read {!r} (sampling.chat_template_kwargs): it changes nothing."
        return found + [unread.format(name) for name in self.arguments if name not in read]

    def _render(self, messages: Messages, *, answer_next: bool = True, tools: Sequence[Any] = ()) -> str:
        from jinja2.exceptions import TemplateError

        given = {**self.arguments, "tools": list(tools) or None, "tokenize": False}
        given |= {"add_generation_prompt": answer_next, "continue_final_message": not answer_next}
        try:
            with _stopped_clock(self.clock), _limits():
                text: str = self.tokenizer.apply_chat_template([dict(one) for one in messages], **given)
        except (TemplateError, *_ERRORS) as error:
            why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            said = f"the baseline's chat template fails: {why}. Mend it, or set sampling.chat_template: false"
            raise UsageError(said) from error
        if len(text) > _LARGEST + 2 * sum(len(one["content"]) for one in messages):
            raise UsageError(f"the baseline's chat template writes {len(text):,} characters for one prompt: mend it")
        return text


def _merged(messages: Messages) -> list[Mapping[str, str]]:
    """Put the system messages before the first turn of the user."""
    system = [one["content"] for one in messages if one["role"] == "system"]
    rest = [one for one in messages if one["role"] != "system"]
    first = next((at for at, one in enumerate(rest) if one["role"] == "user"), None)
    if not system or first is None:
        return list(messages)
    rest[first] = {**rest[first], "content": "\n\n".join([*system, rest[first]["content"]])}
    return rest


@contextlib.contextmanager
def _stopped_clock(moment: datetime) -> Iterator[None]:
    """Within it, `strftime_now` of transformers' templates tells this moment, and their chance starts anew."""
    from transformers.utils import chat_template_utils

    before, chance = chat_template_utils.datetime, random.getstate()
    random.seed(0)
    chat_template_utils.datetime = SimpleNamespace(now=lambda tz=None: moment.replace(tzinfo=tz))
    try:
        yield
    finally:
        chat_template_utils.datetime = before
        random.setstate(chance)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Within it, time and memory are short; only in the main thread, where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size if soft == resource.RLIM_INFINITY else min(size, soft), hard))
    try:
        with limited(_SECONDS, "writing one prompt"):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
