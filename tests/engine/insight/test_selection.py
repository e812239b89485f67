"""Parameters named in one string: what is selected, and what a refusal teaches."""

import numpy as np
import pytest

from service.engine.errors import InvalidRequest
from service.engine.insight.selection import select, select_one
from service.engine.network.flat import Piece
from tests.support import every

PATH = ("along", 0, "parameter")
PARTS = [
    Piece(("hidden", "kernel"), 0, 6, (2, 3)),
    Piece(("hidden", "bias"), 6, 9, (3,)),
    Piece(("a layer", "alpha"), 9, 10, ()),
    Piece(("conv-1", "kernel"), 10, 34, (2, 3, 2, 2)),
]


KERNEL = "names {} numbers, because kernel has shape [2, 3]; name one of them, as 'hidden.kernel[{}][0]'"


@every("part", PARTS, ids=lambda part: f"{part.layer}.{part.name}")
def test_every_number_has_its_place_and_its_name(part):
    places = np.arange(part.start, part.stop).reshape(part.shape)
    for index in np.ndindex(*part.shape):
        label = f"{part.layer}.{part.name}" + "".join(f"[{n}]" for n in index)
        one = select_one(label, PARTS, PATH)
        assert (one.start, one.size, one.label) == (places[index], 1, label)


def test_a_selector_may_stop_early():
    assert [each.label for each in select("hidden", PARTS, PATH)] == ["hidden.kernel", "hidden.bias"]
    (row,) = select("hidden.kernel[1]", PARTS, PATH)
    assert (row.start, row.size) == (3, 3)
    (inner,) = select("conv-1.kernel[1][2]", PARTS, PATH)
    assert (inner.start, inner.size) == (10 + 12 + 8, 4)


@every(
    ("text", "words"),
    [
        ("hiden.kernel[0][0]", "did you mean 'hidden'?"),
        ("nothing", "no layer with parameters of its own is called 'nothing'"),
        ("hidden.weight[0][0]", "did you mean 'kernel'?"),
        ("hidden.gamma", "layer 'hidden' has no parameter 'gamma'"),
        ("hidden.kernel[2][0]", "axis 0 of hidden.kernel has 2, so it takes 0 to 1"),
        ("hidden.kernel[0][3]", "axis 1 of hidden.kernel has 3, so it takes 0 to 2"),
        ("hidden.bias[3]", "its axis of hidden.bias has 3"),
        ("hidden.kernel[-1][0]", "takes an integer from 0 to 1"),
        ("hidden.kernel[0, 1]", "write hidden.kernel[0][1]"),
        ("hidden.kernel[0.0][1]", "takes an integer"),
        ("hidden.kernel[9999999999999999][1]", "takes an integer"),
        ("hidden.bias[0][0]", "has 2 indices; hidden.bias has shape [3], so it takes 1"),
        ("hidden.kernel[0", "takes a layer, a parameter and indices"),
        ("hidden[0]", "takes a layer, a parameter and indices"),
        ("hidden.kernel.0", "no layer with parameters of its own is called 'hidden.kernel'"),
        ("", "takes a layer, a parameter and indices"),
    ],
)
def test_a_refusal_lists_the_possible_names(text, words):
    with pytest.raises(InvalidRequest) as refused:
        select(text, PARTS, PATH)
    (fault,) = refused.value.faults
    assert fault.path == PATH
    assert words in fault.detail


@every(
    ("text", "words"),
    [
        ("hidden", "names a whole layer; name one number, as 'hidden.kernel[0][0]'"),
        ("hidden.kernel", KERNEL.format(6, 0)),
        ("hidden.kernel[1]", KERNEL.format(3, 1)),
    ],
)
def test_where_one_number_is_wanted_several_are_refused(text, words):
    with pytest.raises(InvalidRequest) as refused:
        select_one(text, PARTS, PATH)
    assert refused.value.faults[0].detail == words
