from __future__ import annotations

import math
import uuid
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aquilia.patterns import (
    Parameter,
    Pattern,
    PatternConflict,
    PatternError,
    PatternTable,
    compile_pattern,
    normalise_path,
)


def table(*sources: str) -> PatternTable[str]:
    patterns: PatternTable[str] = PatternTable()
    for source in sources:
        patterns.add(source, source, where="here")
    return patterns


def winner(path: str, *sources: str) -> str | None:
    match = table(*sources).match(path)
    return match.value if match else None


# --- normalisation


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("", "/"),
        ("/", "/"),
        ("///", "/"),
        ("chat", "/chat"),
        ("/chat/", "/chat"),
        ("//chat///acme//", "/chat/acme"),
        ("/chat/a b", "/chat/a b"),
    ],
)
def test_a_path_has_one_spelling(path, normal):
    assert normalise_path(path) == normal


@given(st.text(alphabet="/ab."))
def test_normalising_twice_changes_nothing(path):
    assert normalise_path(normalise_path(path)) == normalise_path(path)


# --- compiling


def test_a_pattern_tells_its_parameters():
    pattern = compile_pattern("/a/:x/:id:int/*rest")
    assert pattern.parameters == (Parameter("x", "str"), Parameter("id", "int"), Parameter("rest", "path"))
    assert pattern.shape == compile_pattern("/a/:y/:n:int/:tail:path").shape
    assert pattern.shape != compile_pattern("/a/:y/:n/*rest").shape


def test_a_pattern_is_normalised_like_a_path():
    assert compile_pattern("//chat//:room/").source == "/chat/:room"
    assert compile_pattern("/").source == "/"


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("chat", "write '/chat'"),
        ("", "write '/'"),
        ("/:", "name is an identifier"),
        ("/*", "name is an identifier"),
        ("/:user-id", "name is an identifier"),
        ("/:1st", "name is an identifier"),
        ("/:id:", "there is no kind ''"),
        ("/:id:integer", "did you mean 'int'?"),
        ("/:id:string", "did you mean 'str'?"),
        ("/:id:bool", "only int, uuid, float, str, path"),
        ("/:id:int:str", "there is no kind 'int:str'"),
        ("/:a/:a", "the parameter 'a' twice"),
        ("/:a/*a", "the parameter 'a' twice"),
        ("/*rest/edit", "only its last segment can be a path"),
        ("/:rest:path/edit", "only its last segment can be a path"),
        ("/*rest:int", "write '*rest'"),
        ("/user-:id", "fills a whole segment"),
        ("/files/x*", "fills a whole segment"),
        ("/{id}", 'written ":name"'),
        ("/<id>", 'written ":name"'),
        ("/a?b=1", "no query"),
        ("/caf%C3%A9", "written decoded"),
        ("/a/../b", "no path matches"),
        ("/./b", "no path matches"),
        ("/a\0", "no path matches"),
    ],
)
def test_bad_syntax_is_refused_with_a_reason(source, part):
    with pytest.raises(PatternError) as caught:
        compile_pattern(source)
    assert caught.value.source == source
    assert part in caught.value.problem
    assert str(caught.value) == f"path pattern {source!r}: {caught.value.problem}"


# --- matching one pattern

ID = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@pytest.mark.parametrize(
    ("source", "path", "params"),
    [
        ("/", "/", {}),
        ("/", "", {}),
        ("/chat", "/chat/", {}),
        ("/chat/:room", "/chat/acme", {"room": "acme"}),
        ("/chat/:room", "//chat//acme/", {"room": "acme"}),
        ("/chat/:room", "/chat/日本 語", {"room": "日本 語"}),
        ("/chat/:room", "/chat/...", {"room": "..."}),
        ("/n/:id:int", "/n/42", {"id": 42}),
        ("/n/:id:int", "/n/-7", {"id": -7}),
        ("/n/:id:int", "/n/007", {"id": 7}),
        ("/n/:v:float", "/n/1.5", {"v": 1.5}),
        ("/n/:v:float", "/n/-2e-3", {"v": -0.002}),
        ("/n/:v:float", "/n/3", {"v": 3.0}),
        ("/n/:id:uuid", f"/n/{ID}", {"id": ID}),
        ("/n/:id:uuid", f"/n/{str(ID).upper()}", {"id": ID}),
        ("/f/*rest", "/f/a", {"rest": "a"}),
        ("/f/*rest", "/f/a//b/c/", {"rest": "a/b/c"}),
        ("/f/:rest:path", "/f/a/b", {"rest": "a/b"}),
        ("/*rest", "/a/b", {"rest": "a/b"}),
        ("/:self/:path", "/a/b", {"self": "a", "path": "b"}),
    ],
)
def test_a_path_gives_converted_parameters(source, path, params):
    given_params = compile_pattern(source).match(path)
    assert given_params == params
    assert [type(value) for value in given_params.values()] == [type(value) for value in params.values()]
    match = table(source).match(path)
    assert match is not None
    assert (match.params, match.path, match.pattern.source) == (params, normalise_path(path), source)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/", "/a"),
        ("/chat", "/"),
        ("/chat", "/Chat"),
        ("/chat/:room", "/chat"),
        ("/chat/:room", "/chat/a/b"),
        ("/chat/:room/log", "/chat/a/b"),
        ("/n/:id:int", "/n/+4"),
        ("/n/:id:int", "/n/4.0"),
        ("/n/:id:int", "/n/٤"),
        ("/n/:id:int", "/n/1_000"),
        ("/n/:id:int", "/n/" + "9" * 19),
        ("/n/:id:int", "/n/4\n"),
        ("/n/:v:float", "/n/inf"),
        ("/n/:v:float", "/n/nan"),
        ("/n/:v:float", "/n/1e999"),
        ("/n/:v:float", "/n/.5"),
        ("/n/:v:float", "/n/" + "1" * 5000),
        ("/n/:id:uuid", f"/n/{ID.hex}"),
        ("/n/:id:uuid", f"/n/{{{ID}}}"),
        ("/n/:id:uuid", f"/n/{ID.urn}"),
        ("/f/*rest", "/f"),
        ("/f/*rest", "/f//"),
        ("/*rest", "/"),
    ],
)
def test_a_path_that_does_not_fit_is_not_matched(source, path):
    assert compile_pattern(source).match(path) is None
    assert table(source).match(path) is None


@pytest.mark.parametrize(
    "segment", [".", "..", "a\0b", "a\nb", "\x7f", "\x85", "\ud800", "a\N{REPLACEMENT CHARACTER}"]
)
@pytest.mark.parametrize("source", ["/chat/:room", "/chat/*rest", "/*rest"])
def test_a_segment_that_could_alias_or_break_another_name_never_matches(source, segment):
    for path in (f"/chat/{segment}", f"/chat/{segment}/"):
        assert compile_pattern(source).match(path) is None
        assert table(source).match(path) is None
    assert table("/*rest").match(f"/{segment}/chat") is None


def test_a_dot_segment_inside_a_longer_rest_does_not_match_either():
    assert compile_pattern("/f/*rest").match("/f/a/../b") is None


# --- building


def test_build_writes_the_path_that_matches():
    pattern = compile_pattern("/a/:x/:n:int/:v:float/:id:uuid/*rest")
    params = {"x": "é b", "n": -3, "v": 1e-9, "id": ID, "rest": "p/q"}
    path = pattern.build(**params)
    assert path == f"/a/é b/-3/1e-09/{ID}/p/q"
    assert pattern.match(path) == params


def test_a_parameter_may_be_called_self():
    assert compile_pattern("/:self").build(self="a") == "/a"


@pytest.mark.parametrize(
    ("source", "params", "problem"),
    [
        ("/:room", {}, "parameter 'room' is missing"),
        ("/:room", {"room": "a", "rom": "b"}, "has no parameter 'rom'; did you mean 'room'?"),
        ("/:room", {"room": "a", "z": "b"}, "has no parameter 'z'"),
        ("/:room", {"room": None}, "parameter 'room' is no str: None"),
        ("/:room", {"room": ""}, "parameter 'room' is no str: ''"),
        ("/:room", {"room": "a/b"}, "parameter 'room' is no str: 'a/b'"),
        ("/:room", {"room": ".."}, "parameter 'room' is no str: '..'"),
        ("/:n:int", {"n": "4"}, "parameter 'n' is no int: '4'"),
        ("/:n:int", {"n": True}, "parameter 'n' is no int: True"),
        ("/:n:int", {"n": 10**18}, f"parameter 'n' is no int: {10**18}"),
        ("/:v:float", {"v": math.inf}, "parameter 'v' is no float: inf"),
        ("/:id:uuid", {"id": str(ID)}, f"parameter 'id' is no uuid: {str(ID)!r}"),
        ("/*rest", {"rest": ""}, "parameter 'rest' is no path: ''"),
        ("/*rest", {"rest": "/a"}, "parameter 'rest' is no path: '/a'"),
        ("/*rest", {"rest": "a//b"}, "parameter 'rest' is no path: 'a//b'"),
        ("/*rest", {"rest": "a/../b"}, "parameter 'rest' is no path: 'a/../b'"),
    ],
)
def test_build_refuses_what_would_not_match(source, params, problem):
    with pytest.raises(PatternError) as caught:
        compile_pattern(source).build(**params)
    assert caught.value.problem == problem


# --- precedence in a table


@pytest.mark.parametrize(
    ("path", "sources", "expected"),
    [
        ("/a/c/b", ("/a/:x/b", "/a/c/:y"), "/a/c/:y"),
        ("/a/d/b", ("/a/:x/b", "/a/c/:y"), "/a/:x/b"),
        ("/a/c/d", ("/a/:x/b", "/a/c/:y"), "/a/c/:y"),
        ("/a/d/d", ("/a/:x/b", "/a/c/:y"), None),
        ("/a/c/z", ("/a/:x/z", "/a/c/b"), "/a/:x/z"),
        ("/5", ("/*r", "/:s", "/:f:float", "/:i:int", "/5"), "/5"),
        ("/6", ("/*r", "/:s", "/:f:float", "/:i:int", "/5"), "/:i:int"),
        ("/6.5", ("/*r", "/:s", "/:f:float", "/:i:int", "/5"), "/:f:float"),
        (f"/{ID}", ("/*r", "/:s", "/:u:uuid"), "/:u:uuid"),
        ("/six", ("/*r", "/:s", "/:f:float", "/:i:int", "/5"), "/:s"),
        ("/six/7", ("/*r", "/:s", "/:f:float", "/:i:int", "/5"), "/*r"),
        ("/1/x", ("/:i:int/y", "/:s/x"), "/:s/x"),
        ("/a/b/c", ("/a/*rest", "/a/b/:x/d"), "/a/*rest"),
        ("/a/b/c", ("/:x/b/c", "/a/*rest"), "/a/*rest"),
        ("/", ("/", "/*rest"), "/"),
        ("/none", ("/", "/a"), None),
    ],
)
def test_the_most_specific_pattern_wins_in_any_order_of_declaration(path, sources, expected):
    assert winner(path, *sources) == expected
    assert winner(path, *reversed(sources)) == expected


def test_a_choice_taken_back_leaves_no_parameter_behind():
    match = table("/:n:int/a", "/:s/b", "/*rest").match("/7/b")
    assert match is not None
    assert match.params == {"s": "7"}


def test_two_patterns_of_one_shape_conflict_and_both_places_are_named():
    patterns: PatternTable[int] = PatternTable()
    patterns.add("/a/:x/*rest", 1, where="one.py:3")
    with pytest.raises(PatternConflict) as caught:
        patterns.add("/a/:y/:tail:path", 2, where="two.py:9")
    error = caught.value
    assert (error.source, error.where) == ("/a/:y/:tail:path", "two.py:9")
    assert (error.other, error.other_where) == ("/a/:x/*rest", "one.py:3")
    for part in ("'/a/:x/*rest'", "one.py:3", "'/a/:y/:tail:path'", "two.py:9"):
        assert part in str(error)
    assert [value for _, value in patterns] == [1]


def test_a_table_lists_its_patterns_in_the_order_of_declaration():
    assert [(pattern.source, value) for pattern, value in table("/b", "/:x", "/a")] == [
        ("/b", "/b"),
        ("/:x", "/:x"),
        ("/a", "/a"),
    ]


# --- properties

names = st.lists(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), max_size=4, unique=True)
texts = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\ufffd"), min_size=1
).filter(lambda text: text not in (".", ".."))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": texts,
    "int": st.integers(-(10**18) + 1, 10**18 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "uuid": st.uuids(),
    "path": st.lists(texts, min_size=1, max_size=3).map("/".join),
}


@st.composite
def patterns_with_values(draw: st.DrawFn) -> tuple[Pattern, dict[str, Any]]:
    source, values = "", {}
    parameters = draw(names)
    for name in parameters:
        kinds = list(VALUES) if name == parameters[-1] else list(VALUES)[:-1]
        kind = draw(st.sampled_from(kinds))
        source += draw(st.sampled_from(["", "/static"])) + f"/:{name}:{kind}"
        values[name] = draw(VALUES[kind])
    return compile_pattern(source or "/"), values


@given(patterns_with_values())
def test_what_build_writes_match_reads(case):
    pattern, values = case
    path = pattern.build(**values)
    assert path == normalise_path(path)
    assert pattern.match(path) == values
    match = table(pattern.source).match(path)
    assert match is not None
    assert match.params == values


EVERY_KIND = ("/", "/:i:int", "/:u:uuid", "/:f:float", "/:s", "/:s/:t", "/a/:f:float/b", "/a/*rest", "/*rest")


@given(st.text() | st.text(alphabet="/.:*a5-e\0"))
@example("/" * 10_000 + "a/" * 10_000)
def test_no_path_crashes_and_the_table_agrees_with_its_patterns(path):
    matching = [source for source in EVERY_KIND if compile_pattern(source).match(path) is not None]
    match = table(*EVERY_KIND).match(path)
    assert (match.value if match else None) in (matching or [None])
    if match:
        assert match.params == match.pattern.match(path)


@given(st.text() | st.text(alphabet="/.:*a5-e{\0"))
def test_any_source_compiles_or_is_refused(source):
    try:
        pattern = compile_pattern(source)
    except PatternError:
        return
    assert compile_pattern(pattern.source) == pattern


@given(texts, st.sampled_from(EVERY_KIND))
def test_static_text_wins_over_everything_dynamic(text, dynamic):
    assume(not set(text) & set(":*{}<>?#%"))
    assert winner(f"/{text}", f"/{text}", dynamic) == f"/{text}"
