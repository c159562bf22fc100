"""YAML of a size and depth that a person can have written, every key given once and every key text."""

import re
from typing import Any

import yaml

LARGEST = 1 << 18  # bytes of a file
DEEPEST = 32  # lists and mappings inside each other, aliases replaced by what they stand for
MOST = 100_000  # values, aliases replaced by what they stand for
_DEEP = f"lists and mappings stand more than {DEEPEST} deep inside each other"
_OTHER_BASE = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, or one that is no single value."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the tag of a node: ``020`` and ``1:20``, which YAML 1.1 reads as 16 and 80, are text."""
        if kind is yaml.ScalarNode and implicit[0] and _OTHER_BASE.fullmatch(value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - yaml's signature
    seen: set[object] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(key_node, f"a key is a {key_node.id}; write a single word")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise _refused(key_node, f"the key {key!r} is given twice; keep one")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_mapping(text: str) -> Any:
    """Read one YAML document. Raises yaml.YAMLError, with the line, on what is no YAML or breaks a limit."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _refused(event, _DEEP)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except (ValueError, TypeError, OverflowError) as error:  # a date that does not exist, a number of 5,000 digits
        raise yaml.YAMLError(f"holds a value that cannot be read: {error}") from error
    finally:
        loader.dispose()


def _check(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Give the values and the depth below a node. An alias comes after its anchor: this recurses as the text does."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise _refused(node, "an alias stands inside its own anchor; take it out")
        return size
    known[id(node)] = None
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # raises ValueError for half of a surrogate pair
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    children = [one for each in inner for one in (each if isinstance(each, tuple) else (each,))]
    sizes = [_check(one, known) for one in children]
    count, depth = 1 + sum(one for one, _ in sizes), max((one for _, one in sizes), default=-1) + 1
    if depth > DEEPEST:
        raise _refused(node, _DEEP)
    if count > MOST:
        raise _refused(node, f"its aliases stand for more than {MOST:,} values; write out the few that are meant")
    known[id(node)] = (count, depth)
    return count, depth


def _refused(place: Any, text: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {place.start_mark.line + 1}: {text}")
