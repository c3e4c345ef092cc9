"""What a limit means that somebody types: how it is set, and what quota it makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.quota.typed_limits import TypedLimit, TypedLimits, quota_of_typed_limit

QUOTA, LEFT = TypedLimit.QUOTA, TypedLimit.LEFT
bytes_ = st.integers(0, 2**60)


@pytest.mark.parametrize(
    ("raw", "otherwise", "of_admins"),
    [
        ("quota", QUOTA, {}),
        ("left", LEFT, {}),
        ("quota, shop=left", QUOTA, {"shop": LEFT}),
        (" left ,shop = quota,boss=left", LEFT, {"shop": QUOTA, "boss": LEFT}),
        ("shop=left", QUOTA, {"shop": LEFT}),
        ("quota, a=b=left", QUOTA, {"a=b": LEFT}),
    ],
)
def test_a_setting_is_a_meaning_and_its_exceptions(raw, otherwise, of_admins):
    found = TypedLimits.parse(raw)
    assert (found.otherwise, dict(found.of_admins)) == (otherwise, of_admins)
    assert TypedLimits.parse(str(found)) == found
    assert found.of("nobody else") is found.of(None) is otherwise
    assert {admin: found.of(admin) for admin in of_admins} == of_admins


@pytest.mark.parametrize("raw", ["", "rest", "quota,left", "quota, shop", "quota,=left", "left,"])
def test_what_is_no_such_setting_is_refused_with_an_example(raw):
    with pytest.raises(ValueError, match="quota, shop=left"):
        TypedLimits.parse(raw)


@given(bytes_, bytes_)
def test_what_shall_be_left_is_left_and_a_quota_is_the_quota(typed_bytes, external_bytes):
    quota_bytes = quota_of_typed_limit(typed_bytes, external_bytes=external_bytes, meaning=LEFT)
    assert quota_bytes - external_bytes == typed_bytes
    assert typed_bytes == quota_of_typed_limit(
        typed_bytes, external_bytes=external_bytes, meaning=QUOTA
    )


@pytest.mark.parametrize("meaning", TypedLimit)
def test_unlimited_is_unlimited(meaning):
    assert quota_of_typed_limit(None, external_bytes=7, meaning=meaning) is None
