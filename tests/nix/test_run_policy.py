"""The rule of the whole test run: where everything is required, nothing may be skipped."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = {
    "test_body.py": "import pytest\ndef test_body(): pytest.skip('why not')\n",
    "test_mark.py": "import pytest\n@pytest.mark.skip(reason='why not')\ndef test_mark(): pass\n",
    "test_fixture.py": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('why not')\ndef test_fixture(f): pass\n",
    "test_module.py": "import pytest\npytest.skip('why not', allow_module_level=True)\n",
    "test_xfail.py": "import pytest\n@pytest.mark.xfail(reason='why not')\ndef test_xfail(): assert False\n",
    "test_xpass.py": "import pytest\n@pytest.mark.xfail(reason='why not')\ndef test_xpass(): pass\n",
}


def run(folder: Path, required: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder under this project's settings of a test run."""
    # Without the plugins of other packages: the rule is about pytest's own ways to skip, and loading them takes long.
    env = {**os.environ, "NIXFLEET_REQUIRE_ALL": required, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = [sys.executable, "-m", "pytest", "-rfE", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    argv += ["-c", "/dev/null", f"--rootdir={folder}", "--continue-on-collection-errors", str(folder)]
    return subprocess.run(argv, env=env, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)


def test_a_skip_fails_the_run_where_everything_is_required(tmp_path: Path) -> None:
    """However a test is skipped or expected to fail, it fails and says why; elsewhere the run passes."""
    for name, text in {**TESTS, "test_good.py": "def test_good(): pass\n"}.items():
        (tmp_path / name).write_text(text)
    required = run(tmp_path, "1").stdout
    summary = [line for line in required.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    assert sorted(TESTS) == sorted(Path(line.split()[1].partition("::")[0]).name for line in summary)
    assert "NIXFLEET_REQUIRE_ALL=1 allows no skip: Skipped: why not" in required
    assert 0 == run(tmp_path, "0").returncode
