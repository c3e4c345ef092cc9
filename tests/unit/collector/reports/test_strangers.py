"""How many proofs strangers may have checked, and whom an address is believed of."""

from __future__ import annotations

import pytest

from collector.runtime.http.strangers import Strangers, forwarded_allow_ips, network_of


def taken(strangers: Strangers, addresses: list[str], *, at: float = 0.0) -> int:
    return sum(strangers.take(each, now_seconds=at) == 0 for each in addresses)


def test_one_address_may_be_wrong_ten_times_and_then_once_in_six_seconds():
    strangers = Strangers(total_per_second=100, total_burst=1000)
    assert taken(strangers, ["203.0.113.7"] * 300) == 10
    assert strangers.take("203.0.113.7", now_seconds=0.0) == pytest.approx(6)
    assert taken(strangers, ["203.0.113.7"] * 300, at=6.0) == 1


def test_all_addresses_together_are_bounded():
    strangers = Strangers(total_per_second=5, total_burst=60)
    addresses = [f"203.0.113.{number}" for number in range(250)]
    assert taken(strangers, addresses) == 60
    assert taken(strangers, addresses, at=1.0) == 5


def test_what_is_given_back_is_not_held_against_its_address_and_counts_in_total():
    strangers = Strangers(total_per_second=1, total_burst=30)
    for _ in range(30):
        assert strangers.take("203.0.113.7", now_seconds=0.0) == 0
        strangers.give_back("203.0.113.7", now_seconds=0.0)
    assert strangers.take("203.0.113.7", now_seconds=0.0) == pytest.approx(1)


def test_who_waits_for_the_total_has_not_used_up_its_own_address():
    strangers = Strangers(total_per_second=1, total_burst=1)
    assert taken(strangers, ["203.0.113.7"] * 50) == 1
    later = [strangers.take("203.0.113.7", now_seconds=float(at)) for at in range(1, 9)]
    assert later == [0.0] * 8


def test_an_ipv6_client_is_its_64():
    assert network_of("2001:db8::1") == network_of("2001:db8::2")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") != network_of("::ffff:10.0.0.2")


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("", ()),
        ("*", ("*",)),
        ("127.0.0.1", ("127.0.0.1",)),
        (" 10.0.0.0/8 , ::1,", ("10.0.0.0/8", "::1")),
    ],
)
def test_proxies_are_named_by_address_or_network(raw, named):
    assert forwarded_allow_ips(raw) == named


@pytest.mark.parametrize("raw", ["nginx", "127.0.0.1,*", "*,*", "10.0.0.1/8", "300.1.1.1", "1"])
def test_what_is_no_proxy_s_address_is_refused(raw):
    with pytest.raises(ValueError, match="entry"):
        forwarded_allow_ips(raw)
