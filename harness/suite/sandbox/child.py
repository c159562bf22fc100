"""The sandbox's own side: one process holds the untrusted code, another the tests, and only values go between them.

Each shuts itself away (`confine`) first. The process with the tests alone can say a success. Standard library only.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # an isolated interpreter does not see the folder of its program
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from confine import confine  # type: ignore[import-not-found]
    from values import UNTRUSTED, Gone, decoded, encoded, receive, send  # type: ignore[import-not-found]

    sys.path.pop(0)
else:
    from harness.suite.sandbox.confine import confine
    from harness.suite.sandbox.values import UNTRUSTED, Gone, decoded, encoded, receive, send


def main(role: str, told: dict[str, Any]) -> None:
    """Shut this process away, then be what `role` says: ``solution`` or ``tests``, in Python or through node."""
    os.environ.clear()
    node = told.get("node")
    layers = confine(told["limits"], told["readable"], told["folder"], may_exec=bool(node))
    if node:
        flags = [f"--max-old-space-size={told['heap_mib']}", "--random-seed=1", "--no-warnings"]
        command = [node, *flags, told["script"], role, json.dumps({**told, "layers": layers})]
        os.execve(node, command, {"OPENSSL_CONF": "/dev/null"})  # noqa: S606 - no shell, and nothing else may follow
    random.seed(0)  # a program ends the same way each time; after the fork into the namespace, which seeds it anew
    program = json.loads(b"".join(iter(lambda: os.read(0, 1 << 20), b"")))
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if role == "solution":
        _Solution(told).serve(program, layers)
    else:
        _Tests(told).hold(program, layers)


class _Solution:
    """Holds the untrusted code and answers calls to it. Whatever it says is taken as a value, never as a verdict."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.inbox, self.outbox = told["inbox"], told["outbox"]
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}

    def serve(self, program: dict[str, Any], layers: list[str]) -> None:
        """Define the code, say how far that came, then answer until nobody asks any more."""
        send(self.outbox, {"layers": layers})
        try:
            code = compile(program["code"], "solution.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
            send(self.outbox, {"parses": False, "why": type(error).__name__})
            return
        send(self.outbox, {"parses": True})
        names = vars(sys.modules.setdefault(UNTRUSTED, types.ModuleType(UNTRUSTED)))  # where dataclasses looks
        try:
            exec(code, names)  # noqa: S102 - what this process is for
        except BaseException as error:  # noqa: BLE001 - sys.exit() while defining is not running either
            send(self.outbox, {"runs": False, "why": _name(error)})
            return
        offered = {name: self._offer(names[name]) for name in program["names"] if name in names}
        send(self.outbox, {"runs": True, "names": offered})
        while True:
            send(self.outbox, self._answer(receive(self.inbox)))

    def _offer(self, value: Any, taken: type[Exception] = Exception, *, plain: bool = False) -> Any:
        try:
            return encoded(value, self._keep, plain=plain)
        except taken:  # a value that cannot be handed over is known by its number
            return self._keep(value)

    def _keep(self, value: Any) -> dict[str, Any]:
        """Keep an object, once, and give its number and whether it can be called."""
        number = self.numbers.setdefault(id(value), len(self.kept))
        if number == len(self.kept):
            self.kept.append(value)
        return {"kept": [number, callable(value)]}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        def given(value: dict[str, Any]) -> Any:
            return self.kept[value["kept"][0]]

        handed, reply = list[Any](), dict[str, Any]()
        try:
            arguments = [decoded(one, given) for one in request["arguments"]]
            named = {name: decoded(one, given) for name, one in request["named"].items()}
            target, method = self.kept[request["kept"]], request["method"]
            act = _ASKED.get(method) or (getattr(target, method) if method else target)
            handed = [one if isinstance(one, list | dict | set) else None for one in (*arguments, *named.values())]
            result = act(*([target] if method in _ASKED else []), *arguments, **named)
            reply["same"] = next((at for at, one in enumerate(handed) if one is result is not None), None)
            reply["value"] = self._offer(result, RecursionError, plain=method == "plain")
        except BaseException as error:  # noqa: BLE001 - the tests may expect it
            text = error.args[0] if isinstance(error, KeyError) and error.args else error  # which `str` would quote
            reply["raised"] = [_name(error), str(text)[:200] if isinstance(error, Exception) else ""]
        return reply | {"after": list(map(self._offer, handed))}


# What is asked of an object without calling a method of it.
_ASKED: dict[str, Any] = {"list": list, "true": bool, "plain": lambda one: one, "get": getattr, "set": setattr}


def _name(error: BaseException) -> str:
    """Give the name of the nearest class of an error that is Python's own."""
    own = (one.__name__ for one in type(error).__mro__ if getattr(builtins, one.__name__, None) is one)
    return next(own, "Exception")


class _Tests:
    """Runs the tests on stand-ins for what the code defines, and says on its own pipe how it went."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.inbox, self.outbox, self.verdict = told["inbox"], told["outbox"], told["verdict"]
        self.gone, self.one_at_a_time = False, threading.Lock()  # tests may call from threads
        self.asked = False  # whether anything was asked of the code at all
        self.calls = 0  # those that may have changed an object; until the next one its content is asked for once

    def hold(self, program: dict[str, Any], layers: list[str]) -> None:
        """Follow the code's beginnings, run every test, and give the verdict."""
        send(self.verdict, {"tests": layers})
        try:
            send(self.verdict, {"solution": receive(self.inbox)["layers"]})
            for key in ("parses", "runs"):
                said = receive(self.inbox)
                send(self.verdict, {key: said[key] is True})
                if said[key] is not True:
                    why = said["why"]  # a name that came from the code, or a neutral one where it is none
                    good = isinstance(why, str) and why.isidentifier()
                    send(self.verdict, {"failed": why[:80] if good else "Exception"})
                    return
            self._run(program, said["names"])
        except (Gone, KeyError, TypeError, AttributeError):
            send(self.verdict, {"failed": "ended"})

    def _run(self, program: dict[str, Any], offered: dict[str, Any]) -> None:
        names = {name: decoded(offered[name], self._stand_in) for name in program["names"] if name in offered}
        taken = list(names.values())
        for name, one in names.items():
            if isinstance(one, _Callable):
                one._kept_class = name.lstrip("_")[:1].isupper()  # noqa: SLF001 - its own module
        names["__name__"] = "tests"
        lost: list[Any] = []  # what a thread of the tests raised
        threading.excepthook = lost.append
        try:
            for number, code in enumerate([program["setup"], *program["tests"]]):
                exec(compile(code, f"test {number}", "exec", dont_inherit=True), names)  # noqa: S102 - the tests
            _collected(names)
            for one in {one for one in threading.enumerate() if not one.daemon} - {threading.main_thread()}:
                one.join()
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever ends a test is a failed test
            send(self.verdict, {"failed": "ended" if self.gone else type(error).__name__})
        else:  # a test may have swallowed the end of the code with a bare `except:`
            tested = self.asked or any(not isinstance(one, _Kept) for one in taken)
            raised = lost[0].exc_type.__name__ if lost else ""
            failed = "ended" if self.gone else raised or ("" if tested else "untested")
            send(self.verdict, {"failed": failed} if failed else {"passes": True})

    def _stand_in(self, value: dict[str, Any]) -> _Kept:
        number, calls = value["kept"]
        return (_Callable if calls is True else _Kept)(self, int(number))

    def ask(self, kept: int, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Have the code do something. Raises what it raised, as Python's own error of that name."""
        request: dict[str, Any] = {"kept": kept, "method": method}
        request["arguments"] = [encoded(one, _number) for one in arguments]
        request["named"] = {name: encoded(one, _number) for name, one in named.items()}
        self.asked = True
        try:
            with self.one_at_a_time:
                send(self.outbox, request)
                reply = receive(self.inbox)
        except (Gone, OSError):
            self.gone = True
            raise
        if not isinstance(reply, dict):
            raise RuntimeError("no answer")  # noqa: TRY004 - an answer of the code, not a bad call
        given = [*arguments, *named.values()]
        for one, after in zip(given, reply["after"], strict=False):
            _follow(one, decoded(after, self._stand_in))
        if "raised" in reply:
            name, text = reply["raised"]
            raise _raised(str(name))(str(text))
        return decoded(reply["value"], self._stand_in) if reply["same"] is None else given[reply["same"]]


def _collected(names: dict[str, Any]) -> None:
    """Call what pytest or unittest would call: a test that is only defined has tested nothing."""
    for name, one in list(names.items()):
        if isinstance(one, types.FunctionType) and name.startswith("test"):
            if one.__code__.co_argcount == len(one.__defaults__ or ()):
                _run_through(one)
        elif isinstance(one, type) and (unittest := sys.modules.get("unittest")) and issubclass(one, unittest.TestCase):
            if not unittest.defaultTestLoader.loadTestsFromTestCase(one).run(unittest.TestResult()).wasSuccessful():
                raise AssertionError(name)
        elif isinstance(one, type) and name.startswith("Test"):
            _collected(dict(vars(one)))
            for method in [method for method in dir(one) if method.startswith("test")]:
                made = one()
                for part in ("setup_class", "setup_method", method, "teardown_method", "teardown_class"):
                    if step := getattr(made, part, None):  # pytest may tell the first two and last two what is tested
                        _run_through(step, *[None] * (part != method and step.__code__.co_argcount > 1))


def _run_through(test: Any, *given: None) -> None:
    """Call a test. Raises TypeError for one that has not run when it returns: a coroutine or a generator."""
    if isinstance(test(*given), types.CoroutineType | types.GeneratorType | types.AsyncGeneratorType):
        raise TypeError("a test that is a coroutine or a generator is not run")


def _raised(name: str) -> type[BaseException]:
    """Python's own error of that name. The end of an iteration is none: it would end a loop of the tests early."""
    kind: Any = getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, BaseException)
    return kind if known and not issubclass(kind, StopIteration | StopAsyncIteration) else RuntimeError


def _follow(argument: Any, after: Any) -> None:
    """Give a list, dict or set that was handed over the content that the code left in its copy."""
    if type(argument) is type(after) and isinstance(argument, list | dict | set) and argument != after:
        argument.clear()
        (argument.extend if isinstance(argument, list) else argument.update)(after)


def _number(value: Any) -> dict[str, Any]:
    if isinstance(value, _Kept):
        return {"kept": [value._kept_number, True]}  # noqa: SLF001 - its own module
    raise type("Uncrossable", (TypeError,), {})(f"a {type(value).__name__} cannot be handed to the code under test")


_BUILT_IN = {name for kind in (str, int, float, list, dict, tuple, set) for name in dir(kind) if name[0] != "_"}
"""Methods that the content of an object answers, not a class that overrides them."""
_TELLING = {name for name in _BUILT_IN if name.startswith("is")} | {"startswith", "endswith"}
"""Those that only judge, by what the test gives them: without a builtin class there is nothing that answers."""


class _Kept:
    """Stands for an object that stays with the code.

    Equal to itself, and to data with the content of the plain class that it stands on: its own class is not asked.
    Membership and truth go by that content too, and membership in anything else by what it iterates over; only an
    object that the tests made by calling a class of the code (a name with a capital) is asked by its own method.
    """

    _kept_made = False

    def __init__(self, tests: _Tests, number: int) -> None:
        self._kept_tests, self._kept_number = tests, number
        self._kept_seen: dict[str, tuple[int, Any]] = {}

    def _kept_do(self, method: str, *arguments: Any, **named: Any) -> Any:
        self._kept_tests.calls += 1
        return self._kept_tests.ask(self._kept_number, method, arguments, named)

    def _kept_asked(self, method: str) -> Any:
        """Ask what cannot change until the next call, once: an answer that changes is no value."""
        calls = self._kept_tests.calls
        if self._kept_seen.get(method, (-1,))[0] != calls:
            self._kept_seen[method] = (calls, self._kept_tests.ask(self._kept_number, method, (), {}))
        return self._kept_seen[method][1]

    def __getattr__(self, name: str) -> Any:
        if name in _BUILT_IN and not self._kept_made:
            mine = self._kept_asked("plain")
            if not isinstance(mine, _Kept) and hasattr(mine, name):
                return getattr(mine, name)
            if name in _TELLING:
                raise AttributeError(name)
        return self._kept_do("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value) if name.startswith("_kept_") else self._kept_do("set", name, value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Kept):
            return self._kept_number == other._kept_number
        mine = self._kept_asked("plain")
        return not isinstance(mine, _Kept) and bool(mine == other)

    def __hash__(self) -> int:
        return hash(self._kept_number)

    def __bool__(self) -> bool:
        mine = self._kept_asked("plain")
        return self._kept_asked("true") is True if isinstance(mine, _Kept) else bool(mine)

    def __len__(self) -> int:
        mine = self._kept_asked("plain")
        return int(self._kept_asked("__len__")) if isinstance(mine, _Kept) else len(mine)

    def __getitem__(self, key: Any) -> Any:
        return self._kept_do("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._kept_do("__setitem__", key, value)

    def __contains__(self, value: Any) -> bool:
        mine = self._kept_asked("plain")
        if self._kept_made and isinstance(mine, _Kept):
            return self._kept_do("__contains__", value) is True
        return bool(value in (list(self) if isinstance(mine, _Kept) else mine))

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._kept_asked("list")))

    def __str__(self) -> str:
        return str(self._kept_asked("__str__"))


class _Callable(_Kept):
    """Stands for a function or class of the code."""

    _kept_class = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        made = self._kept_do("", *arguments, **named)
        if self._kept_class and isinstance(made, _Kept):
            made._kept_made = True  # noqa: SLF001 - its own module
        return made


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
