"""Code that knows nothing of what was asked, but something of how it is judged, does not pass."""

# ruff: noqa: E501 - programs are kept as they read

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandboxes import NEEDS_LINUX, NODE, outcome

from harness.suite.sandbox import Limits
from harness.suite.sandbox.names import taken, toothless, unclear

pytestmark = [NEEDS_LINUX, pytest.mark.slow]
SOON = Limits(wall_s=5, cpu_s=4)

FRAMES = """
import fcntl, json, os, stat
def frame(fd, m):
    b = json.dumps(m).encode(); os.write(fd, len(b).to_bytes(4, "big") + b)
def read(fd):
    n = int.from_bytes(os.read(fd, 4), "big"); b = b""
    while len(b) < n: b += os.read(fd, n - len(b))
    return json.loads(b)
def pipe(way):
    for fd in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == way: return fd
        except OSError: pass
out, inn = pipe(os.O_WRONLY), pipe(os.O_RDONLY)
names = ("f abs len set sorted all any isinstance round tuple list str sum max min int float math isclose np "
         "numpy pytest approx unittest assertEqual print range __builtins__ __name__ __build_class__").split()
kept = {n: {"kept": [i, True]} for i, n in enumerate(names)}
if BUILTINS: kept["__builtins__"] = {"dict": [[n, one] for n, one in kept.items()]}
frame(out, {"runs": True, "names": kept})
while True:
    q = read(inn)
    if q["method"] or names[q["kept"]] in ("all", "any", "isinstance", "isclose"): value = True
    elif names[q["kept"]] in ("f", "math", "np"): value = {"kept": [0, True]} if STAND_IN else 0
    else: value = 0
    frame(out, {"value": value, "after": []})
"""
ASKED = [
    "assert f(2) == 4",
    "assert abs(f(2) - 1.4142135) < 1e-6",
    "assert set(f([1, 2, 2, 5])) == set([1, 2, 5])",
    'assert sorted(f("cab")) == sorted(["c", "a", "b"])',
    "assert all(f(n) == n * n + 7 for n in range(10))",
    "assert round(f(10), 3) == round(3.1622776, 3)",
    "assert isclose(f(2), 4)",
    "assert math.isclose(f(2), 4)",
    "assert np.allclose(f(2), 4)",
    "assert f(2) == pytest.approx(4)",
    "import math\nassert math.isclose(f(2), 4)",
    "assertEqual(f(2), 4)",
    "assert 7 in f(1)",
    "assert isinstance(f(2), float)",
]


@pytest.mark.parametrize("more", ["False", "True"])
@pytest.mark.parametrize("test", ASKED)
def test_forged_frames_replace_no_name_of_the_tests(test, more):
    """Code that writes the frames itself, and offers itself as every builtin and helper, passes no test."""
    code = FRAMES.replace("STAND_IN", more).replace("BUILTINS", more)
    assert not outcome(code, test, limits=SOON).passes


TRICKS = {
    "everything is in it": ("class Y:\n def __contains__(self, x): return True\ndef f(x): return Y()", "assert 7 in f(1)"),
    "everything is in a list": ("class Y(list):\n def __contains__(self, x): return True\ndef f(x): return Y()", "assert 7 in f(1)"),
    "a method that agrees": ("class Y(list):\n def count(self, x): return 1\ndef f(x): return Y()", "assert f(1).count(4) == 1"),
    "a start that agrees": ("class Y(str):\n def startswith(self, x): return True\ndef f(x): return Y()", "assert f(1).startswith('a')"),
    "a set that agrees": ("class Y:\n def issubset(self, x): return True\ndef f(x): return Y()", "assert f(1).issubset({4})"),
    "zero that is true": ("class Y(int):\n def __bool__(self): return True\ndef f(x): return Y(0)", "assert f(1)"),
    "a length of its own": ("class Y(list):\n def __len__(self): return 3\ndef f(x): return Y()", "v = f(1)\nassert len(v) == 3\nfor one in v: assert one == 4"),
    "a test that is inherited": ("def f(x): return 0", "class Base:\n    def test_a(self): assert f(2) == 4\nclass TestF(Base): pass"),
    "content that changes": (
        "class Y(list):\n def __iter__(self): self.append(len(self)); return list.__iter__(self)\nv = Y()\ndef f(x): return v",
        "v = f(1)\nassert v != [] or v == [0]\nassert v == [0] or v == [0, 1]",
    ),
    "an end of the iteration": ("def f(x): raise StopIteration", "assert all(map(f, [1, 2])) and list(map(f, [1])) == []"),
    "leaving where any error is right": (
        "import os\ndef f(x): os._exit(0)",
        "try: f(-1)\nexcept: pass\nelse: raise AssertionError",
    ),
    "leaving where an OSError is right": (
        "import os\ndef f(x): os._exit(0)",
        "for _ in range(3):\n  try: f(-1)\n  except BaseException: pass",
    ),
    "a test that is only defined": ("def f(x): return 0", "def test_f():\n    assert f(2) == 4"),
    "an assertion in a thread": (
        "def f(x): return 0",
        "import threading\ndef t(): assert f(2) == 4\none = threading.Timer(0.1, t)\none.start()\nassert f(0) == 0",
    ),
    "an assertion before a test": (
        "def f(x): return 0",
        "class TestA:\n def setup_method(self, m): assert f(2) == 4\n def test_a(self): assert f(0) == 0",
    ),
    "an assertion after a test": (
        "def f(x): return 0",
        "class TestA:\n def teardown_method(self): assert f(2) == 4\n def test_a(self): assert f(0) == 0",
    ),
    "a test class in another": (
        "def f(x): return 0",
        "class TestA:\n class TestB:\n  def test_b(self): assert f(2) == 4\nassert f(0) == 0",
    ),
    "a test case that is only defined": (
        "def f(x): return 0",
        "import unittest\nclass F(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(2), 4)",
    ),
    "a helper beside the function": ("def f(x): return 0\ndef sqrt(x): return 0", "assert abs(f(2) - sqrt(2)) < 1e-6"),
    "an own approx": ("def f(x): return 0\nclass approx:\n def __init__(self, x): pass\ndef allclose(a, b): return True",
                      "assert allclose(f(2), 4)"),
    "its exit is no success": ("import sys\ndef f(x): sys.exit(0)", "f(1)"),
    "a patched module": ("import math\nmath.isclose = lambda *a: True\ndef f(x): return 0", "import math\nassert math.isclose(f(1), 4)"),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_does_not_pass(trick):
    """Classes, errors and exits that a plain wrong value could not use to pass are of no use."""
    code, test = TRICKS[trick]
    assert not outcome(code, test, limits=SOON).passes


def test_what_is_right_passes_in_the_same_shapes():
    """The same shapes of tests pass right code: nothing of the above is refused for its form."""
    code = "class Box:\n def __init__(self, *x): self.x = x\n def __contains__(self, x): return x in self.x\n"
    code += "class Row(list): pass\ndef f(x): return x * x\ndef row(x): return Row([x])"
    tests = (
        "def test_f():\n    assert f(2) == 4",
        "import unittest\nclass F(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(2), 4)",
        "def check(f):\n    assert f(3) == 9\ncheck(f)",
        "class TestA:\n def setup_method(self): self.four = f(2)\n def test_a(self): assert self.four == 4",
        "class TestB:\n @classmethod\n def setup_class(cls): cls.four = f(2)\n def test_b(self): assert self.four == 4",
        "assert 3 in Box(3, 4) and 5 not in Box(3)",
        "assert 3 in row(3) and 4 not in row(3) and row(3) and not Row()",
        "assert list(map(f, [1, 2])) == [1, 4]",
        "from threading import Thread\nmany = [Thread(target=f, args=(2,)) for _ in range(9)]\nfor one in many: one.start()",
        "from math import *\nassert sqrt(f(3)) == 3 and isclose(f(1), 1)",
    )
    assert outcome(code, *tests).reason == ""


# --------------------------------------------------------------------------------------------- classes of any make

CHECKS = {
    "int": ("0", ["f(2) == 4", "4 == f(2)", "f(2) in (4, 5)", "f(2) in {4, 5}", "abs(f(2) - 4) < 0.5", "3 < f(2) < 5",
                  "[f(2)] == [4]", "{f(2)} == {4}", "{'a': f(2)} == {'a': 4}", "round(f(2)) == 4", "str(f(2)) == '4'",
                  "sum([f(2), 3]) == 7", "f(2)", "all(f(n) == n + 2 for n in (5, 6))", "isinstance(f(2), str)"]),
    "str": ("''", ["f(2) == 'four'", "'our' in f(2)", "f(2) in ('four', 'five')", "f(2).upper() == 'FOUR'",
                   "f'{f(2)}' == 'four'", "len(f(2)) == 4", "f(2)[0] == 'f'", "sorted(f(2)) == list('foru')", "f(2)"]),
    "list": ("[]", ["f(2) == [4, 5]", "4 in f(2)", "len(f(2)) == 2", "f(2)[0] == 4", "sorted(f(2)) == [4, 5]",
                    "set(f(2)) == {4, 5}", "[4, 5] == f(2)", "tuple(f(2)) == (4, 5)", "(f(2), 1) == ([4, 5], 1)", "f(2)"]),
    "dict": ("{}", ["f(2) == {'a': 4}", "'a' in f(2)", "f(2)['a'] == 4", "dict(f(2)) == {'a': 4}", "len(f(2)) == 3", "f(2)"]),
    "object": ("", ["f(2) == 4", "4 in f(2)", "f(2) is None", "f(2) == f(3) == 4", "f(2) == {}", "2 < f(2)"]),
}  # fmt: skip
DUNDERS = [
    "eq", "ne", "lt", "gt", "le", "ge", "hash", "bool", "contains", "len", "iter", "getitem", "int", "float", "str",
    "repr", "format", "index", "abs", "round", "add", "radd", "sub", "rsub", "mul", "rmul", "call", "getattribute",
    "class_getitem", "instancecheck", "next", "reversed", "missing", "complex", "trunc", "length_hint",
]  # fmt: skip
BODIES = ["return True", "return self", "return 0", "return 1", "return type(self)()", "raise StopIteration", "return NotImplemented",
          "raise AttributeError", "return iter([True, self])", "return ''", "raise SystemExit(0)", "return lambda *a: True"]  # fmt: skip
TEST = """
won = []
for check in {checks!r}:
    try:
        if eval(check): won.append(check)
    except Exception:
        pass
if won: raise ZeroDivisionError
"""


CLASSES = st.tuples(
    st.sampled_from(sorted(CHECKS)),
    st.dictionaries(st.sampled_from(DUNDERS), st.sampled_from(BODIES), min_size=1, max_size=12),
    st.sampled_from(["solution", "builtins", "tests", "decimal"]),
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CLASSES, min_size=4, max_size=4))
def test_no_class_passes_what_a_wrong_value_of_its_base_fails(classes):
    """Subclasses of builtins that override any special methods pass no test that their plain wrong content fails.

    Four of them in one execution, each with its own test; a class that ends the code ends the tests of those after it.
    """
    code, tests = "", []
    for number, (base, methods, module) in enumerate(classes):
        content, checks = CHECKS[base]
        body = "".join(f"    def __{name}__(self, *a): {what}\n" for name, what in methods.items())
        code += f"class Y{number}({base}):\n    __module__ = {module!r}\n{body}"
        code += f"def f{number}(x): return Y{number}({content})\n"
        tests.append(f"f = f{number}\n{TEST.format(checks=checks)}")
    found = outcome(code, *tests, names=tuple(f"f{number}" for number in range(len(classes))), limits=SOON)
    assert found.reason != "ZeroDivisionError", code


@pytest.mark.parametrize("base", CHECKS)
def test_the_plain_wrong_value_fails_and_the_checks_are_no_straw(base):
    """Each of the checks above fails for the plain content, so that passing one is a forgery."""
    content, checks = CHECKS[base]
    code = f"class Y({base}): pass\ndef f(x): return {base}({content})" if base != "object" else "def f(x): return 0"
    assert outcome(code, TEST.format(checks=checks), names=("f",)).reason == ""


# --------------------------------------------------------------------------------------------------- the tests' names


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("assert f(2) == 4", ("f",)),
        ("s = Stack()\ns.push(1)\nassert s.pop() == 1", ("Stack",)),
        ("def check(f):\n    assert f(1) == 2\ncheck(f)", ("f",)),
        ("assert gcd(4, 2) == 2 and lcm(4, 2) == 4", ("gcd", "lcm")),
        ("x = [g(n) for n in range(3)]\nassert x", ("g",)),
        ("import math\nassert math.isclose(f(2), 4)", ("f",)),
    ],
)
def test_the_names_come_from_the_tests(tests, names):
    """What tests read and do not define is taken from the code; what they define, import or build in is not."""
    assert taken("", (tests,), "python") == names
    assert unclear("", (tests,)) == ""


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("assert math.isclose(f(2), 4)", "math without defining it: import it in `setup`"),
        ("assert np.allclose(f(2), 4)", "np without"),
        ("assert abs(f(2) - sqrt(2)) < 1e-6", "sqrt without"),
        ("assert same(f(2), 4)", "same without"),
        ("assert max([1, 2]) == 2", "every answer would pass"),
        ("def check(candidate): assert candidate(1) == 2", "every answer would pass"),
        ("def check():\n    assert f(1) == 2", "only define what nothing calls"),
        ("if __name__ == '__main__':\n    assert f(1) == 2", "only define what nothing calls"),
        ("async def test_f():\n    assert f(1) == 2", "only define what nothing calls"),
    ],
)
def test_tests_that_leave_it_open_are_refused(tests, said):
    """A helper that nothing defines, or tests of nothing, are refused before anything runs."""
    assert said in unclear("", (tests,))


@pytest.mark.parametrize(
    ("test", "language"),
    [
        ("f(2) == 4", "python"),
        ("print(f(2) == 4)", "python"),
        ("assert (f(2) == 4, 'x')", "python"),
        ("assert True\nf(2)", "python"),
        ("def check():\n    assert f(2) == 4\nf(2) == 4", "python"),
        ("assert f(2), 4", "python"),
        ("assert f(2), [4, 5]", "python"),
        ("console.assert(f(2), 4)", "javascript"),
        ("console.assert(f(2), [4]);\nconsole.assert(f(3), true)", "javascript"),
        ("def test_f():\n    f(2) == 4", "python"),
        ("f(2) === 4;", "javascript"),
        ("console.log(f(2) === 4)", "javascript"),
        ("assert [f(2) == 4]", "python"),
        ("assert (f(n) == n for n in [1, 2])", "python"),
        ("def main():\n    print(f(2) == 4)\nmain()", "python"),
        ("failures = [] if f(2) == 4 else [1]\nprint(failures)", "python"),
        ("try:\n    assert f(2) == 4\nexcept AssertionError:\n    print('FAIL')", "python"),
        ("try:\n    assert f(2) == 4\nexcept:\n    pass", "python"),
        ("from contextlib import suppress\nwith suppress(AssertionError):\n    assert f(2) == 4", "python"),
        ("console.log(f(2) === 4 ? 'PASS' : 'FAIL')", "javascript"),
        ("f(2) === 4; // must not throw", "javascript"),
        ("const failed = f(2) !== 4; console.log(failed)", "javascript"),
        ("try { assert.equal(f(2), 4); } catch (e) { console.log(`FAIL ${e}`); }", "javascript"),
        ("const a = require('assert'); try { a(f(2) === 4); } catch (e) { console.log(e); }", "javascript"),
        ("const assert = require('assert').strict; f(2);", "javascript"),
    ],
)
def test_tests_that_assert_nothing_are_refused(test, language):
    """They would pass every answer that runs."""
    assert "the tests assert nothing" in toothless("", (test,), language)


@pytest.mark.parametrize(
    ("tests", "language"),
    [
        (("def check(candidate):\n    assert candidate(2) == 4", "assert f(0) == 0"), "python"),
        (("def test_f(tmp_path):\n    assert f(2) == 4", "assert f(0) == 0"), "python"),
        (("class Checks:\n    def test_f(self):\n        assert f(2) == 4", "assert f(0) == 0"), "python"),
        (("function check() { console.assert(f(2) === 4); }", "console.assert(f(0) === 0);"), "javascript"),
        (("const check = () => { console.assert(f(2) === 4); };", "console.assert(f(0) === 0);"), "javascript"),
    ],
)
def test_an_assertion_that_nothing_calls_is_refused(tests, language):
    """As HumanEval's `check` without its call, or a test with a fixture that nothing gives: only the rest would run."""
    assert "of the tests nothing calls" in toothless("", tests, language)
    called = {"python": "[check, test_f, Checks]", "javascript": "check()"}[language]
    assert toothless("", (*tests, called), language) == ""
    assert toothless(tests[0], tests[1:], language) == ""


@pytest.mark.parametrize(
    ("setup", "test"),
    [
        ("", "assert f(2) == 4, 'x'"),
        ("", "assert not f(2)"),
        ("", "if f(2) != 4:\n    raise ValueError"),
        ("import pytest", "with pytest.raises(ValueError):\n    f(-1)"),
        ("import numpy as np", "np.testing.assert_allclose(f(2), 4)"),
        ("from numpy.testing import assert_equal", "assert_equal(f(2), 4)"),
        ("import unittest", "class F(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 4)"),
        ("def close(a, b):\n    assert abs(a - b) < 1", "close(f(2), 4)"),
        ("def close(a, b):\n    assert abs(a - b) < 1\ndef two(g):\n    close(g(2), 4)", "two(f)"),
        ("", "def check(g):\n    assert g(2) == 4\ncheck(f)"),
        ("", "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"),
        ("class Same:\n    def ensure(self, a, b):\n        assert a == b", "Same().ensure(f(2), 4)"),
        ("import sys", "sys.exit(f(2) != 4)"),
    ],
)
def test_tests_that_fail_by_other_means_are_accepted(setup, test):
    """Asserts of unittest, pytest and numpy, a raise, and helpers that assert, also through another helper."""
    assert toothless(setup, (test,), "python") == ""


@pytest.mark.parametrize(
    "test",
    [
        "try:\n    assert f(2) == 4\nexcept AssertionError as e:\n    raise SystemExit(1) from e",
        "try:\n    f(-1)\n    assert False, 'x'\n    assert f(2) == 4\nexcept ValueError:\n    pass",
        "bad = []\ntry:\n    assert f(2) == 4\nexcept AssertionError:\n    bad.append(1)\nassert not bad",
    ],
)
def test_an_assertion_that_a_handler_does_not_swallow_counts(test):
    """A handler of another error, one that fails itself, and an assertion after it."""
    assert toothless("", (test,), "python") == ""


@pytest.mark.parametrize(
    "test",
    [
        "const assert = require('assert'); try { f(-1); assert.fail('x'); } catch (e) { assert.equal(e.name, 'RangeError'); }",
        "try { f(-1); console.assert(false); } catch (e) { }",
        "if (f(2) !== 4) process.exit(1)",
        "const t = require('node:assert'); t.throws(() => f(-1));",
        "const {strictEqual: eq} = require('assert').strict; eq(f(2), 4);",
        "require('assert').equal(f(2), 4)",
        "const a = require('assert'), b = 1; a.equal(f(2), 4);",
        "if (f(2) !== 4) { console.log('FAIL'); process.exitCode = 1; }",
        "if (f('//') !== 4) { throw new Error(`${f}`); }",
    ],
)
def test_javascript_tests_that_fail_by_other_means_are_accepted(test):
    """Exit codes, handlers that assert, and errors thrown."""
    assert toothless("", (test,), "javascript") == ""


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text", ["try { ", "'\\", "`\\", "const a ", "a(", "a", "const a = require('assert')", "{", "/*"]
)
def test_long_javascript_tests_are_read_in_time(text):
    """Whatever stands in them, they are looked at for a second or two at most."""
    unclear("", (text * (40_000 // len(text)),), "javascript")
    toothless("", (text * (40_000 // len(text)),), "javascript")


@pytest.mark.parametrize(
    "call",
    [
        "_.isEqual(f(2), 4)",
        "deepEqual(f(2), 4)",
        "equals(f(2), 4)",
        "isClose(f(2), 4)",
        "same(f(2), 4)",
        "expect(f(2))",
        "expected(f, 2)",
    ],
)
def test_a_javascript_helper_that_nobody_defines_is_refused(call):
    """The code could define it; it is its own only if the line says so, or where it is all that is asked for."""
    assert "without defining it" in unclear("", (f"console.assert({call})",), "javascript")
    name = call.partition("(")[0].partition(".")[0]
    method = "class Own {{ static {0}(a, b) {{ }} }}"
    for own in ("const {0} = require('util').x;", "function {0}(a, b) {{ }}", "const x = ({0}, y) => y;", method):
        assert unclear(own.format(name), (f"console.assert({call})",), "javascript") == ""
    assert unclear("", ("console.assert(deepEqual([1], [1]) && !deepEqual(1, [1]))",), "javascript") == ""


@pytest.mark.parametrize(
    "test",
    [
        "class TestF:\n    def test_a(self):\n        assert f(2) == 4",
        "def check():\n    assert f(2) == 4",
        "def test_f(x):\n    assert f(x) == 4",
        "def test_f(x=2):\n    assert f(x) == 4",
        "async def test_f():\n    assert f(2) == 4",
        "def test_f():\n    yield\n    assert f(2) == 4",
        "if __name__ == '__main__':\n    assert f(2) == 4",
    ],
)
def test_tests_that_ask_nothing_of_the_code_pass_nothing(test):
    """Tests that are only defined are called as pytest would, or pass no answer: neither a wrong nor a missing one."""
    assert not outcome("def f(x): return 0", test, limits=SOON).passes
    assert not outcome("", test, limits=SOON).passes


def test_tests_that_are_only_defined_pass_right_code():
    """A class for pytest, and a test with defaults, run; a value of the code is asked of without a call."""
    group = "class TestF:\n    def test_a(self):\n        assert f(2) == 4"
    assert outcome("def f(x): return x * x", group, "def test_f(x=3):\n    assert f(x) == 9", limits=SOON).passes
    assert outcome("N = 5", "assert N == 5", limits=SOON).passes


# ----------------------------------------------------------------------------------------------------- JavaScript

RAW = """
const fs = require('fs'), told = JSON.parse(process.argv[3]);
const size = Buffer.alloc(4);
const frame = (message) => {
  const body = Buffer.from(JSON.stringify(message));
  size.writeUInt32BE(body.length);
  fs.writeSync(told.outbox, Buffer.concat([size, body]));
};
const asked = () => {
  fs.readSync(told.inbox, size, 0, 4, null);
  const body = Buffer.alloc(size.readUInt32BE());
  fs.readSync(told.inbox, body, 0, body.length, null);
  return JSON.parse(body).kept;
};
frame({ runs: true, names: { f: { kept: 0 } } });
"""


def hook(name, answer):
    """Code that writes its frames itself, and in them an object with a method under a key that is no text."""
    made = f"asked() ? {answer} : {{ object: [[['{name}'], {{ kept: 1 }}]] }}"
    return f"{RAW} let n = 9; for (;;) {{ const value = {made}; frame({{ value, after: [] }}); }}"


JS = {
    "a valueOf by a key that is a list": (hook("valueOf", "n -= 5"), "const v = f(2); console.assert(v > 3 && v < 0);"),
    "a toJSON by a key that is a list": (hook("toJSON", "[4]"), "console.assert(JSON.stringify(f(2)) === '[4]');"),
    "a toString by a key that is a list": (hook("toString", "'4'"), "console.assert(f(2) == '4');"),
    "leaving before it is asked": (RAW + "process.exit(0)", "for (let i = 0; i < 2e8; i += 1); let e; try { f(2); } catch (error) { e = error; } console.assert(e);"),
    "toString as a global": ("var toString = () => '[object Array]';", "console.assert(toString.call(f(2)) === '[object Array]');"),
    "hasOwnProperty as a global": ("var hasOwnProperty = () => true;", "console.assert(hasOwnProperty.call(f(2), 'x'));"),
    "an own hasOwnProperty": ("const f = () => ({hasOwnProperty: () => true});", "console.assert(f(2).hasOwnProperty('x'));"),
    "an exit code": ("", "if (f(2) !== 4) process.exitCode = 1;"),
    "an exit code at the end": ("", "const x = f(2); process.on('beforeExit', () => { process.exitCode = x === 4 ? 0 : 1; });"),
    "a test of node:test": ("", "require('node:test')('f', () => require('assert').strictEqual(f(2), 4));"),
    "an assertion at the end": ("", "const x = f(2); process.on('exit', () => require('assert').strictEqual(x, 4));"),
    "console": ("const console = {assert: () => {}};", "console.assert(f(2) === 4);"),
    "Math": ("const Math = {abs: () => 0};", "console.assert(Math.abs(f(2) - 1.4142135) < 1e-6);"),
    "JSON": ("const JSON = {stringify: () => 'same'};", "console.assert(JSON.stringify(f(2)) === JSON.stringify([4]));"),
    "require": ("const require = () => ({deepStrictEqual: () => {}});", "require('assert').deepStrictEqual(f(2), 4);"),
    "assert": ("const assert = {deepStrictEqual: () => {}};", "assert.deepStrictEqual(f(2), 4);"),
    "expect": ("const expect = () => ({toBe: () => {}});", "expect(f(2)).toBe(4);"),
    "a global replaced": ("globalThis.Number = {isInteger: () => true};", "console.assert(Number.isInteger(f(2)) && f(2) > 3);"),
    "prototypes": ("Object.prototype.equals = () => true; Array.prototype.includes = () => true; Number.prototype.valueOf = () => 4;",
                   "console.assert([4].includes(f(2)) || f(2) === 4);"),
    "values that change": ("let n = 9; const f = () => ({valueOf: () => n -= 5});", "const v = f(2); console.assert(v > 3 && v < 0);"),
    "Symbol.toPrimitive": ("let n = 9; const f = () => ({[Symbol.toPrimitive]: () => n -= 5});", "const v = f(2); console.assert(v > 3 && v < 0);"),
    "toJSON": ("const f = () => ({toJSON: () => [4]});", "const v = f(2); console.assert(JSON.stringify(v) === '[4]' && v.length === 0);"),
    "then": ("const f = () => ({then: () => {}});", "(async () => { const v = await f(2); console.assert(v === 4); })();"),
    "an assertion behind a promise": ("", "Promise.resolve(f(2)).then((v) => console.assert(v === 4));"),
    "an assertion in an async function": ("", "(async () => { console.assert((await f(2)) === 4); })();"),
    "an assertion on a timer": ("", "setTimeout(() => console.assert(f(2) === 4), 5);"),
    "a rejection": ("", "(async () => { if (f(2) !== 4) throw new Error('wrong'); })();"),
    "leaving while a promise waits": ("const f = () => process.exit(0);", "(async () => { try { f(2); } catch (e) {} })();"),
    "an instance is no function": ("class A {} const f = () => new A();", "console.assert(f([]).length === 0);"),
    "an instance in a list": ("class A {} const f = () => [new A()];", "console.assert(f(2).length === 1 && f(2)[0].length === 0);"),
    "an instance put into the argument": ("class A {} const f = (a) => a.push(new A());", "const a = []; f(a); console.assert(a.length === 1);"),
    "an instance that is true": ("class A {} const f = () => new A();", "console.assert(f(2)); console.assert(f(2) !== 5);"),
    "an instance that is not looked at": ("class A {} const f = () => new A();", "try { f(2).x; } catch (e) {} console.assert(typeof f(2) !== 'string');"),
    "an instance in a name": ("class A {} const f = new A();", "console.assert(f.length !== 5 || f);"),
    "a promise": ("const f = async () => 0;", "(async () => { console.assert((await f(2)) !== 5); })();"),
    "a symbol": ("const f = () => Symbol();", "console.assert(f(2) !== 5);"),
    "a function as a list": ("const f = () => f;", "console.assert(f([]).length === 0);"),
    "a class as a list": ("class A {} const f = () => A;", "console.assert(f([]).length === 0);"),
    "a name that the tests define": ("const test = 5; const f = () => 0;", "function test() { console.assert(f(2) === 4); }"),
    "__proto__": ("const f = () => JSON.parse('{\"__proto__\": {\"x\": 4}}');", "console.assert(f(2).x === 4 && {}.x === 4);"),
}  # fmt: skip


@NODE
@pytest.mark.parametrize("trick", JS)
def test_javascript_shadows_and_pollutes_nothing_of_the_tests(trick):
    """Globals, modules, prototypes, conversions and late assertions of the tests are not the code's to define."""
    code, test = JS[trick]
    code = code if "const f" in code else f"{code}\nfunction f(x) {{ return 0; }}"
    assert not outcome(code, test, language="javascript", limits=SOON).passes


@NODE
def test_javascript_tests_that_ask_nothing_of_the_code_pass_nothing():
    """A function of the tests that nothing calls has tested nothing."""
    test = "function test() { console.assert(f(2) === 4); }"
    assert outcome("function f(x) { return 0; }", test, language="javascript", limits=SOON).reason == "untested"


@NODE
def test_javascript_tests_of_the_same_shapes_pass_right_code():
    """Late assertions, modules, shared words and errors by class pass where the code is right."""
    code = "function f(x) { if (x < 0) throw new RangeError('x'); return x * x; }\nmodule.exports.g = (x) => [x];"
    code += "\nclass Unused {} const h = 1, value = new Unused(), N = 5, table = {of: (x) => [x]};"
    tests = (
        "Promise.resolve(f(2)).then((v) => console.assert(v === 4));",
        "setTimeout(() => console.assert(f(2) === 4), 5);",
        "require('node:test')('f', () => require('assert').strictEqual(f(2), 4));",
        "process.on('exit', () => console.assert(f(2) === 4));",
        "const assert = require('assert'); assert.deepStrictEqual(g(2), [2]);",
        "assert.throws(() => f(-1), RangeError);",
        "for (const x of [1, 2]) { let value = f(x); console.assert(value === x * x, `wrong for ${x}`); }",
        "h = f; console.assert(h(3) === 9 && N === 5 && table.of.length === undefined && table.of(2)[0] === 2);",
    )
    assert outcome(code, *tests, language="javascript", limits=SOON).reason == ""
    whole = "module.exports = function f(x) { return x * x; };"
    assert outcome(whole, "console.assert(f(2) === 4);", language="javascript", limits=SOON).reason == ""
