"""The workflows run what is there, on every version that is promised, by actions that cannot change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in FILES}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNNER = {"cd", "docker", "echo", "for", "gh", "printf", "sudo", "uv", "uvx", "["}
"""What GitHub's machine has, or setup-uv brings."""


def steps(name):
    return [each for job in WORKFLOWS[name]["jobs"].values() for each in job["steps"]]


def commands(name):
    return "\n".join(each["run"] for each in steps(name) if "run" in each)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_its_hash_and_says_its_version(name):
    uses = re.findall(r"uses: (.*)", TEXTS[name])
    assert uses
    for each in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", each)


def test_one_action_has_one_version():
    pins = set(re.findall(r"uses: (\S+)", "\n".join(TEXTS.values())))
    assert len(pins) == len({each.partition("@")[0] for each in pins})


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_unless_a_job_says_why_and_ends_in_time(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job in WORKFLOWS[name]["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for right, level in job.get("permissions", {}).items():
            assert re.search(rf"{right}: {level}  # \w+", TEXTS[name])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_step_runs_is_there(name):
    for step in steps(name):
        if "run" not in step or "${{" in step["run"]:
            continue
        for line in re.sub(r"\\\\\n", " ", step["run"]).splitlines():
            word = re.sub(r'^(! )?([A-Z_]+=\S+ )*"?', "", line.strip()).split()[0].strip('"')
            if word in RUNNER or word.startswith("$GITHUB_WORKSPACE/alone/bin/") or word == "grep":
                continue
            assert os.access(ROOT / word, os.X_OK), line


def test_every_program_is_tried_without_extras():
    run = commands("ci")
    for program in PROJECT["scripts"]:
        assert f"alone/bin/{program}" in run


def test_every_promised_python_is_tested():
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    tested = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(promised) < set(tested), "and the next one"
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_both_stacks_are_started_from_files_that_are_there():
    job = WORKFLOWS["ci"]["jobs"]["stack"]
    files = job["strategy"]["matrix"]["files"]
    assert [each.split(":")[-1] for each in files] == [
        "docker-compose.yml",
        "docker-compose.scale.yml",
    ]
    assert all((ROOT / file).is_file() for each in files for file in each.split(":"))
    assert (ROOT / job["env"]["COMPOSE_ENV_FILES"]).is_file()
    assert job["env"]["COMPOSE_PROFILES"] == "demo"


def test_buttons_are_pressed_on_the_grafana_of_the_stack_and_on_the_one_before():
    versions = WORKFLOWS["ci"]["jobs"]["buttons"]["strategy"]["matrix"]["grafana"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["grafana"]["image"] == f"grafana/grafana:{versions[-1]}"
    majors = [int(each.split(".")[0]) for each in versions]
    assert majors == [majors[-1] - 1, majors[-1]]
    script = (ROOT / "scripts" / "click-buttons.py").read_text()
    [pinned] = re.findall(r'dependencies = \["playwright==(.+)"\]', script)
    assert f"uvx playwright@{pinned} install" in commands("ci")


def test_a_release_has_the_image_for_both_architectures_with_sbom_and_provenance():
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # `on`
    [build] = [each for each in steps("release") if "build-push" in each.get("uses", "")]
    assert build["with"]["platforms"] == "linux/amd64,linux/arm64"
    assert build["with"]["sbom"] is True
    assert build["with"]["provenance"] == "mode=max"


def test_all_that_is_pinned_is_kept_current():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {each["package-ecosystem"] for each in updates} == {
        "github-actions",
        "docker",
        "docker-compose",
        "uv",
    }


@pytest.fixture
def changelog(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "release-notes.sh", tmp_path / "scripts")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n- next\n\n## [0.2.0] - 2026-11-28\n\n### Added\n\n- this\n\n"
        "## [0.1.0] - 2026-01-01\n\n"
    )
    return tmp_path / "scripts" / "release-notes.sh"


def notes(script, version):
    return subprocess.run([script, version], capture_output=True, text=True, check=False)


def test_the_notes_are_the_versions_section_of_the_changelog(changelog):
    ended = notes(changelog, "0.2.0")
    assert ended.returncode == 0
    assert ended.stdout.split() == ["###", "Added", "-", "this"]


def test_the_version_of_the_package_has_notes():
    ended = notes(ROOT / "scripts" / "release-notes.sh", PROJECT["version"])
    assert ended.returncode == 0, ended.stderr
    assert "### Added" in ended.stdout


@pytest.mark.parametrize("version", ["0.1.0", "0.2", "9.9.9"])
def test_a_version_without_notes_is_no_release(changelog, version):
    ended = notes(changelog, version)
    assert ended.returncode == 1
    assert f"no section [{version}]" in ended.stderr
    assert ended.stdout == ""


def test_the_versions_of_all_packages_are_one():
    client = tomllib.loads((ROOT / "packaging" / "client" / "pyproject.toml").read_text())
    assert client["project"]["version"] == PROJECT["version"]
    for package in ("collector", "marzban_bridge"):
        text = (ROOT / package / "__init__.py").read_text()
        assert f'__version__ = "{PROJECT["version"]}"' in text
