"""docs/extending.md is true: the files that it names exist, and its examples run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from lazily import lazy

from harness.config import methods
from harness.config import resources as config_resources
from harness.config.loading import parse
from harness.engines import fake as fake_engine
from harness.records import Generation, Item, Settings
from harness.suite import catalogue as suite_catalogue
from harness.suite import tasks as suite_tasks
from harness.suite.scorer import Scorer, load_items

doctor_models = lazy("harness.models.doctor_models")
loading = lazy("harness.models.loading")


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    """The page's text."""
    return (repository / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(page: str, section: str, language: str) -> list[str]:
    """The code blocks of a section."""
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_every_file_that_the_page_names_exists(page: str, repository: Path) -> None:
    """Paths in backticks are files or folders of the repository, but for the example's own."""
    paths = set(re.findall(r"`((?:harness|tests|tasks|docs)/[\w./-]*)`", page)) - {"tasks/metres/"}
    assert len(paths) > 8
    assert [path for path in sorted(paths) if not (repository / path).exists()] == []


def test_every_field_that_the_harness_reads_is_documented(page: str, repository: Path) -> None:
    """The table of fields names what the code asks a document for."""
    named = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    read: set[str] = set()
    for name in ("items.py", "code.py", "tail/detectors.py"):
        text = (repository / "harness" / "suite" / name).read_text(encoding="utf-8")
        read |= set(re.findall(r"(?:\bdoc(?:\.get\(|\[)|^LANGUAGE = )\"(\w+)\"", text, flags=re.MULTILINE))
    assert {"id", "cluster", "turns", "tests", "code_language"} <= read
    assert read <= named


@pytest.fixture
def own_slice(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's slice, as the only one in a tasks folder."""
    folder = tmp_path / "tasks" / "metres"
    folder.mkdir(parents=True)
    (code,) = blocks(page, "A slice", "python")
    task, description = blocks(page, "A slice", "yaml")
    (folder / "conversions.py").write_text(code, encoding="utf-8")
    (folder / "metres.yaml").write_text(task, encoding="utf-8")
    (folder / "slice.yml").write_text(description, encoding="utf-8")
    monkeypatch.setattr(config_resources, "_PACKAGE", tmp_path / "harness")
    for cached in (suite_tasks._own_index, suite_tasks._index):
        cached.cache_clear()
    suite_catalogue._catalogue.cache_clear()
    yield
    for cached in (suite_tasks._own_index, suite_tasks._index):
        cached.cache_clear()


@pytest.mark.usefixtures("own_slice")
def test_the_slice_of_the_page_makes_items_and_scores_them() -> None:
    """Two strata of the asked size, each target right by the question's own number, and a right answer scores 1."""
    config = {
        "name": "test",
        "baseline": {"model": "m"},
        "candidates": [{"name": "c", "quantization": "bnb-nf4"}],
        "slices": [{"name": "metres", "items": 5}],
    }
    items = load_items(parse(config), conftest.make_tokenizer(100_000))
    assert Counter(item.stratum for item in items) == {"decimals=none": 5, "decimals=two": 5}
    for item in items:
        kilometres = re.search(r"are ([\d.]+) kilometres", item.prompt)
        assert kilometres is not None
        assert float(item.target) == round(float(kilometres[1]) * 1000)
    assert [score(items[0], text) for text in (f"It is {items[0].target} m.", "12")] == [1.0, 0.0]


def score(item: Item, text: str) -> float | None:
    """The score of a written answer."""
    response = Generation(item_id=item.id, sample=0, text=text, token_ids=(1,), finish="stop", prompt_tokens=1)
    return Scorer([item]).score(item, response)[0]


def test_the_method_of_the_page_quantizes(
    page: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the record and the loader of the page a config takes the method, and its proof names a quantized model."""
    from harness.models import methods as model_methods

    record, loader = blocks(page, "A quantization method", "python")
    method = eval(record, vars(methods))  # noqa: S307 - text of this repository
    assert method.name == "intx2"
    monkeypatch.setitem(methods.METHODS, method.name, method)
    monkeypatch.setattr(model_methods, "LOADERS", dict(model_methods.LOADERS))
    exec(loader, vars(model_methods))  # noqa: S102 - text of this repository
    plain = doctor_models.plain_model(tmp_path_factory.mktemp("plain"))
    status = {one.method: one for one in loading.method_status("cpu")}["intx2"]
    if not status.works:
        pytest.skip(status.reason)
    variant = loading.Variant(name="x", model=str(plain), quantization="intx2")
    proof = loading.load(variant, plain, device="cpu", dtype="bfloat16").proof
    assert (proof.method, proof.quantized_modules) == ("intx2", 14)
    assert proof.notes == ("int2 numerics, no int2 size: each weight is stored in a byte",)


def test_the_engine_of_the_page_answers(page: str) -> None:
    """It has the members that the protocol asks for, and a response per item and sample."""
    from harness.engines.protocol import Engine

    (code,) = blocks(page, "An engine", "python")
    names = dict(vars(fake_engine))
    exec(code, names)  # noqa: S102 - text of this repository
    engine = names["FixedEngine"]("Paris")
    members = {name for name in vars(Engine) if not name.startswith("_")}
    assert members == {"version", "context_limit", "proof", "answer", "usage"}
    assert all(hasattr(engine, name) for name in members)
    item = Item("t/1", "s", "t", "generate", "Where?", {}, "all", "t/1")
    responses = list(engine.answer([item], Settings(samples=2)))
    assert [(one.text, one.sample) for one in responses] == [("Paris", 0), ("Paris", 1)]
    assert engine.usage().output_tokens == 1


def test_the_statistic_of_the_page_is_an_interval(page: str) -> None:
    """Of 100 right answers 5 lost: Clopper and Pearson's limits from their table."""
    (code,) = blocks(page, "A statistic", "python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - text of this repository
    low, high = names["lost_share"](5, 100)
    assert (round(low, 4), round(high, 4)) == (0.0164, 0.1128)
