"""The wheel holds everything that a stranger needs: code, host.sh, templates, playbooks, inventory."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from novactl.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], cwd=ROOT, check=True
    )
    (built,) = target.glob("*.whl")
    return built


def test_it_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "novactl", "templates", "playbooks", "inventory"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    expected = {path if path.startswith("novactl/") else f"novactl/_data/{path}" for path in tracked}
    assert "novactl/_data/templates/domain.xml" in expected and "novactl/remote/host.sh" in expected
    assert expected <= names
    assert any(name.endswith("data/share/man/man1/novactl.1") for name in names)


def test_it_runs_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "from novactl import resources; print(resources.directory('templates'));"
        "from pathlib import Path; print(resources.template('domain.xml', Path('/nowhere'))[:4])"
    )
    argv = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/").stdout.split()
    assert shown == [str(tmp_path / "novactl/_data/templates"), "<!--"]
    version = [sys.executable, "-m", "novactl", "--version"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(version, capture_output=True, text=True, cwd="/", env=environment, check=True)
    assert ended.stdout == f"novactl {__version__}\n"
