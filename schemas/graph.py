"""The request and the response of `/v1/graph`."""

from __future__ import annotations

from typing import NotRequired

from marshmallow import fields

from schemas.common import about, finite_field, warnings_field
from schemas.components import Components, JSONSchema, by_name
from schemas.fields import FlagField, WordField, WordsField
from schemas.strict import StrictField, StrictSchema
from schemas.subject import LoadedSubject, SubjectRequest
from schemas.tensor import ParametersAnswerField, TensorAnswerField
from service.engine.insight.graph_view import (
    DETAILS,
    MOST_NUMBERS,
    MOST_OPERATIONS,
    READABLE_NUMBERS,
    READABLE_OPERATIONS,
)


class LoadedGraph(LoadedSubject):
    """A validated request of `/v1/graph`."""

    detail: NotRequired[str]
    values: bool
    include: frozenset[str]


class GraphRequest(SubjectRequest[LoadedGraph]):
    """A request for the computational graph of a network, or of an expression at a point."""

    needs_loss = False

    detail = WordField(
        DETAILS,
        metadata=about(
            f"operations: each by itself, up to {MOST_OPERATIONS:,}; layers: a node for each layer and "
            f"direction; by default operations if there are at most {READABLE_OPERATIONS}, with "
            f"{READABLE_NUMBERS:,} numbers"
        ),
    )
    values = FlagField(
        load_default=True,
        metadata=about(f"whether nodes have their values and adjoints, up to {MOST_NUMBERS:,} numbers (true)"),
    )
    include = WordsField(
        ("dot", "mermaid", "input_gradients"),
        load_default=frozenset(),
        metadata=about(
            "more parts of the response: drawings for Graphviz and Mermaid; the way back to the inputs beside "
            "that to the parameters"
        ),
    )


class AttributesField(StrictField):
    """The attributes of an operation by name, such as its axes: numbers, words, or lists of them."""

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer("GraphAttributes", lambda: by_name({}, "Attributes of an operation by name."))


class GraphNodeSchema(StrictSchema):
    """A node of the graph: an operation of the forward or the backward pass or, in a collapsed graph, a layer."""

    name = fields.String(required=True)
    operation = fields.String(required=True, metadata=about("the operation, or the type of the layer"))
    inputs = fields.List(fields.String(), required=True, metadata=about("names of its inputs"))
    text = fields.String(metadata=about("the part of the expression, or its place in the network"))
    value = TensorAnswerField(allow_none=True)
    adjoint = TensorAnswerField(
        allow_none=True, metadata=about("derivative of the loss, or of the expression, with respect to this value")
    )
    attributes = AttributesField(metadata=about("attributes by name, as in the code"))
    latex = fields.String(metadata=about("the operation as a formula"))
    shape = fields.List(fields.Integer(), metadata=about("shape of the value"))
    dtype = fields.String()
    phase = fields.String(metadata=about("forward or backward"))
    layer = fields.String(metadata=about("the layer that it belongs to; loss: that of the network"))
    serves = fields.String(metadata=about("of a backward node: the forward node whose derivative it passes on"))
    adjoint_node = fields.String(metadata=about("the backward node whose value is the adjoint"))
    operations = fields.Integer(metadata=about("number of operations of a collapsed node"))


class GraphEdgeSchema(StrictSchema):
    """An edge from a value to one that is computed from it.

    In the backward pass it means: adjoint of source += adjoint of target · derivative.
    """

    source = fields.String(required=True)
    target = fields.String(required=True)
    derivative = fields.Float(allow_none=True, metadata=about("derivative of the target by the source alone"))
    contribution = fields.Float(allow_none=True, metadata=about("the term that is added to the source's adjoint"))


class GraphGroupSchema(StrictSchema):
    """The nodes of one layer in one pass, forward or backward."""

    layer = fields.String(required=True)
    phase = fields.String(required=True, metadata=about("forward or backward"))
    nodes = fields.List(fields.String(), required=True)


class GraphOperationSchema(StrictSchema):
    """A kind of operation in the graph, with its NumPy expression."""

    name = fields.String(required=True)
    signature = fields.String(required=True, metadata=about("inputs and attributes, in the form of a Python function"))
    numpy = fields.String(required=True, metadata=about("its value, as a NumPy expression of its inputs"))
    latex = fields.String(required=True)


class GraphResultsSchema(StrictSchema):
    """The names of the nodes that hold outputs, loss and gradients."""

    outputs = fields.Dict(keys=fields.String(), values=fields.String(), required=True, metadata=about("by output name"))
    loss = fields.String(metadata=about("the loss, or the value of the expression"))
    gradients = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about("by `layer.parameter`, by input or by variable"),
    )


class GraphResponse(StrictSchema):
    """The computational graph of a network or an expression, forward and backward."""

    detail = fields.String(required=True, metadata=about("operations or layers"))
    dtype = fields.String(required=True)
    results = fields.Nested(GraphResultsSchema, required=True)
    code = fields.String(metadata=about("where `detail` is operations: straight-line code with a line for each node"))
    nodes = fields.List(fields.Nested(GraphNodeSchema), required=True, metadata=about("in order of computation"))
    edges = fields.List(fields.Nested(GraphEdgeSchema), required=True)
    groups = fields.List(fields.Nested(GraphGroupSchema), required=True)
    operations = fields.List(
        fields.Nested(GraphOperationSchema), required=True, metadata=about("definitions of the operations in the code")
    )
    dot = fields.String(metadata=about("a drawing for Graphviz"))
    mermaid = fields.String(metadata=about("a drawing for Mermaid"))
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them"))
    finite = finite_field()
    warnings = warnings_field()
