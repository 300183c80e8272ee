"""The documentation: links resolve, and every field of a configuration is described."""

import re

import pytest

from tests.support.common import ROOT
from vae_jax import configuration

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def prose(path):
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    page = ROOT / page
    for target in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', prose(page)):
        path, _, anchor = "".join(target).partition("#")
        if not path.startswith("https:"):
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_every_field_is_described():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert [path for path in configuration.default_fields() if f"`{path}`" not in page] == []
