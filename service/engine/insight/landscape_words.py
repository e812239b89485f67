"""Sentences that say what the numbers of a landscape mean."""

from __future__ import annotations

import math
from collections.abc import Iterator

from service.engine.insight.landscape_values import AxisValues, Landscape
from service.engine.insight.spectrum import Spectrum
from service.engine.texts import Sentence, say


def about_axis(axis: AxisValues) -> list[Sentence]:
    """Return sentences about an axis: what it is, and what slope and curvature along it mean at the centre."""
    return [*_what(axis), *_slope(axis), *_curvature(axis)]


def _what(axis: AxisValues) -> Iterator[Sentence]:
    asked, direction = axis.asked, axis.direction
    if asked.direction == "random":
        match asked.normalize:
            case "filter":
                yield say("landscape.random.filter")
            case "layer":
                yield say("landscape.random.layer")
            case _:
                yield say("landscape.random.none")
    elif asked.direction == "gradient":
        yield say("landscape.gradient")
    elif direction.eigenvalue is not None:
        yield say("landscape.eigenvector", value=direction.eigenvalue)
    elif direction.explained is not None:
        yield say("landscape.principal", share=100.0 * direction.explained)


def _slope(axis: AxisValues) -> Iterator[Sentence]:
    slope, parameter = axis.slope, axis.asked.parameter
    if not math.isfinite(slope):
        return
    if parameter is None:
        if slope == 0.0:
            yield say("landscape.slope.flat")
        elif axis.asked.direction != "gradient":
            yield say("landscape.slope.direction", slope=slope)
    elif slope > 0.0:
        yield say("landscape.slope.decrease", parameter=parameter, value=axis.centre, slope=slope)
    elif slope < 0.0:
        yield say("landscape.slope.increase", parameter=parameter, value=axis.centre, slope=slope)
    else:
        yield say("landscape.slope.stationary", parameter=parameter, value=axis.centre)


def _curvature(axis: AxisValues) -> Iterator[Sentence]:
    curvature, step = axis.curvature, axis.largest_stable_step
    if not math.isfinite(curvature):
        return
    if step is not None and axis.asked.parameter is not None:
        yield say("landscape.curvature.parameter", curvature=curvature, step=step)
    elif step is not None:
        yield say("landscape.curvature.direction", curvature=axis.bend, step=step)
    elif curvature < 0.0:
        yield say("landscape.curvature.down", curvature=curvature)
    else:
        yield say("landscape.curvature.straight")


def about_spectrum(found: Landscape) -> list[Sentence]:
    """Return sentences that say what the ends of the spectrum mean for descent; none without a spectrum."""
    spectrum = found.spectrum
    return [] if spectrum is None else [*_steepest(spectrum), *_lowest(spectrum)]


def _steepest(spectrum: Spectrum) -> Iterator[Sentence]:
    if not spectrum.largest.values.size:
        return
    value = float(spectrum.largest.values[0])
    step = spectrum.largest_stable_step
    if step is not None:
        yield say("landscape.spectrum.step", value=value, step=step)
    else:
        yield say("landscape.spectrum.concave", value=value)


def _lowest(spectrum: Spectrum) -> Iterator[Sentence]:
    signs = spectrum.signs
    if signs is not None:
        if signs["negative"]:
            yield say("landscape.spectrum.negative", count=signs["negative"], size=spectrum.size)
        elif signs["zero"]:
            yield say("landscape.spectrum.zero", count=signs["zero"], size=spectrum.size)
        else:
            yield say("landscape.spectrum.positive", size=spectrum.size)
    elif spectrum.smallest.values.size:
        value, residual = float(spectrum.smallest.values[-1]), float(spectrum.smallest.residuals[-1])
        if value < -residual:
            yield say("landscape.spectrum.below", value=value)
    if spectrum.method == "lanczos":
        yield say("landscape.spectrum.lanczos", count=spectrum.products)
