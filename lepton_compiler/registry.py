"""Name tables: what a name stands for is imported when it is first asked for; installed plug-ins add names."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from lepton_compiler.errors import UsageError


class Registry:
    """A table `"name": "module:attribute"` (or just a module), plus the entry points of a group, plus what is registered at run time.

    Args:
        kind: what the names stand for, for messages: `pass`, `backend`, `operator`.
        table: the built-in rows, or where they lie, as `module:attribute`: a registry below the code that fills it.
        group: entry-point group of installed plug-ins.
    """

    def __init__(self, kind: str, table: Mapping[str, str] | str, group: str) -> None:
        self.kind, self.group = kind, group
        self._rows = table
        self._loaded: dict[str, Any] = {}

    @cached_property
    def _table(self) -> dict[str, str]:
        return dict(_at(self._rows) if isinstance(self._rows, str) else self._rows)

    @cached_property
    def _plugins(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=self.group)}

    def register(self, name: str, thing: Any) -> None:
        """Add, or replace, one name at run time."""
        self._loaded[name] = thing

    def get(self, name: str) -> Any:
        """What `name` stands for.

        Raises:
            UsageError: no such name; the hint is the closest one.
        """
        if name not in self._loaded:
            path = self._table.get(name) or self._plugins.get(name)
            if path is None:
                close = difflib.get_close_matches(name, list(self), 1)
                hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(self))}"
                raise UsageError(f"no {self.kind} called '{name}'", hint=hint)
            self._loaded[name] = _at(path)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._table or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._table, *self._plugins, *self._loaded]))


def _at(path: str) -> Any:
    """What `module:attribute`, or just `module`, names."""
    module, _, attribute = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def kebab(name: str) -> str:
    """The registry name of a class: `FoldBatchNorm` -> `fold-batch-norm`, `CSE` -> `cse`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).replace("_", "-").lower()
