"""Every method loads, answers what its arithmetic says, and proves what it is."""

from __future__ import annotations

import pytest
from lazily import lazy

from harness.config.methods import METHODS
from harness.config.schema import Variant
from harness.errors import BackendMissing, ModelError

torch = lazy("torch")
random_models = lazy("random_models")
doctor_models = lazy("harness.models.doctor_models")
loading = lazy("harness.models.loading")
backends = lazy("harness.models.backends")
bitsandbytes = lazy("bitsandbytes.functional")

STORED = ("gptq", "awq", "compressed-tensors", "gguf")
AT_LOAD = [name for name in METHODS if name not in {*STORED, "auto-gptq", "none"}]
BITS = {"int8": 8, "float8": 8, "fp8": 8, "intx4": 8, "int4": 4, "nf4": 4, "fp4": 4, "hqq": 4, "int2": 2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A random Llama: hidden 128, two layers, bf16."""
    return doctor_models.plain_model(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def rounded(plain, tmp_path_factory):
    """The same with its matrices rounded to the values that the 4-bit formats store."""
    return doctor_models.rounded_model(plain, tmp_path_factory.mktemp("rounded"))


@pytest.fixture(scope="module")
def plain_logits(plain):
    """What the plain model answers."""
    return logits(load_as("none", plain))


def load_as(method, folder, dtype="bfloat16", **options):
    """Load the folder by a method, or skip with the reason why it does not work here."""
    status = {status.method: status for status in backends.method_status("cpu")}[method]
    if not status.works:
        pytest.skip(f"{method}: {status.reason}")
    quantization = {"method": method, **options}
    variant = Variant(name="x", model=str(folder), quantization=quantization)
    return loading.load(variant, folder, device="cpu", dtype=dtype)


def logits(loaded, rows=1):
    """Logits for fixed tokens, in float32."""
    tokens = torch.randint(0, 256, (rows, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return loaded.model(tokens).logits.float()


def distance(one, other):
    """Norm of the difference over the norm."""
    return float((one - other).norm() / other.norm())


# Two layers of four 128x128 matrices and three 128x256 ones; embedding and head of 257x128; five norms of 128.
WEIGHTS = 2 * (4 * 128 * 128 + 3 * 128 * 256)
OUTSIDE = 2 * 257 * 128 + 5 * 128
ROWS = 2 * (4 * 128 + 2 * 256 + 128)  # output rows of all matrices: one scale each where scales are per row
BYTES = {
    "bnb-int8": WEIGHTS + 4 * ROWS,  # a float32 scale per row
    "bnb-nf4": WEIGHTS / 2 + 4 * WEIGHTS / 64 + 14 * 16 * 4,  # float32 per 64, and the 16 code values
    "torchao-int8": WEIGHTS + (4 + 1) * ROWS,  # float32 scale and int8 zero point per row
    "torchao-intx4": WEIGHTS + (2 + 1) * WEIGHTS / 32,  # a byte a weight; bf16 scale, int8 zero point per 32
    "quanto-int8": WEIGHTS + 2 * ROWS + 14 * 2 * 4,  # bf16 scale per row, two unused float32 activation scales
    "hqq": WEIGHTS / 2 + 2 * 2 * WEIGHTS / 64,  # bf16 scale and zero per 64
}
"""Bytes of all quantized matrices with their scales, from each method's description."""


@pytest.mark.parametrize("method", AT_LOAD)
def test_a_method_quantizes_answers_and_proves_itself(plain, plain_logits, method):
    """All matrices but the head are quantized, in the bits of its name; it answers as near as its record says.

    Bits per weight include scales and zeros, and the bytes of the model follow from them.
    """
    loaded = load_as(method, plain)
    proof = loaded.proof
    bits = next((count for name, count in BITS.items() if name in method), None)
    assert (proof.method, proof.quantized_modules, proof.linear_modules) == (method, 14, 15)
    low, high = (0, 16) if bits is None else (bits, bits + 0.8)
    assert low <= proof.bits_per_weight <= high
    if method in BYTES:
        assert proof.bits_per_weight == pytest.approx(8 * BYTES[method] / WEIGHTS, rel=0.004)
        # nf4's scales shrink on some CPUs
        assert proof.weight_bytes == pytest.approx(BYTES[method] + 2 * OUTSIDE, rel=0.04)
    assert (proof.compute_dtype, proof.vocabulary, proof.disk_bytes) == ("bfloat16", 257, 0)
    assert proof.quantized_share == 1.0  # embeddings and head are not counted
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert 0 < distance(logits(loaded), plain_logits) < METHODS[method].rounding
    tokens = loaded.tokenizer("abc", return_tensors="pt")
    with torch.inference_mode():
        answer = loaded.model.generate(**tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert answer.shape == (1, 7)


def test_a_method_whose_products_are_wrong_here_is_refused():
    """torch's product of 8-bit matrices saturates on some processors: there the method that needs it does not work."""
    ids = torch.randint(-127, 128, (64, 256), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    exact = torch.equal(torch.ops.aten._int_mm(ids, ids.T).double(), ids.double() @ ids.double().T)
    status = {status.method: status for status in backends.method_status("cpu")}["torchao-int8-dynamic"]
    assert exact or (not status.works and "saturates" in status.reason)
    assert not exact or "saturates" not in status.reason


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
def test_a_stored_format_answers_exactly_what_it_stores(plain, rounded, tmp_path, method):
    """In bf16 the kernels give bit for bit what the plain model with the dequantized weights gives.

    The files were packed by `doctor_models` from the formats' descriptions, by none of the libraries tested.
    """
    doctor_models.FORMATS[method](plain, tmp_path)
    loaded = load_as(method, tmp_path)
    assert torch.equal(logits(loaded), logits(load_as("none", rounded)))
    assert (loaded.proof.method, loaded.proof.quantized_modules, loaded.proof.quantized_share) == (method, 14, 1.0)
    assert 4 < loaded.proof.bits_per_weight < 5
    assert loaded.proof.disk_bytes == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("method", ["bnb-nf4", "bnb-fp4"])
def test_four_bit_weights_are_unpacked_and_nothing_else(plain, method):
    """In bf16, bit for bit the plain model with the weights that are stored, whichever kernels the processor has."""
    four = load_as(method, plain)
    exact = load_as("none", plain)
    modules = dict(exact.model.named_modules())
    unpacked = 0
    for name, module in four.model.named_modules():
        if type(module).__name__ == "Linear4bit":
            stored = bitsandbytes.dequantize_4bit(module.weight.data, module.weight.quant_state)
            modules[name].weight.data.copy_(stored)
            unpacked += 1
    assert unpacked == 14
    assert torch.equal(logits(four, rows=3), logits(exact, rows=3))


def test_gguf_answers_what_it_stores(plain, plain_logits, tmp_path):
    """Q8_0 from gguf's own quantizer comes back within 8-bit rounding; its blocks are 34 bytes per 32 weights."""
    doctor_models.FORMATS["gguf"](plain, tmp_path)
    loaded = load_as("gguf", tmp_path)
    assert 0 < distance(logits(loaded), plain_logits) < 0.05
    proof = loaded.proof
    assert (proof.method, proof.quantized_modules, proof.bits_per_weight) == ("gguf", 14, 34 * 8 / 32)
    assert proof.quantized_share == 1.0
    assert any("decompressed while loading" in note for note in proof.notes)


def test_a_checkpoint_says_itself_what_it_is(plain, tmp_path):
    """With nothing in the config a quantized folder loads as what its own config says, and the proof notes that."""
    doctor_models.FORMATS["gptq"](plain, tmp_path)
    loaded = load_as("none", tmp_path)
    assert loaded.proof.method == "gptq"
    assert "its own config says that it is gptq" in loaded.proof.notes


def test_auto_gptq_reads_autogptqs_folder_as_it_lies(shared_data):
    """A checkpoint that AutoGPTQ 0.7.1 wrote gives AutoGPTQ's own logits, from a folder that stays untouched.

    Session of the conversion by hand: transformers 5.23 in fp32, largest difference 0.0134 of 8.7, top-1 1.000.
    """
    folder = shared_data / "autogptq_checkpoint_tiny"
    before = sorted((entry.name, entry.stat().st_mtime_ns) for entry in folder.iterdir())
    loaded = load_as("auto-gptq", folder, dtype="float32")
    tokens, reference = torch.load(folder / "ref_logits.pt", weights_only=True)
    with torch.inference_mode():
        ours = loaded.model(tokens).logits
    assert (ours - reference).abs().max() < 0.02
    assert torch.equal(ours.argmax(-1), reference.argmax(-1))
    assert sorted((entry.name, entry.stat().st_mtime_ns) for entry in folder.iterdir()) == before
    assert (loaded.proof.method, loaded.proof.quantized_modules, loaded.proof.linear_modules) == ("gptq", 21, 22)
    assert any("auto-gptq runs on GPTQModel, its maintained successor" in note for note in loaded.proof.notes)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *((method, "float32") for method in ("none", "bnb-int8", "bnb-nf4", "torchao-int8", "quanto-int8", "gptq")),
        *((method, "float16") for method in ("none", "bnb-nf4", "awq")),
    ],
)
def test_one_compute_dtype_is_forced_on_every_method(plain, tmp_path, method, dtype):
    """Whatever dtype a checkpoint or a library prefers, the model computes in the one that the run asks for."""
    folder = plain
    if method in STORED:
        folder = tmp_path
        doctor_models.FORMATS[method](plain, folder)
    loaded = load_as(method, folder, dtype=dtype)
    assert loaded.proof.compute_dtype == dtype
    assert logits(loaded).isfinite().all()


def test_modules_can_be_left_alone(plain):
    """skip_modules leaves what it names, and still the head; the rest is quantized."""
    for method in ("bnb-int8", "bnb-nf4", "torchao-int8", "quanto-int8", "hqq"):
        loaded = load_as(method, plain, skip_modules=("down_proj",))
        assert loaded.proof.quantized_modules == 12
        for module in (loaded.model.lm_head, loaded.model.model.layers[0].mlp.down_proj):
            assert type(module) is torch.nn.Linear
            assert type(module.weight) is torch.nn.Parameter


MIXED = {"quanto-int4": (8, 2), "hqq": (8, 3), "torchao-intx4": (8, 8)}
"""Methods with bits per module: 8, and other ones that they may have."""


@pytest.mark.parametrize("method", MIXED)
def test_single_modules_have_bits_of_their_own(plain, method):
    """Each has the weights that a whole model of its bits has; what is skipped stays plain, the last glob wins."""
    bits = MIXED[method]
    globs = {"*.v_proj": bits[-1], "*.0.self_attn.?_proj": bits[0]}
    loaded = load_as(method, plain, module_bits=globs, skip_modules=("layers.0.self_attn.q_proj",))
    alone, uniform = load_as("none", plain).model, load_as(method, plain).model
    own = {f"model.layers.0.self_attn.{one}_proj": bits[0] for one in "kov"} | {
        "model.layers.1.self_attn.v_proj": bits[-1]
    }
    wholes = {one: whole(method, one, plain) for one in set(own.values())}
    rows = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, module in alone.named_modules():
        if type(module) is torch.nn.Linear and module.in_features == 128:
            same = uniform if name not in own else wholes[own[name]]
            same = alone if name in ("lm_head", "model.layers.0.self_attn.q_proj") else same
            with torch.no_grad():
                assert torch.equal(loaded.model.get_submodule(name)(rows), same.get_submodule(name)(rows)), name
    proof = loaded.proof
    assert proof.quantized_modules == 13
    recorded = {name: int(count) for count, one in proof.module_bits.items() for name in one["modules"]}
    assert recorded == own
    stored = proof.module_bits[str(bits[0])]["bytes"]
    assert any(f"{len(own) - (bits[0] != bits[-1])} modules at {bits[0]} bits" in note for note in proof.notes)
    assert stored == pytest.approx(128 * 128 * sum(count == bits[0] for count in own.values()), rel=0.1)
    assert logits(loaded).isfinite().all()


def whole(method, bits, folder):
    """The model whose modules all have these bits."""
    if method == "hqq":
        return load_as("hqq", folder, bits=bits).model
    return load_as(f"quanto-int{bits}" if method == "quanto-int4" else "torchao-int8", folder).model


def test_a_glob_that_names_no_module_is_refused(plain, tmp_path):
    """The error gives a name that there is; weights that are stored quantized have their bits already."""
    with pytest.raises(
        ModelError, match=r"'\*\.vproj' is the name of no linear module of .*such as model\.layers\.0\."
    ):
        load_as("hqq", plain, module_bits={"*.v_proj": 8, "*.vproj": 8})
    with pytest.raises(ModelError, match="'lm_head' is the name of no linear module"):
        load_as("quanto-int4", plain, module_bits={"lm_head": 8})


@pytest.mark.parametrize("method", ["bnb-int8", "bnb-nf4", "quanto-int8", "hqq", "torchao-int8"])
def test_a_skipped_module_that_is_not_there_is_refused(plain, method):
    """The config says that it is left alone, and the library would quantize it without a word."""
    with pytest.raises(ModelError, match="skip_modules: 'down_prj' is the name of no module of"):
        load_as(method, plain, skip_modules=("lm_head", "down_prj"))
    kept = load_as(method, plain, skip_modules=("lm_head", "down_proj", "model.layers.0")).proof
    assert kept.quantized_modules < load_as(method, plain).proof.quantized_modules


def test_options_reach_the_libraries(plain):
    """Double quantization, group size and bits change what is stored by what they should."""
    single, double = (load_as("bnb-nf4", plain, double_quant=on) for on in (False, True))
    weight = single.model.model.layers[0].self_attn.q_proj.weight
    assert weight.quant_state.quant_type == "nf4"
    assert double.proof.bits_per_weight != single.proof.bits_per_weight
    assert load_as("torchao-intx4", plain, group_size=64).proof.bits_per_weight < 8.75
    assert load_as("hqq", plain, bits=8, group_size=128).proof.bits_per_weight == 8 + 2 * 16 / 128
    assert load_as("bnb-int8", plain, threshold=0).model.model.layers[0].self_attn.q_proj.state.threshold == 0


def test_attention_is_passed_on(plain):
    """The implementation that the config names is the one that runs."""
    variant = Variant(name="x", model=str(plain))
    for name in ("eager", "sdpa"):
        loaded = loading.load(variant, plain, device="cpu", dtype="bfloat16", attention=name)
        assert loaded.model.config._attn_implementation == name


@pytest.mark.parametrize("method", ["torchao-int4", "torchao-float8-dynamic", "fp8"])
def test_a_method_without_its_device_says_so(plain, method):
    """On a CPU the methods of GPUs are refused with the same sentence that the doctor gives."""
    reason = {status.method: status for status in backends.method_status("cpu")}[method].reason
    assert "needs a CUDA device" in reason
    with pytest.raises(BackendMissing, match="needs a CUDA device of compute capability"):
        loading.load(Variant(name="x", model=str(plain), quantization=method), plain, device="cpu", dtype="bfloat16")


def test_a_method_without_its_package_names_the_extra(plain, monkeypatch):
    """The message ends with the command that installs what is missing; nothing else is affected."""
    from harness.models.backends import installed_version

    absent = {"gptqmodel": "", "torchao": "0.1.0"}
    stand_in = "harness.models.backends.installed_version"
    monkeypatch.setattr(stand_in, lambda name: absent.get(name, installed_version(name)))
    status = {status.method: status for status in backends.method_status("cpu")}
    assert not status["awq"].works
    assert status["gptq"].reason == "the package gptqmodel is not installed"
    assert status["gptq"].install == "pip install 'quantcliff[gptq]'"
    assert status["torchao-int8"].reason == "the package torchao is 0.1.0, and 0.15 or newer is needed"
    assert status["bnb-nf4"].works
    with pytest.raises(BackendMissing, match=r"torchao is 0.1.0.*pip install 'quantcliff\[torchao\]'"):
        loading.load(Variant(name="x", model="x", quantization="torchao-int8"), plain, device="cpu", dtype="bfloat16")


def test_the_status_of_all_methods_takes_no_time():
    """No model and no backend is imported for it."""
    import subprocess
    import sys

    code = (
        "import sys; from harness.models.backends import method_status; method_status('cpu');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'gptqmodel', 'bitsandbytes')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert [status.method for status in backends.method_status("cpu")] == list(METHODS)


def test_every_method_has_its_record_its_loader_and_its_line_in_the_docs(repository):
    """A record without a loader is an error, never plain weights; extras exist; each method is documented."""
    import tomllib
    from dataclasses import replace

    from harness.errors import ModelError
    from harness.models.formats import Request
    from harness.models.methods import LOADERS, load_model

    assert set(LOADERS) == set(METHODS)
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {method.extra for method in METHODS.values()} <= {*extras, "transformers[kernels]"}
    page = (repository / "docs" / "backends.md").read_text()
    assert [name for name in METHODS if name not in page and f"-{name.partition('-')[2]}`" not in page] == []
    fields = dict.fromkeys(("folder", "stored", "options", "device", "dtype", "attention", "tensors"))
    request = Request(method="none", trust_remote_code=False, **fields)
    with pytest.raises(ModelError, match=r"int5 has a record in harness/config/methods.toml and no loader"):
        load_model(replace(request, method="int5"))


@pytest.mark.gpu
@pytest.mark.parametrize("method", [*AT_LOAD, *STORED])
def test_a_method_works_on_cuda(method):
    """On a CUDA device every method that should work there answers near its reference."""
    from harness.models.doctor import examine

    report = examine("cuda", prove=(method,))
    status = {status.method: status for status in report.methods}[method]
    if not status.works:
        pytest.skip(f"{method}: {status.reason}")
    (result,) = report.proved
    assert result.works, result.reason


@pytest.mark.parametrize(
    ("method", "other", "own"),
    [
        ("bnb-int8", {"threshold": 0.0}, {"threshold": 6.0}),
        ("bnb-int8", {"skip_modules": ("q_prj",)}, {"skip_modules": ("lm_head",)}),
        ("bnb-nf4", {"double_quant": True}, {"double_quant": False}),
    ],
)
def test_options_that_stored_weights_do_not_have_are_refused(plain, tmp_path, method, other, own):
    """Loading cannot change how weights are stored; an option that says what they are is fine."""
    random_models.save_unused(method, plain, tmp_path)
    with pytest.raises(ModelError, match=f"quantized already, otherwise than {next(iter(other))}"):
        load_as(method, tmp_path, **other)
    assert load_as(method, tmp_path, **own).proof.quantized_modules == 14
