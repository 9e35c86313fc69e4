"""YAML as this project reads it: a key that stands twice is a mistake."""

from __future__ import annotations

from typing import Any

import yaml


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice in one mapping, where YAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice; keep one", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def compose_node(self, parent: Any, index: Any) -> Any:
        """No aliases: nothing is inherited, and few lines cannot stand for many."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias {event.anchor!r}; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def parsed(text: str) -> Any:
    """Plain data; `yaml.YAMLError` for what is no YAML."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # Words that look like a date or a number and are none.
        raise yaml.YAMLError(f"a value that is none of its kind ({error}); quote it") from None
