"""Generated code is judged rightly: right code passes, nothing else does, and what shut it away is on record."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import psutil
import pytest
from sandboxes import NEEDS_LINUX, RIGHT, TESTS, nothing_is_left, outcome  # noqa: F401 - the fixture is used by every test

from harness.errors import RunError
from harness.suite.sandbox import Limits, _described, _granted, isolation

pytestmark = NEEDS_LINUX

# ------------------------------------------------------------------------------------------ what is right passes


def test_right_code_passes_and_wrong_code_does_not():
    """The three outcomes: parses, is defined, passes; and the reason why not."""
    right = outcome(RIGHT)
    assert (right.parses, right.runs, right.passes, right.reason) == (True, True, True, "")
    assert right.metrics() == {"passes": 1.0, "runs": 1.0, "parses": 1.0}
    wrong = outcome("def f(x): return x")
    assert (wrong.parses, wrong.runs, wrong.passes, wrong.reason) == (True, True, False, "AssertionError")
    broken = outcome("def f(x) return x")
    assert (broken.parses, broken.runs, broken.passes, broken.reason) == (False, False, False, "SyntaxError")
    raising = outcome("import no_such_module\n" + RIGHT)
    assert (raising.parses, raising.runs, raising.passes) == (True, False, False)
    assert raising.reason == "ModuleNotFoundError"
    assert outcome("def g(x): return x").reason == "NameError"


def test_values_cross_whole():
    """What the code returns arrives with type and content, big, special and nested values too."""
    code = """
        import collections, decimal, fractions
        def f(x): return x
        def kinds():
            return [2**70, -0.0, float("inf"), 1j, b"\\xff", (1, (2,)), {1: {2}, (3,): frozenset()}, None, True,
                    "\\ud800", collections.Counter("aab"), decimal.Decimal("1.10"), fractions.Fraction(1, 3), range(3)]
    """
    test = """
from collections import Counter
from decimal import Decimal
from fractions import Fraction
import math
big, zero, endless, imaginary, raw, nested, table, none, true, odd, counts, money, third, numbers = kinds()
assert big == 2**70 and type(big) is int
assert math.copysign(1, zero) == -1 and endless == math.inf and imaginary == 1j and raw == b"\\xff"
assert nested == (1, (2,)) and type(nested) is tuple
assert table == {1: {2}, (3,): frozenset()} and none is None and true is True and odd == "\\ud800"
assert counts == Counter("aab") and money == Decimal("1.10") and third == Fraction(1, 3) and numbers == range(3)
assert math.isnan(f(math.nan)) and f(f) is not None
"""
    assert outcome(code, test).reason == ""


def test_objects_stay_with_the_code_and_answer_calls():
    """Classes, generators, raised errors and changed arguments work as they would in one interpreter."""
    code = """
        class Stack:
            def __init__(self): self.items = []
            def push(self, x): self.items.append(x); return self
            def __len__(self): return len(self.items)
            def __getitem__(self, at): return self.items[at]
            def pop(self):
                if not self.items: raise IndexError("empty")
                return self.items.pop()
        def squares(n):
            for i in range(n): yield i * i
        class Celsius(float): pass
        Point = __import__("collections").namedtuple("Point", "x y")
        class Own(list):
            push = list.append
        def double(values):
            for i, v in enumerate(values): values[i] = 2 * v
    """
    test = """
s = Stack()
s.push(3).push(4)
assert len(s) == 2 and s[0] == 3 and s.items == [3, 4] and s.pop() == 4 and list(s) == [3]
s.pop()
try: s.pop()
except IndexError as error: assert str(error) == "empty"
else: raise AssertionError
assert list(squares(4)) == [0, 1, 4, 9]
p, own = Point(1, 2), Own([1])
assert p == (1, 2) and (1, 2) == p and p.x == 1 and p != (1, 3) and [*p] == [1, 2] and Celsius(1.5) == 1.5
assert own == [1] and own and own.push(2) is None and own == [1, 2] and own is not None
assert not Own() and Own() != Own() and s == s and not (s == Stack())
mine = [1, 2]
double(mine)
assert mine == [2, 4]
"""
    assert outcome(code, test).reason == ""


# ---------------------------------------------------------------------------------------- forgeries do not pass

FORGED = {
    "os._exit(0)": "import os\nos._exit(0)",
    "os._exit(0) in the call": "import os\ndef f(x): os._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "sys.exit(0) in the call": "import sys\ndef f(x): sys.exit(0)",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
    "a printed success": "print('passed', 'OK', {'passes': True}, flush=True)\ndef f(x): return 0",
    "a success on every pipe": """
import os, json
body = json.dumps({"passes": True, "tests": ["seccomp"], "value": 2}).encode()
def f(x):
    for pipe in range(64):
        try: os.write(pipe, len(body).to_bytes(4, "big") + body)
        except OSError: pass
    os._exit(0)
""",
    "a success instead of the definition": """
import os, json
for pipe in range(3, 64):
    for said in ({"runs": True, "names": {}}, {"passes": True}, {"verdict": {"passes": True}}):
        body = json.dumps(said).encode()
        try: os.write(pipe, len(body).to_bytes(4, "big") + body)
        except OSError: break
os._exit(0)
""",
    "patched builtins": """
import builtins, operator
builtins.AssertionError = type("E", (BaseException,), {})
builtins.isinstance = lambda *a: True
builtins.abs = builtins.min = lambda *a: 0
builtins.__build_class__ = None
def f(x): return 0
""",
    "frames and the garbage collector": """
import gc, sys, types
def f(x):
    frame = sys._getframe()
    while frame:
        frame.f_globals.update(passes=True, failed=None)
        frame = frame.f_back
    for one in gc.get_objects():
        if isinstance(one, dict) and "failed" in one: one["passes"] = True
    return 0
""",
    "a trace function": "import sys\nsys.settrace(lambda *a: 1)\nsys.setprofile(lambda *a: 1)\ndef f(x): return 0",
    "equal to everything": """
class Same:
    __eq__ = __ge__ = __le__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __bool__ = lambda self: True
    def __hash__(self): return 2
def f(x): return Same()
""",
    "a number equal to everything": """
class Same(int):
    __eq__ = lambda self, other: True
    __hash__ = int.__hash__
def f(x): return Same(7)
""",
    "an AssertionError to be swallowed": "def f(x): raise AssertionError",
    "its own modules": "import sys, types\nsys.modules['math'] = types.ModuleType('math')\ndef f(x): return 0",
    "a server of its own": """
import os, json
def f(x):
    while True:
        body = json.dumps({"value": True, "after": [None]}).encode()
        os.write(OUT, len(body).to_bytes(4, "big") + body)
OUT = max(n for n in range(3, 20) if os.path.exists(f"/proc/self/fd/{n}"))
""",
}


@pytest.mark.parametrize("trick", FORGED)
def test_a_forgery_does_not_pass(trick):
    """No exit, no printed or written line, no patched builtin, frame, trace or comparison makes wrong code pass."""
    found = outcome(FORGED[trick], limits=Limits(wall_s=3, cpu_s=2))
    assert not found.passes
    assert found.reason


def test_the_tests_cannot_be_read_or_reached():
    """The process of the tests is not to be found from the code: no process but its own, no memory, no file of it."""
    code = """
        import os
        def f(x):
            seen = []
            for n in range(1, 200):
                for name in ("mem", "environ", "cmdline", "fd"):
                    try:
                        open(f"/proc/{n}/{name}", "rb").read(1)
                        if n != os.getpid(): seen.append((n, name))
                    except OSError: pass
            return seen
    """
    assert outcome(code, "assert f(1) == []").reason == ""


# ------------------------------------------------------------------------------------------------ the run itself


def test_the_same_program_ends_the_same_way():
    """Hashes and random numbers are the same each time, in the code and in the tests: chance makes no difference."""
    code = "import random\ndef f(): return [list({'a', 'b', 'c', 'd', 'e'}), random.random()]"
    first = outcome(code, "import random\nraise KeyError if f()[0][0] in 'ab' else ValueError")
    again = [outcome(code, "import random\nraise KeyError if f()[0][0] in 'ab' else ValueError") for _ in range(3)]
    assert {first.reason} == {one.reason for one in again}
    drawn = "import random\nassert round(f()[1], 6) == 0.844422 and round(random.random(), 6) == 0.844422"
    assert outcome(code, drawn).reason == ""


def test_executions_do_not_disturb_each_other():
    """Several at once from several threads, among them bombs: each has its own outcome."""
    codes = [RIGHT, "import os\nos._exit(0)", "def f(x): return 0", RIGHT]
    found = [None] * len(codes)

    def one(at):
        found[at] = outcome(codes[at]).passes

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(codes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, False, False, True]


def test_an_interrupted_execution_leaves_nothing():
    """Ctrl-C in the middle of an execution ends its processes (the check is the fixture's)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            outcome("while True: pass")
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def test_what_is_in_force_is_recorded():
    """The record names the layers that the kernel granted, and says what stands in for a network namespace."""
    found = isolation()
    assert "seccomp" in found["layers"]
    assert set(found) == {"layers", "network", "files"}
    less = _described(("resource limits", "landlock", "seccomp"))
    assert "no network namespace here: every socket is refused" in less["network"]
    assert "nothing can be written" in less["files"]


def test_too_little_isolation_is_refused():
    """Where the kernel grants no filter, nothing runs, and the message says what is needed."""
    with pytest.raises(RunError, match="seccomp, and user namespaces or Landlock"):
        _granted({"tests": ["user namespace"], "solution": ["user namespace", "seccomp"]})
    with pytest.raises(RunError, match="ended before any code was read"):
        _granted({"tests": ["user namespace", "seccomp"]})


@pytest.mark.parametrize("role", ["solution", "tests"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_whose_process_is_killed_from_outside_is_run_again(role, sent):
    """Right code is not wrong because the machine ran out of memory."""
    killed = []

    def kill():
        while not killed:
            for one in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if role in one.cmdline() and "child.py" in " ".join(one.cmdline()):
                        time.sleep(0.5)  # past its start
                        one.send_signal(sent)
                        killed.append(one.pid)
                        break

    thread = threading.Thread(target=kill)
    thread.start()
    found = outcome("import time\ndef f(x):\n    time.sleep(1)\n    return x + 1\n")
    thread.join()
    assert killed
    assert found.reason == ""


def test_the_time_of_a_job_that_is_suspended_does_not_count(monkeypatch):
    """As by Slurm: it stands still, its programs with it, and right code is not late when it goes on."""
    clock, still = time.monotonic, [0.0]
    monkeypatch.setattr("harness.suite.sandbox.time.monotonic", lambda: clock() + still[0])
    timer = threading.Timer(0.8, lambda: still.__setitem__(0, 60.0))
    timer.start()
    assert outcome("import time\ntime.sleep(1.5)\ndef f(x):\n    time.sleep(0.5)\n    return x + 1\n").reason == ""
    timer.join()


def test_a_program_that_kills_itself_is_run_twice_at_most():
    """Its end is its own, and it fails."""
    assert not outcome("import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)").passes
