"""What a run keeps of its texts: planted secrets are looked for in everything that it leaves, in every mode."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import private_runs
import pytest
from private_runs import PLAIN, SECRETS, call, holding, own_word, run, texts

from harness.errors import ExitCode, Incomplete
from harness.records import ChoiceLogprobs, Generation, Item, Scored
from harness.store import privacy
from harness.store.privacy import TextPolicy
from harness.store.rundir import RunDir

MODES = ("full", "redacted", "none")
JUDGED = ("comparisons.json", "verdict.json", "manifest.json", "comparisons.csv", "junit.xml")


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run in each mode, judged and reported."""
    made = {}
    for mode in MODES:
        made[mode] = run(tmp_path_factory.mktemp(mode), tiny_llama, store_text=mode)
    return made


def lines(directory: Path, pattern: str) -> list[dict[str, Any]]:
    """All JSON lines of a run's files that fit a pattern."""
    return [json.loads(line) for path in sorted(directory.glob(pattern)) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("kind", SECRETS)
def test_every_secret_is_there_to_be_found(runs: dict[str, Path], kind: str) -> None:
    """In mode full each secret stands in items, answers, page, comment and step summary: the search sees them all."""
    found = holding(runs["full"], SECRETS[kind])
    assert {"items/multi_hop_math.jsonl", "items/typical.jsonl", "bf16/multi_hop_math-1of1.jsonl"} <= set(found)
    assert {"run.json", "report.html", "report.md", private_runs.STEP_SUMMARY} <= set(found)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_no_artefact_holds_a_secret(runs: dict[str, Path], mode: str, kind: str) -> None:
    """No file of the run holds the secret: items, answers, logs, page, comment, step summary, tables, JUnit."""
    assert holding(runs[mode], SECRETS[kind]) == []
    assert holding(runs[mode], "4930901820") == []


def test_redaction_keeps_the_rest_and_says_what_was_there(runs: dict[str, Path]) -> None:
    """Words that are no personal data are still shown, with the kind of what was taken out in brackets."""
    page = texts(runs["redacted"])["report.html"]
    assert PLAIN in page
    assert "[e-mail], [phone], [card], [IBAN], [IP]" in page
    assert "was replaced by brackets" in page


def test_without_texts_nothing_of_any_item_is_left(runs: dict[str, Path]) -> None:
    """No word of a prompt, no target, no answer, no document; ids, levels and scores are there."""
    assert len(holding(runs["full"], PLAIN)) >= 8
    assert holding(runs["none"], PLAIN) == []
    whole = texts(runs["none"])
    prompts = {item["prompt"].rpartition("<|user|>")[2][:60] for item in lines(runs["full"], "items/*.jsonl")}
    assert len(prompts) > 60
    assert [(name, prompt) for name, text in whole.items() for prompt in prompts if prompt in text] == []
    for item in lines(runs["none"], "items/*.jsonl"):
        assert (item["prompt"], item["target"], item["doc"]) == ("", "", {})
        assert item["id"]
        assert item["levels"]
        assert item["asked"]


def test_the_system_message_is_a_text_too(runs: dict[str, Path]) -> None:
    """The config that a run records, and the settings on the page, hold as much of it as the prompts do."""
    kept = {mode: json.loads((runs[mode] / "run.json").read_bytes())["config"]["sampling"]["system"] for mode in MODES}
    assert kept == {
        "full": private_runs.SYSTEM,
        "redacted": f"You are the {PLAIN} desk: [e-mail], [phone], [card], [IBAN], [IP].",
        "none": "[not stored]",
    }
    for mode, told in kept.items():
        for name in ("report.html", "report.md"):
            assert ">sampling.system<" in texts(runs[mode])[name]
            assert told[:100] in texts(runs[mode])[name]


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_token_ids_are_texts_too(runs: dict[str, Path], mode: str) -> None:
    """A tokenizer turns ids back into words: they are kept only where everything is."""
    full, kept = (lines(runs[one], "*/multi_hop_math-1of1.jsonl") for one in ("full", mode))
    assert all(one["response"]["token_ids"] for one in full)
    assert not any(one["response"]["token_ids"] for one in kept)
    assert len(kept) == len(full) == 180


def test_the_verdict_is_the_same_to_the_byte_in_every_mode(runs: dict[str, Path]) -> None:
    """Everything that is made from scores alone has the same bytes, whatever was kept of the texts."""
    for name in JUDGED:
        files = [(runs[mode] / name).read_bytes() for mode in MODES]
        if name == "manifest.json":  # which also has a digest of run.json, and so of the mode
            files = [json.dumps(json.loads(text)["variants"]).encode() for text in files]
        full, *others = files
        assert others == [full, full], name
    assert json.loads((runs["full"] / "verdict.json").read_bytes())["verdict"] == "fail"


@pytest.mark.parametrize("mode", MODES)
def test_judging_again_works_in_every_mode(runs: dict[str, Path], mode: str, tmp_path: Path) -> None:
    """Compare, gate and report read what was kept and come to the same bytes."""
    copy = Path(shutil.copytree(runs[mode], tmp_path / "private"))
    before = (copy / "comparisons.json").read_bytes()
    (copy / "comparisons.json").unlink()
    assert call("compare", copy, "--quiet") == ExitCode.FAIL
    assert (copy / "comparisons.json").read_bytes() == before
    lenient = call("gate", copy, "--margin", "0.5", "--quiet")
    assert lenient == call("gate", runs["full"], "--margin", "0.5", "--quiet") != ExitCode.FAIL
    assert call("report", copy, "--quiet") == ExitCode.FAIL


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_a_run_that_was_cut_short_goes_on_in_every_mode(
    runs: dict[str, Path], mode: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """Half of a results file is lost: the run answers it again, to the same bytes, without the texts."""
    copy = Path(shutil.copytree(runs[mode], tmp_path / "private"))
    path = copy / "nf4" / "multi_hop_math-1of1.jsonl"
    original = path.read_bytes()
    path.write_bytes(original[: len(original) // 2])
    (copy / "shards" / "1of1.json").unlink()
    run(tmp_path, tiny_llama, store_text=mode)
    assert path.read_bytes() == original
    assert [holding(copy, secret) for secret in SECRETS.values()] == [[]] * len(SECRETS)


def test_shards_come_to_the_same_verdict_without_texts(runs: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    """Two jobs that keep no texts give the comparisons of one that keeps all."""
    for shard in ("1/2", "2/2"):
        run(tmp_path, tiny_llama, "--shard", shard, store_text="none")
    assert call("compare", tmp_path / "private", "--quiet") == ExitCode.FAIL
    assert (tmp_path / "private" / "comparisons.json").read_bytes() == (runs["full"] / "comparisons.json").read_bytes()
    assert holding(tmp_path / "private", PLAIN) == []


def test_one_run_has_one_mode(
    runs: dict[str, Path], tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that keeps texts cannot go on without them, nor the other way round: it would be half of each."""
    shutil.copytree(runs["none"], tmp_path / "private")
    capsys.readouterr()
    path = private_runs.config(tmp_path, tiny_llama, store_text="full")
    assert call("run", path, "--output", tmp_path, "--quiet") == ExitCode.NOT_COMPARABLE
    assert "store_text changed" in capsys.readouterr().err


def test_show_says_that_the_texts_are_not_stored(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """For a flipped item: not an empty question, and not two equal answers; for choices, their log-probabilities."""
    for slice_name in ("multi_hop_math", "typical"):
        scores = {one["item_id"]: one["score"] for one in lines(runs["none"], f"nf4/{slice_name}-1of1.jsonl")}
        item = next(name for name, score in scores.items() if score == 0.0)
        capsys.readouterr()
        assert call("show", runs["none"], item) == ExitCode.PASS
        out = capsys.readouterr().out
        assert "The texts of this item are not stored" in out
        assert "the same" not in out.replace("prefer the same choice", "")
        assert "score: baseline" in out
        assert call("show", runs["full"], item) == ExitCode.PASS
        assert PLAIN in capsys.readouterr().out


def test_the_page_says_that_texts_are_not_stored(runs: dict[str, Path]) -> None:
    """Flips are listed with their scores, each saying that its texts are not there."""
    whole = texts(runs["none"])
    assert "This run stores no texts (store_text: none)" in whole["report.html"]
    assert "The texts of this item are not stored" in whole["report.html"]
    assert "This run stores no texts" in whole["report.md"]
    assert "not stored" not in texts(runs["full"])["report.md"]


def test_redaction_without_its_packages_is_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 before anything is written, with what to install; nothing is ever kept unredacted instead."""
    monkeypatch.setattr(privacy.importlib.util, "find_spec", lambda _: None)
    path = private_runs.config(tmp_path, tiny_llama, store_text="redacted")
    assert call("run", path, "--output", tmp_path / "out", "--quiet") == ExitCode.USAGE
    assert "store_text: redaction needs packages that are not installed: pip install 'quantcliff[privacy]'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_an_unknown_mode_is_refused(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typo must not end in everything being kept."""
    path = private_runs.config(tmp_path, tiny_llama, store_text="redact")
    assert call("plan", path) == ExitCode.USAGE
    assert "store_text: 'redact' is not one of the known values. Did you mean 'redacted'?" in capsys.readouterr().err


LOG = "loading\nprompt of anna@example.org follows\n"


@pytest.mark.parametrize(("mode", "kept"), [("full", LOG), ("redacted", LOG.replace("anna@example.org", "[e-mail]"))])
def test_a_log_is_kept_as_texts_are(mode: Any, kept: str, tmp_path: Path) -> None:
    """What a worker's libraries print may hold a prompt: the log in the run is whole, or redacted."""
    place = tmp_path / "nf4" / "worker-1of1.log"
    place.parent.mkdir()
    with TextPolicy(mode).log(place) as path:
        path.write_text(LOG)
    assert place.read_text() == kept


@pytest.mark.parametrize("text_policy", [TextPolicy("none"), TextPolicy("full", frozenset({"erased"}))])
def test_a_log_is_not_kept_where_texts_are_not(text_policy: TextPolicy, tmp_path: Path) -> None:
    """No log lies in a run that keeps no texts, or from which texts were erased, nor anywhere else afterwards."""
    with text_policy.log(tmp_path / "worker-1of1.log") as path:
        path.write_text(LOG)
    assert list(tmp_path.iterdir()) == []
    assert not path.parent.exists()


def test_the_log_of_a_worker_that_died_stays_outside_the_run(tmp_path: Path) -> None:
    """Whoever looks for the reason finds the log where the message says; the run itself does not hold it."""
    seen: list[Path] = []

    def died() -> None:
        with TextPolicy("none").log(tmp_path / "worker-1of1.log") as path:
            seen.append(path)
            path.write_text(LOG)
            raise Incomplete("died")

    with pytest.raises(Incomplete):
        died()
    (path,) = seen
    assert list(tmp_path.iterdir()) == []
    assert path.read_text() == LOG
    assert path.parent.stat().st_mode & 0o077 == 0
    shutil.rmtree(path.parent)


ITEM = Item(
    id="t/1",
    slice="s",
    task="t",
    kind="choice",
    prompt="Ask anna@example.org",
    levels={},
    stratum="all",
    cluster="c",
    choices=(" yes", " no"),
    target="yes",
    doc={"id": 1, "n": [{"mail": "a@b.org", "ok": True, "phone": 4930901820}]},
)


@pytest.mark.parametrize("mode", MODES)
def test_a_kept_item_is_still_that_item(mode: Any) -> None:
    """Its digest is that of the item as asked, and keeping it once more changes nothing."""
    kept = TextPolicy(mode).item(ITEM)
    assert kept.digest() == ITEM.digest()
    assert TextPolicy(mode).item(kept) == kept
    assert len(kept.choices) == 2


def test_an_item_without_personal_data_is_kept_whole() -> None:
    """Redaction changes nothing where there is nothing to take out."""
    plain = Item(**{**{name: getattr(ITEM, name) for name in ITEM.__slots__}, "prompt": "Ask her", "doc": {"id": 1}})
    assert TextPolicy("redacted").item(plain) is plain


def test_documents_are_redacted_all_the_way_down() -> None:
    """Texts and numbers in nested lists and mappings; what is neither stays."""
    doc = TextPolicy("redacted").item(ITEM).doc
    assert doc == {"id": 1, "n": [{"mail": "[e-mail]", "ok": True, "phone": "[phone]"}]}


def test_log_probabilities_are_numbers_and_stay() -> None:
    """An answer to choices has no text to take out; one in words loses text and token ids, and keeps its score."""
    choice = Scored("t/1", "d", 0, 1.0, {}, ChoiceLogprobs("t/1", (-1.0, -2.0), (1, 1), (True, False), 5))
    words = Scored("t/1", "d", 0, 1.0, {"acc": 1.0}, Generation("t/1", "yes", (7, 8), "eos", 5))
    assert TextPolicy("none").scored(choice) == choice
    kept = TextPolicy("none").scored(words)
    assert kept.response == Generation("t/1", "", (), "eos", 5)
    assert (kept.score, kept.metrics) == (1.0, {"acc": 1.0})


def test_a_secret_of_one_item_is_in_no_other(runs: dict[str, Path]) -> None:
    """The words that tell items apart do so, or the tests on erasing would prove nothing."""
    items = RunDir(runs["full"]).items()
    assert [own_word(index) in item.prompt for index, item in enumerate(items)] == [True] * 120
    assert sum(own_word(5) in json.dumps(item.doc) for item in items) == 1


def test_the_page_says_how_the_run_was_made(runs: dict[str, Path]) -> None:
    """Command, devices, settings, methods, answers spent: on the page, from the run's files, not in the comparison."""
    page = texts(runs["full"])["report.html"]
    assert "quantcliff run " in page
    assert "private.yaml --output" in page
    for name in ("devices.nf4", "engines.bf16", "quantization.nf4", "sampling.temperature", "dtype.bf16", "looks"):
        assert f">{name}<" in page, name
    assert "360 answers of the 360 that the fixed plan asks for" in page
    assert "quantcliff run" not in (runs["full"] / "comparisons.json").read_text(encoding="utf-8")
