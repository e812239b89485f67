"""Declarations of building blocks: each block is declared once, in a few lines.

An activation, loss, layer, initializer or regularizer is a function in the module of its kind,
declared by its registry's decorator with names, options, formulas and sources. Validation, the
catalogue, OpenAPI and the generic tests read the declaration; nothing else needs to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from service.engine.options import Option


@dataclass(frozen=True, kw_only=True, eq=False)
class Declaration:
    """The description of a building block, written by its author: names, options, formula and sources. Two declarations
    are equal only if they are the same object."""

    name: str
    build: Callable[..., Any]
    options: tuple[Option, ...] = ()
    aliases: tuple[str, ...] = ()
    description: Mapping[str, str] = field(default_factory=dict)
    """One or two sentences per language (`en`, `zh`)."""
    latex: str = ""
    derivative: str = ""
    sources: tuple[str, ...] = ()
    conventions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Defaults that differ where the option `convention` has that value."""
    refuse: Callable[..., tuple[str, str] | None] | None = None
    """`refuse(**options)`: an option that does not fit the others, and the reason; None: all fit."""
    registry: str = ""
    """The path of the registry; empty for a block that no request can name."""

    @property
    def names(self) -> list[str]:
        """The name, and the aliases after it."""
        return [self.name, *self.aliases]

    @property
    def required(self) -> list[Option]:
        """The options that a request must give."""
        return [option for option in self.options if option.required]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.registry:
            return _declared, (self.build.__module__, self.registry, self.name)
        return _described, (type(self), vars(self))


D = TypeVar("D", bound=Declaration)
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Selection(Generic[D]):
    """A block that a request has chosen, with a value for each of its options. Two selections are equal only if they
    are the same object."""

    declaration: D
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.declaration.name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[D, dict[str, Any]]]:
        return _selected, (self.declaration, dict(self.options))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.options.items())})"


def _described(kind: type[D], details: dict[str, Any]) -> D:
    return kind(**details)


def _selected(declaration: D, options: dict[str, Any]) -> Selection[D]:
    return Selection(declaration, MappingProxyType(options))


_REGISTRIES: dict[str, Registry[Any]] = {}
"""All registries by their paths: a block is pickled as its registry and its name."""


def _declared(module: str, registry: str, name: str) -> Declaration:
    """Return a block that another process has pickled; `module` declares it."""
    import_module(module)
    found: Declaration = _REGISTRIES[registry][name]
    return found


class Registry(Generic[D]):
    """The declared blocks of one kind, in the order of declaration."""

    def __init__(
        self, kind: str, plural: str, declaration: type[D], within: str = "", *, answers_only: bool = False
    ) -> None:
        self.kind = kind
        self.plural = plural
        self.path = f"{within}/{plural}" if within else plural
        """The path of the registry in the catalogue."""
        self.answers_only = answers_only
        """True if only answers name these blocks, and no request does."""
        self._type = declaration
        self._by_name: dict[str, D] = {}
        self._aliases: dict[str, str] = {}
        _REGISTRIES[self.path] = self

    def declare(
        self, name: str, *, en: str, zh: str, options: Sequence[Option] = (), **details: Any
    ) -> Callable[[F], F]:
        """Return a decorator: the decorated function builds the block called `name`."""

        def register(build: F) -> F:
            declaration = self._type(
                name=name,
                registry=self.path,
                build=build,
                options=tuple(options),
                description=MappingProxyType({"en": en, "zh": zh}),
                **details,
            )
            for known in (name, *declaration.aliases):
                if known in self._by_name or known in self._aliases:
                    raise ValueError(f"{self.kind} {known!r} is declared twice")
            self._by_name[name] = declaration
            self._aliases.update(dict.fromkeys(declaration.aliases, name))
            return build

        return register

    def __iter__(self) -> Iterator[D]:
        return iter(self._by_name.values())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._aliases

    def __getitem__(self, name: str) -> D:
        return self._by_name[self._aliases.get(name, name)]

    @property
    def names(self) -> list[str]:
        """All names that a request may write, aliases included."""
        return [*self._by_name, *self._aliases]

    def select(self, name: str, **options: Any) -> Selection[D]:
        """Return the block called `name` with the given options, and its defaults for all others."""
        declaration = self[name]
        values = {option.name: _default(option) for option in declaration.options}
        values |= declaration.conventions.get(options.get("convention", ""), {})
        return Selection(declaration, MappingProxyType(values | options))


@dataclass(frozen=True, kw_only=True, eq=False)
class Family(Generic[D]):
    """Some blocks of a registry, which an option takes instead of all."""

    name: str
    """One of them in two words, such as `recurrent layer`, of which openapi.yaml makes the name of a schema."""
    description: str
    """A sentence about what its members have in common, without a full stop."""
    has: Callable[[D], bool]
    lacks: str
    """The end of the sentence that refuses another block, with `{names}` for the names of the family."""


@dataclass(frozen=True, kw_only=True)
class Reference(Option):
    """An option whose value is a block of another registry, such as the activation of a layer. The schemas read and
    check its values."""

    registry: Registry[Any]
    family: Family[Any] | None = None
    """The blocks that the option takes; None: all of the registry."""

    def takes(self, block: Declaration) -> bool:
        return self.family is None or bool(self.family.has(block))

    @property
    def blocks(self) -> list[Any]:
        """The blocks that the option takes, in the order of declaration."""
        return [block for block in self.registry if self.takes(block)]

    @property
    def names(self) -> list[str]:
        """All names that a request may write, aliases included."""
        return [name for name in self.registry.names if self.takes(self.registry[name])]

    def accepted(self) -> Iterator[Any]:
        plain = [name for name in self.names if not self.registry[name].required]
        yield from plain
        if not plain:
            yield from map(_example, self.blocks)

    def refused(self) -> Iterator[Any]:
        yield from ("nonsense", "", 1, True, [], {"type": "nonsense"}, {"type": 1}, {"type": None})
        yield _example(self.blocks[0]) | {"nonsense": 1}
        yield from (_example(block) for block in self.registry if not self.takes(block))


def _example(block: Declaration) -> dict[str, Any]:
    """Return a block as a request writes it that gives no more options than it must."""
    return {"type": block.name} | {option.name: next(option.accepted()) for option in block.required}


def _default(option: Option) -> Any:
    if isinstance(option, Reference) and isinstance(option.default, str):
        return option.registry.select(option.default)
    return option.default
