"""Values that cross from untrusted code to its tests and back: plain data as JSON in frames, all else by a number.

Standard library only. Nothing that crosses can run: no pickle, code or class of the other side.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

UNTRUSTED = "solution"
"""The module name of untrusted code: objects of its own classes stay with it, subclasses of list and int too."""
LONGEST = 16_000_000  # bytes of the longest frame
_EXACT = 2**53


class Gone(BaseException):
    """The other side ended, or said what cannot be read. No ``except Exception`` of a test catches it."""


def send(pipe: int, message: object) -> None:
    """Write one frame: four bytes of length, then JSON."""
    body = json.dumps(message).encode("ascii")
    if len(body) > LONGEST:
        raise ValueError("the value is too long to hand over")
    whole = memoryview(len(body).to_bytes(4, "big") + body)
    while whole:
        whole = whole[os.write(pipe, whole) :]


def receive(pipe: int) -> Any:
    """Read one frame. Raises Gone at the end of the pipe and for what is no frame."""
    length = int.from_bytes(_exactly(pipe, 4), "big")
    if length > LONGEST:
        raise Gone("a frame is too long")
    try:
        return json.loads(_exactly(pipe, length))
    except (ValueError, RecursionError) as error:
        raise Gone("a frame is not JSON") from error


def _exactly(pipe: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(pipe, min(count, 1 << 20))
        if not part:
            raise Gone("ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def encoded(value: Any, other: Callable[[Any], Any], *, plain: bool = False) -> Any:
    """Give a value as JSON: plain data by content, anything else as what `other` makes of it.

    plain: an object of an untrusted class, too, by the content of the plain class that it stands on.
    """
    if not plain and type(value).__module__ == UNTRUSTED:
        return other(value)
    for kinds, make in _PLAIN:
        if isinstance(value, kinds):
            return make(value)
    if isinstance(value, list):
        return [encoded(one, other) for one in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encoded(key, other), encoded(one, other)] for key, one in dict.items(value)]}
    for name, kinds in _COLLECTIONS.items():
        if isinstance(value, kinds):
            own = next((one.__iter__(value) for one in _OWN if isinstance(value, one)), value)
            return {name: [encoded(one, other) for one in own]}
    return other(value)


def decoded(value: Any, other: Callable[[Any], Any]) -> Any:
    """Give back what `encoded` wrote. Raises Gone where it did not write it."""
    if isinstance(value, list):
        return [decoded(one, other) for one in value]
    if not isinstance(value, dict):
        return value
    try:
        ((name, inner),) = value.items()
        if name == "dict":
            return {decoded(key, other): decoded(one, other) for key, one in inner}
        if name in _BACK:
            return _BACK[name](inner)
        if name in _GATHERED:
            return _GATHERED[name](decoded(one, other) for one in inner)
        return other(value)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Gone("a value cannot be read") from error


def _whole(value: int) -> Any:
    number = int.__int__(value)
    return number if -_EXACT < number < _EXACT else {"int": hex(number)}


_Views: Any = type({}.keys()) | type({}.items())
_PLAIN: list[tuple[Any, Callable[[Any], Any]]] = [
    (bool | None, lambda value: value),
    (str, str.__str__),
    (int, _whole),
    (float, lambda value: {"float": float.hex(value)}),
    (complex, lambda value: {"complex": [float.hex(value.real), float.hex(value.imag)]}),
    (bytes, lambda value: {"bytes": bytes.hex(value)}),
    (bytearray, lambda value: {"bytearray": bytearray.hex(value)}),
    (Decimal, lambda value: {"decimal": Decimal.__str__(value)}),
    (Fraction, lambda value: {"fraction": [hex(value.numerator), hex(value.denominator)]}),
    (range, lambda value: {"range": [hex(value.start), hex(value.stop), hex(value.step)]}),
]
# Iterated over by their content, whatever a subclass makes of it.
_OWN: tuple[Any, ...] = (tuple, set, frozenset, deque)
_COLLECTIONS: dict[str, Any] = {
    "tuple": tuple, "set": set | _Views, "frozenset": frozenset, "deque": deque,
    "iterator": Iterator | type({}.values()),
}  # fmt: skip
_BACK: dict[str, Callable[[Any], Any]] = {
    "int": lambda inner: int(inner, 16),
    "float": float.fromhex,
    "complex": lambda inner: complex(float.fromhex(inner[0]), float.fromhex(inner[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "decimal": Decimal,
    "fraction": lambda inner: Fraction(int(inner[0], 16), int(inner[1], 16)),
    "range": lambda inner: range(*(int(one, 16) for one in inner)),
}
_GATHERED: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque, "iterator": lambda inner: iter(list(inner)),
}  # fmt: skip
