"""The responses of health checks and of the service's description, and the form of every error."""

from __future__ import annotations

from marshmallow import INCLUDE, Schema, fields


class ServiceHealthSchema(Schema):
    """The response of a health check."""

    status = fields.String(required=True)


class RunQueueSchema(Schema):
    """The runs that wait and compute, and the processes that compute them."""

    queued = fields.Integer(required=True, metadata={"description": "runs of all callers that wait for a runner"})
    running = fields.Integer(required=True, metadata={"description": "runs that are computed now"})
    runners = fields.Integer(required=True, metadata={"description": "runners at work"})


class ServiceDescriptionSchema(Schema):
    """The response of `/v1`: name, version, links, limits and the queue of runs."""

    name = fields.String(required=True)
    version = fields.String(required=True)
    links = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    limits = fields.Dict(
        keys=fields.String(), values=fields.Float(), required=True, metadata={"description": "the limits in force"}
    )
    queue = fields.Nested(
        RunQueueSchema,
        required=True,
        allow_none=True,
        metadata={"description": "runs, as they were about a second ago; null where the server stores nothing"},
    )


class OpenApiDescriptionSchema(Schema):
    """An OpenAPI document."""

    class Meta:
        unknown = INCLUDE

    openapi = fields.String(required=True, metadata={"description": "the version of OpenAPI"})
    info = fields.Dict(required=True)
    paths = fields.Dict(required=True)
    components = fields.Dict(required=True)


class ProblemErrorSchema(Schema):
    """One fault in a request, with its place as a JSON pointer."""

    class Meta:
        unknown = INCLUDE

    pointer = fields.String(required=True, metadata={"description": "JSON pointer to the offending part"})
    detail = fields.String(required=True, metadata={"description": "what was expected and what came"})
    allowed = fields.List(fields.Raw(), metadata={"description": "what would have been accepted"})


class ProblemSchema(Schema):
    """An error response, in the form of RFC 9457."""

    type = fields.String(required=True, metadata={"description": "a page that explains this kind of problem"})
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    instance = fields.String(required=True, metadata={"description": "the request id"})
    errors = fields.List(fields.Nested(ProblemErrorSchema))
