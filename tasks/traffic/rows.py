"""The user's own JSON-lines file as lm_eval tasks: for answers in writing, for choices, and for code that is run.

The file is named by the option ``file``. lm_eval calls the functions named in the YAML files.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import datasets

from harness.suite.sandbox import Program, execute, missing
from harness.suite.sandbox.names import taken
from harness.suite.toolkit.generated_code import Asked, program_of
from harness.suite.toolkit.scoring import UNSPACED, contains_any, matches_any, named, near_number, plain, scored
from harness.suite.toolkit.scoring_json import fits_schema
from harness.suite.toolkit.seeded import hash_order
from harness.suite.toolkit.strata import NONE, NoItems, level_text, stratum_of
from harness.suite.toolkit.traffic import Row, read_rows

FEWEST, LOOKED_AT, TRIED = 20, 50, 5
"""Lines from which on it is looked at what one answer to all would score; lines and answers that are looked at."""
FILLING = (
    r"an?|the|any|to|as|of|be|is|it(?:['\u2019]s)?|this|that|think|believe|say|see|find|show|contain|seem|appear|look|sound"
    r"|like|consider(?:ed)?|classif(?:y|ied)|call|determine|know|tell|sure|certain|whether|if|evidence|signs?|message"
    r"|(?:flag|mark|label|tag|treat|regard|deem|categori[sz]|qualif|count|describ|report)\w*|have|had|been|hint|trace"
    r"|kinds?|sorts?|types?|forms?|criteria|meets?|for|from|even|at all|in|by|with|need|enough|much|so|too|yet|most"
    r"|(?:requir|warrant|exhibit|display|demonstrat|indicat|suggest|constitut|involv|includ|hold)\w*|can|could|should|would"
    r"|characteristics?|features?|indicat(?:ions?|ors?)|typical|obvious|clear|direct|strong|language"
    r"|(?!(?:on|unlike|mere|simp|sole|exclusive|pure)ly)[a-z]+ly|very"
    r"|um|als|ein(?:e[nmrs]?)?|une?|du|des?|besonders|sehr|tr\u00e8s|muy|molto"
)
"""Words that stand between a negation and the label that it rejects, as in `does not appear to be spam`."""
_QUOTES = r"(?:[^\S\n]|[*_\"'\u201c]){1,9}+"
# Other things that are rejected in one list with a label: `offensive or`, `rude, insulting or`.
_OTHERS = r"(?:(?!n?or\b)[a-z-]++, ){0,4}+(?:(?!n?or\b)[a-z-]++,? ){1,2}+n?or"
REJECTING = (
    rf"\b(?:(?:not|\w+n['\u2019]t|non|neither|nor|never|cannot|hardly|(?<!not )unlikely|rather than|instead of"
    rf"|unable|(?<!not )unclear|(?<!not )(?<!n't )(?:fails? to|lacks?)|no longer"
    rf"|no need|insufficient evidence|(?:hard|difficult) to say"
    rf"|no es|pas|nicht|kein(?:e[nmrs]?)?|no(?:{_QUOTES}(?:obvious|clear|real|direct|strong|explicit)){{0,2}}{_QUOTES}"
    rf"(?:evidence|signs?|indicat(?:ions?|ors?)|hints?|traces?|reason))\b(?:-|{_QUOTES})"
    rf"(?:(?>(?:{FILLING})\b){_QUOTES}){{0,9}}+(?:{_OTHERS}\b{_QUOTES})?(?:(?>(?:{FILLING})\b){_QUOTES}){{0,3}}+"
    rf"|no\b{_QUOTES}(?:{_OTHERS}{_QUOTES})?)"
)
"""How an answer in English, or briefly in German, French or Spanish, begins to say which label does not hold."""
DENIED = (
    r"[*_\"']{0,3}\s?(?:[:?=]|-(?=\s))[\s*_\"']{0,4}(?:no|none|false|nein|non)\b"
    r"(?=[*_\"'\s]{0,4}(?:[.,;!}\n](?!\s?\d)|\Z))"
)
NOT_FOUND = (
    r"|\s(?:(?:is|was|are|were|has|have|been|be)\s){0,3}(?:not\s(?:been\s)?(?:detected|found|present|warranted|indicated"
    r"|applicable|required|needed|evident)|unlikely|denied)\b"
)
"""How it says so behind the label: `Spam: no` (DENIED); if labels have contraries, `fraud was not detected`, too."""
GIVES_UP = (
    r"(?i)\byes[,.!]? (?:(?:sure|of course|absolutely|certainly)[,.!]? )?(?=(?:I can (?:help|assist)|how (?:can|may) I"
    r"|I(?:['\u2019](?:d|ll|m)| would| am| will) (?:be )?(?:happy|glad|here) to (?:help|assist)|what would you like"
    r"|please (?:provide|share|send|paste) (?:me|us|the|your|more))\b)"
    r"|\bno (?:lo s\u00e9|s\u00e9|puedo (?:ayudar|responder|determinar)|hay (?:suficiente )?informaci\u00f3n)\b"
    r"|\bhave no (?:opinion|preference|access to)\b"
    r"|\bno (?:image|picture|photo|file|review(?: text)?|input text|email|code|content) (?:was|were|has been) "
    r"(?:provided|given|supplied|included)\b"
    r"|\bno (?:(?:further|more|additional|relevant|specific|clear|sufficient|enough|such|prior|definite|explicit) )?"
    r"(?:(?:idea|clue|doubt|comment)\b|(?:way|means) (?:to|of)\b|(?:info(?:rmation)?|context|data|details?|answers?"
    r"|text|message|question|passage|ticket|input|document|article|response|output|result"
    r"|mention of (?:it|this|that)(?: in the \w+)?)(?=\s?(?:[.!?;]|\Z)|"
    r" (?:(?:was|were|is|are|has been|can be|to) )?"
    r"(?:provided|given|attached|available|found|here|about|on|regarding|judge)\b))"
)
"""Where `no` or `yes` is not the label: the answer gives up, offers help, or says something else."""
LABELLED, SHARE = 10, 50
"""Lines, and one in how many of the file's, that a target is right for to be a label beside answers of other kinds."""
SHORT = 3
"""Letters of the longest label that counts as a whole word alone: `no` stands in `know`."""
DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-") | {"\ufe0f": ""})
"""Hyphens, minus signs and en dashes are one sign; the mark that asks for the picture of an emoji is none."""
LETTER = "[^\\W\u0e00-\U0010ffff]"
"""A letter, digit or underscore, but of scripts without spaces."""
GUESSES = ("{}", "[]", "0", "I'm sorry, but I can't help with that.")
"""Answers without content, which fit a schema that requires nothing and an expression that is found nearly anywhere."""


def written(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the questions that are answered in writing."""
    return _chosen(metadata, "text")


def choices(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the questions that are answered by choosing."""
    return _chosen(metadata, "choice")


def code(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the questions whose answers are run. Raises ValueError where nothing here runs their language."""
    found = _chosen(metadata, "code")
    for language in sorted(set(found["test"]["code_language"])):
        if lacking := missing(language):
            raise ValueError(lacking)
    return found


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Judge an answer by the scorer that its line names."""
    text, targets = results[0], doc["targets"]
    scorer = doc["scorer"]
    if scorer == "numeric":
        return {"score": max(near_number(text, one, doc["tolerance"], doc["language"]) for one in targets)}
    if scorer == "json_schema":
        return {"score": fits_schema(text, json.loads(doc["schema"]))}
    if others := doc.get("others"):
        signed = _signed([*targets, *others])
        text = _as_written(text) if signed else text
        targets, others = ([_as_written(one) if one in signed else one for one in some] for some in (targets, others))
        text = _without_rejected(text, [*targets, *others])
        found = _named(text, [*targets, *others])
        inflected = [one for one in others if not found and _begins_a_word(one, text) and contains_any(text, [one])]
        if found - {*targets} or any(one not in other for one in inflected for other in targets):
            return {"score": 0.0}
        targets = [one for one in targets if _begins_a_word(one, text)]
    return {
        "score": {"exact": exactly_any, "contains": contains_any, "regex": matches_any, "chrf": overlap}[scorer](
            text, targets
        )
    }


def exactly_any(text: str, targets: Sequence[str]) -> float:
    """Score 1 where the answer is one of the targets, but for white space around it and Unicode composition."""
    given = unicodedata.normalize("NFC", text).strip()
    return float(any(given == unicodedata.normalize("NFC", one).strip() for one in targets))


def overlap(text: str, targets: Sequence[str]) -> float:
    """Score in [0, 1] by the best chrF (Popovic 2015, WMT; sacrebleu's, order 6, beta 2) against the targets."""
    from sacrebleu.metrics.chrf import CHRF

    return scored(lambda: float(CHRF().sentence_score(text, list(targets)).score) / 100)


def _as_written(text: str) -> str:
    """A text with the signs by which labels may differ, without Markdown's backslashes."""
    return re.sub(r"\\(?=[_\W])(?=\S)", "", unicodedata.normalize("NFKC", text).translate(DASHES))


def _signed(labels: list[str]) -> list[str]:
    """The labels that signs alone tell apart, as `-1` and `1`, `C++` and `C` or `>=` and `>`, longest first."""
    words = Counter(plain(one).replace("\ufe0f", "") for one in labels)
    alike = [one.casefold() for one in labels if words[word := plain(one).replace("\ufe0f", "")] > 1 or not word]
    found = [one for one in labels if any(other in one.casefold() for other in alike)]
    return sorted(found, key=len, reverse=True)


def _named(text: str, labels: list[str]) -> set[str]:
    """The labels in an answer: those that signs tell apart as they are written, the others by their words."""
    signed, found = _signed(labels), set[str]()
    text = re.sub(r"</?[A-Za-z]\w*>", " ", text) if {"<", ">"} & {*signed} else text  # such as `<answer>`
    for one in signed:
        before = f"(?<!{LETTER})" if re.match(r"[\w+-]", one) else ""
        behind = f"(?!{LETTER})" if re.search(r"[\w-]\Z", one) else ""
        behind += r"(?! \S)" if one == "-" else ""  # a dash between words
        text, count = re.subn(rf"(?i){before}{re.escape(one)}{behind}", " | ", text)
        found |= {one} if count else set()
    return found | named(text, [one for one in labels if one not in signed])


# Words that follow a letter that is an answer, not an article.
_BEHIND = (
    "is|was|has|had|would|will|can|could|should|must|may|might|does|did|do|because|as|since|and|or|over|seems|appears|for|with"
    "|in|by|from|best|on|also|only|ist|war|hat|wird|und|oder|weil|passt|est|et|ou|car|es|y|o|e|porque|é|è|en|of|er|är|jest|on"
    "|adalah|je|este|seçene\\w*|doğru\\w*|şık\\w*"
)
# Letters that are no answer: of `N/A`, contractions, French `d'` before a vowel, and the English article.
_NO_LETTER = re.compile(
    r"\b[Nn]/[Aa]\b|\bI['\u2019](?:d|ll|m|ve)\b|(?<=[^\W\d])['\u2019](?:d|ll|m|re|s|t|ve)\b"
    r"|\b[CcDdJjLlMmNnSsTt]['\u2019](?=[aeiouhyœàâéèêëîïôû])"
    rf"|(?:(?<=[.!?] )|(?<=\n)|\A)A (?=(?!(?:{_BEHIND})\b|[a-z]+(?:ly|[^sui\W]s)\b)[a-z])"
)
_PRONOUN = re.compile(r"\bI (?=(?!(?:is|was|because|as|since|and|or|seems|appears|best)\b)[a-z])")


# Labels in capitals that are words of English otherwise.
_CAPITALS = frozenset(
    (
        "it",
        "us",
        "or",
        "me",
        "am",
        "so",
        "as",
        "is",
        "do",
        "be",
        "to",
        "of",
        "at",
        "by",
        "my",
        "he",
        "we",
        "if",
        "an",
        "go",
    )
)

# Words that negate what follows at once, unless that is a reason, where a label says yes in such a language.
_NEGATING = frozenset(re.findall(r"\S+", "no não нет не nie nu nem ne tidak không नहीं না لا לא"))
_AFFIRMING = frozenset(re.findall(r"\S+", "sí si sì sim да da tak igen ja ya có हाँ হ্যাঁ نعم כן ano áno"))
_REASON = "porque|pois|ya que|por|because|since|as|perché|потому|так|bo|ponieważ|karena|vì|pentru|mert|لأن|כי"


def _without_scale(text: str, low: str, top: str) -> str:
    """A rating without the scale that it names, such as the 5 of `4/5`; of two labels `1/2` may be both."""
    if int(top) <= 2:  # noqa: PLR2004
        return re.sub(r"(?<=\d)\s?/(?=\s?\d)", " , ", text)
    stars = r"(?:(?:stars?|points?|Sternen?|étoiles|estrellas|stelle|estrelas)\s)?"
    of = rf"(?<=\d)[*_]{{0,3}}\s?{stars}\(?(?:/|out of|of|von|sur|de|su|em|na|из)\s?[*_]{{0,3}}{top}\b"
    scale = rf"\(?(?:\b(?:on|out of) )?(?:\ban? )?\bscale (?:of|from) \d+ ?(?:to|-|–) ?{top}\)?"
    named = rf"\bon an? {low} ?(?:to|-|–) ?{top} scale|\({low} ?(?:to|-|–) ?{top}\)|{top} ?点満点中"
    return re.sub(f"(?i){of}|{scale}|{named}", " ", text)


def _without_rejected(text: str, labels: list[str]) -> str:
    """An answer without labels that it rejects, as in `positive, not negative`; with `not spam` for a rejected spam.

    Where a label is `A`, the article is none.
    """
    text = re.sub(r"\ba (?=[a-z])", "", text) if "A" in labels else text
    text = _PRONOUN.sub(" ", text) if "I" in labels else text
    if all(re.fullmatch(r"\d{1,3}", one) for one in labels):
        text = _without_scale(text, min(labels, key=int), max(labels, key=int))
    for one in labels:
        if one.isupper() and one.casefold() in _CAPITALS:  # `It is not clear` does not say IT
            text = re.sub(
                rf"\b(?!{one}\b)(?i:{one})\b(?= [a-z]|['\u2019])|(?<=[a-z] )(?!{one}\b)(?i:{one})\b", " ", text
            )
    if "neither" in map(str.casefold, labels):
        text = re.sub(r"(?i)\bneither\b[^.;:\n]{0,80}?\bnor\b(?:\s[\w-]+){1,2}", "neither", text)
    low = {*map(str.casefold, labels)}
    text = re.sub(GIVES_UP, " ", text) if {"no", "yes"} & low else text
    if told := "|".join(re.escape(one) for one in labels if one.casefold() in _NEGATING and _AFFIRMING & low):
        text = re.sub(rf"(?i)(?<!\w)(?:{told})(?= +[^\W\d])(?! +(?:{_REASON})\b)", " ", text)
    negative = r"(?i)(?:not|non|no|pas|nicht|kein(?:e[nmrs]?)?)\b(.*)"
    contrary = {plain(told[1]): one for one in labels if (told := re.match(negative, one))}
    kept = {*contrary.values(), *(one for one in labels if re.match(f"(?i){REJECTING}", one))}
    own, listed = ("|".join(map(re.escape, sorted(some, key=len, reverse=True))) for some in (kept, labels))
    longer = "|".join(re.escape(one) for one in labels if one.isascii() and one.isalpha() and len(one) > SHORT)
    what = rf"(?:({listed})(?!\w)|({longer or '(?!)'})[a-z]+\b)"  # `not fraudulent` says that it is no fraud
    denied = f"(?:{DENIED}{NOT_FOUND * bool(contrary)})"
    rejecting = REJECTING.replace("an?|", "(?-i:a)|an|") if "A" in labels else REJECTING
    rejected = rf"(?i)\b(?:{own or '(?!)'})(?!\w)|({rejecting}){what}|(?<![^\W_])({listed}){denied}"
    text = re.sub(rejected, lambda one: _contrary(one, contrary) if one.lastindex else one[0], text)
    return _NO_LETTER.sub(" ", text) if any(len(one) == 1 and one.isalpha() for one in labels) else text


def _contrary(found: re.Match[str], contrary: dict[str, str]) -> str:
    """What a rejected label says: its contrary, if there is one; nothing if it is doubted, or the last of a list."""
    doubt = re.search(r"(?i)\b(?:whether|if|unclear|sure|certain|know|say|tell)\b|,", found[1] or "")
    return " " if doubt else contrary.get(plain(found[2] or found[3] or found[4] or ""), " ")


# A letter of a script with spaces; what Korean writes to a word.
_NO_LETTERS = "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\U0010ffff"
_SPACED = f"(?:[^\\W\\d_{_NO_LETTERS}]|(?!\\d)[\u0900-\u0dff])"  # in India signs, too
# What Arabic and Hebrew write to a word: and, in, as, to, the; of short labels fewer, as they may be in other words.
_SHORT_BEFORE = "(?:[وفب]?ال|لل|[וה])?"
_BEFORE = "(?:[وف]?[بكل]?(?:ال)?|[وف]?لل|[והבכלמש]{1,3})?"
_KOREAN = "[\u1100-\u11ff\uac00-\ud7a3]"
_PARTICLES = "적?(?:입니다|이?다|이에요|예요|이?며|이?고|임|인|이?라고?|으?로|은|는|이|가|을|를|의|도|만)?"


def _begins_a_word(label: str, text: str) -> bool:
    """Whether a label begins a word of an answer (`incorrect` is not `correct`), and if it is short, is that word."""
    if not label[0].isalpha() or UNSPACED.search(label):
        return True
    letter, particles = (_KOREAN, _PARTICLES) if re.search(_KOREAN, label) else (_SPACED, "")
    before = "" if label.isascii() or len(label) < SHORT else _SHORT_BEFORE if len(label) == SHORT else _BEFORE
    end = f"{particles}(?!{letter})" if len(label) <= SHORT else ""
    return re.search(f"(?<!{letter}){before}{plain(label)}{end}", plain(text)) is not None


def score_code(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Run the answer, shut away, against the line's own tests."""
    language = doc["code_language"]
    names = tuple(doc.get("functions") or taken(doc["setup"], doc["tests"], language))
    answer = program_of(results[0], Asked(language, names=names if language == "python" else ()))
    return execute(Program(answer, tuple(doc["tests"]), doc["setup"], names, language)).metrics()


def _chosen(metadata: dict[str, Any], kind: Literal["choice", "text", "code"]) -> dict[str, datasets.Dataset]:
    file = metadata.get("file")
    if not file:
        raise ValueError("name the file of your traffic with options: {file: traffic.jsonl}")
    path = Path(metadata.get("data_dir") or ".") / str(file)
    rows = read_rows(path)
    docs = _with_others(_documents(rows, kind))
    axes = {axis: {level_text(one) for one in levels} for axis, levels in (metadata.get("axes") or {}).items()}
    split_by = metadata.get("split_by") or ()
    known = set(docs[0].get("strata", {})) if docs else set()
    for axis in (*axes, *split_by):
        if docs and axis not in known:
            raise ValueError(
                f"no line of {path.name} has {axis!r} among its strata ({', '.join(sorted(known)) or 'none'})"
            )
    kept: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for doc in sorted(docs, key=lambda doc: hash_order(doc["id"], metadata.get("seed", 0), "traffic")):
        place = doc.get("strata", {})
        if all(place[axis] in levels for axis, levels in axes.items()):
            kept[stratum_of(place, split_by)].append(doc)
    most = int(metadata.get("items", 100))
    found = [doc for own in kept.values() for doc in own[:most]]
    if not found:
        raise NoItems(f"{path.name} has no such lines")
    for own in kept.values() if kind == "text" else ():
        same = len({doc["target"] for doc in own[:most]}) == 1  # the right answer is the stratum
        guess = _constant(found if same else own[:most])
        for doc in own[:most]:
            doc["chance"] = guess if _graded(doc) else doc["chance"]
    return {"test": datasets.Dataset.from_list(found)}


def _with_others(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to lines of `contains` with a label its rivals: an answer that lists them names none.

    These are the labels of its strata: one file may hold several tasks. If these have none, all labels are.
    """
    told = [doc for doc in docs if doc["scorer"] == "contains"]
    lines = Counter(one for doc in told for one in {*doc["targets"]})
    fewest = 0 if len(lines) <= len(told) / LABELLED else max(LABELLED, len(told) / SHARE)
    labels = {one for one, count in lines.items() if count >= fewest}
    if len(labels) <= 1:
        return docs
    asked = [labels & {*doc["targets"]} if doc["scorer"] == "contains" else set() for doc in docs]
    places = defaultdict[str, set[str]](set)
    for doc, own in zip(docs, asked, strict=True):
        places[json.dumps(doc.get("strata"), sort_keys=True)] |= own
    beside = {one: set().union(*(some for some in places.values() if one in some)) for one in labels}
    rivals = [(set().union(*map(beside.__getitem__, own)) - own or labels - own) if own else set() for own in asked]
    return [doc | {"others": sorted(some)} for doc, some in zip(docs, rivals, strict=True)]


def _graded(doc: dict[str, Any]) -> bool:
    """Whether an answer scores that is not the target, letter by letter."""
    graded = {"contains", "chrf", "json_schema", "regex"}
    return doc["scorer"] in graded or (doc["scorer"] == "numeric" and doc["tolerance"] > 0)


def _constant(docs: list[dict[str, Any]]) -> float:
    """Return what a target, or one of `GUESSES`, scores at best as the answer to the other questions; 0 of under 20."""
    some = [doc for doc in docs if _graded(doc)][:LOOKED_AT]
    if len(some) < FEWEST:
        return 0.0
    told = Counter(one for doc in some for one in doc["targets"]).most_common(TRIED)
    sums = [sum(score(doc, [answer])["score"] for doc in some) for answer in (*GUESSES, *(one for one, _ in told))]
    return max(0.0, (max(sums) - 1) / (len(some) - 1))


def _documents(rows: Sequence[Row], kind: Literal["choice", "text", "code"]) -> list[dict[str, Any]]:
    """Give the rows of a kind as lm_eval documents of the same fields: an axis that a row does not name is ``none``."""
    axes = sorted({axis for row in rows for axis in row.strata})
    kinds = {"choice": "choice", "code_tests": "code"}
    first: dict[str, str] = {}  # a question asked again under another id is one source: its answer is the same
    return [_document(row, axes, first) for row in rows if kinds.get(row.scorer, "text") == kind]


def _document(row: Row, axes: Sequence[str], first: dict[str, str]) -> dict[str, Any]:
    turns = [one.model_dump() for one in row.messages or ()]
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    question = row.prompt if row.prompt is not None else turns[0]["content"]
    if len(turns) > 1:  # a conversation as text is for models and tools that know no turns
        question = "\n\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in turns)
    chance, gold = (1 / len(row.choices), row.choices.index(row.targets[0])) if row.choices else (0.0, -1)
    schema = json.dumps(row.json_schema, ensure_ascii=False) if row.json_schema is not None else ""
    told = json.dumps(turns, ensure_ascii=False) if len(turns) > 1 else ""
    source = row.cluster or first.setdefault(json.dumps([system, told, question, row.choices]), str(row.id))
    made = {"id": str(row.id), "cluster": source, "weight": row.weight, "language": row.language}
    made |= {"chance": chance, "prompt": question, "system": system, "turns": told, "scorer": row.scorer}
    made |= {"target": " | ".join(row.targets), "targets": list(row.targets), "choices": list(row.choices)}
    made |= {"gold": gold, "schema": schema, "tolerance": row.tolerance}
    if row.scorer == "code_tests":
        made |= {"code_language": row.code_language, "tests": list(row.tests), "setup": row.setup}
        made |= {"functions": list(row.functions)} if row.functions else {}
    if axes:
        made["strata"] = {axis: level_text(row.strata[axis]) if axis in row.strata else NONE for axis in axes}
    return made
