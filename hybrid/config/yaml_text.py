"""YAML as this project reads it: YAML 1.1 with the floats of 1.2, and nothing with two meanings.

A key that stands twice, numbers that are others in YAML 1.2, and ends of lines that are none there
are mistakes: nobody can tell what was meant.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from transport.foreign import cut, shown

_PROBLEM = 300
_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)\Z"
)
"""Of the core schema of YAML 1.2: 1e-3 and 1.5e3 are numbers."""
_OCTAL = re.compile(r"[-+]?0[0-9_]+\Z")
"""In YAML 1.1, and decimal in 1.2."""
_ENDS = re.compile("[\x85\u2028\u2029]")
"""End a line in YAML 1.1 and none in 1.2."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses what has two meanings."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice in one mapping, where YAML would keep the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {shown(key.value)} stands twice; keep one", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def compose_node(self, parent: Any, index: Any) -> Any:
        """No aliases: nothing is inherited, and few lines cannot stand for many."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias {shown(event.anchor)}; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_number(self, node: Any) -> int | float:
        """Refuses 010, which is 8 or 10, and 1:30, which is 90 or a text."""
        text, is_float = self.construct_scalar(node), node.tag == _FLOAT_TAG
        number: int | float = (
            self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)
        )
        other = "a text" if ":" in text else ""
        if not is_float and _OCTAL.match(text) and number != int(text.replace("_", "")):
            other = "another number"
        if other:
            raise yaml.constructor.ConstructorError(
                None, None,
                f"{shown(text)} is {shown(number)} in YAML 1.1 and {other} in YAML 1.2; write the "
                "number in decimal digits, or quote a text", node.start_mark,
            )  # fmt: skip
        return number


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what the loader would take for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_number)


def parsed(text: str) -> Any:
    """Plain data; `yaml.YAMLError` for what is no YAML."""
    end = _ENDS.search(text)
    if end is not None:
        name = f"U+{ord(end[0]):04X} in line {text.count(chr(10), 0, end.start()) + 1}"
        raise yaml.YAMLError(
            f'{name} ends a line in YAML 1.1 and none in YAML 1.2; write it as "\\u'
            f'{ord(end[0]):04x}" in double quotes'
        )
    try:
        return yaml.load(text.removeprefix("\ufeff"), Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # Words that look like a date or a number and are none.
        raise yaml.YAMLError(f"a value that is none of its kind ({error}); quote it") from None


def problem_of(error: yaml.YAMLError) -> str:
    """What is wrong, in one line; it may quote the text, and is cut."""
    return cut(" ".join(str(getattr(error, "problem", None) or error).split()), _PROBLEM)


def dumped(data: Any) -> str:
    """YAML text that `parsed` reads as the same plain data, in the same order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False)
    return text
