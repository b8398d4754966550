"""Fill a template of the package. jinja2 is imported with the first page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

Filter = Callable[[Any], str]
_PACKAGE = Path(__file__).parent.parent
_MARKDOWN = ".md.j2"


def page(template: str, /, *, filters: Mapping[str, Filter] | None = None, **values: Any) -> str:
    """Return the text that a template makes of these values.

    `template` is a path in the package (`chat/mask.html`) and `filters` are functions that it may call by name. Values
    are escaped unless they are `markupsafe.Markup` or the template says `safe`; in Markdown (`*.md.j2`) the template
    escapes by itself. A value that the template reads and nobody gave is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PACKAGE), autoescape=not template.endswith(_MARKDOWN), trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    cast("dict[str, Any]", environment.filters).update(filters or {})  # pyright: ignore[reportUnknownMemberType]
    return environment.get_template(template).render(values)
