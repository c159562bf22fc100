"""HumanEval, MBPP (sanitized) and HumanEval in JavaScript, scored by running what was written.

A chat model is asked for the whole function, in a fence that is opened for it (lm_eval's `gen_prefix`); a base model is
given the function's beginning alone and continues it. An answer of another form is taken as it is meant. lm_eval calls
the functions named in the YAML files, and `score` only with its own consent (`--confirm_run_unsafe_code`).
"""

from __future__ import annotations

import ast
import re
from typing import Any

import datasets

from harness.suite.sandbox import Program, execute, missing
from harness.suite.toolkit.datafiles import find, read_json_lines
from harness.suite.toolkit.generated_code import Asked, program_of
from harness.suite.toolkit.strata import sample_documents, wanted

STEPS = ((3, "1-3"), (7, "4-7"), (10**9, "8+"))
"""The most lines of the reference solution's body, and the level's name."""


def humaneval(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the problems of HumanEval, by lines of the reference solution."""
    if data_dir := metadata.get("data_dir"):
        name = "HumanEval.jsonl.gz"
        rows = read_json_lines(find(data_dir, [f"humaneval/data/{name}", f"data/{name}", name, "HumanEval.jsonl"]))
    else:
        rows = list(datasets.load_dataset("openai/openai_humaneval", split="test"))
    return _chosen([_asked(_humaneval_doc(row), metadata) for row in rows], metadata, "humaneval")


def mbpp(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the test problems of sanitized MBPP, by lines of the reference solution."""
    if data_dir := metadata.get("data_dir"):
        rows = read_json_lines(find(data_dir, ["mbpp_sanitized/test.jsonl", "test.jsonl"]))
    else:
        rows = list(datasets.load_dataset("google-research-datasets/mbpp", "sanitized", split="test"))
    return _chosen([_mbpp_doc(number, row) for number, row in enumerate(rows)], metadata, "mbpp")


def humaneval_js(**metadata: Any) -> dict[str, datasets.Dataset]:
    """Give the problems of HumanEval-X in JavaScript. Raises ValueError where nothing here runs JavaScript."""
    if lacking := missing("javascript"):
        raise ValueError(lacking)
    if data_dir := metadata.get("data_dir"):
        name = "js/data/humaneval_js.jsonl.gz"
        rows = read_json_lines(find(data_dir, [f"humaneval_x/{name}", name, "humaneval_js.jsonl.gz"]))
    else:
        file = "hf://datasets/THUDM/humaneval-x/data/js/data/humaneval.jsonl"
        rows = list(datasets.load_dataset("json", data_files=file, split="train"))
    return _chosen([_asked(_js_doc(row), metadata) for row in rows], metadata, "humaneval_js")


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Run the answer, shut away: whether it parses, whether it is defined without an exception, whether it passes."""
    language = doc["code_language"]
    asked = Asked(language, doc["entry"], doc["head"], doc["begun"])
    names = None if language == "python" and not doc["entry"] else (doc["entry"],)
    code = program_of(results[0], asked)
    return execute(Program(code, tuple(doc["tests"]), doc["setup"], names, language)).metrics()


def _chosen(docs: list[dict[str, Any]], metadata: dict[str, Any], task: str) -> dict[str, datasets.Dataset]:
    return {"test": datasets.Dataset.from_list(sample_documents(docs, wanted(metadata), task))}


def _asked(doc: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Ask for the whole function, or, where the task says ``begun``, give its beginning alone."""
    if not metadata.get("begun"):
        return doc
    if metadata.get("chat_template"):
        raise ValueError(
            "continues a text, for base models: set sampling.chat_template: false, or ask the task without _begun"
        )
    return doc | {"prompt": doc["begun"], "prefix": ""}


def _question(language: str, begun: str) -> str:
    fence = f"```{language.lower()}\n{begun.strip()}\n```"
    return f"Complete this {language} function. Reply with the whole function.\n\n{fence}"


def _level(lines: int) -> str:
    return next(name for most, name in STEPS if lines <= most)


def _filled(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


def _humaneval_doc(row: dict[str, Any]) -> dict[str, Any]:
    number, entry, prompt = row["task_id"].rpartition("/")[2], row["entry_point"], row["prompt"]
    head = prompt[: re.search(rf"^def {re.escape(entry)}\b", prompt, re.MULTILINE).start()]  # type: ignore[union-attr]
    return {
        "id": number,
        "cluster": f"humaneval/{number}",
        "code_language": "python",
        "solution_lines": _level(_filled(row["canonical_solution"])),
        "prompt": _question("Python", prompt),
        "prefix": "```python\n",
        "head": head,
        "begun": f"{prompt.strip()}\n",
        "entry": entry,
        "setup": head,
        "tests": [f"{row['test']}\ncheck({entry})\n"],
        "target": row["canonical_solution"],
        "chance": 0.0,
    }


def _mbpp_doc(number: int, row: dict[str, Any]) -> dict[str, Any]:
    name = str(row.get("task_id", number))
    body = ast.parse(row["code"]).body
    entry = _tested([one.name for one in body if isinstance(one, ast.FunctionDef)], row["test_list"])
    imports = "\n".join(row["test_imports"])
    tests = "\n".join(row["test_list"])
    return {
        "id": name,
        "cluster": f"mbpp/{name}",
        "code_language": "python",
        "solution_lines": _level(_filled(row["code"]) - 1),
        "prompt": f"{row['prompt'].strip()} Your Python code should pass these tests:\n\n{tests}",
        "prefix": "```python\n",
        "head": "",
        "begun": "",
        "entry": entry,
        "setup": imports,
        "tests": list(row["test_list"]),
        "target": row["code"],
        "chance": 0.0,
    }


def _tested(defined: list[str], tests: list[str]) -> str:
    """Give the function of the reference solution that the tests call."""
    called = {one.func.id for one in ast.walk(ast.parse("\n".join(tests)))
              if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}  # fmt: skip
    return next(name for name in reversed(defined) if name in called)


def _js_doc(row: dict[str, Any]) -> dict[str, Any]:
    number, prompt = row["task_id"].rpartition("/")[2], row["prompt"]
    last = list(re.finditer(r"^const (\w+) ?=", prompt, re.MULTILINE))[-1]
    head = prompt[: last.start()]
    return {
        "id": number,
        "cluster": f"humaneval/{number}",
        "code_language": "javascript",
        "solution_lines": _level(_filled(row["canonical_solution"]) - 1),
        "prompt": _question("JavaScript", prompt),
        "prefix": "```javascript\n",
        "head": head,
        "begun": f"{prompt.strip()}\n",
        "entry": last.group(1),
        "setup": head,
        "tests": [row["test"]],
        "target": row["canonical_solution"],
        "chance": 0.0,
    }
