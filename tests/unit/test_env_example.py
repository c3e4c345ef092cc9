"""`.env.example` says what the settings are, all of them and nothing else."""

from __future__ import annotations

from pathlib import Path

from dotenv import dotenv_values

import collector.settings
import marzban_bridge.settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def variables():
    both = [
        *collector.settings.Settings.variables(),
        *marzban_bridge.settings.Settings.variables(),
    ]
    return {variable.name: variable for variable in both}


def test_every_variable_is_there_with_its_default():
    written = dotenv_values(EXAMPLE)
    assert written == {name: variable.default for name, variable in variables().items()}


def test_the_example_as_it_is_gives_the_defaults():
    written = dotenv_values(EXAMPLE)
    assert collector.settings.Settings.from_env(written) == collector.settings.Settings()
    assert marzban_bridge.settings.Settings.from_env(written) == marzban_bridge.settings.Settings()
