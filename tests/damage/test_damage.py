"""Damage that was planted in a real small model is found, undone, and proved on items that the search never saw."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import engine_models
import pytest
import random_models
from lazily import lazy
from paths import RESULTS

from harness.config.schema import KVCache, Variant
from harness.damage.search import Journal, random_set, search
from harness.errors import NotComparable, UsageError
from harness.judge import judging
from harness.records import Item, Settings
from harness.store.rundir import RunDir
from harness.store.whole import load_run

torch = lazy("torch")
hybrid = lazy("harness.damage.hybrid")
loading = lazy("harness.models.loading")
commands = lazy("harness.damage.commands")
engine = lazy("harness.engines.transformers.engine")

RUINED = "model.layers.2.mlp.down_proj"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
GREEDY = Settings()


def items(start: int, count: int) -> list[Item]:
    """Questions in text, each with its own words."""
    words = ["apple", "fox", "Berlin", "Москва", "answer", "7381", "quick", "Paris", "lazy", "key", "number", "special"]
    return [
        Item(
            id=f"t/{at}",
            slice="s",
            task="t",
            kind="generate",
            levels={},
            stratum="all",
            cluster=str(at),
            max_tokens=4,
            prompt=" ".join(words[(at * 5 + step * (at % 7 + 1)) % len(words)] for step in range(12)) + f" {at}",
        )
        for at in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain model, and the same with a little noise in every matrix and one of them ruined."""
    model = random_models.make("llama", {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True})
    made = []
    for name in ("plain", "ruined"):
        folder = tmp_path_factory.mktemp(name)
        if name == "ruined":
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                for own, module in model.named_modules():
                    if ".layers." in own and type(module) is torch.nn.Linear:
                        module.weight += 1e-6 * torch.randn_like(module.weight)
                        if own == RUINED:
                            module.weight += 3 * torch.randn_like(module.weight)
        model.save_pretrained(folder)
        engine_models.tokenizer().save_pretrained(folder)
        made.append(folder)
    return made


def hybrid_of(folders, asked, **changes):
    """The two models, loaded anew, with the plain one's answers to the items."""
    variants = (Variant(name="plain"), Variant(name="ruined"))
    baseline, candidate = (
        loading.load(variant, folder, device="cpu", dtype="float32")
        for variant, folder in zip(variants, folders, strict=True)
    )
    asker = engine.HFEngine(baseline.model, baseline.tokenizer, baseline.proof, device="cpu")
    answers = {one.item_id: tuple(one.token_ids) for one in asker.answer(asked, GREEDY)}
    options = {"thinking": "auto", "word_by_word": False, **changes}
    return hybrid.Hybrid(candidate, baseline, asked, answers, GREEDY, **options)


def test_one_ruined_layer_is_found_and_only_it(folders, tmp_path):
    """The search restores the ruined module and no other; so held-out items come back, and random modules do not."""
    made = hybrid_of(folders, items(0, 16))
    assert set(made.baseline_scores.values()) == {1.0}
    assert len(made.sizes) == 4 * 7
    lost = {name: 1.0 for name, score in made.ask(()).scores.items() if score == 0}
    assert len(lost) >= 12
    sizes = dict.fromkeys(made.sizes, 1000)

    def ask(modules, base):
        return made.ask(modules, base=base)

    with contextlib.closing(Journal(tmp_path / "j", "a")) as journal:
        found = search(journal, ask, made.baseline_scores, sizes, kept=(), most=3000, seconds=120)
    assert found.chosen(3000).modules == (RUINED,)
    assert found.chosen(3000).counts.won == len(lost)
    assert max(one.net for one in found.null) == 0

    fresh = hybrid_of(folders, items(100, 16))
    before = sum(fresh.ask(()).scores.values())
    assert before <= 4
    assert sum(fresh.ask((RUINED,)).scores.values()) == 16
    others = {name: 1000 for name in sizes if name != RUINED}
    assert sum(fresh.ask(random_set(others, 3000, 0)).scores.values()) == before


def test_only_the_layers_behind_a_change_run_again(folders):
    """Kept states of the layers before a change give the very same scores and divergence as a whole pass."""
    made = hybrid_of(folders, items(0, 8))
    made.ask(())
    made.states.skipped = 0
    partly = [made.ask((name,)) for name in (RUINED, "model.layers.3.self_attn.q_proj")]
    assert made.states.skipped > 0
    stacked = made.ask((RUINED, "model.layers.0.mlp.up_proj"), base=frozenset({RUINED}))
    made.states = None
    whole = [made.ask((name,)) for name in (RUINED, "model.layers.3.self_attn.q_proj")]
    assert partly == whole
    assert stacked == made.ask((RUINED, "model.layers.0.mlp.up_proj"))


def test_bytes_and_unpacking_of_a_method_that_quantizes_while_loading(folders):
    """NF4 of the plain model: restoring costs the difference of 32 to some 4.5 bits, and unpacked layers are exact."""
    plain = loading.load(Variant(name="plain"), folders[0], device="cpu", dtype="float32")
    nf4 = loading.load(Variant(name="n", quantization="bnb-nf4"), folders[0], device="cpu", dtype="float32")
    sizes = hybrid.restorable(nf4, plain)
    assert len(sizes) == 4 * 7
    weights = sum(plain.model.get_submodule(name).weight.numel() for name in sizes)
    assert sum(sizes.values()) == pytest.approx(weights * (32 - nf4.proof.bits_per_weight) / 8, rel=0.01)
    packed = nf4.model.get_submodule(RUINED)
    layer = hybrid.unpacked(packed, plain.model.get_submodule(RUINED))
    assert type(layer) is torch.nn.Linear
    rows = torch.randn(5, 64)
    assert torch.equal(layer(rows), packed(rows))


@pytest.fixture(scope="module")
def demo():
    """The committed demo run with its judgement."""
    run = load_run(RunDir(RESULTS / "demo-cpu"))
    return run, judging.judge(run)


def test_items_of_a_search_are_those_lost_in_failing_strata(demo):
    """All lost items of the failing stratum, and as many that both sides got right."""
    run, judgement = demo
    variant, places = commands.lost_variant(run, judgement, "nf4")
    chosen = commands.chosen_items(run, "nf4", places)
    assert variant.quantization.method == "bnb-nf4"
    assert len(chosen.lost) == len(chosen.kept) == 32
    assert {one.stratum for one in chosen.lost} == {"task=lookup,keys=12,answer=present"}
    with pytest.raises(NotComparable, match="fails in no gating stratum"):
        commands.lost_variant(run, judgement, "int8")
    cached = run.experiment.candidates[1].model_copy(update={"kv_cache": KVCache(bits=4)})
    other = dataclasses.replace(run, experiment=run.experiment.model_copy(update={"candidates": (cached,)}))
    with pytest.raises(NotComparable, match="its cache or its decoding differs too"):
        commands.lost_variant(other, judgement, "nf4")
    with pytest.raises(UsageError, match="give one of int8, nf4"):
        commands.lost_variant(run, judgement, "int4")


def test_items_whose_texts_were_not_kept_are_refused(demo):
    """An erased item cannot be asked again, and is not passed over in silence."""
    run, judgement = demo
    _, places = commands.lost_variant(run, judgement, "nf4")
    erased = dataclasses.replace(run, erased=frozenset(one.id for one in run.items))
    with pytest.raises(NotComparable, match="cannot be asked again"):
        commands.chosen_items(erased, "nf4", places)


def test_held_out_items_were_never_seen(demo, smollm2):
    """The proof asks as many items of the failing stratum alone, of which no question is in the run."""
    run, _ = demo
    summary = {"candidate": "nf4", "strata": ["long_context/task=lookup,keys=12,answer=present"]}
    nf4 = run.experiment.candidates[1]
    repaired = commands.skipping(nf4, "repaired", [RUINED])
    plan, shared = commands.held_out(run, summary, (nf4, repaired))
    assert (len(plan.items), shared) == (60, 0)
    assert {one.stratum for one in plan.items} == {"task=lookup,keys=12,answer=present"}
    assert not {one.prompt for one in plan.items} & {one.prompt for one in run.items}
    assert [one.name for one in plan.experiment.candidates] == ["nf4", "nf4-repaired"]
    assert plan.experiment.candidates[1].quantization.skip_modules == (RUINED,)
    assert commands.unseen(plan.items, plan.items[:58]) == plan.items[58:]
    with pytest.raises(NotComparable, match="none that the search never saw"):
        commands.unseen(plan.items, plan.items)


def test_a_method_without_skip_modules_says_what_to_do(demo):
    """A checkpoint is quantized before it is loaded: the modules are named, and no variant is made up."""
    run, judgement = demo
    gptq = run.experiment.candidates[1].quantization.model_copy(update={"method": "gptq"})
    candidates = (run.experiment.candidates[0], run.experiment.candidates[1].model_copy(update={"quantization": gptq}))
    other = dataclasses.replace(run, experiment=run.experiment.model_copy(update={"candidates": candidates}))
    summary = {"candidate": "nf4", "sets": {"repaired": [RUINED]}}
    with pytest.raises(UsageError, match="quantize it again without the modules"):
        commands.repair(other, judgement, summary, SimpleNamespace())
