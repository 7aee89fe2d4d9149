"""Deliberate bugs, switched on one at a time: how they are registered."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

Patch = Callable[[], AbstractContextManager[Any]]


def registry() -> tuple[dict[str, Patch], Callable[[Any, str], Callable[[Any], Any]]]:
    """The mutants of a module, by name; and what registers a function as that which an owner's
    attribute is instead: its own name is the mutant's."""
    mutants: dict[str, Patch] = {}

    def mutant(owner: Any, name: str) -> Callable[[Any], Any]:
        def register(instead: Any) -> Any:
            label = instead.__name__
            assert instead.__doc__, label
            mutants[label] = lambda: mock.patch.object(owner, name, instead)
            return instead

        return register

    return mutants, mutant
