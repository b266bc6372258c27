"""The report in headless Chromium: no console message, so no script error and no blocked request."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_comparison import fake_comparison

from landscape.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """(the page's DOM after its scripts have run, console messages)."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    options += [
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, timeout=120)
    return done.stdout, re.findall(r"^.*CONSOLE.*$", done.stderr, re.MULTILINE)


def test_the_report_opens_without_a_console_message(tmp_path):
    page = write_report(fake_comparison(tmp_path / "runs"))
    dom, console = opened(page, tmp_path / "profile")
    assert console == []
    assert dom.count('class="main-svg"') > 2  # plotly has drawn
    # The page forbids every request by its own policy, so one that was tried would be a console message:
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(
        page.read_text().replace("</body>", '<img src="https://example.org/x.png" alt=""></body>')
    )
    _, console = opened(spoiled, tmp_path / "profile")
    assert len(console) == 1
    assert "Content Security Policy" in console[0]
