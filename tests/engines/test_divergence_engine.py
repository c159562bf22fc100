"""Divergence: against float64, zero for a model against itself, the same in every path, errors by cluster."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

import engine_models as tiny
import numpy as np
import pytest
from lazily import lazy

from harness.errors import StatisticsError, StoreError
from harness.records import Settings
from harness.stats.divergence import Divergence, summarise
from harness.store.divergence import divergence_from_json

torch = lazy("torch")
measuring = lazy("harness.engines.transformers.divergence")
hf_head = lazy("harness.engines.transformers.head")

GREEDY = Settings()
engine = tiny.engine


def worse(family: str, noise: float, dtype: str = "float32") -> Any:
    """The family's model with its weights a little off, as a quantized one."""
    model = copy.deepcopy(tiny.model(family, dtype=dtype))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.add_(noise * weight.std() * torch.randn(weight.shape, generator=draw).to(weight.dtype))
    return model


def recorded(model: Any, items: list[Any], **options: Any) -> measuring.Recorder:
    """A baseline's traces."""
    recorder = measuring.Recorder()
    list(engine(model, **options).answer(items, GREEDY, observer=recorder))
    return recorder


def compared(
    recorder: measuring.Recorder, baseline: Any, candidate: Any, items: list[Any], **options: Any
) -> measuring.Comparer:
    """A candidate measured against traces."""
    mine = engine(candidate, **options)
    comparer = measuring.Comparer(recorder.traces, engine(baseline).head, mine.head)
    list(mine.answer(items, GREEDY, observer=comparer))
    return comparer


def a_head(weight: torch.Tensor, softcap: float | None = None) -> hf_head.Head:
    """A head of its own with these weights [vocabulary, width]."""
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight = torch.nn.Parameter(weight.clone())
    return hf_head.Head(module, softcap, weight.shape[0])


@pytest.mark.parametrize("heads", ["one", "one in bf16", "equal", "other", "capped"])
@pytest.mark.parametrize("noise", [1e-3, 1e-2, 0.1, 1.0])
def test_kl_is_that_of_float64(noise, heads):
    """From the same hidden states, within 1e-4 relative of the definition in float64, large or small."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(5000, 32, generator=draw)
    hidden = torch.randn(40, 32, generator=draw)
    other = hidden + noise * torch.randn(40, 32, generator=draw)
    if heads == "one in bf16":
        weight, hidden, other = weight.bfloat16(), hidden.bfloat16(), other.bfloat16()
    weight_two = weight + 1e-3 * torch.randn(5000, 32, generator=draw) if heads == "other" else weight
    cap = 20.0 if heads == "capped" else None
    one = a_head(weight, cap)
    two = one if heads.startswith("one") else a_head(weight_two, cap)
    comparer = measuring.Comparer({"t/1": measuring.Trace("t/1", tuple(range(40)), hidden)}, one, two)
    assert (comparer.baseline is comparer.candidate) is (heads != "other")
    comparer.observe("t/1", range(40), other)
    found = comparer.found["t/1"]
    p, q = ((h.double() @ w.double().T) for h, w in ((hidden, weight), (other, weight_two)))
    p, q = ((logits if cap is None else cap * torch.tanh(logits / cap)).log_softmax(-1) for logits in (p, q))
    forward, reverse = (p.exp() * (p - q)).sum(-1), (q.exp() * (q - p)).sum(-1)
    assert float(forward.mean()) > noise**2 / 10
    assert found.kl == pytest.approx(forward.tolist(), rel=1e-4)
    assert found.reverse_kl == pytest.approx(reverse.tolist(), rel=1e-4)
    assert found.baseline_logprob == pytest.approx(p.diagonal().tolist(), abs=1e-4)
    assert found.candidate_logprob == pytest.approx(q.diagonal().tolist(), abs=1e-4)


def test_chunks_change_no_bit(monkeypatch):
    """Looked at token by token, a few at a time or all at once, every number is the same."""
    draw = torch.Generator().manual_seed(2)
    hidden, off = torch.randn(33, 32, generator=draw), torch.randn(33, 32, generator=draw)
    trace, head = measuring.Trace("t/1", tuple(range(33)), hidden), a_head(torch.randn(700, 32, generator=draw))
    found = []
    for chunk in (1, 5 * 700, 1 << 30):
        monkeypatch.setattr("harness.engines.transformers.divergence.CPU_CHUNK", chunk)
        found.append(measuring.divergence(trace, hidden + 0.1 * off, baseline=head, candidate=head))
    assert min(found[0].kl) > 0
    assert found[0] == found[1] == found[2]


def test_a_known_case_by_hand():
    """Two tokens: p = (3/4, 1/4) against q = (1/2, 1/2) is 3/4 ln 3/2 + 1/4 ln 1/2 = 0.13081."""
    one = a_head(torch.log(torch.tensor([[0.75], [0.25]])))
    two = a_head(torch.log(torch.tensor([[0.5], [0.5]])) + 3)
    found = measuring.divergence(
        measuring.Trace("t/1", (0,), torch.ones(1, 1)), torch.ones(1, 1), baseline=one, candidate=two
    )
    assert found.kl == pytest.approx((0.130812,), abs=1e-6)
    assert found.reverse_kl == pytest.approx((0.143841,), abs=1e-6)
    assert found.same_top == (True,)
    assert found.candidate_logprob == pytest.approx((np.log(0.5),))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mamba"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_against_itself_is_zero(family, dtype):
    """Not nearly: exactly 0 at every token of every answer, choices and free text, also in 16 bits."""
    model, items = tiny.model(family, dtype=dtype), tiny.text_items() + tiny.choice_items()
    found = compared(recorded(model, items), model, model, items).found
    assert found.keys() >= {item.id for item in items if item.kind == "choice"}
    assert len(found) > 15
    for one in found.values():
        assert one.kl == one.reverse_kl == (0.0,) * len(one.kl)
        assert all(one.same_top)
        assert one.baseline_logprob == one.candidate_logprob


@pytest.mark.parametrize("family", ["llama", "gemma2", "mamba"])
def test_divergence_is_that_of_whole_forward_passes(family):
    """Each token's KL is what two ordinary forward passes over prompt and answer give in float64."""
    baseline, candidate = tiny.model(family), worse(family, 0.05)
    items = tiny.text_items()
    recorder = recorded(baseline, items)
    found = compared(recorder, baseline, candidate, items).found
    assert found
    assert max(max(one.kl) for one in found.values()) > 1e-3
    for item in items:
        tokens = list(recorder.traces[item.id].tokens)
        prompt = engine(baseline).context.texts.prompt(item.prompt)
        with torch.inference_mode():
            rows = [model(torch.tensor([prompt + tokens])).logits[0].double() for model in (baseline, candidate)]
        p, q = (each[len(prompt) - 1 : len(prompt) - 1 + len(tokens)].log_softmax(-1) for each in rows)
        one = found[item.id]
        assert one.kl == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), rel=1e-3, abs=1e-7)
        assert one.same_top == tuple((p.argmax(-1) == q.argmax(-1)).tolist())


@pytest.mark.parametrize(
    "options",
    [{"optimizations": False}, {"method": "bnb-int8"}, {"max_batch": 1}, {"batch_tokens": 300, "max_batch": 2}],
)
def test_every_path_measures_the_same(options):
    """Without optimisations, alone, in small batches: the same divergence, and answers that no watch changes."""
    baseline, candidate = tiny.model("llama"), worse("llama", 0.1)
    items = tiny.text_items() + tiny.choice_items()
    recorder = recorded(baseline, items)
    expected = compared(recorder, baseline, candidate, items).found
    found = compared(recorder, baseline, candidate, items, **options).found
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert one.kl == pytest.approx(expected[name].kl, rel=1e-3, abs=1e-6)
    watched = {
        one.item_id: one
        for one in engine(candidate).answer(
            items, GREEDY, observer=measuring.Comparer(recorder.traces, engine(baseline).head, engine(candidate).head)
        )
    }
    for one in engine(candidate).answer(items, GREEDY):
        assert watched[one.item_id] == one


def test_more_damage_is_more_divergence():
    """KL grows with the noise put on the weights."""
    baseline, items = tiny.model("llama"), tiny.text_items()
    recorder = recorded(baseline, items)
    means = [
        summarise(list(compared(recorder, baseline, worse("llama", noise), items).found.values())).kl
        for noise in (0.01, 0.05, 0.2)
    ]
    assert 0 < means[0] < means[1] < means[2]


def test_traces_come_back_as_they_were_written(tmp_path):
    """Tokens and states survive the file, in their dtype."""
    recorder = recorded(tiny.model("llama", dtype="bfloat16"), tiny.text_items())
    measuring.save_traces(tmp_path / "traces.safetensors", list(recorder.traces.values()))
    back = measuring.load_traces(tmp_path / "traces.safetensors")
    assert back.keys() == recorder.traces.keys()
    for name, trace in recorder.traces.items():
        assert back[name].tokens == trace.tokens
        assert back[name].hidden.dtype == torch.bfloat16
        assert torch.equal(back[name].hidden, trace.hidden)


@pytest.mark.parametrize("content", [None, b"", b"not a tensor file at all"])
def test_a_broken_trace_file_is_said(tmp_path, content):
    """Missing, empty or foreign: the error names the file and the remedy."""
    path = tmp_path / "traces.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"traces\.safetensors: no traces can be read .* run the baseline again"):
        measuring.load_traces(path)


def made(name: str, kl: list[float]) -> Divergence:
    """A divergence with these KLs."""
    size = len(kl)
    return Divergence(name, tuple(kl), tuple(kl), (True,) * size, (-1.0,) * size, (-1.5,) * size)


def test_errors_are_those_of_a_ratio_of_cluster_totals():
    """Mean and standard error as the linearised ratio estimator of another package.

    >>> # R 4.3, survey 4.2: svyratio(~t, ~n, svydesign(~c, data = data.frame(c = 1:3, t = c(3, 1, 4), n = c(2, 1, 3))))
    >>> # is the same formula: g/(g-1) * sum((t - r n)^2) / sum(n)^2 with r = 8/6
    """
    some = [made("a", [1.0, 2.0]), made("b", [1.0]), made("c", [1.0, 1.0, 2.0])]
    summary = summarise(some)
    ratio = 8 / 6
    residuals = np.array([3 - 2 * ratio, 1 - ratio, 4 - 3 * ratio])
    assert summary.kl == pytest.approx(ratio)
    assert summary.kl_error == pytest.approx(np.sqrt(3 / 2 * (residuals**2).sum()) / 6)
    assert (summary.tokens, summary.same_top) == (6, 1.0)
    assert summary.probability_change == pytest.approx(np.exp(-1.5) - np.exp(-1.0))


def test_clusters_widen_the_error():
    """Sequences that go together count as one: the error is larger, and unknown for a single cluster."""
    draw = np.random.default_rng(0)
    levels = np.repeat(draw.gamma(2.0, 1.0, size=10), 8)
    some = [made(f"i{n}", list(level + draw.random(5))) for n, level in enumerate(levels)]
    clusters = {f"i{n}": f"c{n // 8}" for n in range(80)}
    apart, together = summarise(some), summarise(some, clusters)
    assert apart.kl == together.kl
    assert together.kl_error > 2 * apart.kl_error
    assert summarise(some, dict.fromkeys(clusters, "one")).kl_error == float("inf")


def test_a_divergence_survives_json_and_refuses_nonsense():
    """To JSON and back is the same; uneven or empty fields and missing items are errors."""
    one = made("a", [0.5, 0.25])
    assert divergence_from_json(json.loads(json.dumps(asdict(one)))) == one
    with pytest.raises(StatisticsError, match="a: a divergence needs the same number"):
        Divergence("a", (1.0,), (1.0,), (True,), (0.0, 0.0), (0.0,))
    with pytest.raises(StatisticsError, match="no items"):
        summarise([])
    with pytest.raises(StatisticsError, match="b: its divergence"):
        summarise([made("a", [1.0]), made("b", [float("nan")])])


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_a_head_that_cannot_be_written_down_is_a_reason(family, tmp_path, monkeypatch):
    """A model that scales its logits in its own way has no divergence, and the reason is given; others have one."""
    monkeypatch.setitem(tiny.FAMILIES, "granite", {**tiny.SIZES, "logits_scaling": 4.0})
    items = tiny.text_items()
    baseline, candidate = engine(tiny.model(family)), engine(worse(family, 0.05))
    list(measuring.TraceWriter(baseline, tmp_path, 64, frozenset()).answer(0, items, GREEDY))
    meter = measuring.TraceComparer(candidate, tmp_path)
    list(meter.answer(0, items, GREEDY))
    found, why = meter.measured()
    if family == "llama":
        assert (len(found), why) == (len(items), "")
        assert max(max(one.kl) for one in found) > 1e-3
    else:
        assert (found, why) == ((), "the baseline's head cannot be applied apart from its model")


def test_other_vocabularies_are_a_reason(tmp_path):
    """Two models that know a different number of tokens have no divergence, and both numbers are given."""
    items, small = tiny.text_items()[:2], copy.deepcopy(tiny.model("llama"))
    list(measuring.TraceWriter(engine(), tmp_path, 64, frozenset()).answer(0, items, GREEDY))
    small.resize_token_embeddings(small.config.vocab_size + 8)
    meter = measuring.TraceComparer(engine(small), tmp_path)
    list(meter.answer(0, items, GREEDY))
    found, why = meter.measured()
    known = tiny.model("llama").config.vocab_size
    assert (found, why) == ((), f"the baseline knows {known} tokens, this variant {known + 8}")
