"""From what a config calls a model to a folder, and what is known of it without loading it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.errors import ModelError
from harness.models import resolve as models


def folder_with(place: Path, **files: str) -> Path:
    """A folder whose files are named by the keys, dots written as two underscores."""
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name.replace("__", ".")).write_text(content)
    return place


def test_a_directory_is_itself(tiny_llama):
    """A directory with a config and weights is given back, absolute."""
    assert models.resolve(str(tiny_llama), None) == tiny_llama


def test_a_revision_of_a_directory_names_nothing(tiny_llama):
    """It would be ignored, and another version gated than the config names."""
    for model in (str(tiny_llama), "smollm2"):
        with pytest.raises(ModelError, match=r"has no revisions, so revision 'v2' names nothing: leave it out"):
            models.resolve(model, "v2")


def test_a_missing_directory_names_its_neighbour(tmp_path):
    """A mistyped path is answered with the directory that was meant."""
    folder_with(tmp_path / "llama-8b")
    with pytest.raises(ModelError, match=r"no such directory. Did you mean '.*llama-8b'\?"):
        models.resolve(str(tmp_path / "lama-8b"), None)


def test_a_missing_parent_is_named_rather_than_the_leaf(tmp_path):
    """Where the mistake is higher up, the suggestion is for that part of the path."""
    folder_with(tmp_path / "checkpoints" / "a")
    with pytest.raises(ModelError, match=r"Did you mean '.*checkpoints'\?"):
        models.resolve(str(tmp_path / "chekpoints" / "a"), None)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"README__md": "x"}, r"no config.json and no .gguf file in it \(it holds README.md\)"),
        ({"config__json": "{}"}, "no weight file in it"),
    ],
)
def test_a_directory_that_is_no_model_says_what_is_missing(tmp_path, files, says):
    """A folder without config or weights is refused before anything loads."""
    with pytest.raises(ModelError, match=says):
        models.resolve(str(folder_with(tmp_path / "m", **files)), None)


def test_a_gguf_file_is_answered_with_the_config_to_write(tmp_path):
    """Who gives the file itself is told how to say it."""
    place = folder_with(tmp_path / "m", model__gguf="GGUF")
    with pytest.raises(ModelError, match=r"give its directory.*method: gguf, gguf_file: model.gguf"):
        models.resolve(str(place / "model.gguf"), None)


def test_a_hub_model_without_network_says_so():
    """With HF_HUB_OFFLINE (set for all tests) a model that is not in the hub's cache is a clear error."""
    with pytest.raises(ModelError, match="not in the hub's cache, and the hub cannot be asked"):
        models.resolve("nobody/no-such-model", None)


def test_gated_and_unknown_hub_models_are_told_apart():
    """The hub's refusals become sentences with a remedy; the errors are the hub client's own."""
    httpx = pytest.importorskip("httpx2", reason="another version of the hub's client")
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    request = httpx.Request("GET", "https://huggingface.co/a/b")
    answer = httpx.Response(403, request=request)
    said = {
        kind: models._hub_message("a/b", "v2", kind("no", response=answer))
        for kind in (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)
    }
    assert "accept its terms at https://huggingface.co/a/b" in said[GatedRepoError]
    assert "neither a directory here nor a model on the hub" in said[RepositoryNotFoundError]
    assert "no revision 'v2'" in said[RevisionNotFoundError]


def test_the_context_limit_is_read_from_any_common_key(tiny_llama):
    """Llama's and GPT-2's names for it, a nested text config, and a config that has none."""
    from transformers import AutoConfig

    assert models.context_limit(AutoConfig.from_pretrained(str(tiny_llama))) == 2048
    assert models.context_limit({"n_positions": 1024}) == 1024
    assert models.context_limit({"text_config": {"max_position_embeddings": 77}}) == 77
    with pytest.raises(ModelError, match="names no context limit"):
        models.context_limit({"max_position_embeddings": None})


def test_end_tokens_are_those_of_the_generation_config_or_else_of_the_model(tmp_path):
    """As servers read a folder."""
    folder = folder_with(tmp_path / "m", **{"config.json": json.dumps({"text_config": {"eos_token_id": 2}})})
    assert models.stored_end_tokens(folder) == (2,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert models.stored_end_tokens(folder) == (2, 0)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [None, 7]}))
    assert models.stored_end_tokens(folder) == (7,)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache directory of this test alone."""
    monkeypatch.setenv("QUANTCLIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_weights_digest_follows_contents_not_places(tiny_llama, tmp_path, own_cache):
    """A copy has the same digest; one changed byte of the weights, or another tokenizer, gives another."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama, copy)
    original = models.weights_digest(tiny_llama)
    assert models.weights_digest(copy) == original
    (copy / "README.md").write_text("nothing that matters")
    assert models.weights_digest(copy) == original
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    changed = models.weights_digest(copy)
    assert changed != original
    (copy / "tokenizer_config.json").write_text("{}")
    assert models.weights_digest(copy) != changed


def test_the_weights_digest_is_read_from_memory_the_second_time(tiny_llama, own_cache):
    """The cache decides for unchanged files: a digest planted there comes back, a torn cache is not believed."""
    first = models.weights_digest(tiny_llama)
    memory = next((own_cache / "digests").iterdir())
    data = json.loads(memory.read_text())
    data["model.safetensors"]["sha256"] = "0" * 64
    memory.write_text(json.dumps(data))
    assert models.weights_digest(tiny_llama) != first
    memory.write_text("{ torn")
    assert models.weights_digest(tiny_llama) == first


def test_a_cache_that_cannot_be_written_costs_only_time(tiny_llama, tmp_path, monkeypatch):
    """The digest is the same where nothing can be remembered."""
    known = models.weights_digest(tiny_llama)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QUANTCLIFF_CACHE", str(tmp_path / "file" / "cache"))
    assert models.weights_digest(tiny_llama) == known


def test_the_tokenizer_digest_is_its_behaviour(tiny_llama, tmp_path):
    """Template, padding and another file that says the same do not change it; end token and splitting do."""
    from transformers import AutoTokenizer

    from harness.models.smollm2 import digits_apart

    def fresh():
        return AutoTokenizer.from_pretrained(str(tiny_llama))

    known = models.tokenizer_digest(fresh())
    same = fresh()
    same.chat_template, same.padding_side, same.pad_token = "{{ messages }}", "left", "<eos>"
    assert models.tokenizer_digest(same) == known
    same.save_pretrained(tmp_path / "again")
    assert models.tokenizer_digest(AutoTokenizer.from_pretrained(str(tmp_path / "again"))) == known
    other_end, other_split = fresh(), fresh()
    other_end.eos_token = "<pad>"
    digits_apart(other_split)
    assert len({known, models.tokenizer_digest(other_end), models.tokenizer_digest(other_split)}) == 3
