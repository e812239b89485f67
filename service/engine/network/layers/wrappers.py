"""Layers that wrap another layer."""

from __future__ import annotations

from service.engine.building import Choice, Family, Node, Reference, Selection, concatenate, reshape, slice_axis
from service.engine.network.layers.declaration import KERAS, Layer, LayerContext, LayerOutput, layers, same

STEPWISE: Family[Layer] = Family(
    name="stepwise layer",
    description="A layer that takes one input, of numbers",
    has=lambda block: block.takes[0] == 1 and not block.takes_indices,
    lacks="cannot be applied step by step",
)
RECURRENT: Family[Layer] = Family(
    name="recurrent layer",
    description="A layer that reads a sequence step by step",
    has=lambda block: block.recurrent,
    lacks="is not recurrent; {names} are",
)


@layers.declare(
    "time_distributed",
    en="The same layer applied to every step of a sequence.",
    zh="把同一层应用于序列的每一步。",
    options=(Reference(name="layer", registry=layers, family=STEPWISE, description="the layer, with its options"),),
    latex=r"a_{nt} = f(x_{nt})",
    derivative=r"\frac{\partial L}{\partial \theta} = \sum_t \frac{\partial L_t}{\partial \theta}",
    sources=(KERAS + "recurrent_layers/time_distributed/",),
    parameters={"…": "those of the layer"},
)
def time_distributed(layer: LayerContext, x: Node) -> LayerOutput:
    if len(x.shape) < 3:
        layer.refuse(f"takes samples of steps and features, got shape {list(x.shape[1:])}; {layer.source}")
    samples, steps, *rest = x.shape
    if layer.training and _couples_samples(layer.options["layer"]):
        # The statistics of a batch are those of one step, as in Keras.
        single = [reshape(slice_axis(x, 1, step, step + 1), (samples, *rest)) for step in range(steps)]
        outputs = [layer.build("layer", part).output for part in single]
        return same(concatenate([reshape(y, (samples, 1, *y.shape[1:])) for y in outputs], 1))
    made = layer.build("layer", reshape(x, (samples * steps, *rest)))

    def by_step(node: Node) -> Node:
        return reshape(node, (samples, steps, *node.shape[1:]))

    activation = made.activation
    if activation is None or activation.declaration.parameters:
        return same(by_step(made.output))
    # The activation anew, from the pre-activation that is shown: their deltas then agree.
    z = by_step(made.pre_activation)
    return LayerOutput(activation.declaration.build(z, **activation.options), z, activation)


def _couples_samples(selection: Selection[Layer]) -> bool:
    inner = selection.options.get("layer")
    return selection.declaration.couples_samples or (inner is not None and _couples_samples(inner))


MERGES = ("concat", "sum", "mul", "ave")


@layers.declare(
    "bidirectional",
    en="A recurrent layer that reads the sequence forwards and, with parameters of its own, backwards.",
    zh="双向循环层:用两套参数分别正向与反向读取序列,再合并。",
    options=(
        Reference(name="layer", registry=layers, family=RECURRENT, description="the recurrent layer, with its options"),
        Choice(
            name="merge_mode",
            default="concat",
            values=MERGES,
            description="how both outputs meet: side by side, sum, product or mean",
        ),
    ),
    latex=r"a_t = [\overrightarrow{h_t}, \overleftarrow{h_t}]",
    sources=(KERAS + "recurrent_layers/bidirectional/",),
    parameters={"forward_…": "those of the layer", "backward_…": "those of the layer, once more"},
)
def bidirectional(layer: LayerContext, x: Node) -> LayerOutput:
    options = layer.options["layer"].options
    forward = layer.build("layer", x, prefix="forward_").output
    backward = layer.build("layer", x, prefix="backward_", go_backwards=not options["go_backwards"]).output
    if options["return_sequences"]:
        backward = concatenate([slice_axis(backward, 1, k, k + 1) for k in reversed(range(backward.shape[1]))], 1)
    match layer.options["merge_mode"]:
        case "sum":
            return same(forward + backward)
        case "mul":
            return same(forward * backward)
        case "ave":
            return same((forward + backward) / 2.0)
    return same(concatenate([forward, backward], len(forward.shape) - 1))
