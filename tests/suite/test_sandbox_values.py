"""What crosses between generated code and its tests behaves as in one interpreter."""

from __future__ import annotations

import pytest
from sandboxes import NEEDS_LINUX, NODE, nothing_is_left, outcome  # noqa: F401 - the fixture is used by every test

from harness.suite.sandbox import Program, execute

pytestmark = [NEEDS_LINUX, pytest.mark.slow]

RAISES = "raised = False\ntry:\n    f(-1)\nexcept Exception:\n    raised = True\nassert raised"
BOUNDED = """
class Box:
    limit = 10
    def __init__(self): self._x = 0
    @property
    def x(self): return self._x
    @x.setter
    def x(self, value): self._x = {set}
    def get(self): return self._x
    def __call__(self): return self._x
    @classmethod
    def made(cls, value):
        one = cls()
        one.x = value
        return one
"""
PYTHON = {
    "an argument given back": (
        "def f(x): return list(x)",
        "def f(x): return x",
        "x = [1]\nassert f(x) == x is not f(x)",
    ),
    "a result that is changed": (
        "def f(x): return x[:]",
        "def f(x): return x",
        "x = [1]\nf(x).pop()\nassert x == [1]",
    ),
    "an argument changed by its name": (
        "def f(*, x): return len(x)",
        "def f(*, x):\n    x.append(1)\n    return 1",
        "x = [0]\nassert f(x=x) == 1 and x == [0]",
    ),
    "an argument changed before an error": (
        "def f(x): raise ValueError",
        "def f(x):\n    x.append(1)\n    raise ValueError",
        "x = [0]\ntry:\n    f(x)\nexcept ValueError:\n    assert x == [0]",
    ),
    "a list in itself for an error": (
        "def f(x): raise RecursionError",
        "def f(x):\n    x = []\n    x.append(x)\n    return x",
        RAISES,
    ),
    "the end of the program for an error": ("def f(x): raise ValueError", "def f(x): raise SystemExit(1)", RAISES),
    "the order of an ordered dict": (
        "from collections import OrderedDict\ndef f(): return OrderedDict([(2, 2), (1, 1)])",
        "from collections import OrderedDict\ndef f(): return OrderedDict([(1, 1), (2, 2)])",
        "from collections import OrderedDict\nassert f() == OrderedDict([(2, 2), (1, 1)])",
    ),
    "a counter": (
        "from collections import Counter\ndef f(x): return Counter(x)",
        "from collections import Counter\ndef f(x): return dict(Counter(x))",
        "from collections import Counter\nassert f('aab')['c'] == 0 and f(Counter('b')) == {'b': 1}",
    ),
    "an attribute that is set": (
        BOUNDED.format(set="min(value, self.limit)"),
        BOUNDED.format(set="value"),
        "one = Box()\none.x = 50\nassert one.x == 10 and one.get() == 10",
    ),
    "what belongs to a class": (
        BOUNDED.format(set="value"),
        BOUNDED.format(set="0"),
        "assert Box.limit == 10 and Box.made(3).x == 3",
    ),
}


@pytest.mark.parametrize("case", PYTHON)
def test_values_behave_as_in_one_interpreter(case):
    """Identity of arguments, their changes, attributes, errors and kinds of dict: each tells right code from wrong."""
    right, wrong, test = PYTHON[case]
    assert outcome(right, test).reason == ""
    assert outcome(wrong, test).reason in {"AssertionError", "SystemExit", "KeyError"}


JAVASCRIPT = {
    "an argument given back": ("x => [...x]", "x => x", "const x = [1]; console.assert(f(x)[0] === 1 && f(x) !== x)"),
    "a result that is changed": ("x => ({...x})", "x => x", "const x = {a: 1}; f(x).a = 2; console.assert(x.a === 1)"),
    "an object changed": ("x => x.a", "x => x.a++", "const x = {a: 1}; console.assert(f(x) === 1 && x.a === 1)"),
    "a key left out": ("x => delete x.a", "x => true", "const x = {a: 1}; console.assert(f(x) && !('a' in x))"),
    "a map changed": ("x => {x.set(1, 2)}", "x => {}", "const x = new Map(); f(x); console.assert(x.get(1) === 2)"),
    "a set changed": ("x => {x.delete(1)}", "x => {}", "const x = new Set([1]); f(x); console.assert(x.size === 0)"),
    "an array changed before an error": (
        "x => {throw new Error('far')}",
        "x => {x.push(1); throw new Error('far')}",
        "const x = []; try {f(x)} catch (e) {console.assert(e.message === 'far' && !x.length)}",
    ),
    "an object in itself for an error": (
        "x => {throw new RangeError('far')}",
        "x => {const y = {}; return y.y = y}",
        "require('assert').throws(() => f(1), RangeError)",
    ),
    "a getter for an error": (
        "x => {throw new TypeError('no')}",
        "x => ({get y() {throw new TypeError('no')}})",
        "require('assert').throws(() => f(1), TypeError)",
    ),
    "a text thrown for an error": (
        "x => {throw new Error('far')}",
        "x => {throw 'far'}",
        "require('assert').throws(() => f(1), Error)",
    ),
    "a text that is asked for": (
        "x => {throw 'far'}",
        "x => {throw new Error('far')}",
        "try {f(1)} catch (e) {console.assert(e === 'far')}",
    ),
}


@NODE
@pytest.mark.parametrize("case", JAVASCRIPT)
def test_javascript_values_behave_as_in_one_interpreter(case):
    """Objects, maps and sets that are changed, what is given back, and what is thrown."""
    right, wrong, test = JAVASCRIPT[case]
    reasons = [
        execute(Program(f"const f = {code}", (test,), names=("f",), language="javascript")).reason
        for code in (right, wrong)
    ]
    assert reasons[0] == ""
    assert reasons[1] != ""
