"""The language of an answer: by the request, else by the header, and what the answer says of it."""

from service import wire
from service.engine.texts import LANGUAGES
from tests.conftest import Post
from tests.support import every


@every(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-Hant-TW", "zh"),
        ("en-GB, zh;q=0.5", "en"),
        ("de, zh;q=0.5, en;q=0.1", "zh"),
        ("de", "en"),
        ("*", "en"),
        ("en;q=0, zh", "zh"),
        (";;;=,q", "en"),
    ],
)
def test_the_header_chooses_among_the_languages_there_are(header: str | None, language: str) -> None:
    environ = {} if header is None else {"HTTP_ACCEPT_LANGUAGE": header}
    assert wire.preferred_language(environ, LANGUAGES) == language


def test_warnings_that_are_findings_are_told_in_the_language_of_the_answer(post: Post) -> None:
    network = {"layers": [{"type": "dense", "units": 2, "activation": "step"}, {"type": "dense", "units": 1}]}
    body = {
        "network": network,
        "inputs": [[1, 2]],
        "targets": [[1]],
        "loss": "mean_squared_error",
        "along": [{"direction": "gradient"}],
    }
    english, chinese = (post(body | {"language": language}, "/v1/landscape").json for language in ("en", "zh"))
    assert [each["code"] for each in english["warnings"]] == [each["code"] for each in chinese["warnings"]]
    told = next(each for each in chinese["warnings"] if each["code"] == "gradient_blocked")
    assert told["message"].startswith("层 'dense_1' 挡住了梯度")
