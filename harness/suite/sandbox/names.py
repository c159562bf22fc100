"""Which names tests take from the code, by the tests alone: never builtins, modules and helpers that judge it."""

import ast
import builtins
import importlib
import re
import symtable
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

_PATTERNS = tomllib.loads(Path(__file__).with_name("javascript.toml").read_text("utf-8"))
_RE: dict[str, re.Pattern[str]] = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}
_HELPERS = ("math", "cmath", "collections", "copy", "functools", "itertools", "operator", "statistics", "unittest")
_DEFINE = "the tests use {} without defining it: import it in `setup`, or list all that is asked for in `functions`"
_ALWAYS = ast.Tuple | ast.Constant | ast.GeneratorExp | ast.List | ast.Set | ast.Dict | ast.JoinedStr | ast.Lambda


def taken(setup: str, tests: Sequence[str], language: str) -> tuple[str, ...]:
    """The names that tests read and do not define: what the code must define. Empty if the tests cannot be parsed."""
    source = "\n".join((setup, *tests))
    if language == "javascript":  # every word; the process with the tests keeps the globals of node for itself
        return tuple(one for one in dict.fromkeys(_RE["word"].findall(source)) if not _RE["asserting"].match(one))
    free, ours = _free(source)
    return tuple(one for one in free if one not in ours)


def unclear(setup: str, tests: Sequence[str], language: str = "python") -> str:
    """A sentence on tests that leave open what the code must define; empty if they do not."""
    source = "\n".join((setup, *tests))
    if language == "javascript":  # a helper such as `deepEqual` beside what is under test: the code could define it
        source = _RE["text"].sub("", source)
        declared = " ".join(name for names in _RE["declared"].findall(source) for name in names)
        lacking = {*_RE["called"].findall(source)} - {*_RE["word"].findall(declared)}
        helpers, ours = set(filter(_RE["helper"].fullmatch, lacking)), set(filter(_RE["asserting"].match, lacking))
        named = ours | helpers if helpers < lacking else ours
        return _DEFINE.format(", ".join(sorted(named))) if named else ""
    free, ours = _free(source)
    if ours and not re.search(r"^\s*from .* import \*", source, re.MULTILINE):
        return _DEFINE.format(", ".join(one for one in free if one in ours))
    if not free:
        return "the tests use nothing that an answer could define, so every answer would pass"
    body = ast.parse("\n".join(tests)).body
    return "" if any(map(_runs, body)) else "the tests only define what nothing calls, so nothing would be tested"


def toothless(setup: str, tests: Sequence[str], language: str) -> str:
    """A sentence on tests that no wrong answer fails, as they assert nothing, or that none passes; else empty."""
    if _RE["unsaid"].search(whole := "\n".join((setup, *tests))):
        return "the tests do not see what an answer prints, and process.exit(0) is no success: compare what it returns"
    expected = {*re.findall(r"\w+", " ".join(_RE["expected"].findall(whole)))}
    if language == "python" and (errors := [one for one in _free(whole)[0] if one in expected]):
        return f"the tests expect {errors[0]}, a class of the answer's own, which stays there: expect what it extends"
    if language == "python":
        nodes = [*ast.parse(setup).body, *ast.parse("\n".join(tests)).body]
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        defined = [one for node in nodes for one in ast.walk(node) if isinstance(one, kinds)]
        known = [one for node in nodes for one in ast.walk(node) if isinstance(one, ast.Name)]
        own = {one.name for one in defined} | {one.id for one in known if isinstance(one.ctx, ast.Store)}
        helpers: set[str] = set()
        while more := {one.name for one in defined if _can_fail(one, helpers, own)} - helpers:
            helpers |= more
        good = any(_can_fail(one, helpers, own) for one in nodes if _runs(one))
        helpers -= {one.id for one in known if isinstance(one.ctx, ast.Load)}
        body = [one for one in ast.parse("\n".join(tests)).body if isinstance(one, kinds) and not one.decorator_list]
        idle = [one.name for one in body if one.name in helpers and not _runs(one)]
        write = "`assert f(2) == 4`, without parentheses around the comparison and a message"
    else:
        source = _RE["text"].sub("", _RE["module"].sub("assert_module", whole))
        words = re.findall(r"[\w$]+", source)
        idle = [one for one in _RE["function"].findall("\n".join(tests)) if words.count(one) == 1]
        called = re.findall(r"\w+", " ".join(_RE["alias"].findall(source)))  # what the tests call assertion modules
        fails = re.compile("|".join([_RE["failing"].pattern, *(rf"\b{one}\b" for one in called)]), re.IGNORECASE)
        source = _RE["alias"].sub("", source)  # and without a try whose handler only prints: nothing of it can fail
        source = _RE["try"].sub(lambda m: m[0] if "console.assert" in m[0] or fails.search(m[2]) else "", source)
        good, write = bool(fails.search(source)), "`console.assert(f(2) === 4)`"
    if good and idle:
        return f"of the tests nothing calls {idle[0]}, so nothing in it is tested: call it behind its definition"
    return "" if good else f"the tests assert nothing, so every answer that runs would pass: write {write}"


def _can_fail(node: ast.AST, helpers: set[str], own: set[str]) -> bool:
    """Whether there is an assertion that can be false, a `raise`, or the name, not of their `own`, of what asserts."""
    left: list[ast.AST] = [node]
    while left:
        match one := left.pop():
            case ast.Assert() if isinstance(one.test, _ALWAYS) and getattr(one.test, "value", True):
                pass  # it always holds
            case ast.Assert(test=ast.Call(), msg=ast.Constant(value=int() | float()) | ast.List() | ast.Dict()):
                pass  # `assert f(2), 4` compares nothing
            case ast.Assert() | ast.Raise():
                return True
            case ast.Name(id=name) | ast.Attribute(attr=name):
                if name in helpers or (name not in own and _RE["fails"].search(name)):
                    return True
        inner: list[ast.AST] = [*ast.iter_child_nodes(one)]
        if isinstance(one, ast.With) and any(_RE["suppresses"].search(ast.unparse(each)) for each in one.items):
            inner = []
        if isinstance(one, ast.Try):  # a handler that takes a failed assertion and goes on leaves nothing of the body
            takes = [each for each in one.handlers if not each.type or _RE["swallows"].search(ast.unparse(each.type))]
            if any(_can_fail(part, helpers, own) for each in takes for part in each.body):
                return True
            others = [each for each in one.handlers if each not in takes]
            inner = [*others, *one.orelse, *one.finalbody] if takes else inner
        left += inner
    return False


def _runs(one: ast.stmt) -> bool:
    """Whether a statement of the tests does something, or defines what is called as pytest and unittest would."""
    if isinstance(one, ast.FunctionDef):  # pytest would give it fixtures, and nothing here does
        given = len(one.args.posonlyargs + one.args.args) == len(one.args.defaults) and None not in one.args.kw_defaults
        return one.name.startswith("test") and given
    if isinstance(one, ast.ClassDef):
        return one.name.startswith("Test") or bool(one.bases)
    if isinstance(one, ast.If):
        return "__name__" not in ast.unparse(one.test)
    said = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
    return not (said or isinstance(one, ast.AsyncFunctionDef | ast.Import | ast.ImportFrom))


def _free(source: str) -> tuple[list[str], set[str]]:
    """Global names that `source` reads and does not bind, and those of them that the code may not define."""
    try:
        tree, table = ast.parse(source), symtable.symtable(source, "tests", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], set()
    bound = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
    names = (one for one in dict.fromkeys(_globals(table)) if not one.startswith("__"))
    free = [one for one in names if not (one in bound or hasattr(builtins, one))]
    nodes = [one for one in ast.walk(tree) if isinstance(one, ast.Name | ast.Attribute)]
    roots = {id(one.value) for one in nodes if isinstance(one, ast.Attribute)}
    plain = {one.id for one in nodes if isinstance(one, ast.Name) and id(one) not in roots}
    ours = {one for one in free if one in sys.stdlib_module_names or (one not in plain and one.islower())}
    ours |= {one for one in free if _RE["asserting"].match(one)}
    # What the standard library defines is a helper only next to other names: `sqrt` next to `f`, not `sqrt` alone.
    known = {name for module in _HELPERS for name in vars(importlib.import_module(module)) if not name.startswith("_")}
    helpers = {one for one in free if one in known or _RE["helper"].fullmatch(one)}
    return free, ours | helpers if len(helpers) < len(free) else ours


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    for one in table.get_symbols():
        if one.is_referenced() and (table.get_type() == "module" or one.is_global()):
            yield one.get_name()
    for inner in table.get_children():
        yield from _globals(inner)
