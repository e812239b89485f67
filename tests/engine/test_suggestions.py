"""Suggestions for names of other libraries, other spellings and misspellings."""

from service.engine.descent.optimizers import optimizers
from service.engine.descent.schedules import schedules
from service.engine.foreign import AFFIXES, FOREIGN, fold
from service.engine.network.activations import activations
from service.engine.network.initializers import initializers
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from service.engine.network.regularizers import regularizers
from service.engine.suggestions import NOTHING, Suggestion, suggest, translated
from tests.support import every

REGISTRIES = {
    registry.kind: registry
    for registry in (layers, activations, losses, optimizers, schedules, initializers, regularizers)
}


@every("kind", REGISTRIES)
def test_foreign_names_stand_for_blocks_that_exist(kind: str) -> None:
    registry = REGISTRIES[kind]
    for name, foreign in FOREIGN[kind].items():
        assert all(each in registry for each in foreign.here), name
        assert foreign.here or foreign.note, name


@every("kind", REGISTRIES)
def test_no_foreign_name_is_a_known_one(kind: str) -> None:
    known = {fold(name) for name in REGISTRIES[kind].names}
    assert not known & set(FOREIGN[kind])


def test_every_kind_of_block_has_a_table() -> None:
    assert set(REGISTRIES) == set(AFFIXES) and set(REGISTRIES) < set(FOREIGN)


def test_notes_are_one_sentence() -> None:
    for table in FOREIGN.values():
        for name, foreign in table.items():
            assert not foreign.note or foreign.note[-1] in ".}", name
            assert len(foreign.note) < 150, name


@every(
    ("name", "folded"),
    [
        ("ReLU", "relu"),
        ("leaky_relu", "leakyrelu"),
        ("Leaky-ReLU", "leakyrelu"),
        ("leaky relu", "leakyrelu"),
        ("torch.nn.ReLU", "relu"),
        ("nn.ReLU(inplace=True)", "relu"),
        ("keras.layers.Dense", "dense"),
        ("θ", "θ"),
        ("", ""),
        ("___", ""),
    ],
)
def test_a_name_is_folded(name: str, folded: str) -> None:
    assert fold(name) == folded


@every(
    ("kind", "name", "known", "expected"),
    [
        ("activation", "ReLU", ["prelu", "relu"], "relu"),
        ("activation", "rellu", ["prelu", "relu"], "relu"),
        ("activation", "SigmoidActivation", ["sigmoid"], "sigmoid"),
        ("optimizer", "AdamOptimizer", ["adam"], "adam"),
        ("layer", "nn.Linear", ["dense"], "dense"),
        ("loss", "CrossEntropyLos", ["sparse_categorical_crossentropy"], "sparse_categorical_crossentropy"),
        ("key", "lr", ["steps", "learning_rate"], "learning_rate"),
        ("key", "lr", ["steps"], ""),
        ("", "lr", ["learning_rate"], ""),
        ("key", "out_channels", ["filters", "units"], "units"),
        ("key", "out_channels", ["filters"], "filters"),
        ("parameter", "W", ["kernel", "bias"], "kernel"),
        ("choice", "torch.float32", ["float32", "float64"], "float32"),
        ("activation", "", ["relu"], ""),
        ("activation", 3, ["relu"], ""),
        ("activation", None, ["relu"], ""),
        ("activation", "x" * 1000, ["relu"], ""),
        ("activation", "().[]", ["relu"], ""),
    ],
)
def test_the_probable_name_is_suggested(kind: str, name: object, known: list[str], expected: str) -> None:
    assert suggest(kind, name, known).name == expected


def test_a_certain_name_goes_before_a_similar_one_of_an_earlier_group() -> None:
    assert suggest("key", "eps", ["steps"], ["epsilon"]).name == "epsilon"
    assert suggest("key", "step", ["steps"], ["epsilon"]).name == "steps"


def test_a_similar_name_is_not_certain() -> None:
    assert translated("activation", "rellu", ["relu"]) == NOTHING
    assert translated("activation", "RELU", ["relu"]) == Suggestion("relu")


def test_a_suggestion_continues_a_sentence() -> None:
    assert str(NOTHING) == ""
    assert str(Suggestion("relu")) == "; did you mean 'relu'?"
    assert str(Suggestion("dense", "Its inputs are inferred.")) == "; did you mean 'dense'? Its inputs are inferred."
    assert str(Suggestion("", "Leave it out.")) == ": leave it out"
