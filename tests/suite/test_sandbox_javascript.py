"""Generated JavaScript: right code passes; forgeries, bombs and ways out of its process do not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from paths import ROOT
from sandboxes import NEEDS_LINUX, NODE, nothing_is_left  # noqa: F401 - the fixture is used by every test

from harness.errors import RunError
from harness.suite.sandbox import Limits, Program, execute, missing

pytestmark = [NEEDS_LINUX, pytest.mark.slow]


def test_javascript_needs_node(monkeypatch):
    """Without node the message says what to install."""
    monkeypatch.setenv("PATH", "")
    assert "node, which is not on the PATH: install Node.js" in missing("javascript")
    with pytest.raises(RunError, match="not on the PATH"):
        execute(Program("", ("",), language="javascript"))


JS_TESTS = ("console.assert(f(1) === 2); console.assert(JSON.stringify(g([1])) === '[1,2]')",)
JS_RIGHT = "const f = (x) => x + 1;\nfunction g(a) { return [...a, 2]; }\n"
DEAD = {"signal 5", "signal 6", "signal 11", "cpu", "timeout"}
IGNORING = """
for (const name of Object.keys(require('os').constants.signals))
  try { process.on(name, () => {}); } catch (error) {}
"""
JS_FORGED = {
    "process.exit": ("process.exit(0)", {"ended"}),
    "process.exit in the call": ("const f = () => process.exit(0)", {"ended"}),
    "patched assert": ("console.assert = () => {}; const f = () => 0, g = f", {"AssertionError"}),
    "patched JSON": (
        "JSON.stringify = () => '[1,2]'; const f = () => 2, g = f",
        {"ended", "TypeError", "Error", "undefined"},
    ),
    "equal to everything": ("const f = () => ({valueOf: () => 2}), g = f", {"AssertionError"}),
    "printed": ("console.log('passed'); const f = () => 0, g = f", {"AssertionError"}),
    "an infinite output": ("while (true) console.log('passed'.repeat(10000))", {"timeout", "cpu"}),
    "an infinite output past node": (
        "while (true) require('fs').writeSync(1, 'passed'.repeat(10000))",
        {"timeout", "cpu"},
    ),
    "an infinite answer": ("const f = () => { const x = []; while (true) x.push('a' + x.length); }", DEAD | {"ended"}),
    "a huge answer": ("const f = () => 'a'.repeat(2e8)", DEAD | {"ended", "Error", "RangeError"}),
    "ignored signals in a loop": (IGNORING + "while (true);", {"timeout", "cpu"}),
    "ignored signals asleep": (
        IGNORING + "const f = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
        {"timeout"},
    ),
    "a loop": ("while (true);", {"timeout", "cpu"}),
    "a memory bomb": ("const x = []; while (true) x.push(new Array(100000).fill(1))", DEAD | {"ended"}),
    "a child": ("require('child_process').execSync('sleep 1000')", {"Error"}),
    "a worker": ("const t = require('worker_threads'); new t.Worker('while(1);', {eval: true}); while (1);", DEAD),
    "a file": ("require('fs').writeFileSync('/tmp/quantcliff-forged', 'x')", {"Error"}),
    "a signal": ("process.kill(process.ppid || 2, 9)", {"Error"}),
    "a syntax error": ("const f = (", {"SyntaxError"}),
    "an exception": ("throw new TypeError('x')", {"TypeError"}),
}  # fmt: skip


@NODE
def test_javascript_that_is_right_passes():
    """Arrows, functions, special values and changed arguments work across the two processes."""
    assert execute(Program(JS_RIGHT, JS_TESTS, names=("f", "g"), language="javascript")).reason == ""
    assert execute(Program(JS_RIGHT, JS_TESTS, language="javascript")).passes
    code = "const f = (x) => x, add = (a) => { a.push(1); }; function boom() { throw new RangeError('far'); }"
    test = """
      console.assert(f(undefined) === undefined && Object.is(f(-0), -0) && Number.isNaN(f(NaN)) && f(10n) === 10n);
      console.assert(JSON.stringify(f({a: [1, {b: null}]})) === '{"a":[1,{"b":null}]}');
      console.assert(f(new Map([[1, new Set([2])]])).get(1).has(2));
      const mine = []; add(mine); console.assert(mine.length === 1);
      try { boom(); console.assert(false); } catch (e) { console.assert(e.name === 'RangeError'); }
    """
    found = execute(Program(code, (test,), names=("f", "add", "boom"), language="javascript"))
    assert found.reason == ""


SWALLOWED = {
    "catch": "(async () => { assert.equal(f(1), 2); })().catch(() => {});",
    "a handler that prints": "(async () => { assert.equal(f(1), 2); })().catch(console.log);",
    "then": "Promise.resolve(1).then((x) => assert.equal(f(x), 2)).then(null, (e) => e);",
    "an error of a helper": "new Promise(() => { if (f(1) !== 2) throw new Error('x'); }).catch(() => {});",
    "all": "Promise.all([(async () => assert(f(1) === 2))()]).catch(() => {});",
    "all settled": "Promise.allSettled([(async () => assert(f(1) === 2))()]);",
    "after a timer": "setTimeout(() => Promise.reject(assert.fail).catch(() => {}), f(1) === 2 ? 1e9 : 1).unref();"
    "setTimeout(() => {}, 20);",
    "rejects": "assert.rejects(async () => f(2), { name: 'RangeError' }).catch(() => {});",
}


@NODE
@pytest.mark.parametrize("way", SWALLOWED)
def test_an_assertion_whose_promise_is_caught_counts(way):
    """`.catch(() => {})` in the tests lets no wrong answer pass, and takes what the code raises on purpose."""
    test = f"const assert = require('assert'); {SWALLOWED[way]}"
    right = "const f = (x) => { if (x > 1) throw new RangeError('far'); return x + 1; };"
    wrong = "const f = (x) => 3;"
    raised = "(async () => f(2))().catch((e) => assert.equal(e.name, 'RangeError'));"
    for more in ("", raised):
        assert execute(Program(right, (test + more,), names=("f",), language="javascript")).reason == ""
        assert execute(Program(wrong, (test + more,), names=("f",), language="javascript")).reason == "AssertionError"


@NODE
@pytest.mark.parametrize("trick", JS_FORGED)
def test_javascript_does_not_pass_by_tricks(trick):
    """Exits, patched assertions, printed lines, bombs and children: none passes, each ends for its reason."""
    code, reasons = JS_FORGED[trick]
    limits = Limits(wall_s=0.7, cpu_s=1, memory_bytes=128 << 20)
    found = execute(Program(code, JS_TESTS, names=("f", "g"), language="javascript"), limits)
    assert not found.passes
    assert found.reason in reasons
    assert not Path("/tmp/quantcliff-forged").exists()  # noqa: S108 - the place that the code tries


def bare(code, call, **how):
    """What a call to code gives in node as it is, without any sandbox."""
    script = f"{code}\nconsole.log(JSON.stringify({call})); process.exit()"
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, timeout=60, **how)
    return json.loads(done.stdout)


def shut_away(code, call, name, expected):
    """Why a test that the same call gives `expected` in the sandbox does not pass there; empty where it does."""
    text = json.dumps(json.dumps(expected, separators=(",", ":")))
    test = f"console.assert(JSON.stringify({call}) === {text})"
    return execute(Program(code, (test,), names=(name,), language="javascript")).reason


REACHING = """
function reached(port) {
  const [tcp, udp, pipe] = ['tcp_wrap', 'udp_wrap', 'pipe_wrap'].map((one) => process.binding(one));
  const ways = {
    server: () => new tcp.TCP(0).connect(new tcp.TCPConnectWrap(), '127.0.0.1', port),
    listening: () => { const own = new tcp.TCP(1); return own.bind('127.0.0.1', 0) || own.listen(1); },
    datagram: () => new udp.UDP().bind('127.0.0.1', 0, 0),
    path: () => new pipe.Pipe(1).bind('socket'),
  };
  return Object.keys(ways).filter((way) => { try { return ways[way]() === 0; } catch (error) { return false; } });
}
"""


@NODE
def test_javascript_has_no_network(tmp_path):
    """Neither a server here nor a socket of its own: what bare node reaches in four ways is refused in all of them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = f"reached({server.getsockname()[1]})"
        assert bare(REACHING, call, cwd=tmp_path) == ["server", "listening", "datagram", "path"]
        server.accept()[0].close()
        assert shut_away(REACHING, call, "reached", []) == ""
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


LOOKING = """
const fs = require('fs');
function seen() {
  const secrets = [...Object.values(process.env)];
  for (const one of ['self', process.ppid, ...Array(50).keys()])
    try { secrets.push(String(fs.readFileSync(`/proc/${one}/environ`))); } catch (error) {}
  let files = 0;
  for (let at = 3; at < 256; at += 1) try { files += fs.fstatSync(at).isFile(); } catch (error) {}
  return [secrets.some((one) => one.includes('hf_secret')), Object.keys(process.env).length > 1, files > 0];
}
"""


@NODE
def test_javascript_inherits_no_environment_and_no_files(monkeypatch):
    """No variable but the one that keeps OpenSSL from its file, no open file, no other process's environment."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        assert bare(LOOKING, "seen()", close_fds=False) == [True, True, True]
        assert shut_away(LOOKING, "seen()", "seen", [False, False, False]) == ""
    only = "const names = () => Object.keys(process.env);"
    assert shut_away(only, "names()", "names", ["OPENSSL_CONF"]) == ""


@NODE
def test_javascript_that_ignores_signals_ends_by_its_processor_time():
    """With every signal handled, a loop ends by the limit that cannot be handled, long before the wall time."""
    program = Program(IGNORING + "while (true);", JS_TESTS, names=("f", "g"), language="javascript")
    assert execute(program, Limits(wall_s=20, cpu_s=1)).reason == "cpu"


REPLACED = """
import json, os, sys
from harness.suite.sandbox.confine import confine
told = json.loads(sys.argv[1])
confine(told["limits"], told["readable"], told["folder"], may_exec=True)
os.execve(told["program"], [told["program"], "-I", "-S", "-c", told["probe"]], {})
"""
PROBE = """
import json, os, socket
def child(): os.fork() or os._exit(0)
def reached(act):
    try: act()
    except OSError: return False
    return True
print(json.dumps([reached(act) for act in (socket.socket, child, lambda: open({victim!r}, "a"))]))
"""


def test_a_program_in_nodes_place_is_shut_away_as_node_is(tmp_path):
    """`execve` stays open for node: what takes a process's place so still has no socket, child or file outside."""
    victim, folder = tmp_path / "victim", tmp_path / "inside"
    victim.touch()
    folder.mkdir()
    program = os.path.realpath(sys.executable)
    probe = PROBE.format(victim=str(victim))
    limits = {"CPU": 5, "FSIZE": 1 << 20, "NOFILE": 64, "NPROC": 64, "DATA": 1 << 29}
    readable = [sys.base_prefix, program, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
    told = {"limits": limits, "readable": readable, "folder": str(folder), "program": program, "probe": probe}
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = [
        subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout
        for command in ([program, "-c", probe], [program, "-c", REPLACED, json.dumps(told)])
    ]
    assert found == [
        "[true, true, true]\n",
        "[false, false, false]\n",
    ]  # as it is, and in the place of a process shut away


@NODE
def test_a_method_of_an_object_is_called_with_it():
    """Of a plain object that code returns, `this` is that object, as a closure would have it."""
    code = "function counter() { return { n: 3, next() { return this.n + 1; } }; }"
    assert execute(Program(code, ("console.assert(counter().next() === 4)",), language="javascript")).passes


@NODE
def test_a_forged_answer_gives_an_array_of_the_tests_no_methods():
    """Code that writes its frames itself may say that the array it was given is an object with an `includes`."""
    forged = "[{ object: [['0', 3], ['includes', { kept: 0 }]] }]"
    code = f"""
    let [calls, answers, write] = [0, 0, JSON.stringify];
    function f(xs) {{ return calls++ ? true : 1; }}
    JSON.stringify = (one) => {{
      if (one && one.names) one.names = {{ f: {{ kept: 0 }} }};
      if (one && one.after && answers++ === 0) one.after = {forged};
      return write(one);
    }};
    """
    test = "const xs = [3]; f(xs); console.assert(xs.includes(4))"
    assert not execute(Program(code, (test,), language="javascript")).passes
