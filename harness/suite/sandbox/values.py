"""Values that cross from untrusted code to its tests and back: plain data as JSON in frames, all else by a number.

Standard library only. Nothing that crosses can run: no pickle, code or class of the other side.
"""

import json
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

# The module name of untrusted code: objects of its own classes stay with it, subclasses of list and int too.
UNTRUSTED = "solution"
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


def encoded(value: Any, other: Callable[[Any], Any], *, plain: bool = False) -> Any:  # noqa: PLR0911 - one return per kind
    """Give a value as JSON: plain data by content, anything else as what `other` makes of it.

    plain: an object of an untrusted class, too, by the content of the plain class that it stands on.
    """
    if not plain and type(value).__module__ == UNTRUSTED:
        return other(value)
    for kinds, make in _BARE:
        if isinstance(value, kinds):
            return make(value)
    for name, kind, write, _ in _TAGGED:
        if isinstance(value, kind):
            return {name: write(value)}
    if isinstance(value, list):
        return [encoded(one, other) for one in list.__iter__(value)]
    if isinstance(value, dict):
        name = next(name for name, kind in _MAPS.items() if isinstance(value, kind))
        return {name: [[encoded(key, other), encoded(one, other)] for key, one in dict.items(value)]}
    for name, (kinds, _) in _COLLECTIONS.items():
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
        if name in _MAPS:
            return _MAPS[name]({decoded(key, other): decoded(one, other) for key, one in inner})
        if name in _READ:
            return _READ[name](inner)
        if name in _COLLECTIONS:
            return _COLLECTIONS[name][1](decoded(one, other) for one in inner)
        return other(value)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Gone("a value cannot be read") from error


def _number(value: int) -> Any:
    number = int.__int__(value)
    return number if -_EXACT < number < _EXACT else {"int": hex(number)}


def _whole(texts: list[str]) -> list[int]:
    return [int(one, 16) for one in texts]


_BARE: list[tuple[Any, Callable[[Any], Any]]] = [(bool | None, lambda one: one), (str, str.__str__), (int, _number)]
# Name, class, what is written of a value, and how it is read.
_TAGGED: list[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("float", float, float.hex, float.fromhex),
    ("complex", complex, lambda c: [float.hex(c.real), float.hex(c.imag)], lambda c: complex(*map(float.fromhex, c))),
    ("bytes", bytes, bytes.hex, bytes.fromhex),
    ("bytearray", bytearray, bytearray.hex, bytearray.fromhex),
    ("decimal", Decimal, Decimal.__str__, Decimal),
    ("fraction", Fraction, lambda one: [hex(one.numerator), hex(one.denominator)], lambda two: Fraction(*_whole(two))),
    ("range", range, lambda one: [hex(one.start), hex(one.stop), hex(one.step)], lambda three: range(*_whole(three))),
    *((one.__name__, one, one.isoformat, one.fromisoformat) for one in (datetime, date, time)),
    ("timedelta", timedelta, lambda one: [one.days, one.seconds, one.microseconds], lambda three: timedelta(*three)),
    *((one.__name__, one, str, one) for one in (Path, PurePath, UUID)),
]
_READ = {"int": lambda inner: int(inner, 16)} | {name: read for name, _, _, read in _TAGGED}
_MAPS: dict[str, Any] = {"ordered": OrderedDict, "counter": Counter, "dict": dict}
_OWN: tuple[Any, ...] = (tuple, set, frozenset, deque)  # iterated by their content, whatever a subclass makes of it
_Views: Any = type({}.keys()) | type({}.items())
_COLLECTIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "tuple": (tuple, tuple),
    "set": (set | _Views, set),
    "frozenset": (frozenset, frozenset),
    "deque": (deque, deque),
    "iterator": (Iterator | type({}.values()), lambda inner: iter(list(inner))),
}
