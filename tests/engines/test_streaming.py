"""Streamed answers: the same as unstreamed ones, complete or none, and timed without a server's memory of prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import engine_models as tiny
import pytest
from stub_server import Answers, Stub, served
from test_served import PROOF, answers, encoder, engine, texts

from harness.engines import streaming
from harness.engines.http_client import Client, Reply
from harness.engines.served import ServedEngine, Target
from harness.engines.server_probe import PROBE
from harness.engines.wire import join_stream, parse_answer
from harness.errors import Incomplete, ModelError, NotComparable
from harness.records import Settings

pytestmark = pytest.mark.model


def asked(items: list[Any], *faults: str, known: Answers | None = None, **how: Any) -> list[Any]:
    """What an engine makes of a stub's answers, streamed unless said otherwise."""
    with served(known or answers(items), *faults) as stub, engine(stub, **({"stream": True} | how)) as made:
        return list(made.answer(items, Settings()))


def times(log: Path) -> list[dict[str, Any]]:
    """The lines of a log of requests."""
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("faults", [(), ("text_only",), ("null", "unknown_fields"), ("busy",)])
def test_streamed_answers_are_the_unstreamed_ones(faults: tuple[str, ...]) -> None:
    """Texts, tokens, finish and counts, whatever the server takes; a line separator in a text ends no event."""
    items = texts()
    known = answers(items, " the answer\u2028 is\x85 {n}")
    assert asked(items, *faults, known=known) == asked(items, *faults, known=known, stream=False)
    assert asked(items, *faults, known=known)[0].text == ("" if "null" in faults else " the answer\u2028 is\x85 0"[:19])


def test_a_streamed_chat_keeps_its_reasoning_and_the_role_is_no_token(tmp_path: Path) -> None:
    """The first token is the first text of the answer: neither the role, which comes early, nor the reasoning."""
    items, talk, known = texts(2), encoder(), Answers()
    for prompt in (PROBE, *(item.prompt for item in items)):
        message, count = talk.sent(prompt, "messages")
        known.by_ids[message[0]["content"]] = {"text": "forty", "ids": [5, 6], "count": count}
    log = tmp_path / "log"
    streamed = asked(items, "thinks", "late", known=known, chat=True, requests=log)
    assert streamed == asked(items, "thinks", known=known, chat=True, stream=False)
    assert streamed[0].text == "<think>\nlet me see\n</think>\n\nforty"
    lines = [one for one in times(log) if one["pass"] == "answer" and one["item"] != "probe"]
    assert all(one["first"] >= 0.3 and one["reasoning"] >= len(talk.encode("let me see")) for one in lines)
    assert all(len(one["gaps"]) == 3 and one["longest_gap"] < 0.3 for one in lines)


def test_a_stream_that_is_cut_is_no_answer() -> None:
    """Asked again, it is the same answer; cut each time, the unit is incomplete, also if the end looks orderly."""
    items = texts(3)
    assert asked(items, "cuts_once") == asked(items)
    for fault in ("cuts", "quiet_cut"):
        with pytest.raises(Incomplete, match=r"gave no answer in .*(broke off in the middle|Error)"):
            asked(items, fault, retry_seconds=0.3)


def test_what_failed_before_an_answer_is_part_of_its_times(tmp_path: Path) -> None:
    """Whoever was sent away first has waited since then: a server that is overloaded is no faster than it is."""
    asked(texts(3), "busy", requests=tmp_path / "log")
    again = [one["first"] for one in times(tmp_path / "log") if one["tries"] > 1]
    assert len(again) >= 3
    assert min(again) > 0.2


@pytest.mark.parametrize("server", ["vllm", "openai"])
def test_an_answer_that_was_asked_for_again_keeps_its_times(server: str, tmp_path: Path) -> None:
    """What the try that broke off left in the server's memory does not take a late answer out of those that count."""
    items, log = texts(3), tmp_path / "log"
    with served(answers(items), "cuts_once", "remembers") as stub, named(stub, server, log) as made:
        list(made.answer(items, Settings()))
    lines = [
        one for one in times(log) if one["item"] != "probe" and one["pass"] == ("answer", "salted")[server == "openai"]
    ]
    assert [(one["tries"], one["cache"]) for one in lines] == [(2, "uncached")] * 3


def test_what_is_checked_of_an_answer_is_checked_of_a_stream() -> None:
    """The usage comes in the last event, the fingerprint in each."""
    with pytest.raises(NotComparable, match="it truncates prompts"):
        asked(texts(), "truncates")
    with pytest.raises(NotComparable, match="fingerprint changed"):
        asked(texts(), "new_fingerprint")
    with pytest.raises(NotComparable, match="where 4 were allowed"):
        asked([], "ignores_max_tokens", known=Answers(default={"text": " a b c d", "ids": [1, 2, 3, 4, 5]}))
    with pytest.raises(ModelError, match="does not stream its answers"):
        asked(texts(), "no_stream")


@contextlib.contextmanager
def named(stub: Stub, server: str, log: Path, **how: Any) -> Any:
    """The engine of a stub that is started as another server."""
    proof = dataclasses.replace(PROOF, served={"kind": "proven", "engine": server})
    target = Target("stub", "here", requests=log, stream=True, **how)
    with contextlib.closing(ServedEngine(Client(stub.url), encoder(), proof, target)) as made:
        yield made


@pytest.mark.parametrize("server", ["vllm", "llama-cpp"])
def test_a_server_with_a_field_for_it_is_asked_once_with_a_salt(server: str, tmp_path: Path) -> None:
    """Each request has another salt; the cached pass on purpose repeats it, and its times are kept apart."""
    items = texts(4)
    with served(answers(items)) as stub, named(stub, server, tmp_path / "once") as made:
        list(made.answer(items, Settings()))
    field = "cache_salt" if server == "vllm" else "cache_prompt"
    salts = [one.get(field) for one in stub.questions]
    assert len(salts) == 4
    assert len(set(salts)) == 4 if server == "vllm" else set(salts) == {False}
    with served(answers(items)) as stub, named(stub, server, tmp_path / "twice", cached_pass=True) as made:
        list(made.answer(items, Settings()))
    assert len(stub.questions) == 2 * 4
    assert len({one.get(field) for one in stub.questions}) == (4 if server == "vllm" else 2)
    found = [(one["pass"], one["cache"]) for one in times(tmp_path / "twice")[1:]]
    assert sorted(found) == [("answer", "uncached")] * 4 + [("repeated", "cached")] * 4


@pytest.mark.parametrize("faults", [(), ("text_only",)], ids=["ids", "text"])
def test_without_such_a_field_times_come_from_a_salted_prompt(faults: tuple[str, ...], tmp_path: Path) -> None:
    """The answer is to the prompt as it is; the request for the times begins otherwise, each in another way."""
    items, log = texts(3), tmp_path / "log"
    known = answers(items)
    assert asked(items, *faults, known=known, requests=log) == asked(items, known=known, stream=False)
    found = sorted((one["item"], one["pass"], one["cache"]) for one in times(log) if one["item"] != "probe")
    assert found == [(f"t/q{n}", *rest) for n in range(3) for rest in (("answer", "unknown"), ("salted", "uncached"))]
    with served(known, *faults) as stub, engine(stub, stream=True) as made:
        list(made.answer(items, Settings()))
    whole = encoder().prompt(items[0].prompt)
    common = whole[:4] if not faults else items[0].prompt[:4]
    prompts = [one["prompt"] for one in stub.questions if PROBE[:4] not in str(one["prompt"])]
    assert [one[:4] for one in prompts].count(common) == 3
    begun = (common, encoder().prompt(PROBE)[:4])
    assert len({str(one[:16]) for one in prompts if one[:4] not in begun}) == 3


def test_cold_and_warm_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request after the start and the first after idle time are not among the others; no text is kept."""
    monkeypatch.setattr(streaming, "IDLE_SECONDS", 0.2)
    items, log = texts(3), tmp_path / "log"
    with served(answers(items)) as stub, engine(stub, stream=True, concurrency=1, requests=log) as made:
        list(made.answer(items, Settings()))
        time.sleep(0.25)
        list(made.answer(items[:1], Settings()))
    lines = times(log)
    states = [(one["item"], one["state"]) for one in lines if one["pass"] == "answer"]
    assert states == [("probe", "start"), ("t/q0", "warm"), ("t/q1", "warm"), ("t/q2", "warm"), ("t/q0", "idle")]
    assert "answer is" not in log.read_text()
    assert all(one["pass"] == "salted" or one["per_token"] is not None for one in lines)
    assert all(one["first"] <= one["seconds"] + 0.001 for one in lines)


@pytest.mark.parametrize(
    ("held", "apart", "known"), [(1, 0.01, True), (4, 0.01, True), (8, 0.01, False), (4, 0.002, False)]
)
def test_a_stream_that_is_held_back_has_no_time_per_token(held: int, apart: float, known: bool) -> None:
    """The last tokens come with the first, or soon after them; a draft model gives up to four at once."""
    timer = streaming.StreamTimer("", encoder().encode)
    pieces = tuple((1.0 + at // held * apart, at + 1) for at in range(32))
    reply = Reply(200, {}, "", 1, 1.4, 0.0, pieces)
    answer = parse_answer({"choices": [{"text": "x" * 32}], "usage": {"completion_tokens": 32}})
    assert (timer.times(texts(1)[0], reply, answer, "salted")["per_token"] is not None) is known


def test_preamble_is_what_precedes_the_right_answer(tmp_path: Path) -> None:
    """In tokens; none if the answer is not there, and a number within a number is not it."""
    items = [dataclasses.replace(item, target=target) for item, target in zip(texts(3), ("0", "1", "7"), strict=True)]
    items[1] = dataclasses.replace(items[1], target="nswer")
    log = tmp_path / "log"
    asked(items, requests=log)
    found = {one["item"]: one["preamble"] for one in times(log) if one["pass"] == "answer"}
    assert found["t/q0"] == len(encoder().encode(" the answer is "))
    assert (found["t/q1"], found["t/q2"]) == (None, None)


def test_what_the_server_counts_as_cached_is_believed() -> None:
    """A salt that did not work, or a repetition that met no memory, is not what it was meant to be."""
    found = {
        (kind, count): streaming._cache(kind, count) for kind in ("salted", "repeated", "") for count in (None, 0, 9)
    }
    assert found == {
        ("salted", None): "uncached",
        ("salted", 0): "uncached",
        ("salted", 9): "unknown",
        ("repeated", None): "cached",
        ("repeated", 0): "uncached",
        ("repeated", 9): "cached",
        ("", None): "unknown",
        ("", 0): "uncached",
        ("", 9): "unknown",
    }


def test_an_empty_answer_has_no_first_token() -> None:
    """A stream of a role and an end is an answer without text."""
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    data, pieces = join_stream([(0.1, {"choices": [{"delta": {"role": "assistant", "content": ""}}]}), (0.2, end)])
    assert (parse_answer(data).text, parse_answer(data).null, pieces) == ("", False, ())
    assert tiny.item("x", "y").id == "t/x"


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": 5},
        {"choices": [None]},
        {"choices": [{"text": 7}]},
        {"choices": [{"text": "a", "token_ids": 5}]},
        {"choices": [{"text": "a", "token_ids": [1, "x"]}]},
        {"choices": [{"text": "a", "token_ids": [True, -1]}]},
        {"choices": [{"message": {"content": "a", "reasoning": ["b"]}}]},
        {"choices": []},
        {},
    ],
)
def test_an_answer_of_another_shape_is_refused(odd: dict[str, Any]) -> None:
    """By the one error that is read as such, and never by another."""
    with pytest.raises(ValueError, match="an answer"):
        parse_answer(odd)


def test_counts_of_another_shape_are_unknown_and_other_answers_are_not_joined() -> None:
    """What is no count is none; of a stream with two answers only the first is read."""
    for usage in ("x", [1], {"completion_tokens": True, "prompt_tokens_details": 3}, {"completion_tokens": -4}):
        read = parse_answer({"choices": [{"text": "a"}], "usage": usage})
        assert (read.output_tokens, read.cached_tokens) == (None, None)
    events = [
        (0.1, {"choices": one})
        for one in (
            [{"index": 0, "delta": {"content": "4"}}, {"index": 1, "delta": {"content": "9"}}],
            7,
            [None],
            [{"delta": 3}],
            [{"index": 1, "delta": {"content": "9"}}],
            [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        )
    ]
    data, pieces = join_stream(events)
    assert parse_answer(data).text == "4"
    assert len(pieces) == 1
