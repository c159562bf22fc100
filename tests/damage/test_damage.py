"""Damage that was planted in a real small model is found, undone, and proved on items that the search never saw."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from types import SimpleNamespace

import engine_models
import pytest
import random_models
from lazily import lazy
from paths import RESULTS

from harness.cli import models
from harness.cli import program as cli
from harness.config.schema import KVCache, Variant
from harness.damage.search import Journal, random_set, search
from harness.errors import ExitCode, NotComparable, UsageError
from harness.judge import judging
from harness.records import Item, Settings
from harness.store.files import write_json
from harness.store.rundir import RunDir
from harness.store.whole import load_run

torch = lazy("torch")
hybrid = lazy("harness.damage.hybrid")
loading = lazy("harness.models.loading")
backends = lazy("harness.models.backends")
doctor_models = lazy("harness.models.doctor_models")
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


def hybrid_of(folders, asked, candidate=None, **changes):
    """The two models, loaded anew, with the plain one's answers to the items. candidate: made of the plain one."""
    variants = (Variant(name="plain"), candidate or Variant(name="ruined"))
    folders = folders if candidate is None or candidate.quantization.method == "gptq" else folders[:1] * 2
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


def test_states_of_another_base_are_recorded_once_they_pay(folders):
    """Calls on a base that differs early run whole until that has cost a pass; then only what is behind them runs."""
    made = hybrid_of(folders, items(0, 8))
    made.ask(())
    base = frozenset({"model.layers.0.mlp.up_proj"})
    late = [f"model.layers.3.{place}" for place in ("self_attn.q_proj", "mlp.up_proj", "mlp.gate_proj")]
    skipped, partly = [], []
    for name in late:
        made.states.skipped = 0
        partly.append(made.ask({*base, name}, base=base))
        skipped.append(made.states.skipped)
    assert skipped[2] > 0
    assert skipped == [0, skipped[2], skipped[2]]
    made.states.first_changed, made.states = 0, None
    assert partly == [made.ask({*base, name}) for name in late]


def test_a_layer_ruined_by_its_bits_is_found_and_cured_by_more_bits(tmp_path):
    """One module has 1 bit and all others 8: the search finds it, and 8 bits for it alone bring new items back."""
    strong = {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": False, "initializer_range": 0.2}
    random_models.make("llama", strong).save_pretrained(tmp_path / "plain")
    engine_models.tokenizer().save_pretrained(tmp_path / "plain")
    folders = [tmp_path / "plain"]
    plain = loading.load(Variant(name="plain"), folders[0], device="cpu", dtype="float32")
    method = {"method": "hqq", "bits": 8, "group_size": 32, "module_bits": {"*.2.mlp.down_proj": 1}}
    variant = Variant(name="hqq", quantization=method)
    made = hybrid_of(folders, items(0, 16), candidate=variant)
    ruined = made.ask(()).scores
    assert sum(ruined.values()) <= 8
    with contextlib.closing(Journal(tmp_path / "j", "a")) as journal:
        sizes = dict.fromkeys(made.sizes, 1000)
        found = search(journal, made.ask, made.baseline_scores, sizes, kept=(), most=3000, seconds=120)
    assert found.chosen(3000).modules == (RUINED,)

    cured = commands.keeping(variant, "repaired-8bit", [RUINED], 8)
    assert cured.quantization.module_bits == {"*.2.mlp.down_proj": 1, RUINED: 8}
    loaded = loading.load(cured, folders[0], device="cpu", dtype="float32")
    assert loaded.proof.module_bits["8"]["modules"] == [RUINED]
    skipped = loading.load(commands.skipping(variant, "repaired", [RUINED]), folders[0], device="cpu", dtype="float32")
    assert loaded.proof.weight_bytes < skipped.proof.weight_bytes < plain.proof.weight_bytes
    fresh = items(100, 16)
    before, after = (hybrid_of(folders, fresh, candidate=one).ask(()).scores.values() for one in (variant, cured))
    assert sum(before) <= 8
    assert sum(after) >= 14


def test_a_gptq_checkpoint_with_one_ruined_module_is_searched(tmp_path):
    """Modules of a checkpoint are put back too: the ruined one alone brings every item back, for 16 less 4 bits."""
    from safetensors.torch import load_file, save_file

    status = {one.method: one for one in backends.method_status("cpu")}["gptq"]
    if not status.works:
        pytest.skip(f"gptq: {status.reason}")
    plain, ruined, baseline, checkpoint = (tmp_path / name for name in ("plain", "ruined", "rounded", "gptq"))
    doctor_models.plain_model(plain)
    shutil.copytree(plain, ruined)
    tensors, name = load_file(plain / "model.safetensors"), "model.layers.1.mlp.down_proj"
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"].flip(0).contiguous()
    save_file(tensors, ruined / "model.safetensors", metadata={"format": "pt"})
    for folder in (baseline, checkpoint):
        folder.mkdir()
    doctor_models.rounded_model(plain, baseline)
    doctor_models.FORMATS["gptq"](ruined, checkpoint)
    made = hybrid_of((baseline, checkpoint), items(0, 8), candidate=Variant(name="g", quantization="gptq"))
    assert len(made.sizes) == 14
    assert made.sizes[name] == pytest.approx(128 * 256 * (32 - 4.6) / 8, rel=0.02)
    assert sum(made.ask(()).scores.values()) <= 2
    assert made.ask((name,)).scores == made.baseline_scores
    assert sum(made.ask(set(made.sizes) - {name}).scores.values()) <= 2


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
    quanto = nf4.model_copy(update={"quantization": nf4.quantization.model_copy(update={"method": "quanto-int4"})})
    eight = commands.keeping(quanto, "repaired-8bit", [RUINED], 8)
    plan, _ = commands.held_out(run, summary, (quanto, eight))
    assert plan.experiment.candidates[1].quantization.module_bits == {RUINED: 8}
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
        commands.repair(other, judgement, summary, SimpleNamespace(), command="", bits=None)


def test_bits_that_a_method_does_not_have_are_refused_before_the_search(demo):
    """bitsandbytes quantizes a module or leaves it alone; quanto has 2, 4 and 8 bits."""
    run, judgement = demo
    nf4, _ = commands.lost_variant(run, judgement, "nf4")
    commands.check_bits(nf4, None)
    with pytest.raises(UsageError, match=r"cannot keep single modules at 8 bits: leave the bits out.*quanto-int4"):
        commands.check_bits(nf4, 8)
    quanto = nf4.model_copy(update={"quantization": nf4.quantization.model_copy(update={"method": "quanto-int4"})})
    commands.check_bits(quanto, 8)
    with pytest.raises(UsageError, match=r"quanto-int4 cannot keep single modules at 3 bits: give one of \[2, 4, 8\]"):
        commands.check_bits(quanto, 3)


@pytest.mark.parametrize("words", [["localize"], ["repair"]])
def test_another_build_in_the_place_of_a_model_is_not_searched(words, demo, monkeypatch, tmp_path, capsys):
    """What the run lost was lost with other weights, so neither the search nor the proof would be about it."""
    run, _ = demo
    weights = {"bf16": run.identities["bf16"]["weights"], "nf4": "made again"}
    monkeypatch.setattr("harness.run.plan.files_of", lambda variant, _: tmp_path / variant.name)
    monkeypatch.setattr("harness.run.identity.weights_of", lambda variant, _: weights[variant.name])
    assert cli._run([*words, str(RESULTS / "demo-cpu"), "nf4", "--quiet"]) == ExitCode.NOT_COMPARABLE
    assert f"{tmp_path / 'nf4'}: was changed since nf4 read it" in capsys.readouterr().err


NAMED = """
import sys
from harness.cli import main
sys.argv = ["quantcliff", *sys.argv[1:]]
try:
    main()
finally:
    print("LOADED", sorted({"torch", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["localize", "nope"], "has no judged candidate 'nope': give one of int8, nf4"),
        (["localize", "int8"], "fails in no gating stratum"),
        (["repair", "nf4", "--module-bits", "8"], "bnb-nf4 cannot keep single modules at 8 bits"),
    ],
)
def test_what_is_refused_is_refused_before_torch_is_loaded(words, says):
    """A wrong name costs a moment, and its error is all that is printed."""
    command, name, *more = words
    done = subprocess.run(
        [sys.executable, "-c", NAMED, command, str(RESULTS / "demo-cpu"), name, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 4)
    assert says in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) <= 3
    assert done.stdout == "LOADED []\n"


@pytest.mark.parametrize("share", ["0.1", "10", "0%", "101%", "ten%"])
def test_a_share_of_the_bytes_has_its_sign(share, capsys):
    """0.1 might be a tenth or a thousandth, so neither is guessed."""
    assert cli._run(["localize", str(RESULTS / "demo-cpu"), "int8", "--bytes", share]) == ExitCode.USAGE
    assert f"'{share}' is not a share such as 10%, with its sign" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("changed", [{}, {"share": 0.2}, {"of": "another run's manifest"}, {"of": None}])
def test_a_search_of_other_answers_is_not_proved(changed, monkeypatch, tmp_path):
    """A finished search is used again only for its share and its run: another build may fail in other strata."""
    folder = shutil.copytree(RESULTS / "demo-cpu", tmp_path / "run")
    run = load_run(RunDir(folder))
    searched = commands.searched(run, 0.1)
    assert searched == commands.searched(load_run(RunDir(RESULTS / "demo-cpu")), 0.1)
    write_json(folder / "damage-nf4.json", searched | {"earlier": True} | changed)
    monkeypatch.setattr("harness.run.plan.files_of", lambda variant, _: tmp_path / variant.name)
    monkeypatch.setattr("harness.run.identity.check_files", lambda *_: None)
    monkeypatch.setattr("harness.damage.commands.localize", lambda *_, **__: {"earlier": False})
    options = SimpleNamespace(quiet=True, as_json=False)
    monkeypatch.setattr("harness.cli.shared.progress", lambda _: SimpleNamespace(note=print))
    _, _, summary = models._localized(RunDir(folder), "nf4", 0.1, 12, options, None, again=False)
    assert summary["earlier"] is (changed == {})
