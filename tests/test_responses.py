"""What handlers return, and faults, become responses."""

import dataclasses
import datetime
import uuid

import msgspec
import pydantic
import pytest
from starlette.responses import RedirectResponse

from aquilia.faults import Fault
from aquilia.responses import fault_response, json_response, response_of


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Size:
    width: int


class Form(pydantic.BaseModel):
    email: str = pydantic.Field(alias="e-mail")
    born: datetime.date | None = None


@pytest.mark.parametrize(
    ("value", "body", "media_type"),
    [
        ("hé", "hé".encode(), "text/plain; charset=utf-8"),
        (b"\x00", b"\x00", "application/octet-stream"),
        ({"a": 1}, b'{"a":1}', "application/json"),
        ([1, None], b"[1,null]", "application/json"),
        (True, b"true", "application/json"),
        (Point(1), b'{"x":1}', "application/json"),
        (Size(2), b'{"width":2}', "application/json"),
        (uuid.UUID(int=0), b'"00000000-0000-0000-0000-000000000000"', "application/json"),
        (Form(**{"e-mail": "a@b"}), b'{"e-mail":"a@b","born":null}', "application/json"),
        (
            [Form(**{"e-mail": "a@b", "born": "2000-01-01"})],
            b'[{"e-mail":"a@b","born":"2000-01-01"}]',
            "application/json",
        ),
    ],
)
def test_a_value_becomes_a_body(value, body, media_type):
    response = response_of(value, 201)
    assert (response.body, response.headers["content-type"], response.status_code) == (body, media_type, 201)


@pytest.mark.parametrize(("declared", "sent"), [(200, 204), (201, 201), (202, 202)])
def test_none_is_no_content(declared, sent):
    response = response_of(None, declared)
    assert (response.status_code, response.body) == (sent, b"")
    assert "content-type" not in response.headers


def test_a_response_is_left_as_it_is():
    response = RedirectResponse("/elsewhere")
    assert response_of(response, 201) is response


def test_what_is_no_data_cannot_be_written():
    with pytest.raises(TypeError, match="a object cannot be written as JSON: return data, or a Response"):
        json_response({"a": object()})


def test_a_fault_is_told_as_json_with_its_status():
    response = fault_response(Fault("X", "no", status=429, retryable=True), {"retry-after": "1"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert msgspec.json.decode(response.body) == {"code": "X", "message": "no", "retryable": True}


def test_a_status_without_a_body_has_none():
    response = fault_response(Fault("X", "no", status=304), {"etag": "1"})
    assert (response.body, response.headers["etag"]) == (b"", "1")
