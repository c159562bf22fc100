"""The user's own JSON-lines file: validated whole, asked turn by turn, judged line by line, private in its messages."""

from __future__ import annotations

import json
import shutil

import conftest
import pytest
from test_slices import experiment

from harness.config.loading import parse
from harness.errors import ConfigError, UsageError
from harness.judge import judging
from harness.records import ChoiceLogprobs, Generation
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.progress import Reporter
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run
from harness.suite.items import _list_in
from harness.suite.sandbox import missing
from harness.suite.scorer import Scorer, load_items
from harness.suite.toolkit.scoring import contains_any
from harness.suite.toolkit.traffic import BadRows, read_rows

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
GOOD = [
    {"id": "a", "prompt": "Capital of France?", "scorer": "exact", "target": "Paris",
     "strata": {"plan": "free", "churned": True}},
    {"id": "b", "prompt": "Order 4471?", "scorer": "contains", "target": ["4471", "No. 4,471"],
     "strata": {"plan": "paid"}},
    {"id": "c", "prompt": "What is 3 / 4?", "scorer": "numeric", "target": 0.75, "tolerance": 0.01,
     "weight": 5, "cluster": "sums"},
    {"id": "d", "prompt": "Give a date.", "scorer": "regex", "target": r"\d{4}-\d\d-\d\d", "strata": {"plan": "paid"}},
    {"id": "e", "prompt": "The city as JSON.", "scorer": "json_schema", "schema": SCHEMA},
    {"id": "f", "prompt": "Translate: good morning", "scorer": "chrf", "target": "bonjour", "language": "fr"},
    {"id": "g", "prompt": "Spam?", "scorer": "choice", "choices": ["yes", "no"], "target": "no",
     "strata": {"plan": "free"}},
    {
        "id": "h",
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "What did I say?"},
        ],
        "scorer": "contains",
        "target": "hello",
    },
]  # fmt: skip


def write(path, rows):
    """Write rows as JSON lines and give the file."""
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module")
def tokenizer():
    """The small tokenizer of the tests, with a chat template."""
    return conftest.make_tokenizer(100_000)


def load(tokenizer, file, **more):
    """The items of a file, by their names."""
    sampling = more.pop("sampling", {})
    spec = {"name": "traffic", "options": {"file": str(file)}, **more}
    return {item.id.split("/")[1]: item for item in load_items(experiment(spec, **sampling), tokenizer)}


@pytest.fixture
def items(tokenizer, tmp_path):
    """The items of the good rows."""
    return load(tokenizer, write(tmp_path / "traffic.jsonl", GOOD))


def test_every_line_becomes_an_item(items):
    """Weight, cluster, language, levels and kind are what the line says; an axis that it leaves out is `none`."""
    assert set(items) == set("abcdefgh")
    assert items["c"].weight == 5
    assert items["c"].cluster == "sums"
    assert items["f"].language == "fr"
    assert items["g"].kind == "choice"
    assert items["g"].choices == ("yes", "no")
    assert items["g"].chance == 0.5
    assert items["a"].levels == {"task": "written", "plan": "free", "churned": "true"}
    assert items["e"].levels == {"task": "written", "plan": "none", "churned": "none"}


def test_a_question_asked_twice_is_one_source(tokenizer, tmp_path):
    """Its answer is the same whatever its id, so that thirty questions asked a thousand times are thirty."""
    one = {"prompt": "Where is my order?", "scorer": "contains", "target": "here"}
    rows = [one | {"id": "r1"}, one | {"id": "r2", "weight": 9}, one | {"id": "r3", "cluster": "shop"}]
    rows += [
        one | {"id": "r4", "prompt": "Where?"},
        {**one, "id": "r5", "messages": [{"role": "user", "content": "x"}]},
    ]
    del rows[-1]["prompt"]
    system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where?"}]
    rows.append({"id": "r6", "messages": system, "scorer": "contains", "target": "here"})
    found = load(tokenizer, write(tmp_path / "traffic.jsonl", rows))
    sources = {name: item.cluster.rpartition("/")[2] for name, item in found.items()}
    assert sources == {"r1": "r1", "r2": "r1", "r3": "r1", "r4": "r4", "r5": "r5", "r6": "r6"}


RIGHT = {
    "a": ["Paris", " Paris\n"],
    "b": ["It is order 4471, on its way.", "no. 4,471"],
    "c": ["0.75", "So 3 / 4 is 0.745", "Answer: 0.76 roughly 2"],
    "d": ["On 2024-02-29 then"],
    "e": ['{"city": "Rome"}', '```json\n{"city": "Rome", "more": [1]}\n```'],
    "f": ["bonjour"],
    "h": ["You said HELLO."],
}
WRONG = {
    "a": ["paris", "Paris.", ""],
    "b": ["order 447"],
    "c": ["0.70", "none"],
    "d": ["on 29 February"],
    "e": ['{"town": "Rome"}', 'Here: {"city": "Rome"}', '{"city": "Rome"', '{"city": NaN}', "null", ""],
    "f": ["xyz"],
    "h": ["nothing"],
}


def test_each_line_is_judged_by_its_own_scorer(items):
    """Right answers score 1 and wrong ones 0 under every scorer."""
    scorer = Scorer(list(items.values()))
    for expected, answers in ((1.0, RIGHT), (0.0, WRONG)):
        for name, texts in answers.items():
            for text in texts:
                found, *_ = scorer.score(items[name], Generation(items[name].id, text, (), "eos", 1))
                assert found == expected, (name, text)


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [(12345.67, "12345.67", "12345.7"), (1234567.0, "1234567", "1234570"), (0.123456789, "0.123456789", "0.123457"),
     (True, "true", "1")],
)  # fmt: skip
def test_a_target_is_read_digit_by_digit(tokenizer, tmp_path, target, right, wrong):
    """A number of JSON keeps all its digits, and true is no 1."""
    scorer = "exact" if target is True else "numeric"
    file = write(tmp_path / "t.jsonl", [{"id": "a", "prompt": "How much?", "scorer": scorer, "target": target}])
    item = load(tokenizer, file)["a"]
    with Scorer([item]) as scored:
        assert [scored.score(item, Generation(item.id, text, (), "eos", 1)).value for text in (right, wrong)] == [1, 0]


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [("4471", "order #4471.", "order 44712"), ("4", "4 items, 14 in all", "14"), ("5 %", "a5 %", "15 %"),
     ("12", "1,12,3: it is 12.", "12.5 or 12,000"), ("500", "$500", "1,500"), ("3.5", "3.5", "13.5, 3.55")],
)  # fmt: skip
def test_a_number_to_contain_is_not_part_of_a_longer_one(target, right, wrong):
    """14 does not contain 4; a letter beside it does not matter."""
    assert (contains_any(right, [target]), contains_any(wrong, [target])) == (1.0, 0.0)


def test_chrf_is_sacrebleus(items):
    """A near answer scores what sacrebleu says, divided by 100.

    >>> sacrebleu.sentence_chrf("bonsoir", ["bonjour"]).score
    27.526...
    """
    import sacrebleu

    found, *_ = Scorer(list(items.values())).score(items["f"], Generation(items["f"].id, "bonsoir", (), "eos", 1))
    assert found == pytest.approx(sacrebleu.sentence_chrf("bonsoir", ["bonjour"]).score / 100)
    assert 0 < found < 1


def test_choices_are_weighed(items):
    """The likelier choice per byte is taken."""
    scorer = Scorer(list(items.values()))
    right = ChoiceLogprobs(items["g"].id, (-9.0, -2.0), (1, 1), (False, True), 9)
    wrong = ChoiceLogprobs(items["g"].id, (-3.0, -5.0), (1, 1), (True, False), 9)
    assert scorer.score(items["g"], right)[0] == 1.0
    assert scorer.score(items["g"], wrong)[0] == 0.0


def test_conversations_are_asked_turn_by_turn(items, tokenizer):
    """With a template the prompt is the template's own of these turns; without one it is a transcript."""
    expected = tokenizer.apply_chat_template(GOOD[-1]["messages"], tokenize=False, add_generation_prompt=True)
    assert items["h"].prompt == expected


@pytest.mark.parametrize("told", [[{"role": "user", "content": "?"}], "hello", "3", '["a"]', {"role": "user"}])
def test_a_conversation_that_is_no_list_as_json_is_refused(told):
    """Documents of an own task may hold anything."""
    with pytest.raises(UsageError, match="write a list of objects as JSON text"):
        _list_in({"turns": told}, "turns")
    assert _list_in({"turns": '[{"role": "user"}]'}, "turns") == [{"role": "user"}]


def test_conversations_without_a_template_are_transcripts(tokenizer, tmp_path):
    """Where no template is used, the turns are written out with who speaks, the system message first."""
    plain = load(tokenizer, write(tmp_path / "t.jsonl", GOOD), sampling={"chat_template": False})
    assert plain["h"].prompt == "You are terse.\n\nUser: Hello\n\nAssistant: Hi.\n\nUser: What did I say?"


def test_a_system_message_of_the_run_comes_first(tokenizer, tmp_path):
    """The config's system message and the line's own stand in one, as lm_eval joins them."""
    both = load(tokenizer, write(tmp_path / "t.jsonl", GOOD), sampling={"system": "Be kind."})
    assert both["h"].prompt.startswith("<|system|>Be kind.\n\nYou are terse.<eos><|user|>Hello")
    assert both["a"].prompt == "<|system|>Be kind.<eos><|user|>Capital of France?<eos><|assistant|>"


def test_one_answer_to_all_is_what_guessing_scores(tokenizer, tmp_path):
    """A candidate that says no to everything loses nothing where no is nearly always right: no signal of it there."""
    rows = []
    for at in range(40):
        rare = at % 10 == 0
        asked = {"id": f"a{at}", "scorer": "exact", "target": "yes" if rare else "no", "strata": {"kind": "fraud"}}
        weighed = {"id": f"b{at}", "scorer": "choice", "choices": ["ok", "bad"], "strata": {"kind": "safe"}}
        free = {"id": f"c{at}", "scorer": "exact", "target": f"{at}", "strata": {"kind": "free"}}
        label = {"id": f"d{at}", "scorer": "exact", "target": "cat", "strata": {"kind": "cats"}}
        half = {"id": f"e{at}", "scorer": "exact", "target": f"{at}" if at % 2 else "none", "strata": {"kind": "half"}}
        rows += [asked, weighed | {"target": "bad" if at % 4 == 0 else "ok"}, free, label, half]
    file = write(tmp_path / "traffic.jsonl", [{"prompt": "Well?"} | row for row in rows])
    items = load(tokenizer, file, split_by=["kind"], items=40)
    found = {item.stratum: item.chance for item in items.values()}
    assert found == {"kind=fraud": 0.9, "kind=safe": 0.75, "kind=free": 0.0, "kind=cats": 0.25, "kind=half": 0.5}


def judged(tokenizer, folder, labels, texts):
    """The scores of texts as answers to a line of each of two labels."""
    rows = [{"id": f"{at}", "prompt": "Well?", "scorer": "contains", "target": labels[at % 2]} for at in range(40)]
    items = load(tokenizer, write(folder / "labels.jsonl", rows), items=40)
    with Scorer(list(items.values())) as scorer:
        return {
            text: [scorer.score(items[at], Generation("", text, (), "eos", 1)).value for at in "01"] for text in texts
        }


@pytest.mark.parametrize("strata", ["task", "label", None])
def test_labels_of_another_task_are_no_rivals(tokenizer, tmp_path, strata):
    """A file may hold several tasks, told apart by a stratum; one that is split by the labels themselves tells none."""
    rows = []
    for at in range(80):
        task, labels = ("mood", ("positive", "negative")) if at % 2 else ("asks", ("yes", "no"))
        target = labels[at // 2 % 2]
        told = {"task": task, "label": target}
        rows.append(
            {"id": f"{at}", "prompt": f"{at}?", "scorer": "contains", "target": target}
            | ({"strata": {strata: told[strata]}} if strata else {})
        )
    items = load(tokenizer, write(tmp_path / "tasks.jsonl", rows), items=80)
    with Scorer(list(items.values())) as scorer:
        for at, said, apart in [("1", "Positive. There is no complaint.", 1), ("0", "Yes, a positive one.", 1)]:
            found = scorer.score(items[at], Generation("", said, (), "eos", 1)).value
            assert found == (apart if strata == "task" else 0)
        listed = scorer.score(items["1"], Generation("", "positive, negative", (), "eos", 1)).value
        assert listed == 0


def test_who_lists_all_labels_names_none(tokenizer, tmp_path):
    """Of few labels to contain, an answer with another one is wrong: `invalid` contains valid; open answers may."""
    said = {"It is Invalid.": [0, 1], "VALID!": [1, 0], "valid or invalid": [0, 0]}
    assert judged(tokenizer, tmp_path, ("valid", "invalid"), said) == said
    said = {
        "This is not spam.": [0, 0],
        "It isn\u2019t a **spam**": [0, 0],
        "ham, not spam": [0, 1],
        "Non-spam": [0, 0],
        "Urgent: no\nspam": [1, 0],
        "There is no doubt that it is spam": [1, 0],
        "No, it is spam": [1, 0],
    }
    assert judged(tokenizer, tmp_path, ("spam", "ham"), said) == said
    said = {"This is not spam.": [0, 1], "spam": [1, 0], "spam, not ham": [1, 0]}
    assert judged(tokenizer, tmp_path, ("spam", "not spam"), said) == said
    said = {"This isn't spam.": [0, 1], "It does not appear to be spam": [0, 1], "It is not not spam": [0, 0]}
    assert judged(tokenizer, tmp_path, ("spam", "not spam"), said) == said
    said = {"The comment is not toxic.": [0, 1], "Non-toxic": [0, 1], "I don't think it's non-toxic": [0, 0]}
    assert judged(tokenizer, tmp_path, ("toxic", "non-toxic"), said) == said
    free = [{"prompt": "Well?", "scorer": "contains", "target": f"order {at}"} for at in range(40)]
    assert all("others" not in item.doc for item in load(tokenizer, write(tmp_path / "t.jsonl", free)).values())


@pytest.mark.parametrize(
    "loop", ["or it, ", "nor ", "any or nor ", "a b ", "very rude, ", "not rude, ", "is not been "]
)
def test_an_answer_that_loops_behind_a_negation_is_read_at_once(tokenizer, tmp_path, loop):
    """What broken builds write may not keep the scorer: its time grows with the text, not with its square."""
    rows = [{"prompt": f"Mail {at}?", "scorer": "contains", "target": ("spam", "not spam")[at % 2]} for at in range(40)]
    (item, *_), text = load(tokenizer, write(tmp_path / "a.jsonl", rows)).values(), f"It is not clear, {loop * 20_000}"
    with Scorer([item]) as scorer:
        assert scorer.score(item, Generation("", text, (), "length", 1)).value == 0


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("-1", "1"), {"-1": [1, 0], "1": [0, 1], "**\u22121**": [1, 0], "+1": [0, 1], "It is 1, not -1": [0, 1]}),
        (("C", "C++"), {"C": [1, 0], "C++": [0, 1], "C++17": [0, 1], "C\\+\\+": [0, 1], "C or C++": [0, 0]}),
        (("A", "A-"), {"A": [1, 0], "Grade: A-.": [0, 1], "A (not A-)": [1, 0], "A-level work": [1, 0]}),
        (("A-", "AA-"), {"AA-": [0, 1], "A-": [1, 0], "AA": [0, 0]}),
        ((">", ">="), {">": [1, 0], "a >= b": [0, 1], "<answer>></answer>": [1, 0], "b": [0, 0]}),
        (("\U0001f44d", "\U0001f44e"), {"\U0001f44d!": [1, 0], "\U0001f44d or \U0001f44e": [0, 0]}),
        (("\u2714\ufe0f", "\u274c\ufe0f"), {"\u2714": [1, 0], "\u274c\ufe0f": [0, 1]}),
        (("-", "+"), {"+ - a fine text": [0, 1], "-": [1, 0], "Verdict: -": [1, 0]}),
        (("C\u8a00\u8a9e", "C"), {"\u3053\u308c\u306fC\u8a00\u8a9e\u3067\u3059": [1, 0]}),
    ],
)
def test_labels_that_signs_alone_tell_apart_are_not_taken_for_each_other(tokenizer, tmp_path, labels, said):
    """`-1` is not 1, `C++` not C and `>=` not >; the label itself is found in whatever form it is written."""
    assert judged(tokenizer, tmp_path, labels, said) == said


REJECTED = """This is not really spam.|I do not believe this message is spam.|I would not classify this as spam.
This message is unlikely to be spam.|I cannot determine whether this is spam.|It's hardly spam|"spam": false|spam? No.
I don't think that this message is likely to be a spam|I'm not sure if it is spam|There is no evidence of spam.|nospam
It is a real message rather than spam.|spam or ham|The options are: spam, ham.|Das ist kein Spam.|Nicht Spam.
Es handelt sich nicht um Spam.|Ce n'est pas un spam|No es spam.|Spam: no"""
NAMED = """no doubt this is spam|It is spam, not ham.|This is definitely spam|not ham but spam|Spam|**spam**
I believe this message is spam.|I'm not sure, but I think this is spam.|I cannot tell. Spam|spam: no doubt
It is not unlikely to be spam|ham: no, spam: yes|spam rather than ham|Kein Ham, sondern Spam|spam: No. 1 type
There is no sign of ham: spam|spam\\n\\nThe sender is not known.|Sender known: no\\nLabel: spam"""


@pytest.mark.parametrize("others", [0, 100])
def test_a_label_is_not_named_by_who_rejects_or_doubts_it(tokenizer, tmp_path, others):
    """Nor is it in a file that asks other things, too; what rejects another label, or doubts nothing, names it."""
    rows = [{"prompt": f"Mail {at}?", "scorer": "contains", "target": ("spam", "ham")[at % 2]} for at in range(60)]
    rows += [{"prompt": f"Order {at}?", "scorer": "contains", "target": f"not A{at}"} for at in range(others)]
    items = list(load(tokenizer, write(tmp_path / "mixed.jsonl", rows), items=400).values())
    spam = next(one for one in items if one.target == "spam")
    with Scorer(items) as scorer:
        for said, expected in ((REJECTED, 0), (NAMED, 1)):
            for text in (one.replace("\\n", "\n") for line in said.splitlines() for one in line.split("|")):
                assert scorer.score(spam, Generation("", text, (), "eos", 1)).value == expected, text
        for one in (one for one in items if one.target.startswith("not")):
            assert scorer.score(one, Generation("", f"{one.target} is spam or ham", (), "eos", 1)).value == 1


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("A", "B"), {"I'm sorry, but I can't help.": [0, 0], "Label: **": [0, 0], "It is a clear case of B.": [0, 1]}),
        (("no", "yes"), {"I do not know.": [0, 0], "No.": [1, 0], "The eyes": [0, 0], "yes!": [0, 1]}),
        (
            ("no", "yes"),
            {key: [0, 0] for key in ["I have no idea.", "There is no information about it.", "No lo sé."]}
            | {
                key: [0, 0]
                for key in ["Yes, I can help you with that! Please send it.", "Yes. What would you like to know?"]
            }
            | {
                "Yes, I can help you. The answer: Yes.": [0, 1],
                "Yes, he can help you.": [0, 1],
                "no way to know": [0, 0],
            }
            | {
                key: [1, 0]
                for key in ["No, the customer does not", "no refund was asked for", "The answer is no, as far"]
            },
        ),
        (
            ("allow", "block"),
            {"It should not have been allowed.": [0, 0], "block, not allowed": [0, 1], "It is allowed.": [1, 0]},
        ),
        (
            ("spam", "ham"),
            {
                "It should not be flagged as spam.": [0, 0],
                "It does not qualify as spam.": [0, 0],
                "It doesn't meet the criteria for spam.": [0, 0],
                "There is no hint of spam in it.": [0, 0],
                "I would flag it as spam.": [1, 0],
            },
        ),
        (
            ("toxic", "not toxic"),
            {
                key: [0, 1]
                for key in [
                    "The comment is not offensive or toxic.",
                    "It is not particularly toxic.",
                    "It does not contain insults or toxic language.",
                    "Toxic: no",
                    "Toxic: none",
                    "There is no clear indication of toxic language.",
                ]
            }
            | {"It is not rude, insulting or toxic.": [0, 0], "It doesn't lack toxic language.": [1, 0]}
            | {"It is unclear whether this is toxic.": [0, 0], "Not only toxic but rude: toxic": [1, 0]},
        ),
        (("order", "refund"), {"Order not found": [1, 0], "Their refund was denied.": [0, 1]}),
        (
            ("escalate", "resolve"),
            {"No need to escalate.": [0, 0], "You don't need to escalate": [0, 0], "Unable to escalate": [0, 0]}
            | {"Escalate: it is not resolvable.": [1, 0]},
        ),
        (
            ("hate", "neither"),
            {"It is neither hate nor offensive speech": [0, 1], "neither": [0, 1], "hate": [1, 0]},
        ),
        (("fraud", "not fraud"), {"It is not fraudulent.": [0, 1], "fraud is unlikely": [0, 1]}),
        (("fraud", "legitimate"), {"It does not appear to be fraudulent.": [0, 0], "fraudulent": [1, 0]}),
        (
            ("low", "high"),
            {"Low. It is highly unlikely to get worse.": [1, 0], "Not high": [0, 0], "not a low one: high": [0, 1]},
        ),
        (("approve", "approved"), {"It is approved": [0, 1], "I approve": [1, 0]}),
        (("no", "yes"), {"The message contains no personal information.": [1, 0], "No data was lost": [1, 0]}),
        (
            ("correct", "wrong"),
            {"It is incorrect.": [0, 0], "Correct!": [1, 0], "\u7b54\u3048\u306fcorrect\u3067\u3059": [1, 0]},
        ),
        (
            ("zutreffend", "nicht zutreffend"),
            {"Nicht zutreffend": [0, 1], "Zutreffend": [1, 0], "zutreffend: nein": [0, 1]},
        ),
        (("relevant", "hardly relevant"), {"Hardly relevant.": [0, 1], "relevant": [1, 0]}),
        (("likely", "unlikely"), {"It is unlikely.": [0, 1], "Very likely": [1, 0]}),
        (("olumlu", "olumsuz"), {"Bu yorum olumludur.": [1, 0]}),
        (
            ("refund", "complaint", "question"),
            {"I can help you with refunds, complaints and questions.": [0, 0], "Refunds.": [1, 0]},
        ),
        (
            ("A", "B", "C", "D"),
            {"I'd be happy to help!": [0, 0], "N/A": [0, 0], "A passage was not provided.": [0, 0]}
            | {"I'd say B.": [0, 1], "A is right": [1, 0], "C\u2019est A": [1, 0], "D'après le texte": [0, 0]}
            | {"Doğru cevap B'dir.": [0, 1], "A ist richtig.": [1, 0], "Option A correctly names it.": [1, 0]}
            | {"It isn't B.": [0, 0], "The answer isn't A, it's B.": [0, 1], "A question is missing.": [0, 0]},
        ),
        (("C", "Java"), {"This isn't Java.": [0, 0], "It's written in C.": [1, 0]}),
        (("I", "C"), {"I think the answer is C.": [0, 1], "I cannot answer this.": [0, 0], "I.": [1, 0]}),
        (("হ্যাঁ", "না"), {"এটি একটি নমুনা প্রশ্ন।": [0, 0], "উত্তর: **না**": [0, 1]}),
        (("सही", "गलत"), {"गलती के लिए क्षमा करें।": [0, 0], "यह कथन गलत है।": [0, 1]}),
        (("კი", "არა"), {"კითხვა გაუგებარია.": [0, 0], "პასუხი: კი": [1, 0]}),
        (("አዎ", "አይ"), {"ይህን ጥያቄ መመለስ አይቻልም።": [0, 0], "አይ፣ ትክክል አይደለም።": [0, 1]}),
        (
            ("4", "5", "1", "2", "3"),
            {"4/5": [1, 0], "4 out of 5": [1, 0], "5/5": [0, 1], "4 or 5": [0, 0], "4 (on a scale of 1 to 5)": [1, 0]},
        ),
        (("1", "2"), {"1/2": [0, 0], "1": [1, 0]}),
        (("4", "5", "1"), {"**4** out of 5": [1, 0], "On a scale of 1 to 5, I'd give it a 4.": [1, 0]}),
        (("IT", "HR"), {"It is not clear.": [0, 0], "It should go to HR.": [0, 1], "It.": [1, 0], "It's IT.": [1, 0]}),
        (("AT", "DE"), {"Please look at your order page.": [0, 0], "AT": [1, 0], "Country: AT": [1, 0]}),
        (("NEW", "OPEN"), {"This is a new ticket.": [1, 0], "New ticket": [1, 0]}),
        (("ON", "OFF"), {"The light should be on.": [1, 0], "Turn it off.": [0, 1]}),
        (("no", "mild"), {"No pain.": [1, 0], "There is no pain.": [1, 0], "mild": [0, 1]}),
        (("iyi", "kötü"), {"İyi bir yorum.": [1, 0]}),
        (("إيجابي", "سلبي"), {"يُصنف النص كإيجابي.": [1, 0], "إيجابية وسلبية": [0, 0]}),
        (("חיובי", "שלילי"), {"הביקורת מסווגת כחיובית.": [1, 0]}),
        (
            ("sí", "no"),
            {"No tengo suficiente información.": [0, 0], "No, no es así.": [0, 1], "Sí, no hay problema.": [1, 0]},
        ),
        (("да", "нет"), {"У меня нет информации.": [0, 0], "Нет.": [0, 1], "Нет, потому что рано": [0, 1]}),
        (("yes", "no"), {"There is no answer.": [0, 0], "No mention of it.": [0, 0], "No, it is not.": [0, 1]}),
        (("cancel_order", "track_order"), {"**cancel\\_order**": [1, 0], "track_order": [0, 1]}),
        (("да", "нет"), {"Да, это так.": [1, 0], "Данные отсутствуют": [0, 0], "Ответ: **нет**": [0, 1]}),
        (("sí", "no"), {"¡Sí!": [1, 0], "El texto describe así la situación": [0, 0]}),
        (("참", "거짓"), {"참입니다.": [1, 0], "참고로 텍스트가 없습니다": [0, 0], "비참하다": [0, 0]}),
        (("긍정", "부정"), {"이 리뷰는 긍정적이다": [1, 0]}),
        (("нормально", "спам"), {"Это ненормально": [0, 0], "Всё нормально": [1, 0]}),
        (("صحيح", "خطأ"), {"الجواب: الصحيح": [1, 0], "تصحيح": [0, 0]}),
        (("\uc2a4\ud338", "\uc815\uc0c1"), {"\uc2a4\ud338\uc785\ub2c8\ub2e4.": [1, 0]}),
    ],
)
def test_a_label_begins_a_word(tokenizer, tmp_path, labels, said):
    """An antonym is not its word, and a short label no part of one; endings and scripts without spaces may follow."""
    assert judged(tokenizer, tmp_path, labels, said) == said


@pytest.mark.parametrize(
    ("row", "guess"),
    [
        (lambda at: {"scorer": "numeric", "target": 1 + at % 5, "tolerance": 1}, 0.59),
        (lambda at: {"scorer": "numeric", "target": at, "tolerance": 0.5}, 0.0),
        (lambda at: {"scorer": "contains", "target": f"order {at:03}"}, 0.0),
        (lambda at: {"scorer": "json_schema", "schema": {"type": "object", "properties": {"a": {}}}}, 1.0),
        (lambda at: {"scorer": "json_schema", "schema": SCHEMA}, 0.0),
        (lambda at: {"scorer": "regex", "target": r"\w" if at % 2 else "moo+n"}, 0.5),
        (lambda at: {"scorer": "regex", "target": "^(?!.*sorry)"}, 1.0),
        (lambda at: {"scorer": "regex", "target": rf"^(?!.*sorry).*\b{at}\b"}, 0.0),
        (lambda at: {"scorer": "chrf", "target": f"The cat number {at} sleeps in the garden"}, 0.89),
    ],
)
def test_guessing_is_scored_as_answers_are(tokenizer, tmp_path, row, guess):
    """One answer to all scores what the lines' scorers give it: 3 of 5 ratings are within 1 of another."""
    file = write(tmp_path / "t.jsonl", [{"prompt": f"Question {at}?"} | row(at) for at in range(100)])
    items = load(tokenizer, file, items=100)
    (chance,) = {item.chance for item in items.values()}
    assert chance == pytest.approx(guess, abs=0.06)


def test_users_who_left_can_be_a_stratum(tokenizer, tmp_path):
    """A label is an axis: it splits and filters like any other."""
    file = write(tmp_path / "t.jsonl", GOOD)
    split = load(tokenizer, file, split_by=["churned"])
    assert {item.stratum for item in split.values()} == {"churned=true", "churned=none"}
    assert set(load(tokenizer, file, axes={"plan": ["paid"]})) == {"b", "d"}
    assert set(load(tokenizer, file, axes={"plan": ["free"]})) == {"a", "g"}


def test_items_is_the_most_per_stratum_and_lasts(tokenizer, tmp_path):
    """Of many lines so many are kept, the same ones in whatever order the file has them."""
    rows = [{"prompt": f"Say {n}", "scorer": "contains", "target": str(n)} for n in range(40)]
    some = load(tokenizer, write(tmp_path / "one.jsonl", rows), items=10)
    assert len(some) == 10
    assert set(load(tokenizer, write(tmp_path / "two.jsonl", rows[::-1]), items=10)) == set(some)


BAD = [
    ('{"prompt": "x"', "is not JSON"),
    ("[1]", "is not a JSON object"),
    ({"scorer": "exact", "target": "x"}, "give either prompt or messages"),
    ({"prompt": " ", "scorer": "exact", "target": "x"}, "prompt is empty"),
    ({"prompt": "secret", "target": "x"}, "scorer: is missing"),
    ({"prompt": "secret", "scorer": "exacct", "target": "x"}, "scorer is none of exact, choice"),
    ({"prompt": "secret", "scorer": "exact"}, "needs a target"),
    ({"prompt": "secret", "scorer": "numeric", "target": "many"}, "needs a number"),
    ({"prompt": "secret", "scorer": "regex", "target": "("}, "not a regular expression"),
    ({"prompt": "secret", "scorer": "regex", "target": "\\d*"}, "found in every answer"),
    ({"prompt": "secret", "scorer": "regex", "target": ["\\d+", "(?i)yes|"]}, "found in every answer"),
    ({"prompt": "secret", "scorer": "json_schema"}, "needs a schema"),
    ({"prompt": "secret", "scorer": "json_schema", "schema": {"type": "objct"}}, "is not JSON Schema"),
    ({"prompt": "secret", "scorer": "json_schema", "schema": {"$ref": "http://x/y"}}, "another document"),
    ({"prompt": "secret", "scorer": "choice", "choices": ["a"], "target": "a"}, "two or more different choices"),
    ({"prompt": "secret", "scorer": "choice", "choices": ["a", "b"], "target": "c"}, "not one of the choices"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "choices": ["a", "b"]}, "choices is read by choice alone"),
    (
        {"prompt": "secret", "scorer": "json_schema", "schema": {"type": "object"}, "target": "{}"},
        "target is read by exact and choice and numeric and contains and regex and chrf alone",
    ),
    ({"prompt": "secret", "scorer": "json_schema", "schema": {"type": "integer"}, "target": 0}, "target is read"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["assert f(1) == 2"], "target": "2"}, "target is read"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "schema": {"type": "object"}}, "schema is read by"),
    ({"prompt": "secret", "scorer": "contains", "target": "4", "tolerance": 0.5}, "tolerance is read by numeric alone"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "weight": 0}, "weight"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "weigth": 1}, "weigth: is not a key here"),
    ('{"prompt": "secret", "scorer": "exact", "target": "x", "weight": NaN}', "NaN is no JSON number"),
    ('{"prompt": "secret", "scorer": "exact", "target": "x", "target": "y"}', "is given twice"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "language": "jp"}, "language is none that is known"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "weight": 1e308}, "weight: input should be less than"),
    ({"prompt": "secret", "scorer": "code_tests"}, "needs tests that are not empty"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["assert f(", "x"]}, "test 1 is not Python"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["f()"], "setup": "import"}, "setup is not Python"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["f()"], "code_language": "perl"}, "code_language"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["assert math.sqrt(f())"]}, "use math without defining it"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["assert sum([1]) == 1"]}, "every answer would pass"),
    ({"id": "q7", "prompt": "secret", "scorer": "code_tests", "tests": ["f(2) == 4"]},
     "item q7: the tests assert nothing"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["f(2)"], "functions": ["f"]}, "write `assert f(2) == 4`"),
    ({"prompt": "secret", "scorer": "code_tests", "tests": ["f(2) === 4;"], "code_language": "javascript"},
     "write `console.assert(f(2) === 4)`"),
    ({"prompt": "secret", "scorer": "exact", "target": "x", "tests": ["f()"]}, "tests is read by code_tests alone"),
    ({"prompt": "secret", "scorer": "chrf"}, "needs a target"),
    ({"prompt": "secret", "scorer": "contains", "target": " "}, "needs a target"),
    ({"messages": [{"role": "assistant", "content": "secret"}], "scorer": "exact", "target": "x"},
     "must end with the user"),
    ({"messages": [{"role": "bot", "content": "secret"}], "scorer": "exact", "target": "x"}, "messages.0.role"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_line_is_named_and_not_quoted(row, message, tmp_path):
    """Each bad line gives its number and the rule; what the user wrote in it is not repeated."""
    file = write(tmp_path / "traffic.jsonl", [GOOD[0], row])
    with pytest.raises(BadRows) as caught:
        read_rows(file)
    assert "traffic.jsonl:2: " in str(caught.value)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_bad_lines_come_at_once_in_the_config_error(tokenizer, tmp_path):
    """Every bad line is a problem of its own at the option that names the file, once, though two tasks read it."""
    file = write(tmp_path / "traffic.jsonl", [GOOD[0], {"prompt": "x"}, GOOD[1], GOOD[1], "{"])
    with pytest.raises(ConfigError) as caught:
        load(tokenizer, file)
    assert [problem.path for problem in caught.value.problems] == ["slices[0].options.file"] * 3
    assert "its id is that of line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"options": {}}, "name the file"),
        ({"options": {"file": "no-such-file.jsonl"}}, "no-such-file.jsonl"),
        ({"axes": {"plann": ["free"]}}, "'plann'"),
        ({"axes": {"plan": ["gold"]}}, "nothing to ask"),
        ({"axes": {"plan": ["gold", "free"]}}, "no item has the level 'gold'"),
        ({"axes": {"plan": ["gold", "free"]}, "split_by": ["plan"], "items": 1}, "no item has the level 'gold'"),
        ({"axes": {"plan": [False, "free"]}}, "'false': write it in quotes"),
        ({"split_by": ["plann"]}, "'plann'"),
        ({"options": {"file": "x", "files": "y"}}, "Did you mean 'file'"),
    ],
)
def test_what_is_wrong_around_the_file_is_said(more, message, tokenizer, tmp_path):
    """No file, a missing file, an axis or level that no line has: each is a clear problem."""
    file = write(tmp_path / "traffic.jsonl", GOOD)
    spec = {"name": "traffic", "options": {"file": str(file)}, **more}
    with pytest.raises(ConfigError, match=message):
        load_items(experiment(spec), tokenizer)


def test_an_empty_file_is_refused(tmp_path):
    """A file without a question is no slice."""
    with pytest.raises(BadRows, match="holds no question"):
        read_rows(write(tmp_path / "traffic.jsonl", ["", ""]))


# ------------------------------------------------------------------------------------------------- code that is run

CODE = [
    {"id": "slug", "prompt": "Write slug(title).", "scorer": "code_tests", "strata": {"team": "web"},
     "tests": ["assert slug('Two Words') == 'two-words'", "assert re.match('a', slug('A'))"], "setup": "import re"},
    {"id": "stack", "prompt": "Write a class Stack.", "scorer": "code_tests", "strata": {"team": "web"}, "weight": 2,
     "tests": ["s = Stack()\ns.push(1)\nassert s.pop() == 1"]},
    {"id": "say", "prompt": "Say hello.", "scorer": "contains", "target": "hello", "strata": {"team": "chat"}},
]  # fmt: skip
SLUG = "def slug(title):\n    return title.lower().replace(' ', '-')\n"
STACK = "class Stack(list):\n    push = list.append\n"


@pytest.mark.skipif(bool(missing("python")), reason=missing("python") or "-")
def test_code_is_judged_by_the_lines_own_tests(tokenizer, tmp_path):
    """Functions and classes, fenced in prose or bare, pass their tests; wrong ones and mere claims do not."""
    items = load(tokenizer, write(tmp_path / "t.jsonl", CODE))
    assert {name: item.task for name, item in items.items()} == {
        "slug": "quantcliff_traffic_code",
        "stack": "quantcliff_traffic_code",
        "say": "quantcliff_traffic",
    }
    assert items["slug"].levels == {"task": "code", "team": "web"}
    assert items["stack"].weight == 2
    scorer = Scorer(list(items.values()), allow_code=True)

    def score(name, text):
        return scorer.score(items[name], Generation(items[name].id, text, (), "eos", 1))[:2]

    assert score("slug", SLUG) == (1.0, {"passes": 1.0, "runs": 1.0, "parses": 1.0})
    assert score("slug", f"Here it is:\n\n```python\n{SLUG}```\nIt works.")[0] == 1.0
    assert score("stack", f"```python\n{STACK}```")[0] == 1.0
    assert score("slug", SLUG.replace("lower", "upper")) == (0.0, {"passes": 0.0, "runs": 1.0, "parses": 1.0})
    assert score("slug", "All tests pass.")[1] == {"passes": 0.0, "runs": 0.0, "parses": 0.0}
    assert score("stack", "def slug(): pass")[1] == {"passes": 0.0, "runs": 1.0, "parses": 1.0}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH")
def test_javascript_of_the_users_own_is_judged_too(tokenizer, tmp_path):
    """A line may ask for JavaScript; its tests are JavaScript."""
    row = {"id": "js", "prompt": "Write add(a, b).", "scorer": "code_tests", "code_language": "javascript",
           "tests": ["console.assert(add(1, 2) === 3)"]}  # fmt: skip
    item = load(tokenizer, write(tmp_path / "t.jsonl", [row]))["js"]
    scorer = Scorer([item], allow_code=True)
    for text, expected in (("```js\nconst add = (a, b) => a + b;\n```", 1.0), ("function add(a) { return a; }", 0.0)):
        assert scorer.score(item, Generation(item.id, text, (), "eos", 1))[0] == expected


def test_weights_and_users_who_left_in_a_whole_run(tiny_llama, tmp_path):
    """The stratum of those who left fails, while the average by traffic, where they weigh little, hardly moves."""
    rows = [
        {
            "id": f"{state}{number}",
            "prompt": f"Say {state} {number}.",
            "scorer": "exact",
            "target": f"{state} {number}",
            "strata": {"churned": state},
            "weight": weight,
            "language": "en",
        }
        for state, weight in (("yes", 1), ("no", 99))
        for number in range(60)
    ]
    spec = {"name": "traffic", "options": {"file": str(write(tmp_path / "t.jsonl", rows))}, "split_by": ["churned"]}
    data = {
        "name": "own",
        "baseline": {"name": "bf16", "model": str(tiny_llama)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{**spec, "items": 60, "margin": 0.1}],
        "execution": {"device": "cpu", "control": False, "rehearsal": {"lost": {"nf4/traffic/churned=yes": 0.5}}},
    }
    trial = parse(data)
    directory = RunDir(tmp_path / "own")
    runner.run(run_plan.make_plan(trial, "own.yaml"), directory, Shard(), Reporter())
    (candidate,) = judging.judge(load_run(directory)).candidates
    verdicts = {one.stratum: one.verdict for one in candidate.strata}
    assert verdicts == {"churned=yes": "fail", "churned=no": "pass"}
    averages = {one.slice: one.delta for one in candidate.averages}
    worst = min(one.delta for one in candidate.strata)
    assert worst < averages["all"] == pytest.approx(worst / 2)
    assert averages["all, by traffic"] == pytest.approx(worst / 100)


def test_thinking_and_limits_are_in_the_results(tokenizer, tmp_path, monkeypatch):
    """What was thought is not scored and its length is a metric; an answer beyond a limit scores 0 and says so."""
    monkeypatch.setattr("harness.suite.toolkit.scoring.SECONDS", 1.0)
    rows = [
        {"id": "n", "prompt": "6 * 7?", "scorer": "numeric", "target": "42"},
        {"id": "r", "prompt": "Say a.", "scorer": "regex", "target": "^(a+)+$"},
    ]
    items = load(tokenizer, write(tmp_path / "t.jsonl", rows))

    def score(name, text, **how):
        response = Generation(items[name].id, text, (), "eos", 1)
        return Scorer(list(items.values()), **how).score(items[name], response)[:2]

    assert score("n", "Answer: 42") == (1.0, {"score": 1.0})
    assert score("n", "<think>Answer: 41</think>42") == (1.0, {"score": 1.0, "thinking_characters": 25.0})
    assert score("n", "<think>Answer: 42") == (0.0, {"score": 0.0, "thinking_characters": 17.0})
    assert score("n", "<think>Answer: 42", thinking="off")[0] == 1.0
    assert score("n", "<a>Answer: 41</a>42", thinking=("<a>", "</a>"))[0] == 1.0
    assert score("r", "aaa") == (1.0, {"score": 1.0})
    assert score("r", "a" * 40 + "!") == (0.0, {"score": 0.0, "scoring_limit": 1.0})
