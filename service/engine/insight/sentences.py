"""The sentences of a derivation, one for each step."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.graph.ir import Node, NoGradient
from service.engine.insight.scene import Scene
from service.engine.texts import Sentence, say


def unit_text(unit: Sequence[int]) -> str:
    """Return a unit as sentences name it: `2`, or `[0][2]` where there are several axes."""
    return str(unit[0]) if len(unit) == 1 else "".join([f"[{k}]" for k in unit])


def sentence_of(
    quantity: str, scene: Scene, node: Node | None, layer: str | None, unit: Sequence[int], heaton: bool, path: str = ""
) -> Sentence:
    """Return the sentence of a step of a derivation. `node` is the node of the step's element, `unit` its index without
    the sample; `path` names the parameter of a gradient."""
    where = unit_text(unit)
    match quantity:
        case "pre_activation":
            return _sum(scene, layer or "", where)
        case "output":
            return _output(scene, layer or "", where)
        case "error":
            assert node is not None
            if scene.names[node.index].part == "delta":
                return say("explain.error.delta", layer=layer, unit=where)
            return say("explain.error.alone", layer=layer, unit=where)
        case "sample_loss":
            weighted = scene.prepared.weights is not None
            return say("explain.sample_loss.weighted") if weighted else say("explain.sample_loss.plain")
        case "loss":
            return _loss(scene)
        case "penalty":
            return say("explain.penalty")
        case "slope":
            activation = _activation(scene, layer or "")
            return say("explain.slope", layer=layer, unit=where, activation=activation)
        case "delta":
            return _delta(scene, layer or "", where, heaton)
        case "share":
            return _share(scene, path, layer or "")
        case "gradient":
            return _gradient(scene, path, heaton)
        case "update":
            return say("explain.update.added", path=path) if heaton else say("explain.update.subtracted", path=path)
    assert node is not None
    return _intermediate(scene, node, layer)


def _type(scene: Scene, layer: str) -> str:
    return next(each.layer.name for each in scene.task.definition.layers if each.name == layer)


def _activation(scene: Scene, layer: str) -> str:
    activation = scene.prepared.model.layers[layer].activation
    return "" if activation is None else activation.name


def _sum(scene: Scene, layer: str, unit: str) -> Sentence:
    if _type(scene, layer) != "dense":
        return say("explain.sum.other", layer=layer, unit=unit, type=_type(scene, layer))
    biased = any(each.layer == layer and each.name == "bias" for each in scene.prepared.model.parameters)
    if biased:
        return say("explain.sum.biased", layer=layer, unit=unit)
    return say("explain.sum.unbiased", layer=layer, unit=unit)


def _output(scene: Scene, layer: str, unit: str) -> Sentence:
    built = scene.prepared.model.layers[layer]
    if built.activation is None or built.output is built.pre_activation:
        if _type(scene, layer) == "dense":
            return _sum(scene, layer, unit)
        return say("explain.output.plain", layer=layer, unit=unit, type=_type(scene, layer))
    return say("explain.output.activated", layer=layer, unit=unit, activation=built.activation.name)


def _loss(scene: Scene) -> Sentence:
    count = scene.task.samples
    if scene.task.reduction == "mean":
        if scene.task.normalize_weights:
            return say("explain.loss.normalized")
        return say("explain.loss.mean", count=count)
    return say("explain.loss.sum", count=count)


def _delta(scene: Scene, layer: str, unit: str, heaton: bool) -> Sentence:
    last = layer in scene.task.definition.output_names
    if heaton:
        if last:
            return say("explain.delta.output.negative", layer=layer, unit=unit)
        return say("explain.delta.inside.negative", layer=layer, unit=unit)
    if last:
        return say("explain.delta.output.positive", layer=layer, unit=unit)
    return say("explain.delta.inside.positive", layer=layer, unit=unit)


def _share(scene: Scene, path: str, layer: str) -> Sentence:
    part = path.partition("[")[0].removeprefix(f"{layer}.")
    if _type(scene, layer) == "dense" and part == "kernel":
        return say("explain.share.kernel", path=path)
    if _type(scene, layer) == "dense" and part == "bias":
        return say("explain.share.bias", path=path)
    return say("explain.share.other", path=path)


def _gradient(scene: Scene, path: str, heaton: bool) -> Sentence:
    count = scene.task.samples
    name = path.partition("[")[0]
    for selected in scene.selected:
        if selected.name == name and isinstance(selected.gradient, NoGradient):
            return say("explain.gradient.none", path=path)
    if heaton:
        return say("explain.gradient.negative", path=path, count=count)
    if count > 1 and scene.task.reduction == "mean":
        return say("explain.gradient.mean", path=path, count=count)
    return say("explain.gradient.sum", path=path, count=count)


def _intermediate(scene: Scene, node: Node, layer: str | None) -> Sentence:
    operation = node.operation.name
    if node.scope == "loss":
        return say("explain.intermediate.loss", operation=operation)
    if layer is None:
        return say("explain.intermediate.other", operation=operation)
    if node.serves is None:
        return say("explain.intermediate.forward", layer=layer, operation=operation)
    return say("explain.intermediate.backward", layer=layer, operation=operation)
