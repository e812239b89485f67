"""The texts of every language: complete, used, with the same places, and in their own language throughout."""

import ast
import functools
import re
from pathlib import Path

import pytest

from service.engine.findings import findings
from service.engine.insight.mistakes import mistakes
from service.engine.texts import LANGUAGES, PLURALS, places, say, short, telling, texts_of
from tests.support import every

SERVICE = Path(__file__).parents[2] / "service"
TEXTS = {language: texts_of(language) for language in LANGUAGES}
ENGLISH = TEXTS["en"]
OF_THIS_MODULE = {"list.words", "list.sentences", "list.stop"}
"""Texts that `telling` itself takes out of the files."""
KEYS = sorted(set(ENGLISH) - OF_THIS_MODULE)
CODE = re.compile(r"`[^`]*`|\{\w+\}")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@functools.cache
def said() -> dict[str, set[str]]:
    """Return every key in the code, with the arguments that it gets."""
    found: dict[str, set[str]] = {}
    for path in SERVICE.rglob("*.py"):
        code = path.read_text()
        for call in ast.walk(ast.parse(code)) if re.search(r"\bsay\b", code) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "say":
                where = f"{path.name}:{call.lineno}"
                assert len(call.args) == 1, f"{where} needs the key alone before the names"
                key = call.args[0]
                assert isinstance(key, ast.Constant), f"the key in {where} is no literal, so nobody can look for it"
                names = {each.arg for each in call.keywords}
                assert None not in names, f"{where} hides its arguments"
                given = found.setdefault(key.value, names)
                assert given == names, f"{where} says {key.value!r} with other arguments than elsewhere"
    declared = [finding.advice for finding in findings]
    declared += [sentence for mistake in mistakes for sentence in (mistake.what, mistake.change)]
    return found | {sentence.key: set() for sentence in declared}


def test_every_text_that_is_said_is_there_and_no_other():
    assert set(ENGLISH) - OF_THIS_MODULE == set(said())


@every("language", LANGUAGES)
def test_every_language_has_every_text(language):
    assert TEXTS[language].keys() == ENGLISH.keys()
    assert list(TEXTS[language]) == list(ENGLISH), "in one order, a translator finds the texts side by side"


@every("language", LANGUAGES)
def test_a_text_has_the_places_that_the_code_fills(language):
    wanted = {PLURALS[language](count) for count in range(200)}
    for key in KEYS:
        forms, names = TEXTS[language][key], said()[key]
        assert "other" in forms, key
        assert set(places(forms["other"])) == names, key
        for form in forms.values():
            assert form and form == form.strip(), key
            assert names - {"count"} <= set(places(form)) <= names, f"{key}: the one sample needs no number"
        if len(forms) > 1:
            assert "count" in names, key
            assert set(forms) == wanted, key


@every("language", LANGUAGES)
def test_code_is_quoted_and_quotes_are_closed(language):
    for key in KEYS:
        for form in TEXTS[language][key].values():
            assert form.count("`") % 2 == 0, key
            ends = form.endswith(("." if language == "en" else "。", "}"))
            whole = ENGLISH[key]["other"].endswith((".", "}"))
            assert ends == whole, f"{key}: one is a sentence, and the other is not"


def test_chinese_texts_are_chinese_and_english_ones_english():
    for key in KEYS:
        for form in TEXTS["zh"][key].values():
            assert not re.findall(r"[A-Za-z]{2,}", CODE.sub("", form)), f"{key}: code stands between backticks"
        for form in ENGLISH[key].values():
            assert not CHINESE.search(form), key
        words = re.search(r"[A-Za-z]{2,}", CODE.sub("", ENGLISH[key]["other"]))
        assert not words or any(map(CHINESE.search, TEXTS["zh"][key].values())), f"{key}: it is not translated"


def test_numbers_are_short_and_keep_their_size():
    assert [short(number) for number in (0.0, -0.25, 1 / 3, 123456.789, 1.25e-7, -3e22)] == [
        *("0", "-0.25", "0.333333", "123457", "1.25e-7", "-3e22")
    ]


def test_sentences_hold_words_numbers_lists_and_other_sentences(monkeypatch):
    texts = {
        "list.words": {"other": " + "},
        "list.sentences": {"other": " "},
        "list.stop": {"other": "."},
        "outer": {"one": "{count} thing: {inner}", "other": "{count} things: {inner}"},
        "inner": {"other": "`{name}` is {value}"},
        "whole": {"other": "It is {value}."},
    }
    monkeypatch.setattr("service.engine.texts.texts_of", lambda language: texts)
    tell = telling.__wrapped__("en")
    inner = [_said("inner", name="a.kernel", value=0.5), "b"]
    assert tell(_said("outer", count=1, inner=inner)) == "1 thing: `a.kernel` is 0.5 + b"
    assert tell(_said("outer", count=12345, inner="x")) == "12,345 things: x"
    several = [_said("whole", value=value) for value in (1.5, 2.0)]
    assert tell(_said("outer", count=1, inner=several)) == "1 thing: It is 1.5. It is 2."
    with pytest.raises(KeyError):
        tell(_said("outer", count=2))


_said = say
"""Under another name: these keys are not in the files."""
