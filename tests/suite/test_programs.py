"""Programs as models write them: the code that is meant runs, in any Markdown, and broken code stays broken."""

# ruff: noqa: E501 - answers are kept as they read

from __future__ import annotations

import json

import pytest
from paths import SHARED

from harness.suite.toolkit import generated_code
from harness.suite.toolkit.generated_code import Asked, program_of

FILE = SHARED / "cases" / "reports" / "programs.jsonl"
ASKED = (
    Asked("python", names=("add",)),
    Asked("python", "add", "import math\n"),
    Asked("python", "add", "import math\n", "import math\ndef add(a, b):\n    'x'\n"),
)


def defined(answer, asked=ASKED[0]):
    """What the program of an answer defines."""
    names = {"__name__": "solution"}
    exec(program_of(answer, asked), names)  # noqa: S102 - answers of these tests
    return names


D = "def add(a, b):\n    return a + b"
MEANT = {
    "doctest": "```python\n>>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n```",
    "py tag": f"```py\n{D}\n```",
    "python3": f"```python3\n{D}\n```",
    "{.python}": f"```{{.python}}\n{D}\n```",
    "title": f'```python title="a.py" linenums=1\n{D}\n```',
    "space tag": f"``` python\n{D}\n```",
    "upper": f"```Python\n{D}\n```",
    "unclosed": f"Sure:\n```python\n{D}",
    "inline fence": "`def add(a, b): return a + b`",
    "after text": f"Here: ```python\n{D}\n```",
    "closing on line": f"```python\n{D}```",
    "closing with text": f"```python\n{D}\n``` Done.",
    "quote": "> ```python\n> def add(a, b):\n>     return a + b\n> ```",
    "indented block": "Code:\n\n    def add(a, b):\n        return a + b\n\nDone.",
    "two blocks": "```python\nimport math\ndef helper(a):\n    return a\n```\nthen\n```python\ndef add(a, b):\n    return helper(a) + b\n```",
    "usage": f"```python\n{D}\n```\nUsage:\n```python\nprint(add(1,2))\n```\nOutput:\n```\n3\n```",
    "bash first": f"```bash\npip install x\n```\n```python\n{D}\n```",
    "list unindented": f"1. Code:\n   ```python\n{D}\n   ```",
    "bullets": "- Code:\n\n  ```python\n  def add(a, b):\n      return a + b\n  ```\n- Done",
    "prose both": f"Sure! Here it is:\n\n{D}\n\nThis adds two numbers: a and b.",
    "prose with code word": f"Here is the function add(a, b):\n\n{D}\n\nadd(1, 2) returns 3.",
    "prose def": f"I will define the function.\nimport is not needed here.\n{D}\nif you need more, ask.",
    "four spaces all": "    def add(a, b):\n        return a + b",
    "nbsp": "```python\ndef add(a, b):\n\u00a0\u00a0\u00a0\u00a0return a + b\n```",
    "CR": "```python\r\ndef add(a, b):\r\n    return a + b\r\n```\r\n",
    "bom": f"\ufeff{D}",
    "begin done": f"[BEGIN]\n{D}\n[DONE]",
    "python tag": f"[PYTHON]\n{D}\n[/PYTHON]",
    "code tag": f"<code>\n{D}\n</code>",
    "pre": f"<pre><code>\n{D}\n</code></pre>",
    "fence in docstring 2": "```python\ndef add(a, b):\n  '''Use:\n  ```\n  add(1,2)\n  ```\n  '''\n  return a + b\n```\nDone",
    "fence in docstring lang": 'Sure\n```python\ndef add(a, b):\n    """Add.\n\n```python\nadd(1, 2)\n```\n    """\n    return a + b\n```\nDone',
    "nested md": "````markdown\n```python\n" + D + "\n```\n````",
    "class before": "```python\nclass A: pass\n" + D + "\n```",
    "main": f"```python\n{D}\n\nif __name__ == '__main__':\n    print(add(1,2))\n```",
    "annotated": "```python\ndef add(a: int, b: int) -> int:\n    return a + b\n```",
    "lambda": "```\nadd = lambda a, b: a + b\n```",
    "async?": "```\nfrom operator import add\n```",
    "tilde": f"~~~\n{D}\n~~~",
    "tilde lang": f"~~~ py\n{D}\n~~~~",
    "5 backticks": f"`````\n{D}\n`````",
    "quote without a fence": "> def add(a, b):\n>     return a + b",
    "code after the tag": f"```python {D}\n```",
    "reflection": f"<reflection>\n```python\ndef add(a,b): return 0\n```\n</reflection>\n```python\n{D}\n```",
    "no newline fence": f"```{D}\n```",
    "thinking": f"<think>\n```python\ndef add(a,b): return 0\n```\n</think>\n{D}",
    "think open": f"maybe def add(a,b): return 0\n</think>\n```python\n{D}\n```",
    "decorated": "Here:\n@staticmethod\ndef g(): pass\n" + D,
    "top const": f"Ok.\nX = 3\n{D}\nDone",
    "comment first": f"Ok:\n# adds\n{D}",
    "trailing word": f"{D}\n\nDone",
    "docstring module": f'"""Adds."""\n{D}',
    "steps": f"Step 1: think\nStep 2: write\n\n{D}\n\n* It is O(1)\n* It works",
    "crlf bare": D.replace("\n", "\r\n"),
    "tabs": "```python\ndef add(a, b):\n\treturn a + b\n```",
    "deep list": "- a\n  - b\n    ```python\n    def add(a, b):\n        return a + b\n    ```",
    "future": f"```python\nfrom __future__ import annotations\n{D}\n```",
    "blank lines in body": "Here:\n\ndef add(a, b):\n\n    c = a + b\n\n    return c\n\nThat is all.",
    "long prose": "This. " * 500 + "\n" + D,
}


@pytest.mark.parametrize("asked", ASKED, ids=["names", "entry", "begun"])
@pytest.mark.parametrize("case", MEANT)
def test_the_program_that_is_meant_runs(case, asked):
    """Fences of every kind, prose around, sessions, lists, quotes, tags and thinking: the same function is meant."""
    assert defined(MEANT[case], asked)["add"](2, 3) == 5


def test_every_public_report_runs():
    """Answers from public reports give programs that do what was asked."""
    if not FILE.exists():
        pytest.skip("the public reports are not at hand")
    for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines()):
        names = defined(row["answer"], Asked("python", names=(row["function"],)))
        assert eval(row["check"], names), row["case"]  # noqa: S307 - from the file


BROKEN = {
    "an error in a fence": "```python\ndef add(a, b):\n    return a + b\n\nprint('x\n```",
    "cut off in a fence": "```python\ndef add(a, b):\n    return a + b\n\ndef g(x:\n",
    "cut off": D + "\n\ndef g(x:\n    ret",
    "words in a fence": f"```python\n{D}\n\nThis function adds.\n```",
    "signs in an open fence": f"```python\n{D}\n!!!!!!!!!!!!!!!!",
    "one word again and again in a fence": f"```python\n{D}\nreturn return return return\n```\nThis adds.",
    "one sign without an end, bare": f"{D}\n" + "!" * 60,
    "a loop of words, bare": f"Sure:\n{D}\n\n" + "The function adds. " * 9,
    "no colon": "```python\ndef add(a, b)\n    return a + b\n```",
    "no colon, bare": "Here:\ndef add(a, b)\n    return a + b",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_code_is_not_mended(case):
    """Only prose around it is cut off: a syntax error of the program stays, words in its fence, a loop behind it."""
    with pytest.raises(SyntaxError):
        defined(BROKEN[case])


@pytest.mark.parametrize(
    "answer",
    [
        "```js\nexport function add(a, b) { return a + b; }\n```",
        "Sure!\n\nconst add = (a, b) => a + b;\n\nThis adds.",
        "~~~javascript\nexport default function add(a, b) {\n  return a + b;\n}\n~~~\nDone.",
        "```javascript\nfunction add(a, b) { return a + b; }\nexport { add };\n```",
        "<think>\nfunction add() {}\n</think>\nfunction add(a, b) {\n  return a + b;\n}\n",
    ],
)
def test_javascript_is_a_script_without_prose(answer):
    """Modules become scripts, and prose goes."""
    for asked in (Asked("javascript"), Asked("javascript", "add")):
        code = program_of(answer, asked)
        assert "a + b" in code
        assert not {"export", "Sure", "This adds", "Done", "<think>"} & {
            one for one in ("export", "Sure", "This adds", "Done", "<think>") if one in code
        }


def test_an_answer_of_any_length_is_read_soon():
    """Fences, quotes and lines without end take no time to speak of."""
    for text in (
        "```\n" * 3000,
        "def f(:\n" * 3000,
        "> " * 5000,
        "`" * 20000,
        "<think>" * 3000,
        "- " * 5000,
        "(" * 20000,
        "x = [\n" * 3000,
    ):
        program_of(text, ASKED[0])


def test_a_long_answer_of_broken_lines_is_read_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """16,000 characters of which every line begins like code: each try parses all of them, so there are few."""
    read: list[int] = []
    monkeypatch.setattr(generated_code, "_parses", lambda code, *_: read.append(len(code)) or False)
    program_of("@a\n" * 5500, ASKED[0])
    assert 0 < sum(read) < 4_000_000
