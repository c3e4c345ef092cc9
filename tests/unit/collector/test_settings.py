"""What the collector reads from its environment."""

from __future__ import annotations

import pytest

from collector.ledger.engines import backend_of
from collector.runtime.config import ConfigError
from collector.settings import Settings

KEY = "a-key-of-twenty-chars"


def test_everything_has_a_default_and_the_safe_one():
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.host == "127.0.0.1"
    assert settings.admin_key == ""
    assert len(settings.reporter_keys) == 0


def test_empty_variables_are_unset_ones():
    assert Settings.from_env({name: "  " for name, _, _ in Settings.variables()}) == Settings()


def test_every_documented_default_reads_back_as_the_default():
    documented = {name: default for name, default, _ in Settings.variables()}
    assert Settings.from_env(documented) == Settings()
    assert all(description for _, _, description in Settings.variables())


def test_values_are_taken():
    settings = Settings.from_env(
        {
            "LEDGER_URL": "sqlite:////var/lib/l.sqlite3",
            "COLLECTOR_PORT": "1",
            "MARZBAN_URL": "https://panel.example.com:8000/",
            "COLLECTOR_SUBSCRIPTION_PATH": "/my/sub/",
            "COLLECTOR_REPORTER_KEYS": f"a:{KEY}, b.c:{KEY}2,",
        }
    )
    assert settings.ledger_url == "sqlite:////var/lib/l.sqlite3"
    assert settings.port == 1
    assert settings.marzban_url == "https://panel.example.com:8000"
    assert settings.subscription_path == "my/sub"
    assert dict(settings.reporter_keys) == {"a": KEY, "b.c": f"{KEY}2"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEDGER_URL", "mysql://localhost/ledger"),
        ("LEDGER_URL", "postgresql://user:a%zzword@localhost/ledger"),
        ("COLLECTOR_PORT", "eighty"),
        ("COLLECTOR_PORT", "65536"),
        ("COLLECTOR_PORT", "-1"),
        ("COLLECTOR_ADMIN_KEY", "short"),
        ("COLLECTOR_REPORTER_KEYS", "agent:short"),
        ("COLLECTOR_REPORTER_KEYS", KEY),
        ("COLLECTOR_REPORTER_KEYS", f"a b:{KEY}"),
        ("COLLECTOR_REPORTERS_OUTSIDE_QUOTA", "a b"),
        ("COLLECTOR_REPORTERS_OUTSIDE_QUOTA", "not-configured"),
        ("MARZBAN_URL", "panel.example.com"),
        ("MARZBAN_URL", "ftp://panel.example.com"),
        ("COLLECTOR_DEDUP_WINDOW_DAYS", "0"),
        ("COLLECTOR_REPORT_CEILING_BYTES", "1e12"),
        ("COLLECTOR_KEY_REQUESTS_PER_SECOND", "-1"),
        ("COLLECTOR_USER_REQUESTS_PER_SECOND", "nan"),
        ("COLLECTOR_MAX_BODY_BYTES", "8M"),
    ],
)
def test_what_is_malformed_is_refused_by_the_name_of_its_variable(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Settings.from_env({name: value})


def test_further_panels_are_named_with_where_their_links_begin():
    settings = Settings.from_env(
        {
            "MARZBAN_URL": "https://one.example.com:8000",
            "COLLECTOR_SUBSCRIPTION_PATH": "/my/sub/",
            "COLLECTOR_SUBSCRIPTION_URLS": " two=https://two.example.com:8000/own/path/ ,"
            "three=http://10.0.0.3, 4-d=https://[2001:db8::1]:8443/sub",
        }
    )
    assert list(settings.subscription_links.items()) == [
        ("default", "https://one.example.com:8000/my/sub"),
        ("two", "https://two.example.com:8000/own/path"),
        ("three", "http://10.0.0.3/sub"),
        ("4-d", "https://[2001:db8::1]:8443/sub"),
    ]


def test_without_a_panel_there_are_no_links_and_the_first_one_may_be_missing():
    assert Settings.from_env({}).subscription_links == {}
    only = Settings.from_env({"COLLECTOR_SUBSCRIPTION_URLS": "two=https://two.example.com"})
    assert only.subscription_links == {"two": "https://two.example.com/sub"}


V3_TOKEN = "djMsMywxNzk1ODU0NzE1.Rr3Obj3RHspUT7vDkQjLA4LctFensNi5vIrFer0SCkM"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://two.example.com/sub", "entry 1 is not so"),
        ("two=https://two.example.com,three", "entry 2 is not so"),
        ("Two=https://two.example.com/sub", "entry 1 is not so"),
        (f"{'x' * 33}=https://two.example.com/sub", "entry 1 is not so"),
        ("=https://two.example.com/sub", "entry 1 is not so"),
        ("two=", "two: expected a URL"),
        ("two=two.example.com/sub", "two: expected a URL"),
        ("two=https://u:hunter2@two.example.com/sub", "would end up in logs"),
        ("two=https://two.example.com/sub?a=b", "two: expected what a subscription link begins"),
        (f"two=https://two.example.com/sub/{V3_TOKEN}", "up to the slash before the token"),
        ("two=https://a.example.com,two=https://b.example.com", "two is named twice"),
        ("default=https://two.example.com", "default is the panel of MARZBAN_URL"),
        (",".join(f"p{n}=https://{n}.example.com" for n in range(64)), "there may be 64 panels"),
        ("two=https://ONE.example.com/sub/", "two has the address of panel default"),
        ("a=https://x.example.com,b=https://x.example.com/sub", "b has the address of panel a"),
    ],
)
def test_what_is_no_further_panel_is_refused_and_no_secret_repeated(value, said):
    environment = {"MARZBAN_URL": "https://one.example.com", "COLLECTOR_SUBSCRIPTION_URLS": value}
    with pytest.raises(ConfigError, match=r"^COLLECTOR_SUBSCRIPTION_URLS: ") as raised:
        Settings.from_env(environment)
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert V3_TOKEN not in str(raised.value)


def test_reporters_outside_the_quota_are_configured_ones():
    keys = {"COLLECTOR_REPORTER_KEYS": f"a:{KEY},b:{KEY}2,c:{KEY}3"}
    settings = Settings.from_env(keys | {"COLLECTOR_REPORTERS_OUTSIDE_QUOTA": " b ,a,"})
    assert settings.reporters_outside_quota == ("b", "a")
    with pytest.raises(ConfigError, match=r"entry 2 is no name in COLLECTOR_REPORTER_KEYS"):
        Settings.from_env(keys | {"COLLECTOR_REPORTERS_OUTSIDE_QUOTA": "a,d"})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2/x@db.example.com/ledger",
        "postgresql://user:12/hunter2@db.example.com/ledger",
        "postgresql://user:hunter2@x@db.example.com/ledger",
        "postgresql://user:hunter2%zz@db.example.com/ledger",
        "postgresql://user:hunter2@db.example.com/ledger?no_such_option=1",
        "user:hunter2@db.example.com/ledger",
    ],
)
def test_a_password_that_is_not_written_as_it_should_be_is_not_repeated(url):
    with pytest.raises(ConfigError, match=r"^LEDGER_URL: ") as raised:
        Settings.from_env({"LEDGER_URL": url})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@db:5433/l", "postgresql://u@db:5433/l"),
        ("postgres://u:hunter2@db/l?sslmode=require", "postgresql://u@db/l"),
        ("postgresql://u@a,b:5433/l?target_session_attrs=read-write", "postgresql://u@a,b:5433/l"),
        (
            "postgresql:///l?host=/run/postgresql&user=u&password=hunter2",
            "postgresql://u@/run/postgresql/l",
        ),
        ("postgresql://u:p%40ss%2Fhunter2@[::1]/l", "postgresql://u@::1/l"),
    ],
)
def test_a_ledger_on_a_server_is_named_without_its_password(url, shown):
    settings = Settings.from_env({"LEDGER_URL": url})
    assert backend_of(settings.ledger_url).name == shown
    assert "hunter2" not in repr(settings)


def test_secrets_show_neither_in_the_representation_nor_in_errors():
    settings = Settings.from_env(
        {"COLLECTOR_ADMIN_KEY": f"{KEY}-admin", "COLLECTOR_REPORTER_KEYS": f"a:{KEY}"}
    )
    assert KEY not in repr(settings)
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({"COLLECTOR_REPORTER_KEYS": "a:hunter2"})
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        Settings.from_env({"COLLECTOR_REPORTERS_OUTSIDE_QUOTA": "hunter2"})
    assert "hunter2" not in str(raised.value)
