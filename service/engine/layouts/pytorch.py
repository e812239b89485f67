"""The layout of PyTorch: conversion of a state_dict to the parameters of a network, and of parameters or gradients
back.

`pytorch_rules.py` has the rules. A module is found by the name of its layer: `encoder.0` for `encoder.0.weight`.
`names` maps modules to layers of other names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import MOST_ERRORS, Fault
from service.engine.layouts.pytorch_rules import GATES, PARTS, Misfit, options_of, rules_of
from service.engine.network.definition import LayerDefinition
from service.engine.network.layered import NetworkDefinition
from service.engine.network.parameters import Tree

NEVER_READ = ("num_batches_tracked",)
"""The entries of modules that are not parameters here."""
PYTORCH_DEFAULTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "batch_normalization": {"epsilon": 1e-5, "momentum": 0.9},
        "layer_normalization": {"epsilon": 1e-5},
        "group_normalization": {"epsilon": 1e-5},
    }
)
"""The options that a state_dict does not contain, with their defaults in PyTorch."""


# --- from PyTorch ---------------------------------------------------------------------------------


def from_pytorch(
    definition: NetworkDefinition, flat: Mapping[str, Array], names: Mapping[str, str] | None = None
) -> tuple[dict[str, dict[str, Array]], list[Fault], dict[str, str]]:
    """Return the parameters of a network from a state_dict, the faults, and the module of each layer.

    The parameters are a tree by layer and name. `names` maps modules to layers where their names differ. Faults have
    paths below `parameters`.
    """
    faults: list[Fault] = []
    owners = [layer for layer in definition.layers if layer.shares is None and _has_rules(layer)]
    modules, wrong = _modules(owners, flat, dict(names or {}))
    if wrong:
        return {}, wrong, {}
    tree: dict[str, dict[str, Array]] = {}
    read: set[str] = set()
    for layer in owners:
        module = modules.get(layer.name)
        if module is not None:
            tree[layer.name] = _layer_from(layer, module, flat, read, faults)
    for key in flat:
        if key not in read and key.rpartition(".")[2] not in NEVER_READ and len(faults) < MOST_ERRORS:
            faults.append(Fault(("parameters", key), f"{key[:80]!r} belongs to no layer{_known(owners, modules)}"))
    return tree, faults, modules


def _has_rules(layer: LayerDefinition) -> bool:
    """Return whether a layer has parameters that a module of PyTorch holds."""
    return bool(layer.layer.declaration.parameters) and any(True for _ in rules_of(layer.layer))


def _layer_from(
    layer: LayerDefinition, module: str, flat: Mapping[str, Array], read: set[str], faults: list[Fault]
) -> dict[str, Array]:
    """Return the parameters of one layer from its module. Add to the entries that were read and to the faults."""
    prefix, suffix = _prefix(module, flat)
    packed = f"{prefix}in_proj_weight" in flat or f"{prefix}q_proj_weight" not in flat
    options = options_of(layer.layer)
    found: dict[str, Array] = {}
    for rule in rules_of(layer.layer, packed):
        keys = [prefix + suffix(entry) for entry in rule.entries]
        present = [key for key in keys if key in flat]
        if not present:
            continue  # the layer may not have this parameter; a missing one is reported with all others later
        read.update(present)
        missing = [key for key in keys if key not in flat]
        try:
            if missing:
                raise Misfit(f"comes without {missing[0]}; both make {rule.parameter} of layer {layer.name!r}")
            found[rule.parameter] = rule.into([flat[key] for key in keys], options)
        except Misfit as misfit:
            if len(faults) < MOST_ERRORS:
                faults.append(Fault(("parameters", present[-1]), f"{present[-1][:80]!r} {misfit}"))
    return found


NUMBERED = re.compile(r"_l(\d+)$")


def _prefix(module: str, flat: Mapping[str, Array]) -> tuple[str, Callable[[str], str]]:
    """Return the text before the entries of a module, and the function that numbers an entry of a stacked recurrent
    module."""
    found = NUMBERED.search(module)
    if found is not None and f"{module}.weight_ih_l0" not in flat:
        level = found[0]
        stem = module[: found.start()]
        return (f"{stem}." if stem else ""), lambda entry: entry.replace("_l0", level)
    return (f"{module}." if module else ""), lambda entry: entry


def _module_of(key: str, flat: Mapping[str, Array]) -> str:
    """Return the module of an entry of a state_dict. Each level of a recurrent module counts as a module of its own."""
    head, _, entry = key.rpartition(".")
    level = re.search(r"_l(\d+)(_reverse)?$", entry)
    if level is not None and entry.startswith(("weight_", "bias_")):
        several = f"{head}.{entry}".lstrip(".").replace(level[0], "_l1") in flat
        return f"{head}_l{level[1]}" if several else head
    if head.endswith("out_proj"):
        outer = head.rpartition(".")[0]
        inside = f"{outer}." if outer else ""
        if f"{inside}in_proj_weight" in flat or f"{inside}q_proj_weight" in flat:
            return outer
    return head


def _modules(
    owners: Sequence[LayerDefinition], flat: Mapping[str, Array], names: dict[str, str]
) -> tuple[dict[str, str], list[Fault]]:
    """Return the module of each layer by the name of the layer, and the faults of layers whose module is not found."""
    there = list(dict.fromkeys(_module_of(key, flat) for key in flat if key.rpartition(".")[2] not in NEVER_READ))
    known = {layer.name for layer in owners}
    faults = []
    for module, name in names.items():
        if name not in known:
            faults.append(Fault(("parameters", "names", module), f"no layer with parameters is called {name[:60]!r}"))
        elif module not in there:
            faults.append(Fault(("parameters", "names", module), f"the file has no module {module[:60]!r}"))
    if faults:
        return {}, faults[:MOST_ERRORS]
    found = {name: module for module, name in names.items()}
    found |= {name: name for name in known if name in there and name not in found}
    if found or not there:
        return found, []
    ordered = sorted(there, key=_numbers) if all(map(_is_numbered, there)) and _stem_is_one(there) else []
    if len(there) == 1:
        ordered = there
    if len(ordered) == len(owners):  # nn.Sequential: the modules are numbered in the order in which they are called
        return {layer.name: module for layer, module in zip(owners, ordered, strict=True)}, []
    example = ", ".join(f'"{module}": "{layer.name}"' for module, layer in zip(there, owners, strict=False))[:160]
    detail = (
        f"no layer has the name of a module; the file has {_some(there)}, and the layers with parameters are "
        f"{_some([layer.name for layer in owners])}. Name each layer as its module, or send "
        f'"names": {{{example}}} beside the file'
    )
    return {}, [Fault(("parameters",), detail)]


def _is_numbered(module: str) -> bool:
    """Return whether the last part of a module's name is a number."""
    return module.rpartition(".")[2].isdecimal()


def _stem_is_one(modules: Iterable[str]) -> bool:
    """Return whether names without their numbers are one, so that numbers alone tell their order."""
    return len({tuple(part for part in module.split(".") if not part.isdecimal()) for module in modules}) == 1


def _numbers(module: str) -> list[int]:
    """Return the numbers in a module's name."""
    return [int(part) for part in module.split(".") if part.isdecimal()]


def _known(owners: Sequence[LayerDefinition], modules: Mapping[str, str]) -> str:
    """Return the names that layers take, as the end of a message."""
    if not owners:
        return "; no layer has parameters"
    called = [modules.get(layer.name, layer.name) for layer in owners]
    return f"; layers take {_some(called)}"


def _some(names: Sequence[str]) -> str:
    """Return the first names as text for a message."""
    return ", ".join(repr(name[:60]) for name in names[:8]) + (", …" if len(names) > 8 else "")


# --- back to PyTorch ------------------------------------------------------------------------------


def to_pytorch(
    definition: NetworkDefinition, tree: Tree, modules: Mapping[str, str], *, gradient: bool = False
) -> dict[str, dict[str, Array]]:
    """Return parameters or their gradients by module and entry of PyTorch: `module.entry` is a name of the state_dict.

    `modules` has the module of each layer, as found by `from_pytorch`. A layer that is missing there gives its own
    name.
    """
    made: dict[str, dict[str, Array]] = {}
    for layer in definition.layers:
        arrays = tree.get(layer.name)
        if arrays is None:
            continue
        options = options_of(layer.layer)
        module = modules.get(layer.name, layer.name)
        level = NUMBERED.search(module) if layer.layer.name in (*GATES, "bidirectional") else None
        entries = made.setdefault(module if level is None else module[: level.start()], {})
        rules = list(rules_of(layer.layer, _is_packed(arrays)))
        known = {rule.parameter for rule in rules}
        for rule in rules:
            if rule.parameter in arrays:
                parts = rule.back(np.asarray(arrays[rule.parameter]), options, gradient)
                for entry, part in zip(rule.entries, parts, strict=True):
                    name = entry if level is None else entry.replace("_l0", level[0])
                    # Queries, keys and values follow each other as rows of one array.
                    entries[name] = np.concatenate([entries[name], part]) if name in entries else part
        entries |= {name: np.asarray(array) for name, array in arrays.items() if name not in known}
    return {module: {name: np.asarray(array, order="C") for name, array in own.items()} for module, own in made.items()}


def _is_packed(arrays: Mapping[str, Array]) -> bool:
    """Return whether attention with these arrays has its weights in one array in PyTorch."""
    kernels = [arrays[f"{part}_kernel"] for part in PARTS if f"{part}_kernel" in arrays]
    return len({kernel.shape[0] for kernel in kernels}) < 2 and len({math.prod(k.shape[1:]) for k in kernels}) < 2


def unlike_pytorch(definition: NetworkDefinition) -> Iterator[tuple[str, str, float, float]]:
    """Yield layer, option, value and PyTorch's default for each option at a default that PyTorch does not share."""
    for layer in definition.layers:
        for option in layer.layer.declaration.options:
            theirs = PYTORCH_DEFAULTS.get(layer.layer.name, {}).get(option.name)
            value = layer.layer.options.get(option.name)
            if theirs is not None and value == option.default:
                yield layer.name, option.name, value, theirs
