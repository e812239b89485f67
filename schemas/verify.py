"""The request and the response of `/v1/gradients/verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NotRequired

from marshmallow import ValidationError, fields

from schemas.check import ClaimedField
from schemas.common import about, finite_field, warnings_field
from schemas.components import Components, JSONSchema, closed_object, list_of
from schemas.fields import NumberField, WordField
from schemas.messages import Message, hint, plain, shown
from schemas.strict import StrictField, StrictSchema, read_each
from schemas.subject import LoadedSubject, SubjectRequest
from schemas.tensor import ParametersAnswerField
from service.engine.arrays import Array
from service.engine.insight.verify.claims import LAYOUTS
from service.engine.insight.verify.rounding import NOISES, RELATIVE, RELATIVE_FLOAT32

MOST_SUBMISSIONS = 1000
LONGEST_ID = 200
KEYS = ("id", "claimed")


class LoadedSubmission(NamedTuple):
    """One of several validated claims, with its id."""

    id: str
    claimed: Any


class SubmissionsField(StrictField):
    """A list of claimed gradients, each with an id."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[LoadedSubmission]:
        if not isinstance(value, list) or not 0 < len(value) <= MOST_SUBMISSIONS:
            instead = '; write [{"id": "…", "claimed": …}, …]' if isinstance(value, Mapping) else ""
            raise self.refuse(
                f"a list of 1 to {MOST_SUBMISSIONS} objects with 'id' and 'claimed'", value, instead=instead
            )
        claimed = ClaimedField()
        found: list[LoadedSubmission] = []
        seen: dict[str, int] = {}

        def read(entry: Any) -> None:
            if not isinstance(entry, Mapping):
                raise ValidationError(Message(f"takes an object with 'id' and 'claimed', got {shown(plain(entry))}"))
            errors: dict[str, Any] = {
                key: [Message(f"unknown key{hint(key, KEYS, 'key')}", KEYS)] for key in entry if key not in KEYS
            }
            errors |= {key: [Message("is required")] for key in KEYS if key not in entry}
            name = plain(entry.get("id"))
            if "id" in entry and not (isinstance(name, str) and 0 < len(name) <= LONGEST_ID):
                quoted = f'; write "{name}"' if type(name) is int else ""
                errors["id"] = [Message(f"takes a text of 1 to {LONGEST_ID} characters, got {shown(name)}{quoted}")]
            elif "id" in entry and name in seen:
                errors["id"] = [Message(f"is the id of submission {seen[name]} too; each needs one of its own")]
            read_claim = None
            if "claimed" in entry:
                try:
                    read_claim = claimed.read(entry["claimed"])
                except ValidationError as error:
                    errors["claimed"] = error.messages
            if errors:
                raise ValidationError(errors)
            seen[name] = len(found)
            found.append(LoadedSubmission(name, read_claim))

        read_each(enumerate(value), read)
        return found

    def json_schema(self, components: Components) -> JSONSchema:
        def make() -> JSONSchema:
            properties = {
                "id": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
                "claimed": ClaimedField().json_schema(components),
            }
            return closed_object(properties, list(KEYS)) | {"description": "One of several claimed gradients."}

        return list_of(components.refer("GradientSubmission", make), minItems=1, maxItems=MOST_SUBMISSIONS)


class LoadedVerify(LoadedSubject):
    """A validated request of `/v1/gradients/verify`."""

    claimed: NotRequired[Array | dict[str, Any]]
    submissions: NotRequired[list[LoadedSubmission]]
    layout: str
    tolerance: NotRequired[float]
    learning_rate: NotRequired[float]


class VerifyRequest(SubjectRequest[LoadedVerify]):
    """A request to judge claimed gradients of a network, or of an expression at a point."""

    fresh = frozenset((*SubjectRequest.fresh, "claimed", "submissions"))

    class Meta(SubjectRequest.Meta):
        exclude = ("exclude", "include")

    claimed = ClaimedField(
        metadata=about(
            "the gradient to judge, or a part of it: tensors by layer and parameter name, or by names such as "
            "`layer.weight`, or one flat list in the order of the parameters; beside an expression, numbers "
            "by variable or a list"
        )
    )
    submissions = SubmissionsField(metadata=about("several claims instead of `claimed`, each with its own id"))
    layout = WordField(
        LAYOUTS,
        "ParametersLayout",
        load_default="nabla",
        metadata=about(
            "layout of the claimed tensors. pytorch: `weight` and `bias`, the weight of a linear layer [out, "
            "in], of a convolution [out, in, …], of a recurrent layer `weight_ih_l0` and similar names"
        ),
    )
    tolerance = NumberField(
        minimum=0.0,
        metadata=about(
            "relative difference of an entry that is accepted, beside the effect of rounding: by default "
            f"{RELATIVE}, for a claim in float32 {RELATIVE_FLOAT32}"
        ),
    )
    learning_rate = NumberField(
        minimum=0.0,
        open_minimum=True,
        metadata=about("learning rate of the caller's updates, to tell an update from a gradient"),
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check that there is one claim or a list of them, and convert the numbers."""
        if ("claimed" in loaded) == ("submissions" in loaded):
            if "claimed" in loaded:
                raise ValidationError({"submissions": [Message("has no use beside 'claimed'; send one of them")]})
            raise ValidationError({"claimed": [Message("is required, or 'submissions' with several claims")]})
        return super().finish(loaded)


class WrongGradientEntrySchema(StrictSchema):
    """One wrong number of a claimed tensor, beside the right one."""

    index = fields.List(fields.Integer(), required=True, metadata=about("its index in the tensor, counted from 0"))
    expected = fields.Float(required=True, metadata=about("the right number"))
    claimed = fields.Float(required=True, metadata=about("the claimed number"))


class TensorVerdictSchema(StrictSchema):
    """The verdict on one claimed tensor."""

    parameter = fields.String(required=True, metadata=about("`layer.parameter`, or the variable"))
    verdict = fields.String(required=True, metadata=about("match or mismatch"))
    shape = fields.List(fields.Integer(), required=True, metadata=about("shape of the tensor in this service's layout"))
    error = fields.Float(required=True, allow_none=True, metadata=about("largest difference; null: wrong shape"))
    relative = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("length of the difference over the length of the right tensor; null if that is 0"),
    )
    tolerance = fields.Float(required=True, metadata=about("allowed error of the entry with the largest difference"))
    wrong = fields.Integer(required=True, metadata=about("number of entries beyond their allowed error"))
    ratio = fields.Float(metadata=about("the factor by which all entries are too large, if it is one number"))
    worst = fields.List(
        fields.Nested(WrongGradientEntrySchema), required=True, metadata=about("those with the largest differences")
    )


class VerdictToleranceSchema(StrictSchema):
    """The allowed error of an entry: a share of its size, and a multiple of its measured rounding error."""

    relative = fields.Float(required=True)
    noise_factor = fields.Float(required=True, metadata=about(f"multiple of an entry's measured noise: {NOISES:g}"))
    precision = fields.String(required=True, metadata=about("where rounding was measured: float64 or float32"))
    step = fields.Float(metadata=about("step length of the differences that explain the rest"))


class FirstWrongLayerSchema(StrictSchema):
    """The first layer whose gradients are wrong, on the way from the loss to the inputs."""

    layer = fields.String(required=True)
    parameters = fields.List(fields.String(), required=True, metadata=about("parameters that are wrong there"))
    right = fields.List(fields.String(), required=True, metadata=about("layers nearer to the loss, all right"))
    text = fields.String(required=True)


class MistakePlaceSchema(StrictSchema):
    """A mistake by its code, and where it was made."""

    mistake = fields.String(required=True)
    places = fields.List(fields.String(), required=True, metadata=about("layers, parameters; none: all, or the loss"))


class MistakeDiagnosisSchema(StrictSchema):
    """An explanation of a wrong claim: one or two known mistakes that produce its numbers."""

    mistakes = fields.List(
        fields.String(),
        required=True,
        metadata=about("codes, which GET /v1/mistakes explains; two codes mean two mistakes together"),
    )
    where = fields.List(fields.Nested(MistakePlaceSchema), required=True)
    explains = fields.List(fields.String(), required=True, metadata=about("the parameters that they explain"))
    precision = fields.Float(required=True, metadata=about("the relative error that is left"))
    text = fields.String(required=True, metadata=about("the mistake, in a sentence"))
    change = fields.String(required=True, metadata=about("the change to make in the code"))
    equivalent = fields.List(
        fields.List(fields.String()), required=True, metadata=about("mistakes with the same numbers")
    )
    learning_rate = fields.Float(metadata=about("learning rate that fits weights which were updated too early"))
    step = fields.Float(metadata=about("step length that fits differences"))
    sample = fields.Integer(metadata=about("the sample in question, counted from 0"))


class VerdictSchema(StrictSchema):
    """The verdict on one claimed gradient."""

    verdict = fields.String(required=True, metadata=about("match: right within the tolerance; mismatch: wrong"))
    text = fields.String(required=True)
    tolerance = fields.Nested(VerdictToleranceSchema, required=True)
    missing = fields.List(fields.String(), required=True, metadata=about("parameters or variables without a claim"))
    tensors = fields.List(fields.Nested(TensorVerdictSchema), required=True)
    first_wrong = fields.Nested(FirstWrongLayerSchema, metadata=about("of a network with a mismatch"))
    diagnoses = fields.List(
        fields.Nested(MistakeDiagnosisSchema),
        required=True,
        metadata=about("the best first; for a match: how it was computed, if it differs by more than rounding"),
    )


class SubmissionVerdictSchema(VerdictSchema):
    """The verdict on one of several claimed gradients."""

    id = fields.String(required=True)


class VerifyResponse(StrictSchema):
    """The verdict on a claimed gradient, or on each of several."""

    verdict = fields.String(metadata=about("match or mismatch; this and the following keys belong to `claimed`"))
    text = fields.String()
    tolerance = fields.Nested(VerdictToleranceSchema)
    missing = fields.List(fields.String(), metadata=about("parameters or variables without a claim"))
    tensors = fields.List(fields.Nested(TensorVerdictSchema))
    first_wrong = fields.Nested(FirstWrongLayerSchema)
    diagnoses = fields.List(fields.Nested(MistakeDiagnosisSchema))
    submissions = fields.List(fields.Nested(SubmissionVerdictSchema), metadata=about("in the request's order"))
    value = fields.Float(required=True, metadata=about("the loss, or the value of the expression"))
    parameters = ParametersAnswerField(metadata=about("present if the server initialised them"))
    finite = finite_field()
    warnings = warnings_field()
