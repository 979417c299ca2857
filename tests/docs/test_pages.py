"""What the README and the guide claim, and the site that is made of them."""

import re

import pytest
import yaml
from snippets import PAGES, ROOT

README = (ROOT / "README.md").read_text()


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


def test_the_guide_names_every_key_of_a_project():
    from mlflow_hpo.config import ProjectKeys

    text = (ROOT / "docs" / "projects.md").read_text().partition("## The keys of `project`")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(ProjectKeys.model_fields)


def test_every_page_is_in_the_navigation():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [
            page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)
        ]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(pages(nav)) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_team_server_is_well_formed():
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    services = compose["services"]
    assert set(services) == {"postgres", "s3", "bucket", "mlflow"}
    for name, service in services.items():
        image = service.get("image") or service["build"]["dockerfile_inline"].split()[1]
        assert re.search(r":[\w.-]*\d", image), f"{name}: {image} is no fixed version"
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= set(compose["volumes"])
    pins = set((ROOT / "constraints.txt").read_text().splitlines())
    installed = re.search(r"pip install --no-cache-dir (.+)", text)[1].replace("[binary]", "")
    assert set(installed.split()) <= pins
    secrets = re.findall(r"(?:PASSWORD|SECRET_KEY|SECRET_ACCESS_KEY): (.+)", text)
    assert len(secrets) == 3
    assert all(secret.startswith("${") and ":-" not in secret for secret in secrets), (
        "no password has a default"
    )
