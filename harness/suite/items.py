"""lm_eval documents to Items: prompts as lm_eval builds them, tokens counted, places in the strata."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from harness.config.schema import Sampling, SliceSpec
from harness.errors import UsageError
from harness.records import Item, digest
from harness.suite.chance import right_share
from harness.suite.templates import ChatTemplate
from harness.suite.toolkit.strata import level_text, stratum_of

OWN_OPTIONS = frozenset({"as_text", "metric"})  # every slice takes them; its generator does not see them
LETTER_KEY = "_letter"  # names the letter of the right choice in a document, where it is asked for in text
METRIC_KEY = "_metric"  # names the metric which is the score of a document, where the config says
# How a model is given its tools if its chat template does not write them: the form of Hermes and Qwen.
_TOOLS = Path(__file__).with_name("tools.txt").read_text("utf-8").rstrip()
_LETTER_TOKENS = 8  # the longest answer that names a letter
_BATCH = 1_000_000  # characters that go to the tokenizer at once
_DEFAULT_MAX_TOKENS = 256  # lm_eval/defaults.py


@dataclass(frozen=True)
class Prompting:
    """How questions become prompts: the same for all items of a run."""

    tokenizer: Any  # the baseline's
    template: bool  # whether the chat template is applied
    system: str | None  # the system message
    chat_template: ChatTemplate  # what writes conversations, if `template`
    tools_apart: bool = False  # whether tools are offered beside the prompt, so that it does not tell of them

    def chat(self, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: FBT001, FBT002 - lm_eval's signature
        """Write a conversation by the template, as `HFLM.apply_chat_template` does; see `ChatTemplate.write`."""
        return self.chat_template.write(history, answer_next=add_generation_prompt)

    def lengths(self, texts: Sequence[str], *, with_choice: bool = False) -> list[int]:
        """Count tokens as HFLM reads them: no special tokens where a text starts with the start token already."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        known: Any = self.tokenizer.bos_token
        if with_choice:
            first = bos if bos is not None else eos
            known = None if first is None else self.tokenizer.decode(first)
        counts = [0] * len(texts)
        for special in (True, False):
            places = [at for at, text in enumerate(texts) if bool(known and text.startswith(known)) != special]
            ends = accumulate(len(texts[at]) for at in places)
            # Some texts at a time: the tokenizer can use all cores and does not hold all tokens at once.
            for _, batch in groupby(zip(places, ends, strict=True), key=lambda one: one[1] // _BATCH):
                some = [at for at, _ in batch]
                made = self.tokenizer([texts[at] for at in some], add_special_tokens=special, verbose=False)
                for at, ids in zip(some, made["input_ids"], strict=True):
                    counts[at] = len(ids)
        return counts


def prompting(tokenizer: Any, sampling: Sampling, *, tools_apart: bool = False) -> Prompting:
    """Settle ``auto``: the template is applied where the tokenizer has one; asking in vain is found elsewhere."""
    template = bool(getattr(tokenizer, "chat_template", None)) and sampling.chat_template is not False
    chat = ChatTemplate(tokenizer, sampling.chat_template_kwargs, sampling.clock)
    return Prompting(tokenizer, template, sampling.system, chat, tools_apart)


def template_notes(tokenizer: Any, sampling: Sampling) -> list[str]:
    """Say what a reader of the report must know of the chat template. Raises UsageError if it fails."""
    how = prompting(tokenizer, sampling)
    return how.chat_template.notes() if how.template else []


def doc_level(doc: Mapping[str, Any], axis: str) -> str | None:
    """Give a document's level on an axis, ``a.b`` reaching into it; None where it has no such field."""
    value: Any = doc
    for part in axis.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return level_text(value)


class Placed(NamedTuple):
    """A document and where it belongs."""

    levels: Mapping[str, str]  # its level on every axis
    number: int  # its place in the data
    doc: Any


def make_item(task: Any, placed: Placed, split_by: Sequence[str], spec: SliceSpec, how: Prompting) -> Item:
    """Write lm_eval's requests for a document down as an item, its tokens not counted; UsageError if it is none."""
    levels, number, doc = placed
    prompt, requests = _requests(task, number, doc, how)
    kind, choices, stop, max_tokens = _shape(task, requests)
    stored = _plain_json(doc, task)
    if spec.options.get("metric") is not None:
        stored[METRIC_KEY] = str(spec.options["metric"])
    named = isinstance(doc.get("id"), str | int) and doc["id"] != ""
    own_id, own_target = f"{task.task_name}/{doc['id'] if named else number}", isinstance(doc.get("target"), str)
    target = None if own_target and not choices else task.doc_to_target(doc)
    if own_target:
        told = doc["target"]
    elif isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(choices):
        told = choices[target].strip()
    else:
        told = " | ".join(map(str, target)) if isinstance(target, list) else str(target)
    chance = right_share({"doc": doc, "target": target}, len(choices)) if doc.get("chance") is None else doc["chance"]
    for what, value, most in (("chance", chance, 1), ("weight", doc.get("weight"), 1e12)):
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= most):
            raise UsageError(f"{own_id}: its {what} is {value!r}: give a number from 0 to {most:g}, or leave it out")
    cluster = own_id if doc.get("cluster") in (None, "") else str(doc["cluster"])  # 0 names one, too
    item = Item(
        *(own_id, spec.key, task.task_name, kind, prompt, dict(levels), stratum_of(levels, split_by), cluster),
        choices=choices,
        target=told,
        gold=_gold(target, choices),
        max_tokens=max_tokens,
        stop=stop,
        prefix_group=str(doc.get("prefix_group") or ""),
        chance=float(chance),
        weight=1.0 if doc.get("weight") is None else float(doc["weight"]),
        language=str(doc.get("language") or ""),
        doc=stored,
    )
    as_text = kind == "choice" and spec.options.get("as_text")
    return _lettered(item, str(task.doc_to_text(doc)), how) if as_text else item


def _lettered(item: Item, question: str, how: Prompting) -> Item:
    """Ask for the letter of a choice in text; the order of the choices follows from the item's id."""
    if item.gold is None or len(item.choices) > len(ascii_uppercase):
        raise UsageError(f"{item.id}: not exactly one right choice of at most 26, so as_text cannot ask for its letter")
    order = sorted(range(len(item.choices)), key=lambda at: digest([item.id, at]))
    lines = [f"{letter}. {item.choices[at].strip()}" for letter, at in zip(ascii_uppercase, order, strict=False)]
    text = "\n".join([question, "", *lines, "", "Answer with the letter of the right choice."])
    system = [{"role": "system", "content": how.system}] if how.system else []
    prompt = how.chat([*system, {"role": "user", "content": text}]) if how.template else f"{text}\nAnswer:"
    letter = ascii_uppercase[order.index(item.gold)]
    asked = replace(item, kind="generate", prompt=prompt, choices=(), gold=None, max_tokens=_LETTER_TOKENS)
    return replace(asked, target=letter, language="", doc={**item.doc, LETTER_KEY: letter})


def _requests(task: Any, doc_id: int, doc: Mapping[str, Any], how: Prompting) -> tuple[str, list[Any]]:
    """Give the prompt and lm_eval's instances, made as `Task.build_all_requests` makes them."""
    form = {"apply_chat_template": how.template, "chat_template": how.chat if how.template else None}
    if doc.get("turns") or doc.get("system") or doc.get("tool_schemas"):
        context = _conversation(doc, how)
    else:
        told = {"system_instruction": how.system, "gen_prefix": task.doc_to_prefix(doc), **form}
        shots = task.config.num_fewshot or 0
        context = task.fewshot_context(doc, num_fewshot=shots, fewshot_as_multiturn=how.template, **told)
    if not isinstance(context, str):
        raise UsageError(f"{task.task_name} puts its choices into the question: not a slice that quantcliff can ask")
    made = task.construct_requests(doc=doc, ctx=context, metadata=(task.task_name, doc_id, 1), **form)
    return context, made if isinstance(made, list) else [made]


def _conversation(doc: Mapping[str, Any], how: Prompting) -> str:
    """Give the prompt of a conversation, or of a question with a system message, which lm_eval has no way to say."""
    tools = _list_in(doc, "tool_schemas")
    in_words = bool(tools) and not (how.tools_apart or (how.template and how.chat_template.takes_tools))
    spoken = _TOOLS.format("\n".join(map(json.dumps, tools))) if in_words else None
    system = "\n\n".join(one for one in (how.system, str(doc.get("system") or ""), spoken) if one)
    if not how.template:
        return f"{system}\n\n{doc['prompt']}" if system else str(doc["prompt"])
    turns = _list_in(doc, "turns") or [{"role": "user", "content": str(doc["prompt"])}]
    messages = [*([{"role": "system", "content": system}] if system else []), *turns]
    return how.chat_template.write(messages, tools=[] if spoken else tools)


def _list_in(doc: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list that a document holds as JSON text, as rows have one type for each key. Raises UsageError."""
    with suppress(TypeError, ValueError):
        told = json.loads(doc.get(key) or "[]")
        if isinstance(told, list) and all(isinstance(one, Mapping) for one in told):
            return told
    raise UsageError(f"a document has {key} {doc[key]!r:.80}: write a list of objects as JSON text")


def _shape(task: Any, requests: Sequence[Any]) -> tuple[Any, tuple[str, ...], tuple[str, ...], int]:
    """Give kind, choices, stop texts and longest answer."""
    kind = requests[0].request_type
    if kind == "loglikelihood":
        return "choice", tuple(one.args[1] for one in requests if one.args[0] == requests[0].args[0]), (), 0
    if kind == "generate_until":
        told = requests[0].args[1]
        until = told.get("until") or []
        longest = told.get("max_gen_toks", told.get("max_new_tokens", _DEFAULT_MAX_TOKENS))
        return "generate", (), tuple(filter(None, [until] if isinstance(until, str) else until)), int(longest)
    raise UsageError(f"{task.task_name} asks for {kind}: quantcliff compares answers and choices, not running text")


def _gold(target: Any, choices: tuple[str, ...]) -> int | None:
    """Return the index of the right choice, found as lm_eval finds it; None if there is not exactly one."""
    if isinstance(target, str):
        texts = [choice.strip() for choice in choices]
        return texts.index(target.strip()) if texts.count(target.strip()) == 1 else None
    return int(target) if isinstance(target, int) and 0 <= target < len(choices) else None


def repeats_joined(items: Sequence[Item]) -> list[Item]:
    """Give the items, those of their own source that ask what an earlier one asks with its cluster: one answer."""
    held = Counter(item.cluster for item in items)
    first: dict[Any, str] = {}
    source = [first.setdefault((item.prompt, item.choices), item.cluster) for item in items]
    return [replace(item, cluster=source[at]) if held[item.cluster] == 1 else item for at, item in enumerate(items)]


def counted(items: Sequence[Item], how: Prompting) -> list[Item]:
    """Give the items with `prompt_tokens` filled in: the prompt, and for choices with the longest of them."""
    counts = [0] * len(items)
    for choosing in (False, True):
        asked = [(at, item) for at, item in enumerate(items) if bool(item.choices) == choosing]
        own = [(at, item.prompt + choice) for at, item in asked for choice in item.choices or ("",)]
        lengths = how.lengths([text for _, text in own], with_choice=choosing)
        for (at, _), length in zip(own, lengths, strict=True):
            counts[at] = max(counts[at], length)
    return [replace(item, prompt_tokens=count) for item, count in zip(items, counts, strict=True)]


def _plain_json(doc: Mapping[str, Any], task: Any) -> dict[str, Any]:
    """Give the document as plain JSON, without the question where it is kept as the item's prompt already."""
    try:
        stored: dict[str, Any] = json.loads(json.dumps(dict(doc), ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{task.task_name} has a document that is not plain text and numbers: {error}") from error
    if task.config.doc_to_text == "prompt" and isinstance(stored.get("prompt"), str):
        stored |= {name: "" for name in ("prompt", "turns", "system") if name in stored}
    return stored
