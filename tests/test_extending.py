"""docs/extending.md is true: the files that it names exist, and its examples run."""

from __future__ import annotations

import io
import re
import sys
import tomllib
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import conftest
import pytest
import report_data
import yaml
from lazily import lazy
from rich.console import Console

from harness.config import methods
from harness.config import resources as config_resources
from harness.config.engines import EngineSpec
from harness.config.loading import parse
from harness.config.schema import Quantization, Variant
from harness.errors import ConfigError, UsageError
from harness.models.backends import method_status
from harness.models.compatibility import check_candidate
from harness.records import Generation, Item, Settings
from harness.report.evidence import Evidence
from harness.suite import catalogue as suite_catalogue
from harness.suite import scorer as suite_scorer
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
    paths = set(re.findall(r"`((?:harness|tests|tasks|docs)/[\w./-]*)`", page)) - {
        "tasks/metres/",
        "harness/engines/fixed.py",
    }
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
    task, description, _config = blocks(page, "A slice", "yaml")
    (folder / "conversions.py").write_text(code, encoding="utf-8")
    (folder / "metres.yaml").write_text(task, encoding="utf-8")
    (folder / "slice.yml").write_text(description, encoding="utf-8")
    monkeypatch.setattr(config_resources, "_PACKAGE", tmp_path / "harness")
    for cached in (suite_tasks.index, suite_catalogue.catalogue):
        cached.cache_clear()
    yield
    for cached in (suite_tasks.index, suite_catalogue.catalogue):
        cached.cache_clear()


@pytest.mark.usefixtures("own_slice")
def test_the_slice_of_the_page_makes_items_and_scores_them(page: str) -> None:
    """Two strata of the size in the page's config, each target right by the question's number; a right answer scores 1.

    The example of the description is the first item.
    """
    _task, description, config = (yaml.load(one, suite_catalogue._Loader) for one in blocks(page, "A slice", "yaml"))  # noqa: S506
    items = load_items(parse(config), conftest.make_tokenizer(100_000))
    assert Counter(item.stratum for item in items) == {"decimals=none": 8, "decimals=two": 8}
    for item in items:
        kilometres = re.search(r"are ([\d.]+) kilometres", item.prompt)
        assert kilometres is not None
        assert float(item.target) == round(float(kilometres[1]) * 1000)
    assert [score(items[0], text) for text in (f"It is {items[0].target} m.", "12")] == [1.0, 0.0]
    example = description["examples"]["quantcliff_metres"]
    assert example["prompt"] in items[0].prompt
    assert example["answer"] == items[0].target


@pytest.mark.usefixtures("own_slice")
def test_a_scorer_that_changes_its_document_scores_the_next_variant_alike(page: str, tmp_path: Path) -> None:
    """What one answer's scorer takes out of a document is there again for the next answer."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('doc["target"])}', "doc.pop('target', results[0]))}"), encoding="utf-8")
    _task, _description, config = (yaml.load(one, suite_catalogue._Loader) for one in blocks(page, "A slice", "yaml"))  # noqa: S506
    item = load_items(parse(config), conftest.make_tokenizer(100_000))[0]
    with Scorer([item]) as scorer:
        wrong = Generation(item.id, "12", (), "eos", 1)
        assert [scorer.score(item, wrong).value for _ in range(2)] == [0.0, 0.0]


@pytest.mark.usefixtures("own_slice")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'return {"exact',
            'if "." not in results[0]: return {"polite": 1.0}\n    return {"exact',
            "has no metric 'exact_match'",
        ),
        ("near_number(results", "None and (results", "has no metric 'exact_match'"),
        (
            "{metric: exact_match, aggregation: mean, higher_is_better: true}",
            "{metric: wer, aggregation: mean}",
            "less is",
        ),
        ('"chance": 0.0', '"chance": "0.25"', "its chance is '0.25'"),
        ('"chance": 0.0', '"chance": 25.0', "its chance is 25.0"),
        ('"chance": 0.0', '"chance": 0.0, "weight": -2.0', "its weight is -2.0"),
        ('"chance": 0.0', '"chance": 0.0, "weight": "3"', "its weight is '3'"),
        ('"chance": 0.0', '"weight": "3"', "its weight is '3'"),
        ('"chance": 0.0', '"weight": -1', "its weight is -1"),
        ("higher_is_better: true", 'higher_is_better: "false"', "less is"),
    ],
)
def test_a_scorer_or_document_that_is_misread_is_refused(
    page: str, tmp_path: Path, old: str, new: str, said: str
) -> None:
    """Another metric never takes the place of the task's first one, and guessing scores what the document says."""
    for file in (tmp_path / "tasks" / "metres").iterdir():
        text = file.read_text(encoding="utf-8").replace(old, new)
        file.write_text(text.replace('"exact_match":', '"wer":') if "wer" in new else text, encoding="utf-8")
    _task, _description, config = (yaml.load(one, suite_catalogue._Loader) for one in blocks(page, "A slice", "yaml"))  # noqa: S506

    def score() -> None:
        items = load_items(parse(config), conftest.make_tokenizer(100_000))
        Scorer(items).score(items[0], Generation(items[0].id, "12", (), "eos", 1))

    with pytest.raises(UsageError, match=said):
        score()


@pytest.mark.usefixtures("own_slice")
@pytest.mark.parametrize("source", ["0", "1"])
def test_a_source_may_be_called_by_any_number(page: str, tmp_path: Path, source: str) -> None:
    """Items of the source 0 share it, as those of 1 do: they are not sources of their own."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    text = file.read_text(encoding="utf-8").replace('"cluster": name', f'"cluster": {source}')
    file.write_text(text, encoding="utf-8")
    _task, _description, config = (yaml.load(one, suite_catalogue._Loader) for one in blocks(page, "A slice", "yaml"))  # noqa: S506
    items = load_items(parse(config), conftest.make_tokenizer(100_000))
    assert {item.cluster for item in items} == {source}


@pytest.mark.usefixtures("own_slice")
@pytest.mark.parametrize(("scores", "chance"), [("1.0", 1.0), ("0.5", 0.5), ("float(len(results[0]) > 0)", 1.0)])
def test_what_a_scorer_gives_for_answers_without_content_is_the_chance(
    page: str, tmp_path: Path, scores: str, chance: float
) -> None:
    """Whatever the documents say: a stratum in which everything is right has no signal."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('near_number(results[0], doc["target"])', scores), encoding="utf-8")
    config = yaml.load(blocks(page, "A slice", "yaml")[2], suite_catalogue._Loader)  # noqa: S506
    assert {one.chance for one in load_items(parse(config), conftest.make_tokenizer(100_000))} == {chance}


@pytest.mark.usefixtures("own_slice")
def test_answers_without_content_are_tried_in_all_parts_of_a_file(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be sorted: those that its scorer gets wrong may all come first."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    text = file.read_text(encoding="utf-8")
    half = 'float(float(doc["target"]) > 50_000)'
    file.write_text(text.replace('near_number(results[0], doc["target"])', half), encoding="utf-8")
    config = yaml.load(blocks(page, "A slice", "yaml")[2], suite_catalogue._Loader)  # noqa: S506
    items = load_items(parse(config), conftest.make_tokenizer(100_000))
    found = sorted((replace(one, chance=0.0, stratum="all") for one in items), key=lambda one: float(one.target))
    credited = sum(float(one.target) > 50_000 for one in found)
    assert 0 < credited < len(found) - 4
    monkeypatch.setattr("harness.suite.scorer.TRIED", 4)
    (chance,) = {one.chance for one in suite_scorer._above_nothing(found)}
    assert chance == pytest.approx(credited / len(found), abs=0.25)


@pytest.mark.usefixtures("own_slice")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"id": name', '"id": name[:13]', "several items have the id 'quantcliff_metres/decimals=none'"),
        ('"decimals": cell["decimals"]', '"decimals": cell["decimals"] if number else None', "documents without 'deci"),
    ],
)
def test_documents_of_one_id_or_without_a_level_are_refused(
    page: str, tmp_path: Path, old: str, new: str, said: str
) -> None:
    """Before any model is asked: answers are joined by ids, and documents of no level would be one stratum."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    config = yaml.load(blocks(page, "A slice", "yaml")[2], suite_catalogue._Loader)  # noqa: S506
    with pytest.raises(ConfigError, match=said):
        load_items(parse(config), conftest.make_tokenizer(100_000))


@pytest.mark.usefixtures("own_slice")
def test_a_generator_without_documents_is_bad_usage(page: str, tmp_path: Path) -> None:
    """No document is a problem of the config, with the name of the task, and no bug."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    file.write_text(file.read_text(encoding="utf-8").replace("with_cue(docs", "with_cue(docs[:0]"), encoding="utf-8")
    _task, _description, config = (yaml.load(one, suite_catalogue._Loader) for one in blocks(page, "A slice", "yaml"))  # noqa: S506
    with pytest.raises(ConfigError, match="quantcliff_metres"):
        load_items(parse(config), conftest.make_tokenizer(100_000))


@pytest.mark.usefixtures("own_slice")
@pytest.mark.parametrize(
    ("old", "new", "said"), [("why:", "because:", "'why'"), ("[quantcliff_metres]", "[quantcliff_meters]", "meters'")]
)
def test_a_description_that_lacks_something_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A field that is missing, or a task without a file, is bad usage that names the file, not a bug."""
    file = tmp_path / "tasks" / "metres" / "slice.yml"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"slice\.yml: .*{said} is missing"):
        suite_catalogue.catalogue()


@pytest.mark.usefixtures("own_slice")
@pytest.mark.parametrize(
    ("line", "said"),
    [("want = wanted(metadata)", "its code raised KeyError"), ('return {"exact_match"', "cannot be scored: its code")],
    ids=["generator", "scorer"],
)
def test_an_exception_of_a_slices_own_code_is_named_with_its_line(
    page: str, tmp_path: Path, line: str, said: str
) -> None:
    """A generator or scorer of the user's that raises is bad usage with file and line, not a bug of quantcliff's."""
    file = tmp_path / "tasks" / "metres" / "conversions.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(line, "raise KeyError('depth')\n    " + line), encoding="utf-8")
    _task, _description, config = (yaml.load(one, suite_catalogue._Loader) for one in blocks(page, "A slice", "yaml"))  # noqa: S506
    with pytest.raises(UsageError, match=rf"{said}.*conversions\.py, line \d+"):
        score(load_items(parse(config), conftest.make_tokenizer(100_000))[0], "12")


def score(item: Item, text: str) -> float | None:
    """The score of a written answer."""
    response = Generation(item_id=item.id, sample=0, text=text, token_ids=(1,), finish="stop", prompt_tokens=1)
    return Scorer([item]).score(item, response)[0]


@pytest.mark.parametrize(
    ("name", "notes"),
    [("intx2", ("int2 numerics, no int2 size: each weight is stored in a byte",)), ("round6", ())],
)
def test_a_method_of_the_page_quantizes(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, notes: tuple[str, ...]
) -> None:
    """With the record and the loader of the page a config takes the method; its proof names a quantized model.

    Its answers are as near the plain model's as its record allows.
    """
    from harness.models import doctor
    from harness.models import methods as model_methods

    loaders = blocks(page, "A quantization method", "python")
    (record,) = blocks(page, "A quantization method", "toml")
    (inline,) = re.findall(r"`(methods\..*?)`", page)
    for text in (record, inline):
        for own, method in methods.methods_in(tomllib.loads(text)["methods"]).items():
            monkeypatch.setitem(methods.METHODS, own, method)
    monkeypatch.setattr(model_methods, "LOADERS", dict(model_methods.LOADERS))
    exec("\n".join(loaders), dict(vars(model_methods)))  # noqa: S102 - text of this repository
    status = {one.method: one for one in method_status("cpu")}[name]
    if not status.works:
        pytest.skip(status.reason)
    plain = doctor_models.plain_model(tmp_path)
    variant = loading.Variant(name="x", model=str(plain), quantization=name)
    proof = loading.load(variant, plain, device="cpu", dtype="bfloat16").proof
    assert (proof.method, proof.quantized_modules, proof.notes) == (name, 14, notes)
    own, reference = (doctor._logits(plain, one, "cpu")[0] for one in (name, "none"))
    assert 0 < float((own - reference).norm() / reference.norm()) < methods.METHODS[name].rounding


def test_the_engine_of_the_page_answers(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the members that the protocol asks for, and a response per item and sample.

    The registry's function makes it; two of them may be compared.
    """
    from harness.engines import registry
    from harness.engines.protocol import Engine

    written, maker = blocks(page, "An engine", "python")
    module = types.ModuleType("harness.engines.fixed")
    exec(written, vars(module))  # noqa: S102 - text of this repository
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = dict(vars(registry))
    exec(maker, names)  # noqa: S102 - text of this repository
    (config,) = (yaml.safe_load(one) for one in blocks(page, "An engine", "yaml"))
    spec = config["baseline"]["engine"], {**config["baseline"]["engine"], **config["candidates"][0]["engine"]}
    variants = [
        Variant.model_construct(name="v", quantization=Quantization(), engine=EngineSpec.model_construct(**one))
        for one in spec
    ]
    members = {name for name in (*vars(Engine), *Engine.__annotations__) if not name.startswith("_")}
    item = Item("t/1", "s", "t", "generate", "Where?", {}, "all", "t/1", prompt_tokens=3)
    proofs = []
    for variant, text in zip(variants, ("130", "1300"), strict=True):
        request = registry.EngineRequest(variant, "", "", "float32", "cpu", 1, choices=False, log=tmp_path / "log")
        with names["_fixed"](request) as engine:
            assert members == {"version", "context_limit", "proof", "answer", "usage"}
            assert all(hasattr(engine, name) for name in members)
            responses = list(engine.answer([item], Settings(samples=2)))
            assert [(one.text, one.sample) for one in responses] == [(text, 0), (text, 1)]
            assert engine.usage().output_tokens == 1
            proofs.append(engine.proof())
    check_candidate(proofs[0], proofs[1], variants[1])


def test_every_engine_of_a_config_can_be_made() -> None:
    """What a config may name is what the registry makes, but for quantcliff's own engine."""
    from harness.engines.registry import ENGINES

    assert set(get_args(EngineSpec.model_fields["name"].annotation)) == {"transformers", *ENGINES}


def test_the_section_of_the_page_is_in_every_format(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its block is shown by the terminal, by Markdown and on the page."""
    from harness.report import blocks as report_blocks
    from harness.report.html import html_report
    from harness.report.markdown import markdown_report
    from harness.report.terminal import terminal

    (code,) = blocks(page, "A report section", "python")
    made: dict[str, Any] = {}
    exec(code, made)  # noqa: S102 - text of this repository
    known = report_blocks._blocks()
    monkeypatch.setattr(report_blocks, "_blocks", lambda: (*known, *made["BLOCKS"]))
    judgement, evidence = report_data.judgement(), Evidence()
    console = Console(file=io.StringIO(), width=80)
    terminal(judgement, console, evidence)
    written = markdown_report(judgement, evidence), html_report(judgement, evidence)
    for text in (console.file.getvalue(), *written):  # type: ignore[attr-defined]
        assert "Lost and gained" in text


def test_the_statistic_of_the_page_is_an_interval(page: str) -> None:
    """Of 100 right answers 5 lost: Clopper and Pearson's limits from their table."""
    (code,) = blocks(page, "A statistic", "python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - text of this repository
    low, high = names["lost_share"](5, 100)
    assert (round(low, 4), round(high, 4)) == (0.0164, 0.1128)
