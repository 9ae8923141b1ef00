"""Options: every name, value and place; what is wrong is said so that it can be put right."""

from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NoOpTracerProvider

from otel_queue_bridge import config
from otel_queue_bridge.config import (
    OPTIONS,
    Config,
    ConfigError,
    Options,
    holds,
    load,
    switched_on,
    unknown_variables,
)

PREFIX = "OTEL_PYTHON_QUEUE_BRIDGE_"

# option: default, a variable's text, what it means, the same as a keyword, bad values, allowed
EXAMPLES = {
    "queues": (None, "celery, rq", ("celery", "rq"), ["celery", "rq"], [], "queue libraries"),
    "naming": ("task", "system", "system", "system", ["System!", "tasks"], "task, system, messag"),
    "relation": ("child", "link", "link", "link", ["parent"], "child, link, none"),
    "linked_tasks": ((), "a.*,b", ("a.*", "b"), ["a.*", "b"], [], "globs"),
    "retries": ("child", "link", "link", "link", ["none"], "child, link"),
    "link_after": (None, "90", 90.0, 90, ["-1", "soon", "nan", "inf"], "number of seconds"),
    "dispatch_spans": (True, "false", False, False, ["no way", "2"], "true and false"),
    "metrics": (True, "false", False, False, ["off"], "true and false"),
    "queue_depth": (True, "0", False, False, ["-"], "true and false"),
    "max_task_names": (200, "50", 50, 50, ["0", "-3", "1.5", "many"], "a number from 1"),
    "max_queue_names": (200, "7", 7, 7, ["0", "-3", "1.5", "many"], "a number from 1"),
    "excluded_tasks": ((), "a.*,b", ("a.*", "b"), ["a.*", "b"], [], "globs"),
    "excluded_queues": ((), "low-?", ("low-?",), ["low-?"], [], "globs"),
    "capture_arguments": (
        {},
        "mail:to, subject; tax:year",
        {"mail": {"to", "subject"}, "tax": {"year"}},
        {"mail": ["to", "subject"], "tax": ["year"]},
        ["mail", "mail:", ":to"],
        "task:argument,argument;task2:argument",
    ),
    "exception_messages": (True, "0", False, False, ["maybe"], "true and false"),
    "suppress_polling": (True, "0", False, False, ["off"], "true and false"),
    "untested_versions": (False, "true", True, True, ["2"], "true and false"),
    "flush_timeout": (2.0, "0.5", 0.5, 0.5, ["-0.1", "2s"], "number of seconds"),
    "child_export": (None, "own", "own", "own", ["both"], "relay, own"),
    "conflicts": ("replace", "yield", "yield", "yield", ["both"], "replace, yield"),
}
BAD = [(name, text) for name, example in EXAMPLES.items() for text in example[4]]
NOT_TEXT = [
    ("queues", 3),
    ("queues", ["celery,rq"]),
    ("naming", None),
    ("relation", ["link"]),
    ("link_after", True),
    ("dispatch_spans", 2),
    ("excluded_tasks", [7]),
    ("capture_arguments", ["mail"]),
    ("capture_arguments", {"mail": []}),
    ("exception_messages", None),
    ("flush_timeout", "∞"),
    ("max_queue_names", 2.5),
    ("max_task_names", 2.5),
    ("max_task_names", True),
    ("max_task_names", None),
]


def test_every_option_has_an_example_here():
    assert set(EXAMPLES) == set(OPTIONS)


def test_every_option_has_a_type_and_a_place():
    places = {field.name for field in fields(Config)} - {"origin"}
    assert set(OPTIONS) < set(Options.__annotations__) == places


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_by_default_by_variable_and_by_keyword(name):
    default, text, meaning, keyword, _, _ = EXAMPLES[name]
    assert getattr(load(environment={}), name) == default
    assert getattr(load(environment={PREFIX + name.upper(): text}), name) == meaning
    assert getattr(load({name: keyword}, environment={}), name) == meaning


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_variable_is_named_quoted_and_explained(name, text):
    with pytest.raises(ConfigError) as error:
        load(environment={PREFIX + name.upper(): text})
    for part in (PREFIX + name.upper(), repr(text), EXAMPLES[name][5]):
        assert part in str(error.value)


@pytest.mark.parametrize(("name", "value"), [*BAD, *NOT_TEXT])
def test_a_bad_keyword_is_named_quoted_and_explained(name, value):
    with pytest.raises(ConfigError) as error:
        load({name: value}, environment={})
    for part in (f"instrument({name}=", repr(value), EXAMPLES[name][5]):
        assert part in str(error.value)


def test_an_endless_number_is_a_config_error_too():
    with pytest.raises(ConfigError):
        load({"flush_timeout": 10**400}, environment={})


def test_a_keyword_beats_the_variable_and_both_origins_are_told():
    variables = {PREFIX + "NAMING": "system", PREFIX + "RELATION": "link"}
    loaded = load({"naming": "messaging"}, environment=variables)
    assert (loaded.naming, loaded.relation) == ("messaging", "link")
    assert loaded.origin == {"naming": "instrument()", "relation": PREFIX + "RELATION"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_variable_is_an_unset_one(name):
    assert load(environment={PREFIX + name.upper(): " "}) == Config()


def test_a_variable_like_nothing_we_have_gets_no_suggestion():
    ((variable, what),) = unknown_variables({PREFIX + "ZZZ": "x"}).items()
    assert variable == PREFIX + "ZZZ"
    assert "did you mean" not in what
    assert f"{variable} does not exist: allowed are {PREFIX}...: QUEUES, NAMING, " in what


@pytest.mark.parametrize("text", ["true", "1", "TRUE", " True "])
def test_ways_to_say_yes(text):
    assert load({"dispatch_spans": text}, environment={}).dispatch_spans is True


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("NAMMING", "NAMING"),
        ("LINK_AFTR", "LINK_AFTER"),
        ("Relation", "RELATION"),
        ("metrics", "METRICS"),
    ],
)
def test_a_misspelt_variable_changes_nothing_and_the_right_one_is_suggested(name, near):
    environment = {PREFIX + name: "x", PREFIX + "RELATION": "link"}
    assert load(environment=environment) == Config(relation="link")
    assert unknown_variables(environment) == {
        PREFIX + name: f"{PREFIX}{name} does not exist; did you mean {PREFIX}{near}?"
    }


@pytest.mark.parametrize(
    ("name", "near"), [("namming", "naming"), ("tracerprovider", "tracer_provider")]
)
def test_a_misspelt_keyword_is_an_error_that_suggests_the_right_one(name, near):
    with pytest.raises(ConfigError, match=rf"instrument\({name}=.*did you mean {near}[?]"):
        load({name: "x"}, environment={})


def test_a_keyword_like_nothing_we_have_gets_no_suggestion():
    with pytest.raises(ConfigError) as error:
        load({"zzz": 1}, environment={})
    assert "did you mean" not in str(error.value)
    assert "allowed are queues, naming, " in str(error.value)


def test_the_wrong_variable_is_named_even_if_a_keyword_overrides_it():
    with pytest.raises(ConfigError, match="NAMING"):
        load({"naming": "task"}, environment={PREFIX + "NAMING": "nonsense"})


def test_variables_of_others_are_not_ours():
    theirs = {"OTEL_PYTHON_QUEUE": "x", "OTEL_PROPAGATORS": "b3"}
    assert load(environment=theirs) == Config()
    assert unknown_variables(theirs) == {}


def test_objects_come_by_keyword_only():
    provider, hook = NoOpTracerProvider(), print
    loaded = load({"tracer_provider": provider, "submit_hook": hook}, environment={})
    assert loaded.tracer_provider is provider
    assert loaded.submit_hook is hook
    variable = {PREFIX + "SUBMIT_HOOK": "print"}
    assert load(environment=variable).submit_hook is None
    assert "SUBMIT_HOOK does not exist" in unknown_variables(variable)[PREFIX + "SUBMIT_HOOK"]


def test_what_is_loaded_cannot_be_changed():
    loaded = load({"capture_arguments": "mail:to"}, environment={})
    with pytest.raises(AttributeError):
        loaded.naming = "system"
    with pytest.raises(TypeError):
        loaded.capture_arguments["mail"] = frozenset({"password"})


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (["true", "True", "TRUE", "1", " true "], True),
        (["false", "False", "FALSE", "0", " 0 "], False),
        (["", " "], None),
    ],
)
def test_a_librarys_own_switch_is_on_off_or_not_set(words, meaning, monkeypatch):
    for word in words:
        assert switched_on("SHOP_ENABLED", {"SHOP_ENABLED": word}) is meaning
    monkeypatch.setenv("SHOP_ENABLED", words[0])
    assert switched_on("SHOP_ENABLED") is meaning
    assert switched_on("SHOP_ENABLED", {}) is None
    assert switched_on("") is None  # of a library that has none


@pytest.mark.parametrize("word", ["yes", "off", "2", "truee"])
def test_a_librarys_own_switch_with_another_word_is_named_quoted_and_explained(word):
    with pytest.raises(ConfigError) as error:
        switched_on("SHOP_ENABLED", {"SHOP_ENABLED": word})
    assert str(error.value) == f"SHOP_ENABLED is {word!r}: allowed are true and false"


@pytest.mark.parametrize(
    ("value", "held"),
    [("true", True), ("YES", True), ("no", False), ("", False), (" true", False), (None, False)],
)
def test_a_librarys_variable_is_read_as_the_library_does(value, held, monkeypatch):
    monkeypatch.delenv("SHOP_TELEMETRY", raising=False)
    environment = {} if value is None else {"SHOP_TELEMETRY": value}
    assert holds("SHOP_TELEMETRY", ("true", "yes"), environment) is held
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert holds("SHOP_TELEMETRY", ("true", "yes")) is held


def test_opentelemetry_instrument_finds_a_flag_for_every_option():
    """It offers each module attribute that begins with OTEL_, by its value."""
    offered = {getattr(config, name) for name in dir(config) if name.startswith("OTEL_")}
    assert offered == {PREFIX + name.upper() for name in EXAMPLES}


@settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.sampled_from(sorted(EXAMPLES)), st.text())
def test_any_text_is_a_value_or_a_clear_error(name, text):
    variable = PREFIX + name.upper()
    try:
        load(environment={variable: text})
    except ConfigError as error:
        assert variable in str(error)  # noqa: PT017 - raising is allowed, not required
