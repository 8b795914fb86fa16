"""Values as YAML, for files that other programs read."""

from typing import Any

import yaml


def yaml_text(value: Any) -> str:  # noqa: ANN401 - whatever the program wants
    """Block style, in the order of the value, one document."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88))
