"""The pages of docs/ become a site without a warning; what is wrong with a page is one."""

import re
import shutil
import subprocess
import sys

from documented_names import documented_names
from documents import PAGES, ROOT, name_of
from sphinx.util.inventory import InventoryFile


def build(source, site):
    """Build a site as `make docs` does: broken references and pages in no toctree are errors."""
    options = ["-b", "html", "-n", "-W", "--keep-going", "-q", "-d", str(site / "doctrees")]
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", *options, str(source), str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_site_has_every_page_and_every_public_name(tmp_path):
    result = build(ROOT / "docs", tmp_path)
    assert result.returncode == 0, result.stderr
    for page in PAGES:
        assert (tmp_path / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    with open(tmp_path / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    listed = set(inventory["py:function"]) | set(inventory["py:class"])
    listed |= set(inventory.get("py:exception", {}))
    assert set(documented_names()) <= listed


def test_a_page_in_no_toctree_and_a_broken_reference_are_errors(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", source)
    (source / "index.md").write_text("# Pages\n\n[no such heading](#absent)\n")
    (source / "lonely.md").write_text("# In no toctree\n")
    result = build(source, tmp_path / "site")
    assert result.returncode != 0
    assert "absent" in result.stderr
    assert "isn't included in any toctree" in result.stderr


def test_make_docs_builds_it_so():
    rule = re.search(r"^docs: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.search(r"-m sphinx -b html -n -W --keep-going .* docs docs/_build/html", rule[1])
    assert "docs/_build/" in (ROOT / ".gitignore").read_text().splitlines()


def test_pages_are_found():
    names = {name_of(page) for page in PAGES}
    assert {"docs/index.md", "docs/install.md", "docs/regnet.md", "docs/api/design.md"} <= names
