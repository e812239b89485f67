"""Claims to be judged: gradients as students submit them, with one mistake or two, right, or wrong without pattern."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.verdicts.codes import BEYOND
from benchmarks.verdicts.layers import Array, Layer, MaxPooling2D
from benchmarks.verdicts.network import Network, Tree
from benchmarks.verdicts.networks import MAKERS, make
from benchmarks.verdicts.slips import Slip, Slips

Prepare = Callable[[Network], None]
"""Gives a network what only the service knows: the masks of its dropout."""
SAME = {"float64": 1e-9, "float32": 1e-4}
"""Claims that differ by less than this share of a tensor's largest number are one: nobody need tell them apart."""


@dataclass(frozen=True)
class Claim:
    """Gradients to submit for a network, and what is known about them, which the verdict is compared with."""

    kind: str
    network: Network
    dtype: str
    claimed: Tree
    made: tuple[Slip, ...] = ()
    equal: tuple[tuple[Slip, ...], ...] = ()
    """Other mistakes that give the same numbers."""
    wrong: frozenset[str] = frozenset()
    """The parameters that are wrong, as `layer.parameter`."""
    unclear: frozenset[str] = frozenset()
    """Parameters that are wrong by so little that float32 need not show it."""
    first: frozenset[str] = frozenset()
    """The first wrong layer, going backward; several where branches leave the order open."""


def flat(tree: Tree) -> dict[str, Array]:
    return {f"{layer}.{name}": array for layer, arrays in tree.items() for name, array in arrays.items()}


def differing(claimed: Tree, right: Tree, share: float = SAME["float64"]) -> frozenset[str]:
    """Return the parameters, as `layer.parameter`, whose claimed gradient is wrong: in shape, or by more than `share`.

    `share` is relative to the largest number of the right gradient.
    """
    return frozenset(_differing(claimed, right, share))


def _differing(claimed: Tree, right: Tree, share: float) -> Iterator[str]:
    mine, exact = flat(claimed), flat(right)
    sizes = {name: float(np.abs(array).max()) for name, array in exact.items()}
    largest = max(sizes.values(), default=0.0)
    for name, b in exact.items():
        a = mine[name]
        if a.shape != b.shape or np.abs(a - b).max() > share * sizes[name] + 8.0 * np.finfo(b.dtype).eps * largest:
            yield name


def first_wrong(network: Network, wrong: frozenset[str]) -> frozenset[str]:
    """Return the layers where wrong gradients begin: no layer between them and the loss has wrong gradients."""
    layers = {path.rsplit(".", 1)[0] for path in wrong}
    after: dict[str, set[str]] = {}
    for layer in reversed(network.layers):
        users = [other for other in network.layers if network.source[other.name] == layer.name]
        after[layer.name] = {user.owner for user in users}.union(*(after[user.name] for user in users))
    for layer in network.layers:
        if layer.owner != layer.name:
            after[layer.owner] |= after[layer.name] - {layer.owner}
    return frozenset(name for name in layers if not after[name] & (layers - {name}))


# --- mistakes -----------------------------------------------------------------------------------


def candidates(network: Network) -> list[Slip]:
    """Return every mistake that the network's backward pass can make, in one layer or in all that can make it."""
    slips = Slips()
    network.gradients(slips)
    found = slips.asked
    places: dict[str, int] = {}
    for slip in found:
        places[slip.mistake] = places.get(slip.mistake, 0) + 1
    return found + [Slip(mistake) for mistake, count in places.items() if count > 1]


def _erring(network: Network, *slips: Slip) -> Tree:
    with np.errstate(all="ignore"):
        return network.gradients(Slips(frozenset(slips)))


def _trees(network: Network, choices: Sequence[tuple[Slip, ...]]) -> list[tuple[tuple[Slip, ...], Tree]]:
    """Return the gradients with each set of mistakes, where they are finite."""
    trees = [(choice, _erring(network, *choice)) for choice in choices]
    return [(choice, tree) for choice, tree in trees if all(np.isfinite(a).all() for a in flat(tree).values())]


def _claims(network: Network, kind: str, dtype: str, trees: Sequence[tuple[tuple[Slip, ...], Tree]]) -> Iterator[Claim]:
    """Yield a claim for each set of mistakes that changes the gradients; sets with equal results share a claim.

    `trees` are the sets of mistakes to try, with the gradients in float64. The network is left in `dtype`.
    """
    right = network.gradients()
    share = SAME[dtype]
    wrong = {choice: differing(tree, right, share) for choice, tree in trees}
    groups: list[list[tuple[tuple[Slip, ...], Tree]]] = []
    for choice, tree in trees:
        if not wrong[choice]:
            continue
        for group in groups:
            if wrong[group[0][0]] == wrong[choice] and not any(_differing(tree, group[0][1], share)):
                group.append((choice, tree))
                break
        else:
            groups.append([(choice, tree)])
    network.cast(dtype)
    for group in groups:
        made, tree = group[0]
        others = tuple(choice for choice, _ in group[1:])
        unclear = differing(tree, right) - wrong[made]
        first = first_wrong(network, wrong[made]) | first_wrong(network, wrong[made] | unclear)
        beyond = all(any(slip.mistake in BEYOND for slip in each) for each in (made, *others))
        row = f"{kind}{', beyond the list' if beyond else ''}"
        claimed = tree if dtype == "float64" else _erring(network, *made)
        yield Claim(row, network, dtype, claimed, made, others, wrong[made], unclear, first)


def singles(prepare: Prepare, names: Sequence[str] = tuple(MAKERS), seed: int = 1986) -> Iterator[Claim]:
    """Yield a claim for each single mistake that changes gradients, in each network; `prepare` sets dropout masks."""
    for name in names:
        trees: list[tuple[tuple[Slip, ...], Tree]] = []
        for dtype in ("float64", "float32"):
            network = make(name, seed)
            network.cast("float32")
            network.cast("float64")
            prepare(network)
            trees = trees or _trees(network, [(slip,) for slip in candidates(network)])
            yield from _claims(network, f"single, {dtype}", dtype, trees)


def pairs(prepare: Prepare, names: Sequence[str], count: int, seed: int = 7) -> Iterator[Claim]:
    """Yield claims with two different mistakes, drawn at random, that no single mistake explains."""
    for name in names:
        network = make(name, seed)
        prepare(network)
        generator = np.random.default_rng([seed, len(name)])
        alone = [(slip,) for slip in candidates(network) if slip.mistake not in BEYOND]
        drawn = [generator.permutation(len(alone))[:2] for _ in range(count)]
        two = [(*alone[a], *alone[b]) for a, b in drawn if alone[a][0].mistake != alone[b][0].mistake]
        for claim in _claims(network, "pair", "float64", _trees(network, [*alone, *two])):
            if len(claim.made) == 2:
                yield claim


# --- right --------------------------------------------------------------------------------------


def differences(network: Network, h: float, central: bool) -> Tree | None:
    """Return the gradients by finite differences with step `h`, or None if a kink of the loss lies within the step."""
    found: Tree = {}
    base, pattern = network.loss(), _pattern(network)
    for name, tree in network.parameters.items():
        found[name] = {}
        for key, values in tree.items():
            slope = np.zeros_like(values)
            for index in np.ndindex(*values.shape):
                kept = values[index]
                values[index] = kept + h
                above, there = network.loss(), _pattern(network)
                values[index] = kept - h
                below, back = network.loss(), _pattern(network)
                values[index] = kept
                if there != pattern or back != pattern:
                    return None
                slope[index] = (above - below) / (2.0 * h) if central else (above - base) / h
            found[name][key] = slope
    return found


def _pattern(network: Network) -> bytes:
    """Return which side of each kink the network's values lie on: two equal patterns have no kink between them."""
    parts: list[Array] = []
    for layer in network.layers:
        if layer.activation == "relu":
            parts.append(layer.z > 0.0)
        if isinstance(layer, MaxPooling2D):
            parts.append(layer.blocks.argmax(-1))
        if layer.l1:
            parts.append(layer.parameters["kernel"] > 0.0)
    return b"".join(part.tobytes() for part in parts)


def scale_badly(network: Network, generator: np.random.Generator) -> None:
    """Multiply weights by factors of 1e-6 to 1e6, and half of the time the input columns by others."""
    one = 10.0 ** generator.uniform(-6.0, 6.0)
    alike = generator.random() < 0.3
    for layer in network.layers:
        if layer.owner != layer.name:
            continue
        factor = one if alike else 10.0 ** generator.uniform(-6.0, 6.0)
        for key in layer.parameters:
            if "kernel" in key or generator.random() < 0.3:
                layer.parameters[key] *= factor
    if generator.random() < 0.5:
        network.inputs = network.inputs * 10.0 ** generator.uniform(-4.0, 4.0, network.inputs.shape[-1])


def make_tiny(network: Network, generator: np.random.Generator) -> None:
    """Change targets or loss weights so that the gradients are about 1e-10."""
    values = network.forward()
    for name, loss in network.losses.items():
        if loss.endswith("crossentropy") or generator.random() < 0.5:
            network.loss_weights = {**network.loss_weights, name: 10.0 ** generator.uniform(-12.0, -8.0)}
        else:
            noise = generator.normal(size=values[name].shape)
            network.targets[name] = values[name] + 1e-10 * noise


def enlarge(network: Network, generator: np.random.Generator) -> None:
    """Replace the samples by a random batch of 256 to 1024."""
    chosen = generator.integers(0, len(network.inputs), int(2 ** generator.uniform(8.0, 10.0)))
    network.inputs = network.inputs[chosen] + generator.normal(size=(len(chosen), *network.inputs.shape[1:]))
    network.targets = {name: target[chosen] for name, target in network.targets.items()}
    if network.sample_weights is not None:
        network.sample_weights = network.sample_weights[chosen]


def go_the_long_way(network: Network, generator: np.random.Generator) -> None:
    """Let cross-entropies be differentiated without the usual simplification; make some weights large."""
    network.long_way = True
    for layer in network.layers:
        if layer.owner == layer.name and generator.random() < 0.5:
            for key in layer.parameters:
                layer.parameters[key] *= 4.0


Change = Callable[[Network, np.random.Generator], None]
RIGHT: Sequence[tuple[str, int, Change | None, str, str]] = (
    ("float64", 100, None, "float64", "float64"),
    ("float32", 104, None, "float32", "float32"),
    ("float32 handed in for float64", 104, None, "float64", "float32"),
    ("badly scaled, float64", 150, scale_badly, "float64", "float64"),
    ("badly scaled, float32", 75, scale_badly, "float32", "float32"),
    ("badly scaled, float32 handed in for float64", 75, scale_badly, "float64", "float32"),
    ("tiny, float64", 40, make_tiny, "float64", "float64"),
    ("tiny, float32", 24, make_tiny, "float32", "float32"),
    ("the long way, float64", 28, go_the_long_way, "float64", "float64"),
    ("the long way, float32", 28, go_the_long_way, "float32", "float32"),
    ("large batch, float64", 24, enlarge, "float64", "float64"),
    ("large batch, float32", 40, enlarge, "float32", "float32"),
)
"""Kind, how many, what is done to the network, dtype of the request, dtype of the claim's own computation."""
STEPS = {False: (1e-4, 1e-5, 1e-6, 1e-7), True: (1e-3, 1e-4, 1e-5, 1e-6)}
"""h of forward and of central differences."""


def right(prepare: Prepare, share: float = 1.0, seed: int = 100) -> Iterator[Claim]:
    """Yield about a thousand claims without a mistake, or this share of them, with all kinds of rounding."""
    names = list(MAKERS)
    for kind, count, change, dtype, own in RIGHT:
        generator = np.random.default_rng([seed, len(kind), count])
        made = 0
        for attempt in itertools.count():
            if made >= share * count:
                break
            network = make(names[attempt % len(names)], seed + attempt)
            if change is not None:
                change(network, generator)
                if change is enlarge and network.seed:
                    continue  # its mask was drawn for a small batch
            if own == "float32":
                network.cast("float32")
            network.cast(own)
            prepare(network)
            with np.errstate(all="ignore"):
                claimed = network.gradients()
            if all(np.isfinite(array).all() for array in flat(claimed).values()):
                made += 1
                yield Claim(kind, network, dtype, claimed)
    for central, steps in STEPS.items():
        for name, h in itertools.product(names, steps):
            for attempt in range(2 if share == 1.0 else 1):
                if share < 1.0 and (7 * names.index(name) + steps.index(h)) % max(1, round(2.0 / share)):
                    continue
                network = make(name, seed + attempt)
                prepare(network)
                claimed_or_none = differences(network, h, central)
                if claimed_or_none is not None:
                    kind = f"{'central' if central else 'forward'} differences"
                    yield Claim(kind, network, "float64", claimed_or_none)


# --- wrong without a pattern --------------------------------------------------------------------


def _entry(array: Array, generator: np.random.Generator, size: float) -> None:
    """Multiply one random entry, not one of the smallest, by 1 + `size`."""
    large = np.argwhere(np.abs(array) >= 1e-3 * np.abs(array).max())
    index = tuple(large[generator.integers(len(large))])
    array[index] *= 1.0 + size


def _row(array: Array, generator: np.random.Generator, size: float) -> None:
    row = array.reshape(-1, array.shape[-1])[generator.integers(array.size // array.shape[-1])]
    row *= 1.0 + size * generator.uniform(0.3, 1.0, row.shape) * generator.choice((-1.0, 1.0), row.shape)


def _noise(array: Array, generator: np.random.Generator, size: float) -> None:
    array += size * np.abs(array).max() * generator.normal(size=array.shape)


def _factor(array: Array, generator: np.random.Generator, size: float) -> None:
    array *= generator.choice((1.37, 0.71, -1.23, 3.1415926, 0.123))


def _rotation(array: Array, generator: np.random.Generator, size: float) -> None:
    turn, _ = np.linalg.qr(generator.normal(size=(len(array), len(array))))
    array[...] = np.tensordot(turn, array, 1)


def _anything(array: Array, generator: np.random.Generator, size: float) -> None:
    array[...] = generator.normal(0.0, np.abs(array).max(), array.shape)


Spoil = Callable[[Array, np.random.Generator, float], None]
WRONG: Sequence[tuple[str, int, Spoil, str]] = (
    ("one entry", 180, _entry, "tensor"),
    ("one row", 130, _row, "tensor"),
    ("noise in one layer", 150, _noise, "layer"),
    ("noise in a layer and all before", 180, _noise, "before"),
    ("odd factor of one tensor", 60, _factor, "tensor"),
    ("odd factor of each tensor", 60, _factor, "all"),
    ("rotated", 80, _rotation, "kernel"),
    ("random in one layer", 80, _anything, "layer"),
    ("random everywhere", 80, _anything, "all"),
)
"""Kind, how many, what happens to a tensor, and to which tensors."""


def unexplained(prepare: Prepare, share: float = 1.0, seed: int = 500) -> Iterator[Claim]:
    """Yield about a thousand wrong gradients that no known mistake explains, or this share of them."""
    names = list(MAKERS)
    for kind, count, spoil, where in WRONG:
        generator = np.random.default_rng([seed, len(kind), count])
        for attempt in range(round(share * count)):
            network = make(names[attempt % len(names)], seed + attempt)
            dtype = "float32" if attempt % 5 == 4 else "float64"
            network.cast(dtype)
            prepare(network)
            right_tree = network.gradients()
            claimed = {name: {key: array.copy() for key, array in tree.items()} for name, tree in right_tree.items()}
            size = 10.0 ** generator.uniform(-3.0 if dtype == "float64" else -2.0, 0.0)
            owners = [layer for layer in network.layers if layer.name in claimed]
            for array in _places(claimed, owners, where, generator):
                spoil(array, generator, size)
            wrong = differing(claimed, right_tree)
            if wrong:
                yield Claim(f"{kind}, {dtype}", network, dtype, claimed, wrong=wrong, first=first_wrong(network, wrong))


def _places(claimed: Tree, owners: Sequence[Layer], where: str, generator: np.random.Generator) -> list[Array]:
    place = int(generator.integers(len(owners)))
    tree = claimed[owners[place].name]
    live = {key: array for key, array in tree.items() if np.abs(array).max() > 1e-13}
    if where == "tensor":
        return [live[sorted(live)[generator.integers(len(live))]]]
    if where == "kernel":
        return [max(live.values(), key=lambda array: array.ndim)]
    if where == "layer":
        return list(live.values())
    layers = owners[: place + 1] if where == "before" else owners
    return [array for layer in layers for array in claimed[layer.name].values()]


def small(prepare: Prepare, seed: int = 900) -> Iterator[Claim]:
    """Yield claims with gradients of about 1e-10 in which one entry is wrong by a hundredth."""
    for attempt, name in enumerate(name for name in MAKERS for _ in range(4)):
        network = make(name, seed + attempt)
        network.loss_weights = dict.fromkeys(network.losses, 1e-10)
        for layer in network.layers:
            layer.l1 = layer.l2 = 0.0
        prepare(network)
        right_tree = network.gradients()
        claimed = {name: {key: array.copy() for key, array in tree.items()} for name, tree in right_tree.items()}
        generator = np.random.default_rng([seed, attempt])
        largest = max(float(np.abs(array).max()) for array in flat(claimed).values())
        live = [array for array in flat(claimed).values() if np.abs(array).max() > 1e-3 * largest]
        _entry(live[generator.integers(len(live))], generator, 0.01)
        wrong = differing(claimed, right_tree)
        yield Claim("small and wrong", network, "float64", claimed, wrong=wrong, first=first_wrong(network, wrong))
