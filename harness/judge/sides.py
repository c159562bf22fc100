"""Whether the sides of a run may be compared: each loaded as its config says, and none the baseline renamed."""

from __future__ import annotations

from typing import Any

from harness.config.methods import same_method
from harness.config.schema import Variant
from harness.errors import Incomplete, NotComparable, StoreError
from harness.models.compatibility import check_candidate
from harness.models.served import same_server
from harness.records import Generation, Proof, Scored, proof_from_json
from harness.store.record import CONTROL, RunRecord

__all__ = ["check_sides"]


def check_sides(run: RunRecord, *, allow_identical: bool) -> None:
    """Refuse a variant without a proof that fits its config, and a candidate that is the baseline.

    The proofs of a rehearsal are made up and are not compared. Raises Incomplete, NotComparable, StoreError.
    """
    baseline, execution = run.experiment.baseline, run.experiment.execution
    control = [baseline.model_copy(update={"name": CONTROL})] if CONTROL in run.answers else []
    variants = [one for one in (baseline, *control, *run.experiment.candidates) if one.name not in run.failures]
    paths = {one.name: run.directory.path / one.name / "variant.json" for one in variants}
    for name, path in paths.items():
        if name not in run.identities:
            raise Incomplete(f"{path}: is missing, so nothing shows what answered: give `quantcliff run` again")
    if execution.rehearsal is not None or baseline.name in run.failures:
        return
    base = _proof(run, baseline.name)
    writes = any(item.kind == "generate" for item in run.items)
    for variant in variants:
        path, proof = paths[variant.name], _proof(run, variant.name)
        try:
            check_candidate(base, proof, variant, writes=writes, cross_engine=execution.cross_engine)
        except NotComparable as error:
            raise NotComparable(f"{path}: {error}") from error
        same = _same_model(run, variant, base, proof)
        if variant.name == CONTROL and not same:
            raise NotComparable(f"{path}: the control is not the baseline, whose repetition it should be")
        if variant.name not in {CONTROL, baseline.name} and same and not allow_identical:
            text = f"{variant.name} is the baseline itself ({same}), so there is nothing to compare"
            raise NotComparable(f"{path}: {text}: give the quantized model, or --allow-identical for an A/A comparison")


def _proof(run: RunRecord, name: str) -> Proof:
    try:
        return proof_from_json(run.identities[name]["proof"])
    except (KeyError, TypeError) as error:
        path = run.directory.path / name / "variant.json"
        raise StoreError(f"{path}: holds no proof of what was loaded: {error}") from error


def _same_model(run: RunRecord, variant: Variant, one: Proof, other: Proof) -> str:
    """Return in what respect a variant equals the baseline; empty if model, method, bits or dtype differ.

    one, other: the proofs of the two.
    """
    baseline = run.experiment.baseline
    if not run.experiment.execution.cross_engine and (shown := same_server(one, other)):
        return shown
    if (
        not same_method(one.method, other.method)
        or (one.bits_per_weight, one.compute_dtype) != (other.bits_per_weight, other.compute_dtype)
        # "is it really the same answer?" is what such a run asks
        or (baseline.kv_cache, baseline.decoding) != (variant.kv_cache, variant.decoding)
    ):
        return ""
    before, after = (run.identities[name].get("weights") for name in (baseline.name, variant.name))
    asked_alike = (baseline.quantization, baseline.engine.asked()) == (variant.quantization, variant.engine.asked())
    if before == after and asked_alike:
        return "the same weights, method and dtype"
    said, repeated = (_said(run.of(name)) for name in (baseline.name, variant.name))
    # The baseline may have been asked more, see `harness.judge.asked`.
    alike = bool(repeated) and all(said.get(key) == response for key, response in repeated.items())
    return "the same method and dtype, and every answer is the same" if alike else ""


def _said(answers: list[Scored]) -> dict[tuple[str, int], Any]:
    """Return the answers that were stored with what shows a model: tokens of a text, or probabilities of choices."""
    return {
        (one.item_id, one.response.sample): one.response
        for one in answers
        if one.response.type == "choice_logprobs" or (isinstance(one.response, Generation) and one.response.token_ids)
    }
