"""Schemas of the requests and responses of `/v1/runs`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict

from marshmallow import ValidationError, fields

from schemas.common import MOST_STEPS, STATUSES, OpenSchema, about
from schemas.components import Components, JSONSchema, schema_name
from schemas.documents import recognised
from schemas.fields import IntegerField, WordField
from schemas.functions import DescendRequest
from schemas.messages import Message
from schemas.requests import RequestSchema
from schemas.strict import StrictField, StrictSchema, object_schema
from schemas.sweeps import SweepRequest
from schemas.training import CompareRequest, TrainRequest

TAKES: Mapping[str, RequestSchema[Any]] = {
    "train": TrainRequest(),
    "compare": CompareRequest(),
    "descend": DescendRequest(),
    "sweep": SweepRequest(),
}
"""The requests of runs, by the kinds of runs."""
RUN_STATUSES: Mapping[str, str] = {
    "queued": "waits for a runner",
    "running": "a runner computes it",
    **STATUSES,
    "cancelled": "its owner cancelled it, or it reached a limit of this server",
    "failed": "it could not be computed to its end; the reason says why",
}
UNFINISHED = ("queued", "running")
ENDED = frozenset(RUN_STATUSES) - {*UNFINISHED}
"""The statuses of runs that have ended."""
STATUS = about("; ".join(f"{name}: {meaning}" for name, meaning in RUN_STATUSES.items()))


class RequestText(NamedTuple):
    """The JSON text of a request that is a part of a body. It is parsed once its kind is known."""

    body: bytes
    start: int
    stop: int

    @property
    def content(self) -> bytes:
        """The bytes of the text, a copy."""
        return self.body[self.start : self.stop]


class LoadedRun(TypedDict):
    """A loaded request for a run, whose inner request is not read yet."""

    kind: str
    request: RequestText


class LoadedResume(TypedDict):
    """A loaded request to go on with a run."""

    steps: NotRequired[int]


class InnerRequestField(StrictField):
    """The request that a run computes: what the endpoint of its kind takes."""

    has_keys = True

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, RequestText | Mapping):
            instead = f"; {recognised(value)}" if isinstance(value, str) and recognised(value) else ""
            raise self.refuse("an object, as the endpoint of the kind takes it", value, instead=instead)
        return value

    def json_schema(self, components: Components) -> JSONSchema:
        return {"anyOf": [_reference(schema, components) for schema in TAKES.values()]}


def _reference(schema: StrictSchema, components: Components) -> JSONSchema:
    return components.refer(schema_name(schema), lambda: object_schema(schema, components))


class RunRequest(RequestSchema[LoadedRun]):
    """A computation in steps that the service makes by itself: its kind, and the request that says what to compute."""

    fresh = frozenset(("request",))
    elsewhere = {key: "request" for schema in TAKES.values() for key in schema.load_fields}  # noqa: RUF012
    called = MappingProxyType(
        dict.fromkeys(("type", "job", "task", "endpoint", "path", "operation", "method"), "kind")
        | dict.fromkeys(("body", "payload", "params", "data", "config", "input", "args", "arguments"), "request")
    )

    kind = WordField(
        list(TAKES),
        "RunKind",
        required=True,
        metadata=about("the computation; a sweep is a training for each combination of values"),
    )
    request = InnerRequestField(required=True, metadata=about("what the endpoint of that kind takes; a sweep has none"))

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Refuse a body whose parts cannot be told apart by their plain names."""
        if not isinstance(loaded["request"], RequestText):
            message = "write the keys 'kind' and 'request' once each, and without escapes"
            raise ValidationError({"request": [Message(message)]})
        return loaded


class ResumeRequest(RequestSchema[LoadedResume]):
    """A request for steps of a run beyond those that it was asked for."""

    steps = IntegerField(
        minimum=1, maximum=MOST_STEPS, metadata=about("steps in addition to those that are left; 0 if it is left out")
    )


class StartedRunSchema(StrictSchema):
    """A run that was accepted."""

    id = fields.String(required=True, metadata=about("its name in `/v1/runs/{id}`"))
    kind = WordField(list(TAKES), "RunKind", required=True, metadata=about("the kind of its computation"))
    status = WordField(list(RUN_STATUSES), "RunStatus", required=True, metadata=STATUS)
    of = fields.Integer(required=True, metadata=about("number of its steps"))


class RunSchema(StartedRunSchema):
    """The state of a run."""

    reason = fields.String(required=True, allow_none=True, metadata=about("why it ended; null before its end"))
    step = fields.Integer(required=True, metadata=about("number of steps that are done"))
    loss = fields.Float(required=True, allow_none=True, metadata=about("loss of its last step; null if that has none"))
    learning_rate = fields.Float(
        required=True, allow_none=True, metadata=about("learning rate of its last step; null if that has none")
    )
    rate = fields.Float(required=True, allow_none=True, metadata=about("steps per second while it computed"))
    remaining_seconds = fields.Float(
        required=True,
        allow_none=True,
        metadata=about(
            "time that its remaining steps take at that rate; null if the rate is unknown, or the run has ended"
        ),
    )
    seconds = fields.Float(required=True, metadata=about("time for which it was computed, waiting left out"))
    attempt = fields.Integer(required=True, metadata=about("how many times a runner has taken it"))
    created = fields.DateTime(required=True, metadata=about("when it was sent"))
    started = fields.DateTime(
        required=True, allow_none=True, metadata=about("when a runner took it first; null before")
    )
    ended = fields.DateTime(required=True, allow_none=True, metadata=about("when it ended; null before"))
    bytes = fields.Integer(required=True, metadata=about("size of its request, records, state and result"))
    fingerprint = fields.String(
        required=True,
        allow_none=True,
        metadata=about("mark of the processor and the libraries that compute it: equal marks give equal bits"),
    )


class RunListSchema(StrictSchema):
    """A page of the runs of a key, the newest first."""

    runs = fields.List(fields.Nested(RunSchema), required=True)
    next = fields.String(required=True, allow_none=True, metadata=about("`after` of the next page; null on the last"))
    count = fields.Integer(required=True, metadata=about("number of runs on all pages, with any status"))
    bytes = fields.Integer(required=True, metadata=about("size of all of them together"))


class RunRecordSchema(OpenSchema):
    """The record of a step of a run: what the endpoint of its kind streams."""

    step = fields.Integer(required=True)


class RunEndSchema(OpenSchema):
    """The end of a run: what the endpoint of its kind ends with."""

    status = fields.String(required=True)


class RunResultSchema(OpenSchema):
    """The result of a run: what the endpoint of its kind answers, or ends its stream with."""


class RunWithResultSchema(RunSchema):
    """The state of a run, and its result once it has ended."""

    result = fields.Nested(
        RunResultSchema,
        required=True,
        allow_none=True,
        metadata=about("what the endpoint of its kind answers, or ends its stream with; null before the end"),
    )


class RunPageSchema(StrictSchema):
    """A page of the records of a run."""

    steps = fields.List(fields.Nested(RunRecordSchema), required=True)
    status = WordField(list(RUN_STATUSES), "RunStatus", required=True, metadata=STATUS)
    next = fields.Integer(
        required=True,
        allow_none=True,
        metadata=about("`after` of the next page, which is empty until a runner has computed more; null at the end"),
    )
