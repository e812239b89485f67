"""The endpoints of `/v1/runs`: computations in steps that the service makes by itself and keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from marshmallow import ValidationError

from schemas.runs import (
    ENDED,
    RUN_STATUSES,
    LoadedRun,
    ResumeRequest,
    RunEndSchema,
    RunListSchema,
    RunPageSchema,
    RunRecordSchema,
    RunRequest,
    RunSchema,
    RunWithResultSchema,
    StartedRunSchema,
)
from service import wire
from service.api.context import Context, runtime
from service.api.endpoint import Held, describe, post
from service.api.queries import (
    PAGE_PARAMETERS,
    Asking,
    as_json,
    asking,
    bad_header,
    bad_query,
    cursor_of,
    integer_of,
    limit_of,
    page_of,
    query,
)
from service.api.run_answers import ID, check_resume, conflict, described, entry_of, unknown
from service.api.run_kinds import KINDS
from service.api.run_requests import KEY, one_by_one, read_request, read_run, within
from service.api.run_streams import NONE, TEXT_FACTOR, RunStream, end_of, later, step_of
from service.api.runs_examples import MORE, NO_MORE, RAN, RESUMED, RUN_ID, RUNS, UNTRAINABLE
from service.api.state_file import size_of
from service.api.stored import Names, hold
from service.engine.errors import LimitExceeded
from service.engine.options import LARGEST_EXACT_INTEGER
from service.problems import Problem, from_validation
from service.wire.writing import Written

if TYPE_CHECKING:
    from service.store.runs import RunEntry

blueprint = Blueprint("runs", __name__)

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
RECORDS, MOST_RECORDS = 100, 1000
"""Default and largest number of records on a page."""
PAGE_BYTES = 1 << 20
"""Bytes of records that are read for a page, unless a single chunk of the database has more."""
TYPED = "application/json; tensors=base64"
"""The media type of a response whose tensors are typed arrays."""
RESUME_BYTES = 4096
"""Bytes of the body of a request to go on with a run, at most."""
MORE_STEPS = ResumeRequest()

IDENTIFIER = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": f"^{ID.pattern}$"},
    "description": "the id of the run: `POST /v1/runs` returns it, and `GET /v1/runs` lists yours",
}


# --- starting -----------------------------------------------------------------------------------


@post(
    blueprint,
    "/v1/runs",
    takes=RunRequest(),
    gives=StartedRunSchema(),
    summary="Start a run",
    tag="Runs",
    examples=RUNS,
    mistake=UNTRAINABLE,
    reads=read_run,
    statuses={200: "The run of this Idempotency-Key has ended already.", 202: "A runner will compute the run."},
    random={"id": RUN_ID},
    parameters=(
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
            "description": "a name for this request: sent again with the same name, it gives the same run",
        },
    ),
)
def start_run(request: LoadedRun, context: Context) -> dict[str, Any]:
    """Start a computation in steps that the service makes by itself, and get an id to watch it by.

    `request` is what the endpoint of the kind takes, within larger limits. It is checked at once, and computed by a
    runner: it outlives this connection, the workers of the server and the server itself, and gives the same bits as a
    computation that was never interrupted. 200 says that the run of this Idempotency-Key has ended already. With
    `Accept: application/json; tensors=base64` the records of the run have typed arrays.
    """
    running, ticket = context.runtime, context.ticket
    settings, store = running.settings, running.store
    owner: str = context.environ["nabla.key"]
    name = _idempotency_key(context.environ)
    kind, text = KINDS[request["kind"]], request["request"]
    content = text.content
    if len(content) > settings.max_run_bytes:
        raise LimitExceeded("run_bytes", len(content), settings.max_run_bytes, (KEY,))

    def need(nbytes: int) -> None:
        context.memory.need(len(text.body) + nbytes)

    try:
        with within(KEY):
            read = read_request(kind, content, need, Names(store, owner, ticket, context.memory))
    except Problem as problem:
        if problem.kind == "malformed-body":
            raise one_by_one(text.body, need) from None
        raise
    context.timer.mark("validate")
    loaded_bytes = len(text.body) + len(content) + read.nbytes
    inner = replace(context, form="ndjson", own_limits=settings.run_limits, loaded_bytes=loaded_bytes)
    with within(KEY, read.value):
        work = kind.works(read.loaded, inner, None, 0)
        try:
            steps = work.standing().of
            at_end = len(content) + int(kind.end_size(size_of(work.state())))
        finally:
            work.close()
    if at_end > settings.max_run_bytes:  # else the run would be computed for nothing
        raise LimitExceeded("run_bytes", at_end, settings.max_run_bytes, (KEY,))
    context.timer.mark("compile")
    ticket.go_to_storage()
    from service.store.runs import NewRun

    new = NewRun(kind.name, content, steps, context.base64, read.networks, name)
    run, is_new = store.runs.add(owner, new)
    entry = None if is_new else store.runs.find(owner, run)
    status = "queued" if entry is None else entry.status
    context.status = 200 if status in ENDED else 202
    context.headers["Location"] = f"{context.environ.get('SCRIPT_NAME', '')}/v1/runs/{run}"
    context.timer.mark("store")
    return {"id": run, "kind": kind.name, "status": status, "of": steps if entry is None else entry.of}


def _idempotency_key(environ: Mapping[str, Any]) -> str | None:
    """Return the name that the client gave its request, if it gave one. Raise `Problem` 400."""
    name: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if name is None or IDEMPOTENCY_KEY.fullmatch(name):
        return name
    # Not 422: the pointers of a request with a body name places of that body.
    raise Problem("bad-request", f"Idempotency-Key takes 1 to 255 visible ASCII characters, got {name[:60]!r}.")


# --- reading ------------------------------------------------------------------------------------


@describe(
    "GET",
    "/v1/runs",
    summary="Your runs",
    tag="Runs",
    gives=RunListSchema(),
    parameters=(
        {
            "name": "status",
            "in": "query",
            "schema": {"type": "string", "enum": list(RUN_STATUSES)},
            "description": "only the runs with this status",
        },
        *PAGE_PARAMETERS,
    ),
)
def list_runs() -> Response:
    """The runs that were started with this key, the newest first; without keys, all of them."""
    given = query(request.environ, ("status", "limit", "after"))
    limit, after, status = limit_of(given.get("limit")), cursor_of(given.get("after"), ID), given.get("status")
    if status is not None and status not in RUN_STATUSES:
        raise bad_query("status", f"takes one of {', '.join(RUN_STATUSES)}, got {status[:60]!r}")
    with asking() as asked:
        runs = asked.store.runs
        usage = runs.usage(asked.owner)
        found = runs.listed(asked.owner, limit + 1, after, status)
    page, following = page_of(found, limit)
    told = {"runs": list(map(described, page)), "next": following}
    return as_json(told | {"count": usage.runs, "bytes": usage.size})


@describe(
    "GET",
    "/v1/runs/{id}",
    summary="One run, and its result",
    tag="Runs",
    gives=RunWithResultSchema(),
    parameters=(IDENTIFIER,),
    random=RAN,
)
def show_run(id: str) -> Response:  # noqa: A002 (the name in the path)
    """The progress of a run and, once it has ended, its result."""
    query(request.environ, ())
    _, base64 = wire.form_and_base64(request.environ, streams=False)
    with asking() as asked:
        entry = entry_of(asked, id)
        hold(asked.memory, TEXT_FACTOR * entry.result_size)
        result = asked.store.runs.result(asked.owner, id) if entry.status in ENDED else None
        ended = None if result is None else end_of(entry, result)
        pieces = wire.document_in_pieces(described(entry) | {"result": ended}, base64)
    headers = {"Content-Length": str(sum(map(len, pieces)))}
    return Response(pieces, content_type=TYPED if base64 else wire.JSON, headers=headers)


@describe(
    "GET",
    "/v1/runs/{id}/steps",
    summary="The records of a run, past and live",
    tag="Runs",
    gives=RunPageSchema(),
    streams=(RunRecordSchema, RunEndSchema),
    parameters=(
        IDENTIFIER,
        {
            "name": "after",
            "in": "query",
            "schema": {"type": "integer", "minimum": NONE, "maximum": LARGEST_EXACT_INTEGER, "default": NONE},
            "description": "the step of the last record that you have; -1 for none",
        },
        {
            "name": "limit",
            "in": "query",
            # No default: Swagger UI would send it with a stream too.
            "schema": {"type": "integer", "minimum": 1, "maximum": MOST_RECORDS},
            "description": f"how many records a page has, at most ({RECORDS}); a stream has no pages",
        },
        {
            "name": "Last-Event-ID",
            "in": "header",
            "schema": {"type": "string", "pattern": "^[0-9]{1,16}$"},
            "description": "as `after`; browsers send it when an EventSource connects again",
        },
    ),
)
def run_steps(id: str) -> Response:  # noqa: A002
    """Stream the records of a run from any point: those that are stored, and each new one as it comes.

    The stream is NDJSON, or events for `Accept: text/event-stream`. It stays open until the run has ended, and its last
    line is the end of the run. Each second without a record has a heartbeat: an empty object, or a comment. A client
    that was cut off sends the last step it got as `after`, or as Last-Event-ID, and misses nothing. With
    `Accept: application/json` the response is a page of the records that are there.
    """
    environ, running = request.environ, runtime()
    form, base64 = wire.form_of_steps(environ)
    given = query(environ, ("after", "limit"))
    after, limit = _after(environ, given), given.get("limit")
    count = limit_of(limit, RECORDS, MOST_RECORDS)
    if limit is not None and form != "json":
        raise bad_query("limit", f"is for pages; a stream has none: send Accept: {wire.JSON}")
    with Held(environ, running) as held:
        held.begin(environ, 0)
        ticket = held.ticket
        ticket.go_to_storage()
        asked = Asking(environ["nabla.key"], running.store, held)
        entry = entry_of(asked, id)
        if form == "json":
            return _page(asked, entry, after, count)
        # Records have the form that was chosen when the run was started.
        base64 = base64 or entry.base64
        ticket.open_stream()
        ticket.deadline = float("inf")
        ticket.give_slot_back()
        response = RunStream(
            running.store,
            environ,
            entry,
            after,
            form,
            base64,
            ticket=ticket,
            memory=held.memory,
            admission=running.admission,
        ).response(base64)
        response.call_on_close(held.keep())
        return response


def _after(environ: Mapping[str, Any], given: Mapping[str, str]) -> int:
    """Return the step after which the client wants records. Raise `Problem` 422.

    A browser that connects again repeats the first address, so what it says it got last counts more.
    """
    seen: str | None = environ.get("HTTP_LAST_EVENT_ID") or None
    text = given.get("after") if seen is None else seen
    if text is None or text == str(NONE):
        return NONE
    after = integer_of(text, LARGEST_EXACT_INTEGER)
    if after is None:
        detail = f"takes the step of a record, an integer from 0, got {text[:60]!r}"
        raise bad_query("after", detail) if seen is None else bad_header("Last-Event-ID", detail)
    return after


def _page(asked: Asking, entry: RunEntry, after: int, limit: int) -> Response:
    """Return a page of the records of a run that come after a step."""
    runs, owner = asked.store.runs, asked.owner
    lines: list[bytes] = []
    chunks = runs.records(owner, entry.id, after, PAGE_BYTES)
    hold(asked.memory, 4 * sum(len(text) for _, _, text in chunks))
    for first, _, text in chunks:
        lines += (later(text, after) if first <= after else text).splitlines()
        if len(lines) > limit:
            break
    cut = len(lines) > limit
    page = lines[:limit]
    last = step_of(page[-1]) if page else after
    follows = cut or entry.status not in ENDED or runs.records(owner, entry.id, last, 1)
    told = {
        "steps": Written([b"[", b",".join(page), b"]"]),
        "status": entry.status,
        "next": last if follows else None,
    }
    return as_json(told, media_type=TYPED if entry.base64 else wire.JSON)


# --- changing -----------------------------------------------------------------------------------


@describe(
    "POST",
    "/v1/runs/{id}/cancel",
    summary="Stop a run",
    tag="Runs",
    gives=RunSchema(),
    parameters=(IDENTIFIER,),
)
def cancel_run(id: str) -> Response:  # noqa: A002
    """Stop the run before its next step. Its records stay, and it may go on later.

    A run that waits is cancelled at once; one that is computed ends within a moment, with the status `cancelled`.
    """
    query(request.environ, ())
    with asking() as asked:
        before = entry_of(asked, id)
        if before.status in ENDED:
            raise conflict(before, "one that has ended cannot be cancelled")
        entry = asked.store.runs.cancel(asked.owner, id)
        if entry is None:
            raise unknown(id)
    return as_json(described(entry))


@describe(
    "POST",
    "/v1/runs/{id}/resume",
    summary="Go on with a run",
    tag="Runs",
    takes=MORE_STEPS,
    gives=RunSchema(),
    examples=MORE,
    mistake=NO_MORE,
    random=RESUMED,
    parameters=(IDENTIFIER,),
    status=202,
)
def resume_run(id: str) -> Response:  # noqa: A002
    """Let a run that has ended go on from where it stopped, with more steps if the body asks for some.

    A run that was cancelled needs no body. One that has made all its steps needs `steps`; a training may get some.
    """
    environ = request.environ
    query(environ, ())
    steps = _more_steps(environ)
    with asking() as asked:
        before = entry_of(asked, id)
        check_resume(before, steps, asked.store.settings)
        entry, resumed = asked.store.runs.resume(asked.owner, id, steps)
        if entry is None:
            raise unknown(id)
        if not resumed:
            raise conflict(entry, "it was resumed or changed at this moment, and not by this request")
    return as_json(described(entry), 202)


@describe(
    "DELETE",
    "/v1/runs/{id}",
    summary="Remove a run",
    tag="Runs",
    parameters=(IDENTIFIER,),
    media_types=(),
    status=204,
)
def remove_run(id: str) -> Response:  # noqa: A002
    """Remove the run with its records and its result. One that is computed stops within a moment."""
    query(request.environ, ())
    with asking() as asked:
        removed = ID.fullmatch(id) is not None and asked.store.runs.remove(asked.owner, id)
    if not removed:
        raise unknown(id)
    return Response(status=204)


blueprint.get("/v1/runs")(list_runs)
blueprint.get("/v1/runs/<id>")(show_run)
blueprint.get("/v1/runs/<id>/steps")(run_steps)
blueprint.post("/v1/runs/<id>/cancel")(cancel_run)
blueprint.post("/v1/runs/<id>/resume")(resume_run)
blueprint.delete("/v1/runs/<id>")(remove_run)


def _more_steps(environ: dict[str, Any]) -> int | None:
    """Return the steps that a request to go on asks for; it may have no body. Raise `Problem`."""
    memory = runtime().memory.reservation()
    try:
        body = wire.read_body(environ, RESUME_BYTES, memory.need)
        if not body.strip():
            return None
        wire.check_content_type(environ)
        value = wire.parse(body, (), memory.need).value
        loaded: dict[str, Any] = MORE_STEPS.load(value)
    except ValidationError as error:
        raise from_validation(error, value) from None
    finally:
        memory.release()
    return loaded.get("steps")
