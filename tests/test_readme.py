import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page.read_text(), "python"))
    if "import" in block  # others are sketches of a training
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_pythons_examples_run(store, tmp_path, example):
    path = tmp_path / "example.py"
    path.write_text(example)
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stdout


def test_the_search_file_of_the_readme_is_valid():
    import yaml

    from mlflow_hpo.config import StudyConfig

    [text] = blocks(README, "yaml")
    config = StudyConfig.parse(yaml.safe_load(text))
    assert config.metric.name == "val_accuracy"


def test_the_space_of_the_guide_is_valid():
    import yaml

    from mlflow_hpo import SearchSpace

    text, _ = blocks((ROOT / "docs" / "search-yaml.md").read_text(), "yaml")
    assert "momentum" in SearchSpace(yaml.safe_load(text)["space"]).names


def test_the_constraints_of_the_guide_are_valid():
    import yaml

    from mlflow_hpo.constraints import parse_constraints

    _, text = blocks((ROOT / "docs" / "search-yaml.md").read_text(), "yaml")
    assert len(parse_constraints(yaml.safe_load(text)["constraints"])) == 2


def test_the_guide_names_every_key():
    from mlflow_hpo.config import StudyConfig

    text = (ROOT / "docs" / "search-yaml.md").read_text()
    keys = {info.alias or name for name, info in StudyConfig.model_fields.items()}
    told = set(
        re.findall(
            r"`(\w+)`", "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
        )
    )
    assert told == keys


def test_there_are_exactly_two_setup_commands():
    commands = re.findall(r"^<!-- (\w+)-command -->\n```bash\n(.+)\n```", README, re.MULTILINE)
    assert [name for name, _ in commands] == ["run", "test"]
    assert all(command.startswith("python3 -m venv .venv && ") for _, command in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_searches_of_projects_in_the_guide_are_valid():
    import json

    from mlflow_hpo.config import StudyConfig

    whole, *parts = map(json.loads, blocks((ROOT / "docs" / "projects.md").read_text(), "json"))
    assert len(parts) == 3
    for part in ({}, *parts):
        StudyConfig.parse({**whole, **part, "launcher": "project"})


def test_the_guide_names_every_key_of_a_project():
    from mlflow_hpo.config import ProjectKeys

    text = (ROOT / "docs" / "projects.md").read_text().partition("## The keys of `project`")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(ProjectKeys.model_fields)
