"""Judges a run that was read, from its files alone: checks that its sides may be compared, compares and gates."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.fields import RelativeMargin
from harness.config.methods import same_method
from harness.config.schema import Variant
from harness.errors import Incomplete, NotComparable, StoreError, UsageError
from harness.judge import choice_probability, compare, gate
from harness.judge.layers import LEFT_OUT, Layering, layering
from harness.judge.outages import in_words, outages
from harness.judge.outcomes import Outcomes, build, fingerprint
from harness.judge.rules import Place, Rules, by_stratum, read_policy
from harness.judge.signals import Signal, blind_strata, blind_to_cache, control_items, signals, unusable_strata
from harness.judge.summaries import Comparison, Comparisons
from harness.judge.tail_counts import Cell, cells, undefined, with_late
from harness.judge.tolerances import judged_quantities
from harness.judge.verdicts import Judgement
from harness.models.compatibility import HALF, check_candidate, check_software, cross_engine_note, same_server
from harness.records import TAIL_KINDS, Item, Proof, proof_from_json
from harness.stats.binary import mcnemar_midp
from harness.store.files import atomic_write
from harness.store.record import CONTROL, RunRecord
from harness.store.rundir import RunDir

_COLUMNS = {"slices": "slice", "strata": "stratum", "clusters": "cluster", "chance": "chance", "weight": "weight"}
_ONE_WAY = 1e-4  # chance of so one-sided a change between two askings of one build
_UNSTEADY = 0.1  # share of items of which a baseline that is asked again scores otherwise, if that is no rounding


def item_scores(run: RunRecord, variant: str, *, until: int | None = None) -> dict[str, float]:
    """Return item id to mean score over its samples, NaN where unanswered; only items that have an answer."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in run.of(variant):
        if until is None or run.look_of.get(one.item_id, 0) <= until:
            found[one.item_id].append(math.nan if one.score is None else one.score)
    return {item_id: math.fsum(scores) / len(scores) for item_id, scores in found.items()}


def _outcomes(
    run: RunRecord, name: str, *, until: int | None = None, only: set[str] | None = None, unasked: Collection[str] = ()
) -> Outcomes | None:
    """Return a variant's outcomes in the items of `only`, NaN in those that it was not asked; None if it has none."""
    scores = {**item_scores(run, name, until=until), **dict.fromkeys(unasked, math.nan)}
    items = [item for item in run.items if item.id in scores and (only is None or item.id in only)]
    if not items:
        return None
    axes = dict.fromkeys(axis for item in items for axis in item.levels)
    told: dict[str, Any] = {key: [getattr(item, name) for item in items] for key, name in _COLUMNS.items()}
    return build(
        name,
        [item.id for item in items],
        [scores[item.id] for item in items],
        **told,
        fingerprints=[fingerprint(run.digests[item.id]) for item in items],
        looks=[run.look_of[item.id] for item in items],
        levels={axis: [item.levels.get(axis, "") for item in items] for axis in axes},
    )


def undecided(run: RunRecord, look: int) -> dict[str, set[Place]]:
    """Return the strata of every candidate that need more items after a look: none if it could not be loaded."""
    rules = Rules.from_experiment(run.experiment).with_plan(run.items)
    # Tail events and quantities are judged once, on all items planned: scores must not choose which are seen.
    free = {(item.slice, item.stratum) for item in run.items if item.kind == "generate"}
    held = {one for one in free if rules.tolerances(*one) or (rules.policy.quantities and rules.gating(*one))}
    baseline = _outcomes(run, run.experiment.baseline.name, until=look)
    needs: dict[str, set[Place]] = {}
    for candidate in run.experiment.candidates:
        side = _outcomes(run, candidate.name, until=look)
        needs[candidate.name] = set()
        if baseline is not None and side is not None and candidate.name not in run.failures:
            needs[candidate.name] = compare.undecided_strata(baseline, side, rules, look) | held
    return needs


def not_asked(run: RunRecord) -> frozenset[Place]:
    """Return the strata that only the baseline is asked, once it has answered: empty without `execution.skip_blind`."""
    if not run.experiment.execution.skip_blind:
        return frozenset()
    scores = item_scores(run, run.experiment.baseline.name)
    return blind_strata(run.items, scores, Rules.from_experiment(run.experiment))


def layers_of(run: RunRecord) -> Layering:
    """Return which items are in which layer, once the baseline has answered: empty without `execution.layers`."""
    experiment = run.experiment
    return layering(run.items, run.of(experiment.baseline.name), experiment.execution.layers, experiment.seed)


def unasked(run: RunRecord) -> frozenset[str]:
    """Return the items that only the baseline is asked, once it has answered."""
    blind, layers = not_asked(run), layers_of(run)
    return frozenset(one.id for one in run.items if (one.slice, one.stratum) in blind or layers.get(one.id) == LEFT_OUT)


def _asked(run: RunRecord, name: str, left_out: frozenset[str]) -> list[Item]:
    """Return the items that a variant is asked, early stopping aside."""
    if name == run.experiment.baseline.name:
        return list(run.items)
    items, share = [item for item in run.items if item.id not in left_out], run.experiment.execution.control
    if name != CONTROL or isinstance(share, bool):
        return items
    chosen = control_items(run.items, share)
    return [item for item in items if item.id in chosen]


def _check_complete(run: RunRecord, left_out: frozenset[str]) -> None:
    """Refuse a run that lacks an answer to what was asked. Raises Incomplete, naming it."""
    samples = run.experiment.sampling.samples
    skipped = {(name, at) for one in run.shards.values() for name, own in one.get("skipped", {}).items() for at in own}
    for name in (one for one in run.answers if one not in run.failures):
        answered = Counter(one.item_id for one in run.of(name))
        asked = [item for item in _asked(run, name, left_out) if (name, run.unit_of[item.id]) not in skipped]
        lacking = [one.id for one in asked if answered[one.id] < (1 if one.kind == "choice" else samples)]
        if lacking:
            shown = f"{name} lacks answers to {len(lacking)} items ({min(lacking)} ...)"
            raise Incomplete(f"{run.directory.path}: {shown}: run `quantcliff run` again to finish it")


def _proven(run: RunRecord) -> list[Variant]:
    """Return the variants that did not fail, the control too. Raises Incomplete if what was asked has no proof."""
    baseline = run.experiment.baseline
    control = [baseline.model_copy(update={"name": CONTROL})] if CONTROL in run.answers else []
    variants = [one for one in (baseline, *control, *run.experiment.candidates) if one.name not in run.failures]
    for one in variants:
        if one.name not in run.identities and (one is baseline or _asked(run, one.name, unasked(run))):
            raise Incomplete(f"{_identity(run, one.name)}: is missing: give the same `quantcliff run` command again")
    return variants


def _check_sides(run: RunRecord, *, allow_identical: bool) -> dict[str, str]:
    """Refuse a variant without a proof that fits its config; return the candidates that are the baseline, and why."""
    baseline, execution = run.experiment.baseline, run.experiment.execution
    variants = _proven(run)
    refused, known = dict[str, str](), {"the baseline": baseline}
    if execution.rehearsal is not None or baseline.name in run.failures:
        return refused
    base, writes = _proof(run, baseline.name), any(item.kind == "generate" for item in run.items)
    read = {one.item_id: one.response.prompt_tokens for one in run.of(baseline.name)}
    thought = {one.item_id for one in run.of(baseline.name) if "thinking_characters" in one.metrics}
    one_engine = base.served is None and not execution.cross_engine
    chat = baseline.engine.api == "chat" and not execution.cross_engine
    for variant in (one for one in variants if one.name in run.identities):  # others were asked nothing
        path, proof = _identity(run, variant.name), _proof(run, variant.name)
        try:
            check_candidate(base, proof, variant, writes=writes, cross_engine=execution.cross_engine)
            if one_engine:
                check_software(run.identities[baseline.name], run.identities[variant.name], variant.name)
        except NotComparable as error:
            raise NotComparable(f"{path}: {error}") from error
        lengths = {one.item_id: one.response.prompt_tokens for one in run.of(variant.name)}
        odd = [f"{one} has other tokens than" for one in lengths if one_engine and lengths[one] != read.get(one)]
        own = {one.item_id for one in run.of(variant.name) if "thinking_characters" in one.metrics}
        odd += ["it thinks otherwise than"] * (chat and len((thought ^ own) & lengths.keys()) > HALF * len(lengths))
        if odd:
            raise NotComparable(f"{path}: {odd[0]} for the baseline: give both one tokenizer and one mode of thinking")
        same = next((f"{who} itself ({how})" for who, one in known.items() if (how := _same_as(run, one, variant))), "")
        if variant.name == CONTROL and not same:
            raise NotComparable(f"{path}: the control is not the baseline, whose repetition it should be")
        if variant.name not in {CONTROL, baseline.name} and not allow_identical:
            known |= {variant.name: variant} if proof.served else {}  # whose address may lead to another's model
            if same:
                text = f"{variant.name} is {same}, so there is nothing to compare: give the quantized model"
                refused[variant.name] = f"{text}, or --allow-identical for an A/A comparison"
    if refused and refused.keys() | {baseline.name, CONTROL} >= {one.name for one in variants}:
        raise NotComparable("; ".join(f"{_identity(run, name)}: {text}" for name, text in refused.items()))
    return refused


def _identity(run: RunRecord, name: str) -> Path:
    return run.directory.path / name / "variant.json"


def _proof(run: RunRecord, name: str) -> Proof:
    try:
        return proof_from_json(run.identities[name]["proof"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{_identity(run, name)}: holds no proof of what was loaded: {error}") from error


def _same_as(run: RunRecord, who: Variant, variant: Variant) -> str:
    """Return in what respect a variant is another one, the baseline or a candidate; empty if the two differ."""
    one, other = _proof(run, who.name), _proof(run, variant.name)
    if not run.experiment.execution.cross_engine and (shown := same_server(one, other)):
        return shown
    base, served = one.served or {}, other.served or {}
    declared = served.get("kind") == "declared"  # so that its method is only what the config says
    mute = bool(served) and base.get("canary") == served.get("canary")  # so that it may have ignored its flags
    if (
        not (declared or mute or same_method(one.method, other.method))
        or (one.bits_per_weight, one.compute_dtype) != (other.bits_per_weight, other.compute_dtype)
        # "is it really the same answer?" is what such a run asks
        or (who.kv_cache, who.decoding) != (variant.kv_cache, variant.decoding)
    ):
        return ""
    before, after = (run.identities[name].get("weights") for name in (who.name, variant.name))
    alike = who.engine.asked() == variant.engine.asked()
    if before == after and alike and (declared or who.quantization == variant.quantization):
        return "the same weights, method and dtype"
    told = mute or who is run.experiment.baseline
    said, repeated = _telling(run, who.name), _telling(run, variant.name) if told else {}
    alike = bool(repeated) and all(said.get(key) == given for key, given in repeated.items())  # `execution.control`
    return f"{'' if declared or mute else 'the same method and dtype, and '}every answer is the same" if alike else ""


def _telling(run: RunRecord, name: str) -> dict[tuple[str, int], object]:
    """Return what shows which model answered: probabilities of choices, tokens of a text, or its length if not kept."""
    kinds = ((one, one.length or getattr(one.response, "token_ids", ())) for one in run.of(name))
    shown = (one for one, said in kinds if said or one.response.type == "choice_logprobs")
    return {(one.item_id, one.response.sample): (one.response, one.length, one.score) for one in shown}


def judge(run: RunRecord, overrides: Mapping[str, Any] | None = None, *, allow_identical: bool = False) -> Judgement:
    """Compare and gate a finished run, perhaps under a changed policy. Raises Incomplete, NotComparable."""
    refused = _check_sides(run, allow_identical=allow_identical)
    blind, layers, left_out = not_asked(run), layers_of(run), unasked(run)
    _check_complete(run, left_out)
    rules = _rules(run, overrides or {}).with_plan(run.items)
    base, execution = run.experiment.baseline.name, run.experiment.execution
    names = [one.name for one in run.experiment.candidates]
    failed = refused | {name: " ".join(run.failures[name]) for name in names if name in run.failures}
    sides = {name: _outcomes(run, name, unasked=left_out) for name in names if name not in failed}
    told, tasks = map(in_words, map(run.of, (base, *sides))), {item.id: item.slice for item in run.items}
    found = outages(told if run.experiment.baseline.engine.served else (), tasks)
    baseline = _outcomes(run, base, unasked=found.errors)
    if baseline is None or None in sides.values():
        raise Incomplete(f"{run.directory.path}: there are no answers: run `quantcliff run` again")
    hidden = left_out if layers and execution.control and run.of(CONTROL) else frozenset()
    hidden |= found.errors.keys()
    control, part = _outcomes(run, CONTROL, unasked=hidden) if execution.control else None, None
    if control is not None and (blind or not isinstance(execution.control, bool)):
        part = _outcomes(run, base, unasked=found.errors, only={item.id for item in _asked(run, CONTROL, left_out)})
    given = [side for side in sides.values() if side]
    material = compare.compare(baseline, given, rules, control, control_baseline=part, blind=blind, layering=layers)
    if CONTROL in run.failures:  # what it would have shown is not known
        material = replace(material, control=Comparison(CONTROL, refused=" ".join(run.failures[CONTROL])))
    asked = {name: _asked(run, name, left_out) for name in (*sides, *([CONTROL] if control is not None else []))}
    return gate.judge(
        _annotated(run, material, rules),
        rules,
        not_judged=failed,
        order=names,
        events=_events(run, asked, rules.policy.latency),
        quantities={name: judged_quantities(asked[name], run.of(base), run.of(name), rules) for name in sides},
        proofs={name: run.identities[name]["proof"] for name in names if name in run.identities},
        warnings=(*found.warnings(base), *_unsteady(run, material.control), *_warnings(run)),
        provenance=_provenance(run),
    )


def _events(run: RunRecord, asked: Mapping[str, Sequence[Item]], latency: Mapping[str, float]) -> dict[str, list[Cell]]:
    """Count the tail events of each variant against the baseline, in the items that it was asked."""
    base, found = run.experiment.baseline.name, dict[str, list[Cell]]()
    for name, items in asked.items():
        before, after = run.of(base), run.of(name)
        late = latency if name != CONTROL else {}  # the control is asked at another concurrency
        if late:
            before, after = with_late([before, after], [run.directory.request_times(one) for one in (base, name)], late)
        found[name] = cells(items, before, after, [*TAIL_KINDS, *late])
    return found


def _annotated(run: RunRecord, material: Comparisons, rules: Rules) -> Comparisons:
    """Note in each candidate's strata what the scores there cannot show, and how likely the right choices are."""
    baseline, variants = run.experiment.baseline, {one.name: one for one in run.experiment.candidates}
    unusable, blind = unusable_strata(run.items, run.of(baseline.name)), blind_to_cache(run.items)
    before, candidates = _right(run, baseline.name), []
    for side in material.candidates:
        likely = choice_probability.compared(run.items, before, _right(run, side.name), rules.policy.alpha)
        for layered in (one.place for one in side.strata if one.layers):
            likely.pop(layered, None)  # means of what was asked, not of all items
        unread = blind if variants[side.name].differs_only_in(baseline, "kv_cache") else ()
        noted = [replace(one, choice_probability=likely.get(one.place)) for one in side.strata]
        noted = [replace(one, unusable=unusable.get(one.place, ""), cache_blind=one.place in unread) for one in noted]
        candidates.append(replace(side, strata=tuple(noted)))
    return replace(material, candidates=tuple(candidates))


def _right(run: RunRecord, variant: str) -> dict[str, float]:
    """Return item id to the probability of its right choice."""
    return {one.item_id: one.choice_probability for one in run.of(variant) if one.choice_probability is not None}


def _unsteady(run: RunRecord, control: Comparison | None) -> Iterator[str]:
    """Warn of a baseline that does not repeat itself, so that losses hide. Raises NotComparable if it was replaced."""
    looked = [one for one in (control.strata if control else ()) if one.looks]
    flips, asked = sum(one.flips for one in looked), sum(one.looks[-1].result.n for one in looked)
    lost, gained = (sum(getattr(one.looks[-1].result, key) for one in looked) for key in ("lost", "gained"))
    if run.experiment.baseline.engine.served and min(mcnemar_midp(lost, gained)) < _ONE_WAY:
        text = f"asked again, the baseline's server loses {lost} items and gains {gained}: two builds answered"
        raise NotComparable(f"{run.directory.path}: {text}; run against one that stays, with another --output")
    if not run.experiment.sampling.temperature and flips > max(_UNSTEADY * asked, 10):
        text = f"scores {flips} of {asked} items otherwise when they are asked again, though temperature is 0"
        yield f"{run.experiment.baseline.name} {text}: it draws its answers, or several builds give them."


def _warnings(run: RunRecord) -> Iterator[str]:
    """Give what a reader must know before believing anything."""
    if run.experiment.execution.rehearsal is not None:
        yield "This is a rehearsal: the answers were made up and no model was measured."
    if run.experiment.execution.cross_engine:
        yield cross_engine_note(run.experiment)
    blind = ", ".join("/".join(place) for place in sorted(blind_to_cache(run.items)))
    for candidate in run.experiment.candidates:
        if blind and candidate.kv_cache != run.experiment.baseline.kv_cache:
            yield f"{candidate.name} has another KV cache, to which these strata are blind: {blind}."
        if seen := run.calibrated.get(candidate.name, {}).get("items"):
            text = f"was calibrated on texts that share a passage with {len(seen)} items ({seen[0]} ...)"
            yield f"{candidate.name} {text}: its scores there flatter it."


def _rules(run: RunRecord, overrides: Mapping[str, Any]) -> Rules:
    """Return the run's rules; what the caller overrides applies to every stratum."""
    rules = Rules.from_experiment(run.experiment)
    if not overrides:
        return rules
    policy = run.experiment.policy.model_dump(mode="json")
    if "margin" in overrides:
        own = overrides.get("margins", {})
        overrides = {**overrides, "margins": own if "*" in own else {"*": overrides["margin"], **own}}
    if "tail_events" in overrides:
        plain = {name: one.model_copy(update={"tail_events": None}) for name, one in rules.slices.items()}
        rules = replace(rules, slices=plain)
    given = Rules.from_flags(**{key: overrides[key] for key in ("margins", "advisory") if key in overrides})
    if unused := given.unmatched_globs(by_stratum(run.items)):
        raise UsageError("\n".join(unused))
    rules = replace(rules, policy=read_policy({**policy, **overrides}))
    relative = any(isinstance(one, RelativeMargin) for one in (*rules.policy.margins.values(), rules.policy.margin))
    if run.experiment.execution.layers and (relative or rules.policy.pooled_margin is not None):
        raise UsageError("a run with execution.layers cannot be judged by a pooled or a relative margin")
    if rules.policy.latency and not run.experiment.policy.latency:
        raise UsageError("latency: the run was made without it, so its manifest does not cover the times of answers")
    if kinds := undefined(rules):
        raise UsageError(f"tail_events has a tolerance for {kinds[0]}, and latency does not say what is late")
    shown = {"*", *rules.policy.latency}.union(*(one.signs or () for name in run.answers for one in run.of(name)))
    if kinds := [kind for kind in overrides.get("tail_events", ()) if kind not in shown]:
        raise UsageError(f"tail_events: no answer of this run can show {kinds[0]!r}: leave its tolerance out")
    return rules


def _provenance(run: RunRecord) -> dict[str, Any]:
    """Return where the figures come from; no times, so that equal results give equal bytes."""
    return {
        "run": run.experiment.name,
        "config_digest": run.plan["config_digest"],
        "items_digest": run.plan["items_digest"],
        "seed": run.experiment.seed,
        "device": run.plan["device"],
        "versions": run.identities.get(run.experiment.baseline.name, {}).get("versions", {}),
        "weights": {name: one["weights"] for name, one in run.identities.items()},
    }


def baseline_signals(run: RunRecord) -> list[Signal]:
    """Return of every stratum whether the baseline's answers could show damage; no candidate is needed."""
    name, rules = run.experiment.baseline.name, Rules.from_experiment(run.experiment)
    unusable = unusable_strata(run.items, run.of(name))
    return signals(run.items, item_scores(run, name), _right(run, name), rules, unusable)


def write(directory: RunDir, judgement: Judgement) -> None:
    """Write comparisons.json (everything) and verdict.json (the gate's word alone)."""
    whole = json.dumps(judgement.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(directory.path / "comparisons.json", whole + "\n")
    told = [{"name": one.name, "verdict": one.verdict, "reasons": list(one.reasons)} for one in judgement.candidates]
    word = {"verdict": judgement.verdict, "exit_code": int(judgement.exit_code), "candidates": told}
    atomic_write(directory.path / "verdict.json", json.dumps(word, indent=1, ensure_ascii=False) + "\n")
