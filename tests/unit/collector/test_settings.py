"""What the collector reads from its environment."""

from __future__ import annotations

import pytest

from collector.ledger.backend import backend_of
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
