"""What a model proves of itself, counted by hand beside it, and which pairs may be compared."""

from __future__ import annotations

import dataclasses

import pytest
from lazily import lazy

from harness.config.methods import same_method
from harness.config.schema import Quantization, Variant
from harness.errors import NotComparable
from harness.models.compatibility import check_candidate
from harness.records import Proof, to_json

torch = lazy("torch")
doctor_models = lazy("harness.models.doctor_models")
loading = lazy("harness.models.loading")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A random Llama: hidden 128, inner 256, two layers, vocabulary 257, bf16, head not tied."""
    return doctor_models.plain_model(tmp_path_factory.mktemp("plain"))


def proof_of(method, folder, **options):
    """The proof of the folder loaded by a method in bf16."""
    variant = Variant(name="x", model=str(folder), quantization={"method": method, **options})
    return loading.load(variant, folder, device="cpu", dtype="bfloat16").proof


# Two layers of four 128x128 matrices and three 128x256 ones; embedding and head of 257x128; five norms of 128.
WEIGHTS = 2 * (4 * 128 * 128 + 3 * 128 * 256)
OUTSIDE = 2 * 257 * 128 + 5 * 128
ROWS = 2 * (4 * 128 + 2 * 256 + 128)  # output rows of all matrices: one scale each where scales are per row


def test_a_plain_model_has_two_bytes_a_weight(plain):
    """Every parameter once, in bf16, and the rotary frequencies in float32."""
    proof = proof_of("none", plain)
    frequencies = 2 * 4 * 16  # transformers keeps two copies of 16 float32
    assert proof.weight_bytes == 2 * (WEIGHTS + OUTSIDE) + frequencies
    assert (proof.quantized_modules, proof.linear_modules, proof.bits_per_weight) == (0, 15, 16.0)
    assert proof.kernel == "Linear"
    assert proof.disk_bytes == (plain / "model.safetensors").stat().st_size


def test_tied_weights_are_counted_once(tiny_llama):
    """The head that is the embedding costs nothing more, and still counts as a linear module."""
    from safetensors.torch import load_file

    proof = proof_of("none", tiny_llama)
    stored = sum(tensor.nbytes for tensor in load_file(tiny_llama / "model.safetensors").values())
    assert stored < proof.weight_bytes <= stored + 1024
    assert proof.linear_modules == 15


def test_bytes_where_the_librarys_own_figure_is_wrong(plain):
    """get_memory_footprint() gives torchao's int8 model the size of the plain one; the proof does not."""
    variant = Variant(name="x", model=str(plain), quantization="torchao-int8")
    loaded = loading.load(variant, plain, device="cpu", dtype="bfloat16")
    claimed = loaded.model.get_memory_footprint()
    unquantized = loading.load(Variant(name="x", model=str(plain)), plain, device="cpu", dtype="bfloat16").model
    assert claimed >= unquantized.get_memory_footprint()
    assert loaded.proof.weight_bytes < 0.7 * claimed


def test_bytes_where_the_librarys_own_figure_is_right(plain):
    """For a plain and a bitsandbytes int8 model both ways agree (the latter up to scales, which theirs omits)."""
    for method, slack in (("none", 0), ("bnb-int8", 4 * ROWS)):
        variant = Variant(name="x", model=str(plain), quantization=method)
        loaded = loading.load(variant, plain, device="cpu", dtype="bfloat16")
        extra = loaded.proof.weight_bytes - loaded.model.get_memory_footprint()
        assert 0 <= extra <= slack + 256


def test_what_is_decompressed_says_so(plain, tmp_path):
    """compressed-tensors is 4.5 bits on disk and the size of plain weights in memory; both are told."""
    doctor_models.FORMATS["compressed-tensors"](plain, tmp_path)
    proof = proof_of("compressed-tensors", tmp_path)
    assert proof.bits_per_weight == pytest.approx(4.5, abs=0.01)
    assert proof.weight_bytes > 2 * (WEIGHTS + OUTSIDE)
    assert proof.disk_bytes < WEIGHTS
    assert proof.kernel == "Linear (decompressed)"
    assert any("decompressed while loading" in note for note in proof.notes)


def test_little_quantized_is_noted(plain):
    """A method that leaves most weights alone is told so in the proof's notes."""
    skipped = ("q_proj", "k_proj", "v_proj", "up_proj", "gate_proj", "down_proj")
    proof = proof_of("bnb-int8", plain, skip_modules=skipped)
    assert proof.quantized_modules == 2
    assert any(
        note.startswith("only ") and "of the weights in its matrices are quantized" in note for note in proof.notes
    )


BASELINE = Proof("none", "Linear", 0, 15, 16.0, 100, 100, "bfloat16", 257, "abc")
INT4 = dataclasses.replace(BASELINE, method="bnb-nf4", kernel="Linear4bit", quantized_modules=14, bits_per_weight=4.5)
NF4 = Variant(name="four", model="m", quantization="bnb-nf4")


def test_an_honest_candidate_is_compared():
    """A candidate that is what its config says raises nothing."""
    check_candidate(BASELINE, INT4, NF4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quantized_modules": 0}, "none of its 15 linear modules is quantized, though the method is bnb-nf4"),
        ({"method": "bnb-fp4"}, "the config says bnb-nf4 and what was loaded is bnb-fp4"),
        ({"vocabulary": 256}, "its vocabulary has 256 rows and the baseline's 257"),
        ({"tokenizer_digest": "abd"}, "its tokenizer reads texts otherwise"),
        ({"compute_dtype": "float16"}, "it computes in float16 and the baseline in bfloat16"),
    ],
)
def test_a_candidate_that_is_not_comparable_says_why(change, says):
    """Each difference is named; together they are named together."""
    with pytest.raises(NotComparable, match=f"^four: {says}"):
        check_candidate(BASELINE, dataclasses.replace(INT4, **change), NF4)
    both = dataclasses.replace(INT4, vocabulary=1, tokenizer_digest="z")
    with pytest.raises(NotComparable, match=r"vocabulary has 1 rows.*; its tokenizer"):
        check_candidate(BASELINE, both, NF4)


def test_a_checkpoint_that_calls_itself_quantized_and_is_not_is_refused():
    """Also where the config names no method: the checkpoint did."""
    empty = dataclasses.replace(INT4, method="gptq", quantized_modules=0)
    with pytest.raises(NotComparable, match="though the method is gptq"):
        check_candidate(BASELINE, empty, Variant(name="four", model="m"))


def test_the_dtype_may_differ_where_it_is_the_question():
    """An unquantized candidate whose config names another dtype is compared for just that."""
    half = dataclasses.replace(BASELINE, compute_dtype="float16")
    check_candidate(BASELINE, half, Variant(name="half", model="m", dtype="float16"))
    with pytest.raises(NotComparable, match="computes in float16"):
        check_candidate(BASELINE, half, Variant(name="half", model="m"))


def test_autogptq_and_gptq_are_one_format():
    """A config may call GPTQ weights by either name."""
    assert same_method("auto-gptq", "gptq")
    assert not same_method("gptq", "awq")
    gptq = dataclasses.replace(INT4, method="gptq")
    check_candidate(BASELINE, gptq, Variant(name="g", model="m", quantization=Quantization(method="auto-gptq")))


def test_a_model_that_quantizes_nothing_proves_nothing(plain, tmp_path):
    """A folder whose config says compressed-tensors over plain weights ends as zero modules, and is refused."""
    import json
    import shutil

    folder = shutil.copytree(plain, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    scheme = {"targets": ["NoSuchLayer"], "weights": {"num_bits": 4, "type": "int", "symmetric": True}}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
    }
    (folder / "config.json").write_text(json.dumps(config))
    proof = proof_of("compressed-tensors", folder)
    assert proof.quantized_modules == 0
    variant = Variant(name="c", model=str(folder), quantization="compressed-tensors")
    with pytest.raises(NotComparable, match="none of its 15 linear modules is quantized"):
        check_candidate(proof_of("none", plain), proof, variant)


def test_a_proof_is_plain_data(plain):
    """It travels in JSON."""
    import json

    data = json.loads(json.dumps(to_json(proof_of("bnb-nf4", plain))))
    assert data["method"] == "bnb-nf4"
    assert torch.finfo(getattr(torch, data["compute_dtype"])).bits == 16
