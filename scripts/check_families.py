"""Asks tiny random models of transformers' causal families through the engine, and holds it to uncached forwards.

    python scripts/check_families.py [FAMILY ...]

Of every family that a tiny config can be made for: six texts and six choices, in float32 on one CPU thread. A line a
model says by which path the engine took it, and `differs` with the first difference if a token or a log-probability is
not that of an uncached forward of that one sequence. All take about half an hour. Exit code 1 if any differs.
Needs the checkout: the models' sizes and the questions are those of tests/engine_models.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as FAMILIES

from harness.engines.transformers.engine import HFEngine
from harness.records import Item, Settings

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import engine_models as tiny  # noqa: E402 - lies in tests/

SIZES = json.loads((HERE / "check_families.json").read_text("utf-8"))
"""`others`: what configs call their sizes; `own`: configs of families that need more than these."""
TIME_LIMIT_S = 600
LARGEST = 30_000_000  # parameters
ALLOWED = 5e-3  # relative difference of a log-probability


def main() -> int:
    """Check each family in a process of its own, since some crash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*", help="all by default")
    named = parser.parse_args().family
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)
    words: Counter[str] = Counter()
    for family in named or sorted({*FAMILIES, *SIZES["own"]}):
        for sizes in SIZES["own"].get(family, [None]):
            said = _apart(family, sizes)
            words[said.partition(":")[0]] += 1
            print(f"{family}: {said}", flush=True)
    print("\n".join(f"{count} {word}" for word, count in words.most_common()))
    return int(words["differs"] > 0)


def _apart(family: str, sizes: dict[str, Any] | None) -> str:
    """Return what a child process says of a family."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(TIME_LIMIT_S)
        try:
            said = _checked(family, sizes)
        except Exception as error:  # noqa: BLE001 - families fail in every way, and the next one is to be checked
            said = f"failed: {type(error).__name__}: {error!s:.200}".replace("\n", " ")
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode()
    return said or f"died: status {os.waitpid(child, 0)[1]}"


def _checked(family: str, sizes: dict[str, Any] | None) -> str:
    model = _model(family, sizes)
    if isinstance(model, str):
        return f"skipped: {model}"
    engine = HFEngine(model, tiny.tokenizer(), tiny.proof(), device="cpu")
    items = [*tiny.text_items()[:6], *tiny.choice_items()[:6]]
    records = {one.item_id: one for one in engine.answer(items, Settings())}
    wrong = [text for item in items for text in _differences(model, item, records[item.id])]
    path = engine.context.model.path
    taken = {"keys": "slots or batches of keys and values", "own": "its own state", "none": "everything again"}[
        path.state
    ]
    return f"differs: {wrong[0]} ({taken})" if wrong else f"equal ({taken})"


def _model(family: str, sizes: dict[str, Any] | None) -> Any:
    """Return a model, or why there is none: several spellings of its sizes are tried."""
    mine, others = tiny.tokenizer(), SIZES["others"]
    without = {key: size for key, size in tiny.SIZES.items() if key not in ("head_dim", "num_key_value_heads")}
    counts = {key: size for key, size in others.items() if key.startswith(("n_", "d_", "num_"))}
    tried = [tiny.SIZES, tiny.SIZES | others, without | others, tiny.SIZES | counts]
    why = ""
    for each in tried if sizes is None else [tiny.SIZES | sizes]:
        ids = {
            "bos_token_id": mine.eos_token_id if sizes else None,
            "eos_token_id": mine.eos_token_id,
            "pad_token_id": mine.pad_token_id,
        }
        try:
            config = transformers.AutoConfig.for_model(family, vocab_size=len(mine), **ids, **each)
            with torch.device("meta"):
                size = sum(one.numel() for one in transformers.AutoModelForCausalLM.from_config(config).parameters())
            if size > LARGEST:
                why = "too large"
                continue
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
            later = float((_logits(model, [5, 6, 7, 8])[:3] - _logits(model, [5, 6, 7])).abs().max())
        except Exception as error:  # noqa: BLE001 - as above
            why = f"no tiny config ({type(error).__name__}: {error!s:.100})".replace("\n", " ")
            continue
        if later > ALLOWED:
            return "it reads what comes after, and is no causal model"
        return model
    return why


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def _differences(model: Any, item: Item, record: Any) -> Iterator[str]:
    """Compare an answer with forwards of its one sequence, token by token or choice by choice."""
    known = _ids(item.prompt)
    if item.kind == "choice":
        for choice, found in zip(item.choices, record.logprobs, strict=True):
            whole = _ids(item.prompt + choice)
            logits = _logits(model, whole).log_softmax(-1)
            own = sum(float(logits[at - 1, whole[at]]) for at in range(len(known), len(whole)))
            if abs(own - found) > ALLOWED * max(1.0, abs(own)):
                yield f"{item.id}: {choice!r} has log-probability {found:.4f}, not {own:.4f}"
        return
    for at, token in enumerate(record.token_ids):
        if (own := int(_logits(model, known).log_softmax(-1)[-1].argmax())) != token:
            yield f"{item.id}: token {at} is {token}, not {own}"
            return
        known.append(token)


def _ids(text: str) -> list[int]:
    found: list[int] = tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]
    return found


if __name__ == "__main__":
    sys.exit(main())
