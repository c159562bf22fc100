"""The detectors of tail events on real answers, good and bad, in many scripts."""

from __future__ import annotations

import csv
import gzip
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import conftest
import pytest

from harness.config.loading import parse
from harness.records import TAIL_KINDS, ChoiceLogprobs, Generation, Item, Unanswered
from harness.run.planning import event_power
from harness.suite.scorer import Scorer, load_items
from harness.suite.tail.detectors import examine, from_metrics, magnitude, number_of, possible
from harness.suite.tail.language import prose, scripts_of, wrong_language, wrong_script
from harness.suite.tail.text import LANGUAGES, empty, refusal, repetition


def item(**fields: Any) -> Item:
    """A free-text item."""
    plain: dict[str, Any] = {
        "id": "task/1",
        "slice": "s",
        "task": "task",
        "kind": "generate",
        "prompt": "?",
        "levels": {},
        "stratum": "all",
        "cluster": "task/1",
        "target": "Paris",
        "max_tokens": 16,
    }
    return Item(**{**plain, **fields})


def answer(text: str, finish: Any = "eos") -> Generation:
    """A free-text answer of as many tokens as words."""
    return Generation("task/1", text, tuple(range(len(text.split()))), finish, 1)


GOOD_SCRIPT = [
    ("te", "**Answer:** 100"),  # as the question asks
    ("am", "የፈረንሳይ ዋና ከተማ ፓሪስ ናት።"),
    ("ar", "عاصمة فرنسا هي باريس (Paris)."),
    ("bn", "ফ্রান্সের রাজধানী প্যারিস, জনসংখ্যা ২১ লক্ষ।"),
    ("el", "Η πρωτεύουσα της Γαλλίας είναι το Παρίσι."),
    ("en", "Moscow (Москва) is the capital; its area is 2,561 km² and π is 3.14."),
    ("en", "The word for water is “水” in Japanese."),
    ("he", "בירת צרפת היא פריז."),
    ("hi", "फ़्रांस की राजधानी पेरिस है, और NASA का मुख्यालय वहाँ नहीं है।"),
    ("hy", "Ֆրանսիայի մայրաքաղաքը Փարիզն է։"),
    ("ja", "フランスの首都はパリです。東京は日本の首都です。"),
    ("ka", "საფრანგეთის დედაქალაქია პარიზი."),
    ("km", "រដ្ឋធានីរបស់បារាំងគឺប៉ារីស។"),
    ("ko", "프랑스의 수도는 파리이다. 大韓民國의 수도는 서울이다."),
    ("lo", "ນະຄອນຫຼວງຂອງຝຣັ່ງແມ່ນປາຣີ."),
    ("my", "ပြင်သစ်နိုင်ငံ၏ မြို့တော်မှာ ပါရီဖြစ်သည်။"),
    ("pa-PK", "فرانس دا راجگڑھ پیرس اے۔"),
    ("ru", "Столица Франции — Париж; код `print('Paris')` это пишет."),
    ("sr", "Glavni grad Francuske je Pariz."),
    ("sr", "Главни град Француске је Париз."),
    ("sr-Cyrl", "Главни град Француске је Париз."),
    ("si", "ප්‍රංශයේ අගනුවර පැරීසියයි."),
    ("ta", "பிரான்சின் தலைநகரம் பாரிஸ்."),
    ("th", "เมืองหลวงของฝรั่งเศสคือปารีส"),
    ("ti", "ርእሰ ከተማ ፈረንሳ ፓሪስ እያ።"),
    ("vi", "Thủ đô của Pháp là Paris."),
    ("yo", "Olú-ìlú ilẹ̀ Faransé ni Párísì."),
    ("zh", "法国的首都是巴黎，人口约210万，GDP很高。"),
    ("zho_Hans", "法国的首都是巴黎。"),
    ("th", "42"),
    ("am", "```python\nprint('only code')\n``` አዎ"),
    ("fa", "https://example.org/paris پاریس"),
]

BAD_SCRIPT = [
    ("am", "The capital of France is Paris."),
    ("am", "ፓሪስ Paris Paris Paris is the capital"),
    ("ar", "Столица Франции — Париж."),
    ("bn", "फ़्रांस की राजधानी पेरिस है।"),
    ("en", "The capital is 巴黎, which 位于 the river."),
    ("en", "Париж"),
    ("te", "Answer: one hundred"),
    ("fr", "La capitale est Париж, une ville на реке Сена."),
    ("hi", "فرانس کا دارالحکومت پیرس ہے۔"),
    ("ja", "프랑스의 수도는 파리이다."),
    ("ko", "フランスの首都はパリです。"),
    ("ru", "Stolitsa Frantsii — Parizh."),
    ("sr-Cyrl", "Glavni grad Francuske je Pariz."),
    ("th", "ເມືອງຫຼວງຂອງຝຣັ່ງແມ່ນປາຣີ"),
    ("ti", "The capital"),
    ("zh", "Столица Франции — 巴黎。"),
    ("sw", "Mji mkuu wa Ufaransa ni 巴黎，人口很多。"),
]


@pytest.mark.parametrize(("language", "text"), GOOD_SCRIPT)
def test_an_answer_in_its_own_script_has_not_drifted(language: str, text: str) -> None:
    """Names in brackets, units, code, numbers and loan letters are no drift."""
    assert not wrong_script(text, language)


@pytest.mark.parametrize(("language", "text"), BAD_SCRIPT)
def test_an_answer_in_another_script_has_drifted(language: str, text: str) -> None:
    """Whole answers, and answers that change script halfway."""
    assert wrong_script(text, language)


def test_scripts_are_those_of_cldr_and_a_script_in_the_tag_counts_alone() -> None:
    """Japanese mixes three scripts, Serbian has two, an unknown language none; region and FLORES codes are read."""
    assert scripts_of("ja") == {"Hani", "Hira", "Kana"}
    assert scripts_of("sr") == {"Cyrl", "Latn"}
    assert scripts_of("sr-Latn") == {"Latn"}
    assert scripts_of("pa") == {"Guru"}
    assert scripts_of("pa-PK") == {"Arab"}
    assert scripts_of("amh_Ethi") == scripts_of("am") == {"Ethi"}
    assert not scripts_of("xx-unknown")


ENGLISH = "The president said on Monday that the new bridge over the river would be opened before the end of the year."


@pytest.mark.parametrize(
    "language", ["fr", "de", "sw", "yo", "zu", "vi", "id", "tr", "ha", "qu", "ayr_Latn", "grn_Latn"]
)
def test_english_is_drift_where_another_language_of_its_script_was_expected(language: str) -> None:
    """Also for languages that the identifier does not know (Aymara), where English alone is looked for."""
    assert wrong_language(ENGLISH, language)


def test_language_drift_between_others_and_its_limits() -> None:
    """French for Swahili is drift, Danish for Norwegian is not, and a short answer is never judged."""
    assert wrong_language("Le président a annoncé que le nouveau pont serait ouvert avant la fin de l'année.", "sw")
    assert wrong_language("वह हर सुबह नदी के किनारे टहलता है और फिर काम पर जाता है।", "mr")
    assert not wrong_language("Præsidenten sagde mandag, at den nye bro ville blive åbnet inden årets udgang.", "no")
    assert not wrong_language("The capital is Paris.", "sw")
    assert not wrong_language(ENGLISH, "en")
    assert not wrong_language(f"Rais alisema hivi leo asubuhi kwa wananchi wote: `{ENGLISH}`", "sw")


@pytest.mark.slow
def test_people_who_write_their_own_language_raise_no_alarm(shared_data: Path) -> None:
    """Every sentence of SIB-200, 39 languages: at most one false alarm each, under 1 in 1,000 in all."""
    alarms = total = 0
    for path in sorted(shared_data.glob("sib200_test/annotated/*/test.tsv")):
        with path.open(encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        found = [one for one in texts if wrong_script(one, path.parent.name) or wrong_language(one, path.parent.name)]
        assert len(found) <= 1, found
        alarms, total = alarms + len(found), total + len(texts)
    assert total > 7000
    assert alarms < total / 1000


LOOPS = [
    "Paris. " * 8,
    "The answer is 42. The answer is 42. The answer is 42. The answer is 42. The answer is 42. The ans",
    "一二三四五六七" * 6,
    "مرحبا بكم " * 9,
    "First a good beginning that says something, then: " + "and then he went home, " * 12,
    "ነው ነው ነው ነው ነው ነው ነው ነው ነው ነው ነው ነው",
    "def f():\n    return 1\n\n" * 7,
    "The code is 4235" + "!" * 40,
    "42" + "\ufffd" * 40,
    "A long and varied introduction about bridges. "
    + "".join(f"part {n} differs; " for n in range(60))
    + "so so " * 300,
]
NO_LOOPS = [
    "",
    "Paris",
    "Ha ha ha ha ha!",
    "-" * 200,
    "Total: 42\n" + "\u2550" * 60 + "\n",
    "| a | b |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18",
    "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    "no " * 12 + "but in the end it stops and says where the river flows, which is to the sea and nowhere else.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total",
]


@pytest.mark.parametrize("text", LOOPS)
def test_a_loop_at_the_end_is_found(text: str) -> None:
    """In every script, with a beginning that is fine, with a last round cut off."""
    assert repetition(text)


@pytest.mark.parametrize("text", NO_LOOPS)
def test_what_only_looks_like_a_loop_is_none(text: str) -> None:
    """Lines, tables, laughter, refrains, counting, a loop that ended."""
    assert not repetition(text)


def test_programs_and_worked_problems_hold_no_loop(shared_data: Path) -> None:
    """Every reference solution of HumanEval and every worked answer of GSM8K."""
    with gzip.open(shared_data / "humaneval" / "data" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["canonical_solution"] for line in file]
    rows = (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    texts += [json.loads(row)["answer"] for row in rows]
    assert len(texts) > 1400
    assert not [text for text in texts if repetition(text) or refusal(text) or empty(text)]


REFUSED = {
    "en": "I'm sorry, but I can't help with that.",
    "es": "Lo siento, pero no puedo ayudarte con eso.",
    "fr": "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "de": "Es tut mir leid, aber ich kann dabei nicht helfen.",
    "pt": "Desculpe, mas não posso ajudar com isso.",
    "it": "Mi dispiace, ma non posso aiutarti con questa richiesta.",
    "ru": "Извините, но я не могу вам помочь с этим.",
    "tr": "Üzgünüm, bu konuda yardımcı olamam.",
    "id": "Maaf, saya tidak bisa membantu permintaan itu.",
    "vi": "Xin lỗi, tôi không thể giúp bạn việc này.",
    "sw": "Samahani, siwezi kukusaidia na hilo.",
    "zh": "很抱歉，我无法提供帮助。",
    "ja": "申し訳ありませんが、そのご要望にはお応えできません。",
    "ko": "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    "th": "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้",
    "ar": "عذرًا، لا يمكنني المساعدة في ذلك.",
    "fa": "متأسفم، نمی‌توانم کمک کنم.",
    "hi": "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
    "bn": "দুঃখিত, আমি এতে সাহায্য করতে পারব না।",
}
ANSWERED = [
    "I cannot find the number in the text.",
    "The special key is not listed.",
    "I do not know.",
    "He said: I can't come on Monday. So the answer is Tuesday.",
    "We cannot divide by zero, so x = 3.",
    "I can help with that: the answer is 42.",
    "私はそこへ行くことができません。",
    "Je ne peux pas diviser par zéro.",
    "x" * 400 + " I'm sorry, but I can't help with that.",
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_refusal_is_found_in_every_language_that_is_claimed(language: str) -> None:
    """One usual sentence each."""
    assert refusal(REFUSED[language])


def test_further_refusals_are_found() -> None:
    """As chat models say it, with either apostrophe."""
    assert refusal("As an AI language model, I do not have opinions.")
    assert refusal("I’m unable to assist with this request.")
    assert refusal("This request goes against my guidelines.")


@pytest.mark.parametrize("text", ANSWERED)
def test_an_answer_that_says_no_is_no_refusal(text: str) -> None:
    """What is absent from a text, or impossible in mathematics, is an answer."""
    assert not refusal(text)


@pytest.mark.parametrize(
    ("text", "says_nothing"), [("", True), (" \n\t", True), ("...", True), ("—", True), ("٤", False)]
)
def test_empty_answers(text: str, says_nothing: bool) -> None:
    """A digit of any script says something; punctuation does not."""
    assert empty(text) is says_nothing


@pytest.mark.parametrize(
    ("text", "target", "off"),
    [
        ("Answer: 180", "18", True),
        ("Answer: 1.8", "18", True),
        ("so it is 0", "18", True),
        ("উত্তর: ১৮০০", "18", True),
        ("1,800 apples", "18", True),
        ("-180", "18", True),
        ("Answer: 19", "18", False),
        ("Answer: 179", "18", False),
        ("Answer: 1.9", "18", False),
        ("no number at all", "18", False),
        ("Answer: 18\nIn 200 words.", "18", False),
        ("คำตอบคือ ๑๘", "18", False),
    ],
)
def test_magnitude(text: str, target: str, off: bool) -> None:
    """Ten times too large or too small, to the digit, in any digits; nothing else."""
    assert magnitude(text, Decimal(target)) is off


def test_which_targets_are_numbers() -> None:
    """Thousands and native digits are read; zero has no magnitude, words and several numbers are no number."""
    assert number_of("1,234") == 1234
    assert number_of("১৮") == 18
    assert number_of("0") is None
    assert number_of("Paris") is None
    assert number_of("3 | 4") is None
    assert number_of("NaN") is None


def test_code_and_json_are_read_from_the_metrics() -> None:
    """What the scorer did not measure is not looked at; code that does not parse was not run."""
    assert from_metrics({"exact_match": 1.0}) == {}
    assert from_metrics({"parses": 0.0, "runs": 0.0, "passes": 0.0}) == {"code_syntax": True, "code_error": False}
    assert from_metrics({"parses": 1.0, "runs": 0.0, "passes": 0.0}) == {"code_syntax": False, "code_error": True}
    assert from_metrics({"parses": 1.0, "valid": 0.0}) == {"invalid_json": False, "invalid_schema": True}
    assert from_metrics({"parses": 0.0, "valid": 0.0}) == {"invalid_json": True, "invalid_schema": False}


def test_prose_leaves_out_code_and_short_quotations_but_not_a_whole_answer() -> None:
    """An answer that is one quotation is judged as it stands."""
    assert prose("`x = 1` Москва").strip() == "Москва"
    assert "Москва" not in prose('It is called "Москва" here')
    assert "Москва" in prose('"Москва"')


def test_declining_where_no_tool_fits_is_no_refusal():
    """The item asks for it; a wrong answer in the same words is one."""
    text = answer("I'm sorry, but I cannot do that with the tools available.")
    for doc, score, refused in (
        ({"tool_schemas": "[]"}, 1.0, False),
        ({"tool_schemas": "[]"}, 0.0, True),
        ({}, 1.0, True),
    ):
        assert examine(item(doc=doc), text, score, {}).signs["refusal"] == refused


def test_an_answer_is_examined_for_what_its_item_can_have() -> None:
    """Numbers for number items, scripts for items with a language; choices and unanswered items show nothing."""
    seen = examine(item(target="18", language="am"), answer("The price is 180", "length"), 0.0, {})
    assert seen.signs is not None
    shown = {kind for kind, shows in seen.signs.items() if shows}
    assert shown == {"truncated", "magnitude", "wrong_script"}
    assert set(seen.signs) | {"blow_up"} == set(possible(item(target="18", language="am")))
    assert seen.length == 4
    assert examine(item(target="18"), answer("180"), 1.0, {}).signs == dict.fromkeys(
        ("empty", "truncated", "repetition", "refusal", "magnitude"), False
    )
    logprobs = ChoiceLogprobs("task/1", (-1.0,), (1,), (True,), 1)
    assert examine(item(), logprobs, 1.0, {}).signs is None
    assert examine(item(), Unanswered("task/1", "over_context", 9), None, {}).signs is None
    assert possible(item(kind="choice")) == frozenset()


def test_a_line_of_ones_own_traffic_has_its_json_looked_at() -> None:
    """Its only metric is whether it fits; that it is JSON at all is found from the text."""
    own = item(doc={"scorer": "json_schema", "schema": "{}"})
    broken = examine(own, answer("{not json"), 0.0, {"score": 0.0}).signs
    wrong = examine(own, answer('{"a": 1}'), 0.0, {"score": 0.0}).signs
    assert broken is not None
    assert wrong is not None
    assert (broken["invalid_json"], broken["invalid_schema"]) == (True, False)
    assert (wrong["invalid_json"], wrong["invalid_schema"]) == (False, True)
    assert {"invalid_json", "invalid_schema"} <= possible(own)


def test_of_mixed_traffic_only_the_json_lines_may_show_bad_json(tmp_path: Path) -> None:
    """What a line may show before it is answered is what is looked at once it is scored, whatever its scorer."""
    lines: list[dict[str, Any]] = [
        {"scorer": "json_schema", "schema": {"type": "object"}},
        {"scorer": "json_schema", "schema": {"type": "array"}},
        {"scorer": "contains", "target": "Paris"},
        {"scorer": "numeric", "target": 18, "language": "sw"},
        {"scorer": "choice", "choices": ["a", "b"], "target": "a"},
    ]
    text = "\n".join(json.dumps({"prompt": f"Question {at}?", **line}) for at, line in enumerate(lines))
    (tmp_path / "mixed.jsonl").write_text(text, encoding="utf-8")
    data = {
        "name": "test",
        "baseline": {"model": "m"},
        "candidates": [{"name": "c", "quantization": "bnb-nf4"}],
        "slices": [{"name": "traffic", "options": {"file": str(tmp_path / "mixed.jsonl")}, "items": 9}],
    }
    items = load_items(parse({**data, "policy": {"tail_events": {"invalid_json": 0.01}}}), conftest.make_tokenizer())
    told = {one.doc["scorer"] for one in items if "invalid_json" in possible(one)}
    assert (len(items), told) == (5, {"json_schema"})
    scorer = Scorer(items)
    for one in items:
        if one.kind == "generate":
            signs = examine(one, answer("18 {not json"), *scorer.score(one, answer("18 {not json"))[:2]).signs
            assert set(signs or ()) | {"blow_up"} == set(possible(one)), one.doc["scorer"]
    (power,) = event_power(parse({**data, "policy": {"tail_events": {"invalid_json": 0.01}}}), items)
    assert (power.kinds, power.items) == (("invalid_json",), 2)


def test_hostile_and_huge_answers_do_no_harm() -> None:
    """Lone surrogates, a megabyte of one letter, nested brackets: a verdict in well under a second each."""
    for text in ("\ud800" * 200, "a" * 1_000_000, "(" * 50_000, '"' * 50_000, "ab" * 500_000, "`" * 9_999):
        start = time.perf_counter()
        assert set(examine(item(language="am", target="3"), answer(text), 0.0, {}).signs or {}) <= set(TAIL_KINDS)
        assert time.perf_counter() - start < 3


def test_looking_costs_little(shared_data: Path) -> None:
    """Every detector on a paragraph: a few hundred microseconds, printed."""
    path = shared_data / "sib200_test" / "annotated" / "swh_Latn" / "test.tsv"
    with path.open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    asked = item(language="sw", target="18")
    examine(asked, answer(texts[0]), 0.0, {})
    start = time.perf_counter()
    for text in texts:
        examine(asked, answer(text), 0.0, {})
    each = (time.perf_counter() - start) / len(texts)
    print(f"\nall detectors: {1e6 * each:.0f} µs an answer")
    assert each < 0.02
