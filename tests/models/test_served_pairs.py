"""Which served models may be compared."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from harness.config.schema import Variant
from harness.errors import NotComparable
from harness.models.compatibility import check_candidate, same_server
from harness.records import Proof, proof_from_json, to_json

SERVED = {
    "kind": "proven",
    "engine": "vllm",
    "version": "0.32.0",
    "dtype": "bfloat16",
    "flags": {"max_model_len": 2048},
    "prompts": "token ids",
    "prompt_offset": 0,
    "hardware": "a GPU",
}


def proof(method: str = "none", **changes: Any) -> Proof:
    """The proof of a served model."""
    return Proof(method, "vllm", 0, 0, 0.0, 0, 0, "bfloat16", 0, "", served={**SERVED, **changes})


def check(candidate: Proof, *, cross_engine: bool = False, **said: Any) -> None:
    """Compare with a plain baseline on the same server."""
    check_candidate(proof(), candidate, Variant(name="small", **said), cross_engine=cross_engine)


def test_a_served_checkpoint_is_compared_without_counting_its_layers() -> None:
    """Flags that quantize may differ; what neither server says is not a difference."""
    check(proof("awq"))
    check(proof("awq"), quantization="awq")
    check(proof(flags={"max_model_len": 2048, "kv_cache_dtype": "fp8"}))
    check(proof(canary=[]))
    check_candidate(proof(canary=[-0.4]), proof("awq", canary=[-2.1]), Variant(name="small"))
    check_candidate(proof(hardware=""), proof("awq", hardware=""), Variant(name="small"))
    assert proof_from_json(to_json(proof("awq"))) == proof("awq")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "sglang"}, "its engine is sglang and the baseline's vllm"),
        ({"version": "0.33.0"}, "its server's version is 0.33.0"),
        ({"version": ""}, "its server's version is unknown and the baseline's 0.32.0"),
        ({"prompt_offset": None}, "counts unknown tokens more"),
        ({"dtype": "float16"}, "its server computes in float16"),
        ({"flags": {"max_model_len": 4096}}, "its flag max_model_len is 4096 and the baseline's 2048"),
        ({"flags": {}}, "its flag max_model_len is None"),
        ({"prompts": "text"}, "its prompts are sent as text"),
        ({"prompt_offset": 9}, "counts 9 tokens more than are sent in a prompt, and the baseline's 0"),
        ({"hardware": "a CPU"}, "it runs on a CPU and the baseline on a GPU"),
        ({"canary": [-0.4, -2.1]}, "its server shows some log-probabilities of its answers and the baseline's no"),
    ],
)
def test_what_changes_answers_must_be_equal_or_the_question(changes: dict[str, Any], said: str) -> None:
    """Each difference has its sentence, and the way out."""
    with pytest.raises(NotComparable, match="small: ") as caught:
        check(proof(**changes))
    assert said in str(caught.value)
    assert "execution.cross_engine: true" in str(caught.value)
    check(proof(**changes), cross_engine=True)


def test_the_same_weights_are_seen_by_log_probabilities() -> None:
    """Rounding is no difference, what int8 changes is one; tokens that are certain, or no numbers, show nothing."""
    shown = [-0.4, -2.1, -0.01, -1.3, -0.7]
    base = proof(canary=shown)
    assert "5 log-probabilities" in same_server(base, proof("awq", canary=[one + 5e-4 for one in shown]))
    for other in ([*shown[:4], -0.72], shown[:4], [], None):
        assert same_server(base, proof(canary=other)) == ""
    certain = proof(canary=[-0.01] * 16)
    assert same_server(certain, certain) == same_server(proof(), proof()) == ""


def test_two_names_of_one_model_are_seen_by_what_their_address_lists() -> None:
    """vLLM lists where the weights of each name lie; another place, address or adapter is another model."""
    here = {"url": "https://llm.example/v1", "reported": {"root": "/models/llama", "owned_by": "vllm"}}
    assert "serves both from /models/llama" in same_server(proof(**here), proof("awq", **here))
    for other in ({"url": "https://eu.example/v1"}, {"reported": {"root": "/models/awq"}}, {"reported": {}}, {}):
        changed = proof("awq", **(here | other if other else {}))
        assert same_server(proof(**here), changed) == same_server(changed, proof(**here)) == ""
    assert same_server(proof(url="u", reported={}), proof(url="u", reported={})) == ""


def test_one_place_of_two_models_is_no_sign_if_their_log_probabilities_differ() -> None:
    """A gateway may lead to machines that each mount their own model there."""
    here = {"url": "https://llm.example/v1", "reported": {"root": "/mnt/models"}}
    sides = [proof(**here, canary=[-0.4, -2.1, -0.6, -1.3, last]) for last in (-0.7, -0.9)]
    assert same_server(*sides) == ""
    assert same_server(sides[0], sides[0])


@pytest.mark.parametrize("cross_engine", [False, True])
def test_servers_that_end_answers_at_other_tokens_are_refused(cross_engine: bool) -> None:
    """What runs on in one is scored otherwise; of a server that somebody else runs they are not known."""
    ends = [replace(proof(), end_tokens=tokens) for tokens in ((2,), (0, 2), ())]
    judged = partial(check_candidate, variant=Variant(name="small"), cross_engine=cross_engine)
    with pytest.raises(NotComparable, match=r"its answers end at the tokens \[0, 2\] and the baseline's at \[2\]"):
        judged(*ends[:2])
    judged(*ends[:2], writes=False)
    judged(*ends[1:])


def test_a_checkpoint_must_be_what_the_config_says() -> None:
    """Across engines too."""
    with pytest.raises(NotComparable, match="the config says awq and what is served is none"):
        check(proof(), cross_engine=True, quantization="awq")
