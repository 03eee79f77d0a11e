"""Rules as people type them: what is written reads back, and what is wrong is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.errors import UserError
from nixfleet.model.ruletext import parse_rule, rule_text
from nixfleet.model.statements import ACTIONS, Rule


def test_a_rule_says_all_it_can() -> None:
    """Devices, actions and each demand are read from one line."""
    rule = parse_rule("env=prod,staging site=berlin: deploy,rollback approvals=2 note max-in-flight=5 soak=1h")
    expected = Rule(
        select={"env": ("prod", "staging"), "site": ("berlin",)},
        actions=("deploy", "rollback"),
        approvals=2,
        note_required=True,
        max_in_flight=5,
        min_soak_s=3_600,
    )
    assert expected == rule


RULES = st.builds(
    Rule,
    select=st.dictionaries(
        st.sampled_from(["env", "site"]), st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(tuple)
    ),
    actions=st.lists(st.sampled_from(ACTIONS), min_size=1, unique=True).map(tuple),
    approvals=st.integers(0, 16),
    note_required=st.just(True),
    max_in_flight=st.none() | st.integers(1, 1_000_000),
    min_soak_s=st.integers(0, 31_536_000),
)


@given(rule=RULES)
def test_what_is_shown_can_be_typed_again(rule: Rule) -> None:
    """Every rule reads back from its own text, the empty selector as `all`."""
    assert rule == parse_rule(rule_text(rule))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no ': ACTIONS'"),
        ("env=prod deploy note", "no ': ACTIONS'"),
        (": deploy note", "names no devices"),
        ("env: deploy note", "'env' is no TAG=VALUE"),
        ("env=: deploy note", "'env=' is no TAG=VALUE"),
        ("env=a env=b: deploy note", "'env=b' is no TAG=VALUE"),
        ("all: fly note", "'fly' is no action"),
        ("all: deploy,deploy note", "an action stands twice"),
        ("all: deploy", "asks for nothing"),
        ("all: deploy notes", "'notes' is none of"),
        ("all: deploy approvals=x", "'approvals=x' is none of"),
        ("all: deploy approvals=17", "<= 16"),
        ("all: deploy note note", "stands twice"),
        ("all: deploy soak=1w", "no duration"),
    ],
)
def test_a_wrong_rule_is_named(text: str, why: str) -> None:
    """The error says which word is wrong, and how a rule is written."""
    with pytest.raises(UserError, match=why):
        parse_rule(text)
