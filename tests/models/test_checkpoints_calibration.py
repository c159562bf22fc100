"""Calibration sets: the same everywhere, readable from files, and never the texts that a candidate is judged by."""

from __future__ import annotations

import json
import re

import pytest

from harness.errors import ModelError, UsageError
from harness.models.calibration import (
    BUILT_IN,
    SIDECAR,
    Calibration,
    built_in,
    calibration_overlap,
    from_file,
    sidecar,
)
from harness.records import digest

PASSAGE = "The ferry left a quarter of an hour late, and nobody on the upper deck seemed to mind."


def checkpoint(folder, *texts):
    """A folder with the sidecar of a calibration set."""
    (folder / SIDECAR).write_text(json.dumps(sidecar(Calibration("own", texts))))
    return folder


def test_the_built_in_set_is_the_same_on_every_machine():
    """Its texts have one digest; another word in it has to have another name."""
    assert digest(built_in().texts) == "3b601ad0ec202081"
    assert built_in().name == BUILT_IN == "quantcliff-calibration-v1"


def test_the_built_in_set_holds_prose_code_sums_and_many_scripts():
    """Each text is long enough to teach something; Latin, Cyrillic, CJK, Arabic, Indic and Thai are among them."""
    texts = built_in().texts
    assert len(texts) >= 16
    assert min(map(len, texts)) > 1000
    whole = "".join(texts)
    for sign in (
        "def moving_average",
        "SELECT c.name",
        " more make ",
        "м",
        "的",
        "の",
        "다",
        "ا",
        "ש",
        "क",
        "ন",
        "க",
        "ร",
        "η",
    ):
        assert sign in whole


def passages(text):
    """Every run of 50 characters of a text, whatever its case and white space."""
    plain = re.sub(r"\s+", " ", text.casefold())
    return (plain[start : start + 50] for start in range(len(plain) - 49))


def test_the_built_in_set_shares_nothing_with_the_tasks(repository):
    """No passage of 50 characters occurs in any file of the task folder."""
    known = {one for text in built_in().texts for one in passages(text)}
    for path in (repository / "tasks").rglob("*"):
        if path.is_file() and path.suffix in {".py", ".yaml", ".json", ".jsonl", ".txt", ".md", ".csv"}:
            assert known.isdisjoint(passages(path.read_text(encoding="utf-8"))), path


def test_the_built_in_set_shares_nothing_with_the_public_data(shared_data):
    """Nor in the public sets that the suites read: checked on GSM8K, MGSM in French and XCOPA in Italian."""
    known = {one for text in built_in().texts for one in passages(text)}
    read = 0
    for name in ("gsm8k/*", "mgsm/*fr*", "xcopa/**/*"):
        for path in sorted(shared_data.glob(name)):
            if path.suffix in {".jsonl", ".tsv"} and path.stat().st_size < 3_000_000:
                read += 1
                assert known.isdisjoint(passages(path.read_text(encoding="utf-8"))), path
    assert read > 2


def test_a_shared_passage_is_found_whatever_its_spelling(tmp_path):
    """Other case, other white space, other words around it: the passage is still the passage."""
    folder = checkpoint(tmp_path, "An unrelated text that is long enough to have fingerprints of its own.", PASSAGE * 2)
    prompt = f"Read this and answer. {PASSAGE.upper().replace(' ', '   ')} Was the ferry late?"
    found = calibration_overlap(folder, ["What is 12 plus 30, and why would anybody want to know that at all?", prompt])
    assert found == [1]


def test_fifty_shared_characters_are_always_found_and_thirty_nine_never(tmp_path):
    """Winnowing's guarantee: a run of 40 + 11 - 1 characters is certain, a run shorter than 40 is impossible."""
    for start in range(0, 30, 3):
        run = PASSAGE[start : start + 50].strip()
        run = PASSAGE[start : start + 50 + 50 - len(run)]
        assert calibration_overlap(checkpoint(tmp_path, PASSAGE), [f"zq {run} qz"])
        short = PASSAGE[start : start + 38].strip()
        assert not calibration_overlap(checkpoint(tmp_path, PASSAGE), [f"zq{'x' * 60} {short} qz{'y' * 60}"])


def test_a_template_is_not_taken_for_a_passage(tmp_path):
    """What more than half of the prompts begin with is their frame: only the question itself counts."""
    frame = "You are a helpful assistant that answers every question with one word and nothing else. "
    folder = checkpoint(tmp_path, frame + PASSAGE)
    prompts = [f"{frame}Question {number}: how many of the {number} apples are left over?" for number in range(9)]
    assert calibration_overlap(folder, prompts) == []
    found = calibration_overlap(folder, [*prompts, frame + PASSAGE])
    assert found == [9]


def test_without_a_sidecar_nothing_is_known_and_a_damaged_one_is_an_error(tmp_path):
    """A checkpoint of others has none; a torn file is never taken for "no overlap"."""
    assert calibration_overlap(tmp_path, [PASSAGE]) == []
    (tmp_path / SIDECAR).write_text('{"texts": [')
    with pytest.raises(ModelError, match=r"quantcliff_calibration.json is damaged"):
        calibration_overlap(tmp_path, [PASSAGE])
    (tmp_path / SIDECAR).write_text('{"texts": [{}]}')
    with pytest.raises(ModelError, match="is damaged"):
        calibration_overlap(tmp_path, [PASSAGE])


def test_a_sidecar_holds_no_words():
    """Digests, lengths and fingerprints, from which the text cannot be read."""
    data = sidecar(Calibration("own", (PASSAGE,)))
    assert "ferry" not in json.dumps(data)
    assert data["calibration"] == "own"
    assert data["texts"][0]["characters"] == len(PASSAGE)


def test_sets_are_read_from_text_and_json_lines(tmp_path):
    """Blank lines part texts; JSON lines carry a text field or are strings; scraps are left out."""
    (tmp_path / "a.txt").write_text(f"{PASSAGE}\n\nshort\n\n{PASSAGE} Again.\nSame text.\n")
    assert from_file(tmp_path / "a.txt").texts == (PASSAGE, f"{PASSAGE} Again.\nSame text.")
    lines = [json.dumps({"text": PASSAGE, "id": 1}), "", json.dumps(PASSAGE + "!")]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    assert from_file(tmp_path / "b.jsonl") == Calibration("b.jsonl", (PASSAGE, PASSAGE + "!"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"words": "x"}', r"a\.jsonl:1: no `text` in it"),
        ("a.txt", "short\n\nalso short", r"a\.txt: no text of at least 32 characters"),
        ("a.txt", None, r"a\.txt: cannot be read"),
    ],
)
def test_a_file_that_is_no_calibration_set_says_where(tmp_path, name, content, says):
    """File and line, before anything is quantized."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=says):
        from_file(tmp_path / name)
