"""The view of `/v1/landscape`, which computes the loss around the parameters and its curvature."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from schemas.landscape import LandscapeRequest, LandscapeResponse, LoadedLandscape
from service.api.answers import NUMBER_BYTES, listed
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import GRADIENTS, Example
from service.api.insight_examples import LANDSCAPE
from service.api.network_request import compiled, in_terms_of, task_and_feed
from service.engine.errors import Path
from service.engine.insight.lanczos import Pairs
from service.engine.insight.landscape import Survey, Trajectory, points_of
from service.engine.insight.landscape_values import AskedLandscape, AxisValues, Extreme, Landscape, PathValues
from service.engine.insight.landscape_words import about_axis, about_spectrum
from service.engine.insight.spectrum import Spectrum
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.flat import tree_of
from service.engine.network.parameters import ParameterVector
from service.engine.texts import Tell, telling

blueprint = Blueprint("landscape", __name__)


@post(
    blueprint,
    "/v1/landscape",
    takes=LandscapeRequest(),
    gives=LandscapeResponse(),
    summary="The loss around the parameters, and its curvature",
    tag="Insight",
    examples=LANDSCAPE,
    mistake=Example(
        "The layer has two units, counted from 0.",
        **{key: value for key, value in GRADIENTS["xor"].items() if key != "include"}
        | {"along": [{"parameter": "hidden.bias[2]"}]},
    ),
)
def landscape(request: LoadedLandscape, context: Context) -> dict[str, Any]:
    """Compute the loss along one weight or direction, or over two, with its exact slopes.

    Axes are single weights, random directions that are normalised filter by filter, the gradient, eigenvectors of the
    Hessian, and the principal directions of a trajectory. Each has slope and curvature at the parameters and the
    largest stable step that follows from them. `spectrum` asks for the eigenvalues of the Hessian: of the whole matrix
    if the network is small, else by Lanczos' method, with residuals.
    """
    with in_terms_of(request):
        task, feed = task_and_feed(request, context.limits)
        evaluation = compiled(EvaluationTask(task), feed, context)
        asked = AskedLandscape(
            request.get("along", ()), "slopes" not in request["exclude"], request["levels"], request.get("spectrum")
        )
        numbers = points_of(asked) * (1 + (len(asked.axes) if asked.slopes else 0))
        vector = evaluation.feeder.parameters
        if "directions" in request["include"]:
            numbers += len(asked.axes) * sum(node.size for node in vector.nodes)
        loaded = context.loaded_bytes + NUMBER_BYTES * numbers
        context.weigh(evaluation.program, evaluation.program.work * numbers, numbers=numbers)
        survey = Survey(
            context.compiled,
            evaluation,
            feed,
            asked,
            _trajectory(request),
            context.limits,
            lambda nbytes: context.memory.need(loaded + nbytes),
            context.ticket,
        )
        found = survey.run()
    context.timer.mark("compute")
    return _answer(request, found, vector, context.language)


def _trajectory(request: LoadedLandscape) -> Trajectory | None:
    sent = request.get("trajectory")
    if sent is None:
        return None
    paths: list[Path] = [
        ("trajectory", place, "parameters") if point.in_step else ("trajectory", place)
        for place, point in enumerate(sent)
    ]
    return Trajectory([point.tree for point in sent], paths)


def _answer(request: LoadedLandscape, found: Landscape, vector: ParameterVector, language: str) -> dict[str, Any]:
    """Return the JSON object of the response; its keys come most important first."""
    tell = telling(language)
    answer: dict[str, Any] = {
        "dtype": request["dtype"],
        "loss": found.loss,
        "gradient_norm": found.gradient_norm,
        "axes": [_axis(axis, vector if "directions" in request["include"] else None, tell) for axis in found.axes],
    }
    if found.losses is not None and found.levels is not None:
        answer["losses"] = found.losses
        if found.tangent is not None:
            answer |= {"tangent": found.tangent, "parabola": found.parabola}
        answer["hessian"] = found.hessian
        if found.cosine is not None:
            answer["cosine"] = found.cosine
        answer |= {"minimum": _extreme(found.minimum), "maximum": _extreme(found.maximum)}
        answer |= {"levels": found.levels.values, "spacing": found.levels.spacing}
    if found.path is not None:
        answer["trajectory"] = _path(found.path)
    if "spectrum" in request:
        answer["spectrum"] = None if found.spectrum is None else _spectrum(found.spectrum, found, tell)
    answer |= {"finite": found.finite, "warnings": listed(found.warnings, language)}
    if found.parameters is not None and "parameters" not in request["exclude"]:
        answer["parameters"] = found.parameters
    return answer


def _axis(axis: AxisValues, vector: ParameterVector | None, tell: Tell) -> dict[str, Any]:
    asked, direction = axis.asked, axis.direction
    entry: dict[str, Any] = (
        {"direction": asked.direction} if asked.parameter is None else {"parameter": asked.parameter}
    )
    entry |= {
        "centre": axis.centre,
        "values": axis.values,
        "norm": axis.norm,
        "slope": axis.slope,
        "curvature": axis.curvature,
        "largest_stable_step": axis.largest_stable_step,
    }
    if direction.eigenvalue is not None:
        entry |= {"eigenvalue": direction.eigenvalue, "residual": direction.residual}
    if direction.explained is not None:
        entry["explained"] = direction.explained
    if axis.slopes is not None:
        entry["slopes"] = axis.slopes
    if vector is not None:
        entry["vector"] = tree_of(vector.pieces, direction.vector)
    entry["texts"] = [tell(sentence) for sentence in about_axis(axis)]
    return entry


def _extreme(extreme: Extreme | None) -> dict[str, Any] | None:
    return None if extreme is None else {"place": extreme.place, "loss": extreme.loss}


def _path(path: PathValues) -> dict[str, Any]:
    return {"coordinates": path.coordinates, "losses": path.losses, "distances": path.distances}


def _spectrum(spectrum: Spectrum, found: Landscape, tell: Tell) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "method": spectrum.method,
        "size": spectrum.size,
        "largest": _pairs(spectrum.largest),
        "smallest": _pairs(spectrum.smallest),
        "largest_stable_step": spectrum.largest_stable_step,
        "products": spectrum.products,
        "converged": spectrum.converged,
    }
    if spectrum.eigenvalues is not None:
        entry |= {"eigenvalues": spectrum.eigenvalues, "signs": spectrum.signs}
    if spectrum.trace is not None:
        entry |= {"trace": spectrum.trace, "trace_error": spectrum.trace_error}
    density = spectrum.density
    if density is not None:
        entry["density"] = {
            "values": density.values,
            "density": density.density,
            "width": density.width,
            "probes": density.probes,
        }
    entry["texts"] = [tell(sentence) for sentence in about_spectrum(found)]
    return entry


def _pairs(pairs: Pairs) -> list[dict[str, float]]:
    return [
        {"value": value, "residual": residual}
        for value, residual in zip(pairs.values.tolist(), pairs.residuals.tolist(), strict=True)
    ]
