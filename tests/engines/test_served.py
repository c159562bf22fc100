"""A server as an engine: what is sent, what is made of its answers, and every way in which servers fail."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import gzip
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_models as tiny
import pytest
import stub_server
from lazily import lazy
from paths import ROOT
from stub_server import Answers, Handler, Stub, logprob, served

from harness.engines import http_client, server_probe, wire
from harness.engines.http_client import Client, _retry_after
from harness.engines.served import ServedEngine, Target
from harness.engines.server_probe import CANARY, PROBE, PromptEncoder
from harness.errors import Incomplete, ModelError, NotComparable
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Settings, Unanswered
from harness.suite.toolkit.thinking import split

pytestmark = pytest.mark.model

transformers = lazy("transformers")
GREEDY = Settings()
SAID = ("It is 30, so", "It is\n</think>\n\n30", "30")
PROOF = Proof("none", "openai", 0, 0, 0.0, 0, 0, "", 0, "", served={"kind": "declared", "engine": "openai"})


def encoder() -> PromptEncoder:
    """The tokenizer of the tiny models."""
    return PromptEncoder(tiny.tokenizer())


def texts(count: int = 6, **rest: Any) -> list[Item]:
    """Questions with different answers."""
    return [tiny.item(f"q{n}", f"Question: what is {n} plus 30? Answer:", max_tokens=8, **rest) for n in range(count)]


def answers(items: list[Item], text: str = " the answer is {n}") -> Answers:
    """What a stub should say to items, and to the probe."""
    known, talk = Answers(), encoder()
    known.add(talk.prompt(PROBE), PROBE, " eight, nine, ten", talk.encode(" eight, nine, ten"))
    for n, item in enumerate(items):
        said = text.format(n=n)
        ids = talk.prompt(item.prompt)
        known.add(ids, item.prompt, said, talk.encode(said)[: item.max_tokens])
    return known


@contextlib.contextmanager
def engine(stub: Stub, *, model: str = "stub", key: str = "", **how: Any) -> Iterator[ServedEngine]:
    """The engine round a stub."""
    patience = {name: how.pop(name) for name in ("concurrency", "retry_seconds", "timeout") if name in how}
    client = Client(stub.url, key=key, **({"retry_seconds": 5} | patience))
    with contextlib.closing(ServedEngine(client, encoder(), PROOF, Target(model, "here", **how))) as made:
        yield made


def asked(items: list[Item], *faults: str, known: Answers | None = None, **how: Any) -> list[Any]:
    """What an engine makes of a stub with these faults."""
    with served(known or answers(items), *faults) as stub, engine(stub, **how) as made:
        return list(made.answer(items, GREEDY))


def test_prompts_go_as_token_ids_and_answers_come_back() -> None:
    """The tokens sent are the baseline's; the text, its tokens and the prompt's length are recorded."""
    items = texts()
    with served(answers(items)) as stub, engine(stub) as made:
        found = list(made.answer(items, GREEDY))
        proof, version, usage = made.proof(), made.version, made.usage()
    talk = encoder()
    assert [one.text for one in found] == [f" the answer is {n}"[: len(one.text)] for n, one in enumerate(found)]
    assert all(isinstance(one, Generation) and one.token_ids for one in found)
    assert [one.prompt_tokens for one in found] == [len(talk.prompt(item.prompt)) for item in items]
    assert stub.questions[-1]["prompt"] in [talk.prompt(item.prompt) for item in items]
    assert {one["max_tokens"] for one in stub.questions} == {8}
    assert {one["temperature"] for one in stub.asked} == {0.0}
    assert proof.served is not None
    assert (proof.served["version"], proof.served["prompts"], proof.served["fingerprint"]) == (
        "1.2.3",
        "token ids",
        "stub-1",
    )
    assert (proof.served["context_limit"], proof.served["prompt_offset"]) == (2048, 0)
    assert "1.2.3" in version
    assert usage.prompt_tokens == sum(one.prompt_tokens for one in found)


def test_requests_in_flight_are_bounded() -> None:
    """No more than `concurrency` at a time, and as many as that."""
    items = texts(40)
    with served(answers(items), "slow") as stub, engine(stub, concurrency=16) as made:
        assert len(list(made.answer(items, GREEDY))) == 40
    assert 8 <= stub.busiest <= 16


def test_a_gateway_that_remembers_answers_has_none_of_another_run() -> None:
    """Greedy answers need no seed, so each engine sends one of its own, and each look at the weights another."""
    items, seeds = texts(2), list[set[int]]()
    for _ in range(2):
        with served(answers(items)) as stub, engine(stub) as made:
            list(made.answer(items, GREEDY))
        seeds.append({one["seed"] for one in stub.questions})
        looks = [one["seed"] for one in stub.asked if one["prompt"] == encoder().prompt(CANARY) and "logprobs" in one]
        assert len(looks) == len({*looks}) == 2
    assert len(set[int].union(*seeds)) == len(seeds)


def test_samples_have_their_own_seeds_the_same_on_every_variant() -> None:
    """A sample's seed depends on the run's seed, the item and the sample alone."""
    items, settings = texts(2), Settings(temperature=0.8, top_p=0.9, samples=3, seed=5)
    seeds = []
    for _ in range(2):
        with served(answers(items)) as stub, engine(stub) as made:
            found = list(made.answer(items, settings))
        seeds.append(sorted(one["seed"] for one in stub.questions))
        assert [one.sample for one in found] == [0, 1, 2, 0, 1, 2]
        assert stub.questions[-1]["top_p"] == 0.9
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 6


def test_stop_texts_end_answers_wherever_they_are_looked_for() -> None:
    """Four go to the server and the fifth is found here; white space at the beginning ends nothing."""
    items = texts(1, stop=("a1", "b2", "c3", "d4", "is"))
    (one,) = asked(items)
    assert (one.text, one.finish) == (" the answer ", "stop")
    blank = texts(1, stop=("\n",))
    with served(answers(blank, "\n")) as stub, engine(stub) as made:
        list(made.answer(blank, GREEDY))
    assert [body.get("stop") for body in stub.questions] == [["\n"], None]


def test_a_server_without_token_ids_gets_the_text() -> None:
    """The proof says so; so does it if unknown fields are refused."""
    items = texts(2)
    with served(answers(items), "text_only") as stub, engine(stub) as made:
        assert [one.text for one in made.answer(items, GREEDY)] == [" the answer is 0", " the answer is 1"]
        assert "sent as text" in " ".join(made.proof().notes)
    assert {one["prompt"] for one in stub.questions[2:]} == {item.prompt for item in items}
    with served(answers(items), "unknown_fields") as stub, engine(stub) as made:
        (one, _) = made.answer(items, GREEDY)
    assert one.token_ids == tuple(encoder().encode(one.text))
    assert "return_token_ids" not in stub.questions[-1]


def test_chat_sends_messages_and_keeps_reasoning() -> None:
    """The server applies its template, whose tokens are counted with the baseline's; thoughts stand between marks."""
    items, talk = texts(2), encoder()
    known = Answers()
    for prompt in (PROBE, *(item.prompt for item in items)):
        message, count = talk.sent(prompt, "messages")
        known.by_ids[message[0]["content"]] = {"text": "forty", "ids": [5, 6], "count": count}
    with served(known, "thinks") as stub, engine(stub, chat=True) as made:
        (one, _) = made.answer(items, GREEDY)
        assert made.proof().served["prompt_offset"] == 0
    assert one.text == "<think>\nlet me see\n</think>\n\nforty"
    assert stub.asked[-1]["max_completion_tokens"] == 8


def test_a_thought_that_the_template_opened_and_the_limit_cut_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a reasoning parser sends what follows the mark; once one closes it, all have to."""
    monkeypatch.setattr(type(tiny.tokenizer()), "apply_chat_template", lambda *_, **__: "Well?\n<think>\n")
    items, known = texts(3), Answers()
    for at, (prompt, text) in enumerate([(PROBE, "so"), *zip((one.prompt for one in items), SAID, strict=True)]):
        known.by_ids[prompt] = {"text": text, "ids": [5] * (9 if at == 1 else 4), "count": 4}
    with served(known, "no_usage") as stub, engine(stub, chat=True) as made:
        (alone,) = made.answer(items[2:], GREEDY)
        found = [(split(one.text), one.finish) for one in made.answer(items, GREEDY)]
    assert alone.text == "30"
    assert found == [
        (("", "<think>\nIt is 30, "), "length"),
        (("30", "It is\n</think>"), "eos"),
        (("", "<think>\n30"), "eos"),
    ]


def test_a_server_that_thinks_in_hiding_is_noted_and_has_no_limit_of_its_own() -> None:
    """xAI counts a thought apart from the answer, so that one that was cut looks shorter than was allowed."""

    def hides(data: dict[str, Any]) -> dict[str, Any]:
        data["choices"][0]["finish_reason"] = "length"
        data["usage"] |= {"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 6}}
        return data

    items = texts(2)
    with served(answers(items), "unknown_fields") as stub, engine(stub) as made:
        stub.spoil = hides
        assert [one.finish for one in made.answer(items, GREEDY)] == ["length"] * 2
        assert made.usage().notes == ["its server thinks without showing it"]


@pytest.mark.parametrize(("thought", "total"), [(4, 10), (4, None), (0, 10)])
def test_a_limit_of_its_own_is_seen_where_the_answer_is_thought(thought: int, total: int | None) -> None:
    """OpenAI and vLLM count a thought among the answer's tokens: it makes an answer that was cut early no longer."""

    def clamped(data: dict[str, Any]) -> dict[str, Any]:
        data["choices"][0] |= {"text": "a b c d", "finish_reason": "length"}
        told = {"completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": thought}}
        data["usage"] |= told | ({} if total is None else {"total_tokens": data["usage"]["prompt_tokens"] + 4})
        return data

    items = texts(1)
    with served(answers(items), "unknown_fields") as stub, engine(stub) as made:
        stub.spoil = clamped
        with pytest.raises(NotComparable, match="wrote 4 tokens where 8 were allowed: it has a limit of its own"):
            list(made.answer(items, GREEDY))


def test_stop_texts_do_not_end_a_thought_in_its_own_field() -> None:
    """A stop text of the task, a line break say, is looked for in the answer; a mark that a parser left in is none."""

    def thinking(data: dict[str, Any]) -> dict[str, Any]:
        said = {"role": "assistant", "content": "forty\nfive", "reasoning_content": "<think>one\ntwo </think> three"}
        return {
            "choices": [{"finish_reason": "stop", "message": said}],
            "usage": {"completion_tokens": 8},
            "system_fingerprint": data["system_fingerprint"],
        }

    items = texts(2, stop=("\n",))
    with served(answers(items), "no_usage") as stub, engine(stub, chat=True) as made:
        stub.spoil = thinking
        found = list(made.answer(items, GREEDY))
    assert {split(one.text)[0] for one in found} == {"forty"}


def test_a_server_that_never_says_length_cuts_all_the_same() -> None:
    """The probe shows it, and then the number of tokens says which answers were cut; else only the server does."""
    items = texts(2)
    known = answers(items, " the answer is {n} of 9 of 9 of 9 of 9")
    for text, cut in ((" eight, nine, ten", True), (" 8", False)):
        known.add(encoder().prompt(PROBE), PROBE, text, encoder().encode(text))
        with served(known) as stub:
            stub.lies = True
            with engine(stub) as made:
                assert {one.finish for one in made.answer(items, GREEDY)} == {"length" if cut else "eos"}


def test_of_several_choices_the_first_by_its_index_is_the_answer() -> None:
    """As of a stream: a server that gives more than were asked may list them in any order."""
    others = [{"index": at, "text": " of another draw", "finish_reason": "stop"} for at in (2, 1)]
    items = texts(2)
    with served(answers(items)) as stub, engine(stub) as made:
        stub.spoil = lambda data: data | {"choices": [*others, *data["choices"]]}
        assert [one.text for one in made.answer(items, GREEDY)] == [" the answer is 0", " the answer is 1"]


def test_an_error_beside_an_answer_is_no_answer() -> None:
    """HTTP 200 whose body holds an error and an empty choice: asked again, and then incomplete, never scored."""
    with pytest.raises(Incomplete, match=r"HTTP 200 with upstream failed"):
        spoiled(lambda data: {**data, "error": {"message": "upstream failed"}})
    with pytest.raises(Incomplete, match=r"finish_reason 'error'"):
        spoiled(in_choice(error={"code": 502}))
    assert len(spoiled(lambda data: {**data, "error": None})) == 2


def test_a_truncated_prompt_and_another_template_are_seen() -> None:
    """What the server counts is compared with what was sent, for every answer."""
    with pytest.raises(NotComparable, match=r"t/q\d: the server counts \d+ tokens in a prompt of \d+: it truncates"):
        asked(texts(), "truncates")
    with pytest.raises(NotComparable, match="another template"):
        asked(texts(), "other_template")
    with served(answers([]), "no_usage") as stub, engine(stub) as made:
        assert "does not count tokens" in " ".join(made.proof().notes)


@pytest.mark.parametrize("how", [(), ("text_only", "unknown_fields"), ("no_completions",)], ids=["ids", "text", "chat"])
def test_a_server_that_repeats_the_prompt_in_its_answers_is_refused(how: tuple[str, ...]) -> None:
    """It counts the new tokens alone; a scorer that looks for a text of the prompt would find it in every answer."""
    with pytest.raises(NotComparable, match="cannot be asked: it repeats the prompt in its answers"):
        asked(texts(), "echoes", *how, chat="no_completions" in how)


def test_a_server_that_ignores_the_length_of_answers_is_refused() -> None:
    """At the probe already."""
    with pytest.raises(NotComparable, match=r"wrote \d+ tokens where 4 were allowed"):
        asked(texts(), "ignores_max_tokens")
    # Also if it gives neither a count nor token ids: the tokens of the text are counted.
    with pytest.raises(NotComparable, match=r"wrote \d+ tokens where 4 were allowed"):
        asked(texts(), "ignores_max_tokens", "no_usage", "unknown_fields")
    known = answers(texts(), " the answer is " * 6 + "{n}")
    known.add(encoder().prompt(PROBE), PROBE, " 8", encoder().encode(" 8"))
    with pytest.raises(NotComparable, match=r"t/q\d: the server wrote \d+ tokens where 8 were allowed"):
        asked(texts(), "ignores_max_tokens", "no_usage", "unknown_fields", known=known)
    assert len(asked(texts(), "no_usage", "unknown_fields")) == len(texts())
    # A count of 0, which gateways fill in, is none.
    long = {"finish_reason": "stop", "text": " and so on" * 20}
    with pytest.raises(NotComparable, match=r"t/q\d: the server wrote \d+ tokens where 8 were allowed"):
        spoiled(lambda data: in_choice(**long)({**data, "usage": {**data["usage"], "completion_tokens": 0}}), ids=False)


def test_a_canary_shows_weights_by_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof holds those of a text; a server that gives none, or refuses to, shows nothing; one may be busy."""
    known, ids = answers([]), encoder().prompt(CANARY)
    known.add(ids, CANARY, " he read", list(range(20, 36)))
    expected = [logprob([*ids, *range(20, at)], at) for at in range(20, 36)]
    monkeypatch.setattr(http_client, "PATIENCE", 0.1)
    for faults, shown in (((), expected), (("text_only",), []), (("picky",), []), (("shy",), expected)):
        with served(known, *faults) as stub, engine(stub, stream=not shown) as made:
            assert (made.proof().served or {})["canary"] == pytest.approx(shown, abs=1e-6)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 503])
def test_a_busy_server_does_not_lack_a_canary(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as long as any question, and then the run is incomplete; only what never works is lacking."""
    monkeypatch.setattr(http_client, "PATIENCE", 0.01)
    refused: list[int] = []

    def busy(body: dict[str, Any], most: float = 3) -> int:
        refused.extend([status] * (again := "logprobs" in body and len(refused) < most))
        return status * again

    with served(answers([])) as stub:
        stub.refuses = busy
        with engine(stub) as made:
            assert len((made.proof().served or {})["canary"]) == 2
        assert len(refused) == 3
        stub.refuses = lambda body: busy(body, math.inf)
        with pytest.raises(Incomplete, match=rf"HTTP {status} .*not now"), engine(stub, retry_seconds=0.3):
            pass
        for fails in (500, 502, 400):
            stub.refuses = lambda body, status=fails: status * ("logprobs" in body)
            with engine(stub) as made:
                assert (made.proof().served or {})["canary"] == []


def test_a_fingerprint_that_changes_stops_the_run() -> None:
    """The model behind the address was replaced."""
    with pytest.raises(NotComparable, match="fingerprint changed from 'stub-1' to 'stub-2'"):
        asked(texts(), "new_fingerprint")


def test_busy_servers_and_reset_connections_are_asked_again(tmp_path: Path) -> None:
    """429 with Retry-After, and a 500 with a reset after it, change no answer; the tries are kept."""
    items = texts()
    plain = asked(items)
    assert asked(items, "busy") == plain
    log = tmp_path / "requests.log"
    assert asked(items, "resets", requests=log) == plain
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {one["tries"] for one in lines} == {3}
    assert {one["fingerprint"] for one in lines} == {"stub-1"}
    assert not any("text" in one for one in lines)


def test_the_time_to_wait_is_a_number_or_a_date() -> None:
    """Whatever else a server says there is no time; one that asks for more than the bound is given up at once."""
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert _retry_after({"retry-after": "1.5"}) == 1.5
    assert 25 < _retry_after({"retry-after": soon}) <= 30
    assert [_retry_after({"retry-after": one}) for one in ("", "later", "-3")] == [0, 0, 0]
    started = time.monotonic()
    with pytest.raises(Incomplete, match=r"in 1 try and 0 s \(HTTP 429"):
        asked(texts(1), "busy", retry_seconds=0.01)
    assert time.monotonic() - started < 2


def test_a_server_that_draws_its_answers_at_temperature_0_is_refused(tmp_path: Path) -> None:
    """Six answers to one question, each another, are drawn: they are right less often than the model's own."""
    items, number = texts(2), iter(range(10**6))

    def drawn(data: dict[str, Any]) -> dict[str, Any]:
        data["choices"][0]["text"] = f"{chr(65 + next(number) % 26)} it is"
        return data

    def rounded(data: dict[str, Any]) -> dict[str, Any]:
        data["choices"][0]["text"] = f"{'AB'[next(number) % 2]} {next(number)}"
        return data

    def thinking(data: dict[str, Any], said: str) -> dict[str, Any]:
        data["choices"][0]["message"] = {"role": "assistant", "reasoning_content": said, "content": None}
        return data

    log = tmp_path / "requests.log"
    with served(answers(items)) as stub, engine(stub, requests=log) as made:
        stub.spoil = rounded  # two that begin the sentence are as likely: by rounding
        assert len(list(made.answer(items, GREEDY))) == 2
    with served(answers(items)) as stub, engine(stub, requests=log) as made:
        stub.spoil = drawn
        with pytest.raises(NotComparable, match=r"gives 6 different answers to one question at temperature 0"):
            list(made.answer(items, GREEDY))
        assert len(list(made.answer(items, Settings(temperature=0.7)))) == 2  # that was asked for
        assert not made.usage().notes
    with served(answers(items), "thinks") as stub, engine(stub, requests=log, chat=True) as made:
        stub.spoil = lambda data: thinking(data, f"{chr(65 + next(number) % 26)} think")
        with pytest.raises(NotComparable, match=r"gives 6 different answers to one question at temperature 0"):
            list(made.answer(items, GREEDY))
        stub.spoil = lambda data: thinking(data, "")
        list(made.answer(items, GREEDY))
        assert "shows nothing of a short answer" in " ".join(made.usage().notes)
    with served(answers(items)) as stub, engine(stub, requests=log) as made:
        list(made.answer(items, Settings(temperature=0.7)))
        assert "6 times the same to one question at temperature 0.7" in " ".join(made.usage().notes)


def test_null_content_is_an_empty_answer_that_is_recorded_as_null(tmp_path: Path) -> None:
    """It is an answer, not an error."""
    log = tmp_path / "requests.log"
    found = asked(texts(2), "null", requests=log)
    assert [one.text for one in found] == ["", ""]
    assert [json.loads(line)["null"] for line in log.read_text().splitlines()] == [True, True]


def test_what_a_server_refuses_is_that_items_status() -> None:
    """Too long is said as such, by the server or from its limit; any other 4xx is a rejection."""
    items = texts(2)
    assert {(type(one), one.reason) for one in asked(items, "picky")} == {(Unanswered, "rejected")}
    # A question that breaks its server each time costs itself, and not the run, once it was asked long enough.
    assert {one.reason for one in asked(items, "breaks", retry_seconds=0.1)} == {"rejected"}
    for status in (200, 403, 502, 504):  # an error in an answer, a filter, a gateway whose time ran out
        with served(answers(items)) as stub, engine(stub, retry_seconds=0.1) as made:
            stub.refuses = lambda body, status=status: status * (body["prompt"] == encoder().prompt(items[0].prompt))
            assert [isinstance(one, Unanswered) for one in made.answer(items, GREEDY)] == [True, False]
    with served(answers(items)) as stub, engine(stub, retry_seconds=0.5, timeout=1.0) as made:  # it answers it too late
        stub.refuses = lambda body: time.sleep(3.0 * (body["prompt"] == encoder().prompt(items[0].prompt))) or 0
        assert [isinstance(one, Unanswered) for one in made.answer(items, GREEDY)] == [True, False]
    # What it refuses of a question that it had answered is about the server: a key that expired, say.
    with pytest.raises(Incomplete, match=r"refuses a question that it had answered, with HTTP 400 .*API key expired"):
        asked(items, "expires")
    long = [tiny.item("long", "fox 12 " * 40, max_tokens=8)]
    (one,) = asked(long, "short")
    assert (one.reason, one.item_id) == ("over_context", "t/long")
    with served(answers(long)) as stub, engine(stub, limit=40) as made:
        (one,) = made.answer(long, GREEDY)
        assert one.reason == "over_context"
    assert stub.questions == []


@pytest.mark.parametrize(
    "said",
    [
        "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens)",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4090 `inputs` tokens and 24 `max_new_tokens`",
        "This model's MAXIMUM CONTEXT LENGTH is 4096 tokens",
    ],
)
def test_servers_have_many_sentences_for_what_is_too_long(said: str) -> None:
    """SGLang's, text-generation-inference's and OpenAI's."""
    assert wire.OVER_CONTEXT.search(said)


def test_an_answer_that_the_server_broke_off_is_none() -> None:
    """A server that is stopped says `abort`: the unit is incomplete. What a filter ended is a rejection."""
    items = texts(2)
    with pytest.raises(Incomplete, match=r"broke its answer off \(finish_reason 'abort'\)"):
        asked(items, "abort")
    assert {one.reason for one in asked(items, "content_filter")} == {"rejected"}


def spoiled(change: Any, *, ids: bool = True, **how: Any) -> list[Any]:
    """What an engine makes of a stub whose answers are changed: to other JSON, or to headers and parts of a body."""
    items = texts(2)
    with (
        served(answers(items), *(() if ids else ("unknown_fields",))) as stub,
        engine(stub, **({"retry_seconds": 0.1} | how)) as made,
    ):
        stub.spoil = change
        return list(made.answer(items, GREEDY))


def in_choice(**fields: Any) -> Any:
    """A change of fields of the one choice."""
    return lambda data: {**data, "choices": [{**data["choices"][0], **fields}]}


def with_model(data: dict[str, Any]) -> dict[str, Any]:
    """An answer of another model than that of the probe."""
    return {**data, "model": "the-fallback"}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (in_choice(finish_reason="network_error"), Incomplete, "finish_reason 'network_error'"),
        (in_choice(finish_reason=None), Incomplete, "finish_reason ''"),
        (in_choice(token_ids=[7] * 40), NotComparable, "40 token ids that counts 7 tokens"),
        (in_choice(token_ids=[]), NotComparable, "0 token ids that counts 7 tokens"),
        (with_model, NotComparable, "model changed from '' to 'the-fallback'"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_refused(change: Any, error: Any, said: str) -> None:
    """Cut by the server, of a length that is not its own, or by another model, to which a gateway may fall back."""
    with pytest.raises(error, match=said):
        spoiled(change)


@pytest.mark.parametrize(("told", "means"), [("STOP", "eos"), ("MAX_TOKENS", "length"), ("max_tokens", "length")])
def test_ends_in_the_words_of_other_apis_are_read(told: str, means: str) -> None:
    """A gateway passes on what stands behind it."""
    assert {one.finish for one in spoiled(in_choice(finish_reason=told))} == {means}


def test_prompts_that_are_counted_as_nothing_are_not_counted() -> None:
    """A gateway fills in zeros."""
    zero = {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    assert wire.parse_answer({"choices": [{"text": "x", "finish_reason": "stop"}], **zero}).prompt_tokens is None


def test_a_limit_that_a_gateway_has_is_refused() -> None:
    """The words so far are not the model's answer; a full context, of which a server says so, is another matter."""

    def short(data: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "text": " the", "finish_reason": "length"}
        return {**data, "choices": [choice], "usage": {**data["usage"], "completion_tokens": 1}}

    with pytest.raises(NotComparable, match=r"wrote 1 tokens where 8 were allowed: it has a limit of its own"):
        spoiled(short)
    for full in (lambda data: {**short(data), "truncated": True}, in_choice(finish_reason="model_length")):
        assert [one.reason for one in spoiled(full)] == ["over_context"] * 2


@pytest.mark.parametrize("count", [{}, {"completion_tokens": 0}], ids=["no count", "a count of 0"])
def test_a_limit_that_a_gateway_has_is_seen_in_the_text_where_nothing_is_counted(count: dict[str, int]) -> None:
    """What was written is read back; an empty text, tool calls and a row of one sign may have been any number."""

    def said(text: str, **more: Any) -> Any:
        choice = {"index": 0, "text": text, "finish_reason": "length", **more}
        return lambda data: {"choices": [choice], "system_fingerprint": data["system_fingerprint"], "usage": count}

    def made(change: Any) -> list[Any]:
        items = [dataclasses.replace(one, max_tokens=16) for one in texts(2)]
        with served(answers(items), "no_usage", "unknown_fields") as stub, engine(stub) as one:
            stub.spoil = change
            return list(one.answer(items, GREEDY))

    cut = encoder().decode(encoder().encode(" the answer is 7 and then some")[:9])
    with pytest.raises(NotComparable, match=r"wrote 9 tokens where 16 were allowed: it has a limit of its own"):
        made(said(cut))
    whole = encoder().decode(encoder().encode(" the answer is 7 and then some more of it")[:13])
    call = {"type": "function", "function": {"name": "f", "arguments": "{"}}
    for change in (said(whole), said(""), said("\n" * 14), said(cut, truncated=True)):
        assert len(made(change)) == 2
    with pytest.raises(NotComparable, match=r"q[01]: the server took a tool call out of an answer, and no tools were"):
        made(said(cut, tool_calls=[call]))


@pytest.mark.slow
def test_no_answer_that_was_cut_at_its_limit_is_taken_for_one_cut_before(smollm2: Path) -> None:
    """SmolLM2's recorded answers, cut after any number of tokens, are never too few of so many, stripped or not."""
    talk = PromptEncoder(transformers.AutoTokenizer.from_pretrained(str(smollm2)))
    ids = set()
    for path in (ROOT / "results" / "tail-cpu" / "bf16").glob("*-1of1.jsonl"):
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        ids |= {tuple(one["response"]["token_ids"]) for one in lines if "token_ids" in one.get("response", {})}
    assert len(ids) > 100
    early = 0
    for tokens in ids:
        for most in range(1, min(len(tokens), 40) + 1):
            for text in (talk.decode(tokens[:most]), talk.decode(tokens[:most]).strip()):
                answer = wire.parse_answer({"choices": [{"text": text, "finish_reason": "length"}]})
                assert server_probe.written(answer, most, talk) == most
                early += server_probe.written(answer, 2 * most, talk) < 2 * most
    assert early > 10_000  # and of half as many, nearly all are seen


def endless(part: bytes, kind: str = "application/json", pause: float = 0.0) -> Any:
    """A reply without an end."""
    return lambda _: ({"Content-Type": kind}, iter(lambda: time.sleep(pause) or part, b""))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (endless(b" ", pause=0.05), "no whole answer in 1 s"),
        (endless(b": ping\n\n", "text/event-stream", 0.05), "no whole answer in 1 s"),
        (endless(b"x" * (1 << 20)), "sends more than 1,000,000 bytes"),
        (endless(b'data: {"choices": []}\n\n' * 9999, "text/event-stream"), "sends more than 1,000,000 bytes"),
        (lambda _: ({}, [b"[" * 200_000]), "not a JSON object"),
        (lambda _: ({"Content-Encoding": "gzip"}, [b"no gzip"]), "DecodingError"),
        (lambda _: ({"Content-Encoding": "gzip"}, [gzip.compress(b"0" * 20_000_000)]), "sends more than 1,000,000"),
    ],
    ids=["drip", "pings", "body", "stream", "depth", "no gzip", "bomb"],
)
def test_a_reply_has_an_end_and_a_size(change: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run would hang, run out of memory, or end in a traceback."""
    monkeypatch.setattr(http_client, "LARGEST", 1_000_000)
    with pytest.raises((Incomplete, ModelError), match=said):
        spoiled(change, timeout=1 if "1 s" in said else 60)


def test_half_a_surrogate_pair_is_a_replacement_character() -> None:
    """JSON can hold it, and no file can."""
    assert [one.text for one in spoiled(in_choice(text=" \ud83d!"))] == [" ?!"] * 2


@pytest.mark.parametrize("models", [{"data": 5}, {"data": [{"id": "stub", "meta": [1], "max_model_len": math.nan}]}])
def test_a_list_of_models_of_another_shape_says_nothing(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a traceback nor a record that cannot be read again."""
    monkeypatch.setattr(Handler, "do_GET", lambda own: own._send(200, models))
    with served(answers([])) as stub, engine(stub) as made:
        served_by = made.proof().served or {}
    assert (served_by["context_limit"], served_by["reported"]) == (None, {})


def test_a_path_that_never_answers_does_not_hold_a_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway may have no page for a version and hang: it says nothing of itself, and a run does not wait for it."""
    monkeypatch.setattr(http_client, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(Handler, "do_GET", lambda own: time.sleep(8))
    started = time.monotonic()
    with served(answers([])) as stub, engine(stub, timeout=5) as made:
        assert (made.proof().served or {})["version"] == ""
        assert time.monotonic() - started < 8  # of three that are asked for, none took its five seconds


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("page", ["/version", "/v1/models"])
def test_what_a_server_says_of_itself_is_asked_for_until_it_does(page: str, status: int) -> None:
    """A moment's trouble is no unknown version, which would refuse the other side for good."""
    failed: list[int] = []
    with served(answers([])) as stub:
        stub.gets = lambda path: status if path == page and not failed and not failed.append(status) else 0
        with engine(stub) as made:
            found = made.proof().served or {}
    assert (failed, found["version"], found["context_limit"]) == ([status], "1.2.3", 2048)


def test_what_a_server_lacks_is_told_from_what_it_does_not_say_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page for a version or for models is a fact to record; a busy server, or one that is away, says nothing."""
    monkeypatch.setattr(http_client, "PATIENCE", 0.1)
    lacks = [("/version", status) for status in (400, 404, 405, 500, 501, 502, 503)]
    for page, status in [*lacks, *(("/v1/models", status) for status in (400, 404, 405, 500, 501))]:
        with served(answers([])) as stub:
            stub.gets = lambda path, page=page, status=status: status * (path == page)
            with engine(stub) as made:
                found = made.proof().served or {}
        assert (found["version"], found["context_limit"]) == (("", 2048) if page == "/version" else ("1.2.3", None))
    for page, status in (("/version", 429), ("/v1/models", 429), ("/v1/models", 502), ("/v1/models", 503)):
        with served(answers([])) as stub:
            stub.gets = lambda path, page=page, status=status: status * (path == page)
            with pytest.raises(Incomplete, match=rf"HTTP {status}.*same command again"):
                engine(stub, retry_seconds=0.2).__enter__()


def test_a_server_that_is_gone_ends_the_unit_as_incomplete() -> None:
    """64 requests in flight, and nobody listens: not one answer is made up, and it does not wait for ever."""
    items = texts(64)
    with served(answers(items), "slow") as stub, engine(stub, concurrency=64, retry_seconds=0.3) as made:
        stub.shutdown()
        stub.server_close()
        started = time.monotonic()
        with pytest.raises(Incomplete, match=r"gave no answer in .*finished work is kept"):
            list(made.answer(items, GREEDY))
        assert time.monotonic() - started < 5


ERROR = {"object": "error", "message": "overloaded", "code": 503}
NO_COUNTS = {"prompt_tokens": 0, "completion_tokens": 0}


@pytest.mark.parametrize("change", [ERROR, {"choices": []}, {"usage": None}, {"usage": NO_COUNTS}, {"usage": [1]}])
def test_half_an_answer_is_asked_for_again(change: dict[str, Any]) -> None:
    """One reply in hundreds without choices, or without the count that the others have, is a gateway's bad moment."""
    items = texts()
    plain, odd = asked(items), iter([change])
    with served(answers(items)) as stub, engine(stub) as made:
        stub.spoil = lambda data: next(odd, None) or data if change is ERROR else data | next(odd, {})
        assert list(made.answer(items, GREEDY)) == plain
    assert next(odd, None) is None


def test_a_stream_without_its_count_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event with the usage is the last one, and is lost once."""
    items, chunk, lost = texts(), Handler._chunk, iter([0, 0, 0, 1])

    def losing(own: Handler, event: Any) -> None:
        if "usage" not in event or not next(lost, 0):
            chunk(own, event)

    monkeypatch.setattr(Handler, "_chunk", losing)
    with served(answers(items)) as stub, engine(stub, stream=True) as made:
        assert [one.text for one in made.answer(items, GREEDY)] == [f" the answer is {n}"[:16] for n in range(6)]
    assert next(lost, None) is None


def test_a_moment_of_trouble_is_no_refusal_of_an_item_nor_is_an_empty_account() -> None:
    """408, 409 and 425 are asked again; of 402 any other item would get the same, so that none is refused."""
    items = texts()
    plain = asked(items)
    for status in (402, 408, 409, 425):
        once = iter([status])
        with served(answers(items)) as stub, engine(stub) as made:
            stub.refuses = lambda _, once=once: next(once, 0)
            if status == 402:
                with pytest.raises(ModelError, match=r"HTTP 402: .*not now\. Top up .*same command again"):
                    list(made.answer(items, GREEDY))
            else:
                assert list(made.answer(items, GREEDY)) == plain


def test_wrong_keys_models_and_paths_are_messages_without_the_key() -> None:
    """The sentence names what to look at."""
    with pytest.raises(ModelError, match=r"HTTP 401.*api_key_env") as caught:
        asked([], "wants_key", key="open-it")
    assert "open-it" not in str(caught.value)
    assert asked(texts(1), "wants_key", key="sesame")[0].text
    with pytest.raises(ModelError, match=r"has no model 'stab'\. Did you mean 'stub'"):
        asked([], model="stab")
    with pytest.raises(ModelError, match=r"HTTP 404.*engine.url"):
        asked([], "no_completions")


CHOICES = [tiny.item(f"c{n}", f"How many apples are {n}?", choices=(" Paris", " Berlin is", " 7381")) for n in range(3)]


@pytest.mark.parametrize("faults", [(), ("no_prompt_logprobs",)], ids=["prompt_logprobs", "echo"])
def test_choices_are_weighed_by_the_log_probabilities_of_the_prompt(faults: tuple[str, ...]) -> None:
    """The sums are the stub's own numbers over each choice's tokens, whichever way it gives them."""
    found = asked(CHOICES, *faults, choices=True)
    for item, one in zip(CHOICES, found, strict=True):
        assert isinstance(one, ChoiceLogprobs)
        for found_sum, (begin, rest) in zip(
            one.logprobs, encoder().pairs(item.prompt, item.choices, item.id), strict=True
        ):
            whole = [*begin, *rest]
            expected = sum(logprob(whole[:at], whole[at]) for at in range(len(begin), len(whole)))
            assert found_sum == pytest.approx(expected)
        assert one.greedy == (True, True, True)


@pytest.mark.parametrize("fault", ["ignores_echo", "wrong_logprobs", "probabilities", "text_only"])
def test_choices_are_refused_if_the_numbers_cannot_be_trusted(fault: str) -> None:
    """A server that ignores the request would score every choice alike: it is found before the first item."""
    with pytest.raises(NotComparable, match=r"cannot weigh choices: .*Leave out the slices with choices"):
        asked(CHOICES, fault, choices=True)


@pytest.mark.parametrize("wrong", [0.0, -1.0, -9999.0])
def test_choices_that_all_weigh_the_same_are_no_models(wrong: float) -> None:
    """Of one item: a cache without log-probabilities, say, or numbers that overflowed behind a floor."""
    first = [*encoder().pairs(CHOICES[0].prompt, CHOICES[0].choices, "c0")]
    known = {(*begin, *rest) for begin, rest in first}

    def spoil(found: dict[str, Any]) -> dict[str, Any]:
        rows = found.get("choices", [{}])[0].get("prompt_logprobs") or []
        ids = tuple(int(next(iter(row))) for row in rows if row)
        if any(whole[1:] == ids for whole in known):
            for row in filter(None, rows):
                next(iter(row.values()))["logprob"] = wrong
        return found

    with served(answers(CHOICES)) as stub, engine(stub, choices=True) as made:
        stub.spoil = spoil
        with pytest.raises(NotComparable, match="c0: the server gives all tokens of its choices one log-probability"):
            list(made.answer(CHOICES, GREEDY))


@pytest.mark.parametrize("way", ["prompt_logprobs", "echo"])
@pytest.mark.parametrize("wrong", ["0", "the mean", "those of the token before", "of base 10"])
def test_choices_are_refused_although_the_model_is_sure_of_what_it_counts(
    wrong: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an answer whose tokens are all nearly certain, numbers that mean nothing are near its own."""
    seven = encoder().prompt(PROBE)

    def sure(before: list[int], token: int) -> float:
        return -0.01 if before[: len(seven)] == seven else logprob(before, token)

    def spoil(found: dict[str, Any]) -> dict[str, Any]:
        choice = found.get("choices", [{}])[0]
        rows = choice.get("prompt_logprobs") or []
        shown = choice.get("logprobs", {}).get("token_logprobs", [None])
        numbers = [row and next(iter(row.values()))["logprob"] for row in rows] or shown
        if numbers[0] is not None or not numbers[1:]:
            return found
        known = numbers[1:]
        made = {
            "0": [0.0 for _ in known],
            "the mean": [math.fsum(known) / len(known) for _ in known],
            "those of the token before": [known[0], *known[:-1]],
            "of base 10": [one / math.log(10) for one in known],
        }[wrong]
        if rows:
            pairs = zip(rows[1:], made, strict=True)
            choice["prompt_logprobs"] = [None] + [{next(iter(row)): {"logprob": x, "rank": 1}} for row, x in pairs]
        else:
            choice["logprobs"] = {"token_logprobs": [None, *made], "top_logprobs": [None, *({"x": x} for x in made)]}
        return found

    monkeypatch.setattr(stub_server, "logprob", sure)
    with served(answers(CHOICES), *(["no_prompt_logprobs"] if way == "echo" else [])) as stub:
        stub.spoil = spoil
        with pytest.raises(NotComparable, match="cannot weigh choices"), engine(stub, choices=True):
            pass
