"""The served schema: it says every path and nothing else, responses are as it says, and whatever is asked by it is
answered as it says."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jsonschema
import pytest

from qwenkit.errors import UserError
from qwenkit.inference import SamplingParams
from qwenkit.inference.sampling_params import VALIDATORS
from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Allowance, Client, Key, Keyring
from qwenkit.serving.openapi import RANGES, document
from qwenkit.serving.refusals import STATUS, Refusal
from qwenkit.serving.request import Failed
from qwenkit.serving.response_schemas import ANSWERS, ERRORS
from tests.serving.asgi import LIMIT, ask
from tests.serving.conftest import Desk
from tests.serving.faces.cases import CASES, Case
from tests.serving.test_server import running

EXAMPLES = 20
"""Requests to each operation, of each mode; `benchmarks/serve_schema.py` is the long form."""
NEGATIVE = "negative_data_rejection"
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "unsupported_method", "allow_header_conformance", "ignored_auth")  # fmt: skip
MOST_TOKENS = 4
SECRET = "sk-0123456789abcdef"
PATHS = document(CODECS, True)["paths"]
OPERATIONS = [(path, method) for path, methods in PATHS.items() for method in methods]


def fits(value: Any, name: str) -> None:
    """Raise where a value is not of one of the document's schemas."""
    schemas = document(CODECS, False)["components"]["schemas"]
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    ).validate(value)


# ---- the document ---------------------------------------------------------------------------------------------------


def test_every_path_is_in_the_document_and_no_other(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    served = ask(app, "GET", "/openapi.json").json
    routes = {(route.path.replace(":path", ""), method.lower()) for route in app.routes for method in route.methods
              if getattr(route, "include_in_schema", True) or route.path == "/openapi.json"}  # fmt: skip
    assert {(path, method) for path, method in routes if method != "head"} == set(OPERATIONS)
    assert served == json.loads(json.dumps(document(CODECS, False)))
    assert served["security"][0] == {} and document(CODECS, True)["security"] == [{"bearer": []}, {"x_api_key": []}]
    assert all(
        not operation.get("security", True) for path in ("/health", "/ready") for operation in PATHS[path].values()
    )


def test_the_document_is_of_openapi() -> None:
    """Every reference leads somewhere, every schema is one, every operation has an id of its own."""
    made = document(CODECS, True)
    ids = [operation["operationId"] for methods in made["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, method in OPERATIONS:
        body = made["paths"][path][method].get("requestBody")
        assert (body is not None) == (method == "post")
        if body:
            given = body["content"]["application/json"]
            jsonschema.Draft202012Validator.check_schema(given["schema"])
            jsonschema.Draft202012Validator(given["schema"]).validate(given["example"])
    text = json.dumps(made)
    for name in made["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is not used"
    assert {status for methods in PATHS.values() for each in methods.values() for status in each["responses"]} == {
        "200",
        *(str(status) for status in STATUS.values() if status != 405),
    }


@pytest.mark.parametrize("case", [case for case in CASES.values() if not isinstance(case.events[-1], Failed)])
def test_responses_are_as_the_document_says(case: Case) -> None:
    whole = case.whole()
    fits(whole, ANSWERS[case.face])
    for name in whole:
        lacking = {key: value for key, value in whole.items() if key != name}
        if name in document(CODECS, False)["components"]["schemas"][ANSWERS[case.face]]["required"]:
            with pytest.raises(jsonschema.ValidationError):
                fits(lacking, ANSWERS[case.face])


@pytest.mark.parametrize("face", ANSWERS)
def test_refusals_are_as_the_document_says(face: str) -> None:
    codec = next(codec for codec in CODECS.values() if codec.__name__.endswith(f".{face}"))
    for kind in STATUS:
        fits(codec.error(Refusal(kind, "is wrong", "field", "something else"))[1], ERRORS.get(face, "OpenAIError"))


def test_a_method_that_a_path_has_not_tells_those_that_it_has(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    answer = ask(app, "PUT", "/v1/chat/completions")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    for path in ("/health", "/v1/models", "/v1/models/tiny"):
        assert {*ask(app, "POST", path).headers["allow"].split(", ")} == {"GET", "HEAD"}
        assert ask(app, "HEAD", path).status == 200


@pytest.mark.parametrize("path", [path for path, method in OPERATIONS if method == "post"])
def test_the_examples_are_answered(desk: Desk, path: str) -> None:
    example = PATHS[path]["post"]["requestBody"]["content"]["application/json"]["example"]
    answer = ask(desk.app(codecs=CODECS), "POST", path, example)
    assert answer.status == 200
    schema = PATHS[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    fits(answer.json, schema["$ref"].rpartition("/")[2])


def test_the_ranges_of_sampling_are_those_that_are_taken() -> None:
    """The least and the most are taken, and what lies beyond is not."""
    for name, schema in RANGES.items():
        if name not in VALIDATORS or name == "n":  # more answers than the server gives are another refusal
            continue
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                SamplingParams(**{name: schema[bound]})
                with pytest.raises(UserError):
                    SamplingParams(**{name: schema[bound] + beyond})


# ---- whatever the schema allows -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="served")
def _served(tiny: Path) -> Iterator[Any]:
    """The schema of a running server that wants a key and gives short answers."""
    try:
        schemathesis = importlib.import_module("schemathesis")
    except ImportError:
        pytest.skip("schemathesis is not installed: pip install 'qwenkit[dev]'")
    desk = Desk(tiny)
    client = Client("a", Allowance(max_tokens=MOST_TOKENS))
    try:
        with running(desk, codecs=CODECS, keyring=Keyring([Key.of(client, SECRET)])) as made:
            config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
            url = f"http://127.0.0.1:{made.port}/openapi.json"
            yield schemathesis.openapi.from_url(url, headers={"X-Api-Key": SECRET}, config=config)
    finally:
        desk.close()


def few_fields(body: dict[str, Any], example: dict[str, Any], data: Any) -> dict[str, Any]:
    """Return an example with one or two of a body's other fields: all of them at once nearly always contradict each
    other, or ask for more than this server gives."""
    others = sorted({*body} - {*example, "model"})
    chosen = data.draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
    made = {**example, **{name: body[name] for name in chosen}}
    return {name: MOST_TOKENS if name.startswith("max_") else value for name, value in made.items()}


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(path, method, mode) for path, method in OPERATIONS
     for mode in (("positive", "few fields", "negative") if method == "post" else ("positive",))],
)  # fmt: skip
def test_what_the_schema_allows_is_answered_as_it_says(served: Any, path: str, method: str, mode: str) -> None:
    schemathesis, checks = (importlib.import_module(name) for name in ("schemathesis", "schemathesis.checks"))
    named = checks.CHECKS.get_by_names([*CHECKS, *([NEGATIVE] if mode == "negative" else [])])
    kind = schemathesis.GenerationMode("negative" if mode == "negative" else "positive")
    statuses: set[int] = set()

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=served[path][method.upper()].as_strategy(kind), data=st.data())
    def answers(case: Any, data: Any) -> None:
        if mode == "few fields":
            content = PATHS[path][method]["requestBody"]["content"]["application/json"]
            case.body = few_fields(case.body, content["example"], data)
        given = {"X-Api-Key": SECRET}
        response = case.call(headers=given, timeout=LIMIT)
        statuses.add(response.status_code)
        case.validate_response(response, checks=named, headers=given)

    answers()
    assert mode != "few fields" or 200 in statuses, "not one of these requests was answered"


@pytest.mark.parametrize("path", CODECS)
def test_streams_are_as_the_document_says(served: Any, path: str) -> None:
    checks = importlib.import_module("schemathesis.checks").CHECKS.get_by_names([*CHECKS])
    example = PATHS[path]["post"]["requestBody"]["content"]["application/json"]["example"]
    short = {name: MOST_TOKENS if name.startswith("max_") else value for name, value in example.items()}
    case = served[path]["POST"].Case(body={**short, "stream": True}, media_type="application/json")
    response = case.call(headers={"X-Api-Key": SECRET}, timeout=LIMIT)
    assert response.status_code == 200 and response.headers["content-type"] == ["text/event-stream; charset=utf-8"]
    case.validate_response(response, checks=checks, headers={"X-Api-Key": SECRET})
