"""Measures how often the detectors of tail events cry wolf: on what people wrote, in its own language.

    python scripts/tail_event_rates.py --data DIR [--json]

Every text that is found under DIR (SIB-200, Belebele, XCOPA, MGSM, GSM8K, HumanEval) is taken as an answer, in the
language that its data set says. Each sign found is a false alarm; the column "drift found" is the other side: how often
an English sentence in that language's place is seen as drift (by its script or its language). Limits are Clopper and
Pearson's, 95 % one-sided. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from harness.stats.events import event_rate
from harness.suite.tail.detectors import magnitude
from harness.suite.tail.language import wrong_language, wrong_script
from harness.suite.tail.text import empty, refusal, repetition


class Text(NamedTuple):
    """One text that a person wrote."""

    source: str
    """The data set."""
    language: str
    """As the data set names it; ``code`` for programs."""
    text: str
    """The text."""
    number: Decimal | None = None
    """The number that it ends in, where it is a worked problem."""


def sib200(folder: Path) -> Iterator[Text]:
    """Sentences of the news in many languages."""
    for path in sorted(folder.glob("**/annotated/*/test.tsv")):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                yield Text("SIB-200", path.parent.name, row["text"])


def belebele(folder: Path) -> Iterator[Text]:
    """Passages, and the answers to questions on them."""
    for path in sorted(folder.glob("**/belebele*.jsonl")):
        language = path.stem.partition("_")[2] or "en"
        seen = set()
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            answer = row[f"mc_answer{row['correct_answer_num']}"]
            new = [] if row["flores_passage"] in seen else [("Belebele passages", row["flores_passage"])]
            seen.add(row["flores_passage"])
            for source, text in [*new, ("Belebele answers", answer)]:
                yield Text(source, language, str(text))


def xcopa(folder: Path) -> Iterator[Text]:
    """Short everyday sentences."""
    for path in sorted(folder.glob("**/xcopa/**/test.*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            yield Text("XCOPA", path.parent.name, f"{row['premise']} {row['choice1']}")


def mgsm(folder: Path) -> Iterator[Text]:
    """Word problems."""
    for path in sorted(folder.glob("**/mgsm_*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Text("MGSM", path.stem.removeprefix("mgsm_"), line.rpartition("\t")[0])


def gsm8k(folder: Path) -> Iterator[Text]:
    """Worked answers to word problems."""
    for path in sorted(folder.glob("**/gsm8k/test.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            yield Text("GSM8K", "en", row["answer"], Decimal(row["answer"].rpartition("####")[2].replace(",", "")))


def humaneval(folder: Path) -> Iterator[Text]:
    """Programs."""
    for path in sorted(folder.glob("**/*uman*val*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                yield Text("HumanEval", "code", row["canonical_solution"])


DETECTORS: dict[str, Callable[[Text], bool | None]] = {
    "empty": lambda one: empty(one.text),
    "repetition": lambda one: repetition(one.text),
    "refusal": lambda one: refusal(one.text),
    "wrong_script": lambda one: None if one.language == "code" else wrong_script(one.text, one.language),
    "wrong_language": lambda one: None if one.language == "code" else wrong_language(one.text, one.language),
    "magnitude": lambda one: None if one.number is None else magnitude(one.text, one.number),
}
"""What each says of a text; None where the text is none of its business."""

Counts = dict[tuple[str, str], dict[str, list[bool]]]


def measure(folder: Path) -> tuple[Counts, dict[str, tuple[float, int]]]:
    """Run every detector over every text. Gives the signs by place and kind, and each kind's seconds and texts."""
    found: Counts = defaultdict(lambda: defaultdict(list))
    spent: dict[str, tuple[float, int]] = dict.fromkeys(DETECTORS, (0.0, 0))
    for read in (sib200, belebele, xcopa, mgsm, gsm8k, humaneval):
        for one in read(folder):
            for kind, says in DETECTORS.items():
                start = time.perf_counter()
                sign = says(one)
                if sign is not None:
                    found[one.source, one.language][kind].append(sign)
                    spent[kind] = (spent[kind][0] + time.perf_counter() - start, spent[kind][1] + 1)
    return found, spent


def drift_found(folder: Path) -> dict[str, list[bool]]:
    """Say, by language, which English sentences are seen as drift where that language was expected."""
    texts = list(sib200(folder))
    english = [one.text for one in texts if one.language == "eng_Latn"]
    others = sorted({one.language for one in texts} - {"eng_Latn"})
    return {tag: [wrong_script(text, tag) or wrong_language(text, tag) for text in english] for tag in others}


def share(signs: list[bool]) -> str:
    """Write a share with its upper limit: ``3/204 (up to 3.8 %)``."""
    if not signs:
        return ""
    high = event_rate(signs, alpha=0.05).high
    return f"{sum(signs)}/{len(signs)} (≤ {100 * high:.1f} %)"


def table(found: Counts, drifts: dict[str, list[bool]]) -> list[str]:
    """Write a row per data set and language, and one for all."""
    kinds = list(DETECTORS)
    lines = ["| texts | language | " + " | ".join(kinds) + " | drift found |", "|---" * (len(kinds) + 3) + "|"]
    for (source, language), signs in found.items():
        drift = drifts.get(language, []) if source == "SIB-200" else []
        seen = f"{sum(drift)}/{len(drift)}" if drift else ""
        lines.append(
            f"| {source} | {language} | " + " | ".join(share(signs.get(kind, [])) for kind in kinds) + f" | {seen} |"
        )
    whole = {kind: [sign for signs in found.values() for sign in signs.get(kind, [])] for kind in kinds}
    every = [sign for drift in drifts.values() for sign in drift]
    seen = f"{sum(every)}/{len(every)}" if every else ""
    lines.append("| **all** | | " + " | ".join(share(whole[kind]) for kind in kinds) + f" | {seen} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds the data sets")
    parser.add_argument("--json", action="store_true", help="counts as JSON")
    options = parser.parse_args()
    found, spent = measure(options.data)
    if not found:
        parser.error(f"{options.data} holds none of the data sets")
    drifts = drift_found(options.data)
    if options.json:
        rates = {
            kind: {
                "/".join(place): [sum(signs[kind]), len(signs[kind])] for place, signs in found.items() if kind in signs
            }
            for kind in DETECTORS
        }
        print(json.dumps({"false_alarms": rates, "drift_found": {tag: [sum(d), len(d)] for tag, d in drifts.items()}}))
        return
    print("\n".join(table(found, drifts)))
    print("\nTime per text:", ", ".join(f"{kind} {1e6 * s / n:.0f} µs" for kind, (s, n) in spent.items() if n))


if __name__ == "__main__":
    main()
