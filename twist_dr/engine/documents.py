"""YAML that people write by hand, read strictly."""

from __future__ import annotations

import re
from typing import Any


class YamlInvalid(ValueError):
    """Not YAML, or with a key given twice. ``line`` counts from 1 where it is known; ``problem`` quotes no value."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def read_yaml(text: str) -> Any:
    """A document of plain values. Raises ``YamlInvalid``, also for a key given twice, where YAML would quietly keep the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            # A key that is itself a list or mapping ({{ a template }}) is refused by construct_mapping.
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise YamlInvalid(f"the key '{key_node.value}' stands there twice", key_node.start_mark.line + 1)
                seen.add(key_node.value)
        return dict(loader.construct_mapping(node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader=Loader)
    except YamlInvalid:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        # A password that begins with * or ! is an alias or a tag to YAML, which then quotes it.
        problem = re.sub(r" '[^']{2,}'", "", str(error.problem))
        raise YamlInvalid(problem, mark.line + 1 if mark else None) from None
    except yaml.YAMLError:
        raise YamlInvalid("it holds characters that YAML does not allow") from None
    except RecursionError:
        raise YamlInvalid("it is nested too deeply") from None
    except ValueError:  # 2026-02-30
        raise YamlInvalid("it holds a date or number that is none; put it in quotes") from None
