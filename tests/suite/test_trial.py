"""Tests of answers are tried when a run is planned: none that all programs pass, or that none can, is asked."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import call, write
from conftest import make_tokenizer
from test_slices import experiment

from harness.errors import ExitCode
from harness.records import Item
from harness.suite.code import untestable
from harness.suite.sandbox import Program, execute, missing
from harness.suite.sandbox.names import toothless, unclear
from harness.suite.scorer import load_items

pytestmark = pytest.mark.skipif(bool(missing("python")), reason=missing("python") or "-")
NODE = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH")
SHIPPED = [("quantcliff_humaneval", 164), ("quantcliff_mbpp", 250)]

GOOD = [
    "assert f(2) == 4",
    "try:\n    f(-1)\nexcept Exception:\n    pass\nelse:\n    raise AssertionError",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(2), 4)",
    "from datetime import date\nassert f(date(2024, 1, 1)) == date(2024, 1, 2)",
    "try:\n    import pytest\nexcept ImportError:\n    pass\nassert f(2) == 4",
    "def check(candidate):\n    assert candidate(2) == 4\ncheck(f)",
]
PASSED = [
    "def a():\n    assert f(2) == 4\nfor one in [a]:\n    try:\n        one()\n    except Exception:\n        a",
    "def run(test):\n    try:\n        assert test()\n    except Exception:\n        test\nrun(lambda: f(2) == 4)",
]
FAILED = [
    ("import pytest\ndef test_it():\n    with pytest.raises(ValueError):\n        f(-1)", "import what the sandbox"),
    ("import numpy as np\nassert np.allclose(f(2), 4)", "import what the sandbox"),
    ("assert f(lambda one: one) == 4", "hand over what cannot cross"),
    ("import asyncio\nasync def main():\n    assert f(2) == 4\nasyncio.run(main())", "what the sandbox refuses"),
]
ASSERT = "const assert = require('assert');\n"
MAIN = ASSERT + "async function main() { assert.strictEqual(f(2), 4) }\nmain()"
GOOD_JS = ["console.assert(f(2) === 4)", ASSERT + "assert.throws(() => f(-1))", MAIN]
PASSED_JS = [
    f"{MAIN}.catch(console.error)",
    f"{MAIN}.catch(() => {{}})",
    f"{MAIN}.then(() => 1, (e) => console.error(e))",
]
FAILED_JS = [
    ("const s = new Stack(); s.push(1); console.assert(s.pop() === 1)", "object of a class"),
    ("console.assert(f(/a/) === 4)", "hand over what cannot cross"),
    ("const _ = require('lodash'); console.assert(_.isEqual(f(2), 4))", "import what the sandbox"),
]


def items(tests, language="python"):
    """Items with one test each, named by their place."""
    told = {
        "task": "t",
        "slice": "s",
        "kind": "generate",
        "levels": {},
        "stratum": "all",
        "cluster": "a",
        "prompt": "?",
    }
    docs = [{"id": f"<{at}>", "tests": [one], "setup": "", "code_language": language} for at, one in enumerate(tests)]
    return [Item(id=f"s/{at}", doc=doc, **told) for at, doc in enumerate(docs)]


@pytest.mark.parametrize(
    ("language", "good", "passed", "failed"),
    [("python", GOOD, PASSED, FAILED), pytest.param("javascript", GOOD_JS, PASSED_JS, FAILED_JS, marks=NODE)],
)
def test_tests_that_no_program_fails_or_none_passes_are_named(language, good, passed, failed):
    """Two programs without content are tried on all of them; what expects an error, or a date, stays."""
    told = [*passed, *good, *(test for test, _ in failed)]
    said = {problem.message for problem in untestable(items(told, language))}
    (all_pass,) = [one for one in said if "whatever a program does: let a failed assertion" in one]
    assert [f"<{at}>" in all_pass for at in range(len(told))] == [at < len(passed) for at in range(len(told))]
    for at, (_, why) in enumerate(failed, len(passed) + len(good)):
        assert [why in one for one in said if f"<{at}>" in one] == [True]
    assert not any(f"<{at}>" in one for one in said for at in range(len(passed), len(passed) + len(good)))


def test_one_that_does_not_end_leaves_the_others_tried():
    """A loop for a program without content ends after a second, and what comes behind it is tried all the same."""
    (problem,) = untestable(items(["while f(1) != 3:\n    pass\nassert f(2) == 4", "assert f(2) == 4", *PASSED[:1]]))
    assert "<2>" in problem.message


@pytest.mark.slow
@pytest.mark.parametrize(("task", "most"), [*SHIPPED, pytest.param("quantcliff_humaneval_js", 164, marks=NODE)])
def test_the_problems_of_the_slice_have_tests_that_tell(task, most, shared_data):
    """None of HumanEval, MBPP and HumanEval in JavaScript is passed by a program without content, or by none."""
    spec = {"name": "code", "tasks": [task], "data_dir": str(shared_data), "items": most, "split_by": []}
    assert untestable(load_items(experiment(spec), make_tokenizer(100_000))) == []


def test_a_run_refuses_them(tmp_path, tiny_llama, capsys):
    """It names the line by its id when it plans, and tries nothing without the flag."""
    row = {"id": "q-12", "prompt": "Write f.", "scorer": "code_tests", "tests": [PASSED[0]]}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    slices = [{"name": "traffic", "data_dir": str(tmp_path), "options": {"file": "t.jsonl"}}]
    path = write(tmp_path, tiny_llama, slices=slices)
    assert call("run", path, "--allow-code-execution") == ExitCode.USAGE
    assert "the tests of q-12 pass, whatever a program does" in capsys.readouterr().err
    assert call("run", path) == ExitCode.USAGE
    assert "q-12" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("test", "language", "why"),
    [
        ("import io, contextlib\nx = io.StringIO()\nwith contextlib.redirect_stdout(x):\n    f()\nassert x.getvalue()",
         "python", "do not see what an answer prints"),
        ("try:\n    f(5)\nexcept (Empty, KeyError):\n    good = True\nassert good", "python", "expect Empty, a class"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertRaises(Empty, f)",
         "python", "expect Empty, a class"),
        ("console.assert(f(2) === 4); process.exit(0)", "javascript", "process.exit"),
        ("const said = []; console.log = (...all) => said.push(all); f(1); console.assert(said.length === 1)",
         "javascript", "do not see what an answer prints"),
    ],
)  # fmt: skip
def test_what_tests_cannot_see_is_refused_when_the_file_is_read(test, language, why):
    """Printed text, an error of a class that stays with the answer, and a success by an exit."""
    assert why in toothless("", [test], language)


@pytest.mark.parametrize(
    "test",
    [
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n    found = f(2)\nassert found == 4",
        "try:\n    f(5)\nexcept ValueError:\n    pass\nelse:\n    assert False",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertRaises(OSError, f)",
        "# works for all except f(3)\nassert f(2) == 4",
        "class Empty(Exception):\n    pass\ntry:\n    assert f(5) == 4\nexcept Empty:\n    raise",
    ],
)
def test_what_they_can_see_is_not(test):
    """Output that is only kept away, and errors of Python's or of the tests' own."""
    assert not toothless("", [test], "python")
    assert not unclear("", [test])


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n    next: 'P | None' = None",
        "import typing\nclass P:\n    x: 'P'\n    def __init__(self, x):\n        self.x = x\ntyping.get_type_hints(P)",
    ],
)
def test_annotations_in_text_are_read(code):
    """The module of the code is where dataclasses and typing look for it."""
    assert execute(Program(code, ("assert P(4).x == 4",))).passes


@pytest.mark.parametrize(
    "value",
    [
        "datetime.datetime(2024, 2, 1, 3, 4, 5, 6, datetime.timezone.utc)",
        "datetime.date(2024, 2, 1)",
        "datetime.time(3, 4)",
        "datetime.timedelta(-1, 2, 3)",
        "pathlib.PurePath('a/b')",
        "uuid.UUID(int=7)",
    ],
)
def test_dates_paths_and_uuids_cross(value):
    """Both ways, and as values: a wrong one is wrong."""
    imports = "import datetime, pathlib, uuid\n"
    code = f"{imports}def f(given):\n    return [given == {value}, given, {value}]"
    good = f"{imports}a, b, c = f({value})\nassert a and b == c == {value} and type(b) is type(c)"
    assert execute(Program(code, (good,))).passes
    assert not execute(Program(code, (f"{imports}assert f({value})[2] != {value}",))).passes


def test_the_text_of_a_key_error_is_quoted_once():
    """It arrives as it was raised."""
    test = (
        "try:\n    f({})\nexcept KeyError as error:\n    assert error.args == ('a',)\nelse:\n    raise AssertionError"
    )
    assert execute(Program("def f(given):\n    return given['a']", (test,))).passes
