"""Signs that the text of an answer, or of the thought before it, shows by itself: nothing said, a loop, a refusal.

`harness.suite.toolkit.thinking.split` tells the thought from the answer; its length is a quantity, not a sign.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from decimal import Decimal

from harness.suite.toolkit.numerals import numbers
from harness.suite.toolkit.scoring import mentions

LEAST_REPEATS = 5  # so often a unit must stand in a row, or a step of a thought must come
LEAST_LOOP = 30  # characters that a loop must have at least
LONGEST_UNIT = 300  # characters of the longest unit that is looked for
REFUSED_WITHIN = 300  # characters at the beginning of an answer in which a refusal is looked for
LEAST_STEP = 20  # characters of a step of a thought that is looked at
_END = (LEAST_REPEATS + 1) * LONGEST_UNIT  # characters at the end of an answer that are looked at
_COMPRESSED = 0.6  # a text that does not compress to this share holds no loop of the whole of it; saves looking
THOUGHTS = ("thought_left", "thought_loop", "thought_cut", "thought_only")  # every kind of sign of a thought
_RESULT = re.compile(r"(?:=|\bis\b|\bare\b|\banswer\b:?|\bget\b)[ \t]*([^\n=]{1,40})", re.IGNORECASE)

LANGUAGES: dict[str, str] = {
    "en": (
        r"\b(?:I|we)(?: am|'m| are|'re)? (?:sorry, but I )?(?:can ?not|can't|won't|will not|unable to|not able to"
        r"|must decline to|have to decline to|decline to|refuse to) (?:help|assist|comply|fulfil+|engage|participate"
        r"|discuss|support|do (?:that|this)|(?:provide|generate|create|write|answer|give)(?: you)?(?: with)?"
        r" (?:that|this|such|any|assistance|help)\b)"
        r"|\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"
        r"|\b(?:against|violates?) (?:my|our|the) (?:\w+ )?(?:guidelines|polic(?:y|ies)|programming|principles)\b"
    ),
    "es": r"no puedo (?:ayudar|asistir|cumplir|proporcionar|responder a es[ao])|como modelo de lenguaje",
    "fr": (
        r"je ne (?:peux|suis) pas (?:en mesure de )?(?:vous |t')?(?:aider|fournir|répondre à cette)"
        r"|en tant que modèle de langage"
    ),
    "de": (
        r"(?:ich kann|kann ich) (?:Ihnen |dir )?(?:dabei |damit |hierbei )?(?:leider )?nicht (?:helfen|weiterhelfen)"
        r"|als (?:KI-)?Sprachmodell"
    ),
    "pt": r"não posso (?:ajudar|fornecer|atender|responder a ess[ae])|como (?:um )?modelo de linguagem",
    "it": r"non posso (?:aiutar|fornire|rispondere a quest)|come modello linguistico",
    "ru": r"не могу (?:вам |тебе )?(?:с этим )?(?:помочь|выполнить эт|ответить на этот)|как языковая модель",
    "tr": r"yardımcı olamam|yardım edemem|dil modeli olarak",
    "id": r"tidak (?:bisa|dapat) (?:membantu|memenuhi)|sebagai model bahasa",
    "vi": r"không thể (?:giúp|hỗ trợ|đáp ứng yêu cầu)|là một mô hình ngôn ngữ",
    "sw": r"siwezi (?:kusaidia|kukusaidia)|kama (?:modeli|muundo) (?:wa|ya) lugha",
    "zh": r"(?:抱歉|对不起|對不起|很遗憾)[^。\n]{0,12}(?:无法|不能|無法)|作为(?:一个|一名)?(?:AI|人工智能|语言模型)",
    "ja": r"(?:お手伝い|お答え|対応|ご要望)[^。\n]{0,12}できません|(?:AI|言語モデル)(?:として|なので)",
    "ko": r"도와드릴 수 없|도움을 드릴 수 없|언어 모델로서",
    "th": r"ไม่สามารถ(?:ช่วย|ให้ความช่วยเหลือ|ตอบคำถามนี้)|ในฐานะโมเดลภาษา",
    "ar": r"لا (?:يمكنني|أستطيع) (?:المساعدة|مساعدتك|تقديم|تلبية)|كنموذج لغ",
    "fa": r"نمی\u200c?توانم (?:کمک|به شما کمک)|به عنوان یک مدل زبان",
    "hi": r"(?:मदद|सहायता) नहीं कर (?:सकता|सकती)|भाषा मॉडल के रूप में",
    "bn": r"সাহায্য করতে পার(?:ব|ছি|বো) না|ভাষা মডেল হিসেবে",
}
"""Language to its usual sentences of refusal, as an expression."""

_REFUSAL = re.compile("|".join(LANGUAGES.values()), re.IGNORECASE)


def empty(text: str) -> bool:
    """Say whether an answer has no content.

    Definition: no letter and no digit of any script. Source: own. Limits: an answer of punctuation alone is empty, also
    where punctuation was asked for; an answer cut at its first token by a stop text is empty too, and rightly so.
    """
    return not any(sign.isalnum() for sign in text)


def repetition(text: str) -> bool:
    """Say whether an answer ends in a loop.

    Definition: the end of the text, white space aside, is a unit of at most 300 characters with a letter or digit in
    it, at least five times in a row and at least 30 characters in all (a last, unfinished round may follow). Source:
    the degeneration that Holtzman et al. 2020 ("The Curious Case of Neural Text Degeneration", ICLR) describe, as the
    period of a string (Knuth, Morris and Pratt 1977, SIAM Journal on Computing 6:323-350).

    Limits: a loop that counts on ("step 1, step 2") or that ended before the answer does is not seen; a list that was
    asked for and holds the same entry five times ("0, 0, 0, 0, 0 ...") is taken for one.
    """
    end = text.rstrip()[-_END:]
    raw = end.encode("utf-8", "surrogatepass")
    short = len(raw) <= 400  # noqa: PLR2004 - zlib's header weighs too much there
    if not short and len(zlib.compress(raw[-1200:], 1)) > _COMPRESSED * len(raw[-1200:]):
        return False
    # The prefix function of the text backwards: border[i] is the longest proper border of backwards[: i + 1].
    backwards, border, at = end[::-1], [0] * len(end), 0
    for index in range(1, len(backwards)):
        while at and backwards[index] != backwards[at]:
            at = border[at - 1]
        at += backwards[index] == backwards[at]
        border[index] = at
        size, period = index + 1, index + 1 - at
        if size >= LEAST_LOOP and size >= LEAST_REPEATS * period and not empty(backwards[:period]):
            return True
    return False


def refusal(text: str) -> bool:
    """Say whether an answer declines to do what was asked.

    Definition: one of the usual sentences of refusal, in one of 19 languages, within the first 300 characters. Every
    item is taken to be benign: a suite asks nothing that ought to be refused. Source: the prefixes that Zou et al.
    2023 (arXiv:2307.15043) and Röttger et al. 2024 ("XSTest", NAACL) look for, reworded and narrowed to refusals to
    help, so that "I cannot find it in the text", an answer, is none.

    Limits: other words and other languages are missed; a story in which somebody refuses to help is taken for one.
    """
    return _REFUSAL.search(text[:REFUSED_WITHIN].replace("\u2019", "'")) is not None


def thought_signs(
    thought: str, answer: str, *, cut: bool, wrong: bool, target: str, number: Decimal | None
) -> dict[str, bool]:
    """Look at a thought and what came after it.

    cut: whether the text ended at the token limit. wrong: whether the answer scored below 1. number: the target's, if
    it is one. Definitions: ``thought_left``: an answer was given and is wrong, and the thought had stated the right
    one: a number after "=", "is", "are", "get" or "answer", any other target anywhere in it as whole words.
    ``thought_loop``: it ends in a loop (`repetition`), or has one sentence or line of at least 20 characters five
    times. ``thought_cut``: the limit came before an answer. ``thought_only``: it ended by itself and no answer
    followed. Source: own. Limits: a step's result that happens to be the target counts as reached; a thought that goes
    round in other words each time is no loop.
    """
    nothing = empty(answer)
    left = wrong and not nothing
    if left and number is None:
        left = bool(mentions(thought, target))
    elif left:
        left = any(number in numbers(part)[:1] for part in _RESULT.findall(thought))
    steps = Counter(" ".join(step.split()) for step in re.split(r"[\n.!?]+", thought))
    again = any(count >= LEAST_REPEATS and len(step) >= LEAST_STEP for step, count in steps.items())
    return {
        "thought_left": left,
        "thought_loop": again or repetition(thought),
        "thought_cut": cut and nothing,
        "thought_only": not cut and nothing,
    }
