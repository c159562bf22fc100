"""What `quantcliff verify` says if another model answers: real answers of SmolLM2 to a committed run's certificate.

The questions are those of the variant bf16 of a run. Expected are the answers that bf16 gives here, 8 at a time; noise
is what 3 at a time change of them. Then the questions are asked as `verify` asks an endpoint, 5 at a time: with the
same weights, with another chat template, with one of the 30 layers left out, and with the models that are named.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.config.schema import Variant
from harness.engines.transformers.engine import HFEngine
from harness.models.loading import load
from harness.models.resolve import resolve
from harness.records import Generation, Item, Response, Settings
from harness.run.certificate import SMALLEST_DIFFERENCE, Certificate, Part, _distance, agrees, certify
from harness.run.verifying import count, judge_calls
from harness.store.record import read_run
from harness.store.rundir import RunDir

METHODS = {"int8": "bnb-int8", "nf4": "bnb-nf4"}
MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL)

Answers = dict[str, Response]


def other_template(item: Item) -> Item:
    """Write a question in the template of Vicuna."""
    said = [f"{role.upper()}: {text}" for role, text in MESSAGE.findall(item.prompt) if role != "system"]
    return replace(item, prompt="\n".join([*said, "ASSISTANT:"]))


def answers(name: str, items: Sequence[Item], *batches: int) -> list[Answers]:
    """Load what is served, and ask it with each number of rows at a time."""
    variant = Variant(name="served", model="smollm2", quantization={"method": METHODS.get(name, "none")})  # type: ignore[arg-type]
    loaded = load(variant, resolve("smollm2", None), device="cpu", dtype="bfloat16")
    if name == "one layer less":
        del loaded.model.model.layers[15]
        for at, layer in enumerate(loaded.model.model.layers):
            layer.self_attn.layer_idx = at
        loaded.model.config.num_hidden_layers -= 1
    asked = [other_template(one) for one in items] if name == "another template" else items
    found = []
    for rows in batches:
        engine = HFEngine(loaded.model, loaded.tokenizer, loaded.proof, device="cpu", max_batch=rows)
        found.append({one.item_id: one for one in engine.answer(asked, Settings())})
    return found


def expect(part: Part, known: Answers, noise: Answers) -> Part:
    """Give the questions with the answers of this machine, and what its noise is."""
    questions = tuple(replace(one, answers={**one.answers, "bf16": known[one.item.id]}) for one in part.questions)
    pairs = [(one, known[one.item.id], noise[one.item.id]) for one in questions]
    if part.kind == "choice":
        tolerance = max(SMALLEST_DIFFERENCE, *(_distance(one, other) for _, one, other in pairs))
        return replace(part, questions=questions, control=len(pairs), tolerance=tolerance)
    flips = sum(not agrees(*pair) for pair in pairs)
    return replace(part, questions=questions, flips=flips, control=len(pairs))


def swaps(run: Path, more: Sequence[str]) -> Iterator[str]:
    """Give a line for each model that may be served."""
    certificate = certify(read_run(RunDir(run)), "bf16")
    items = [one.item for part in certificate.parts for one in part.questions]
    known, noise, again = answers("bf16", items, 8, 3, 5)
    parts = tuple(expect(part, known, noise) for part in certificate.parts)
    tokens = sum(len(one.token_ids) for one in known.values() if isinstance(one, Generation))
    yield f"{tokens} tokens of text, {sum(item.kind == 'choice' for item in items)} items with choices"
    for name in ("bf16", "another template", "one layer less", *more):
        given = again if name == "bf16" else answers(name, items, 5)[0]
        for kinds in ({"generate", "choice"}, {"generate"}):
            part = {item.id: given[item.id] for item in items if item.kind in kinds}
            found = judge_calls(Certificate("bf16", parts), [count(Certificate("bf16", parts), part)], part)
            counts = ", ".join(f"{one.kind} {one.differ} of {one.asked} (limit {one.limit})" for one in found.parts)
            yield f"{name}: {found.verdict} {found.looks_like or '-'}: {counts}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("results/tail-cpu"))
    parser.add_argument("--more", nargs="*", default=[], choices=sorted(METHODS), help="slow on a CPU")
    given = parser.parse_args()
    for line in swaps(given.run, given.more):
        print(line, flush=True)
