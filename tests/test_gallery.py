"""The gallery of arms is what `negdata build` makes of the committed values today."""

import json
import runpy
from pathlib import Path

from openrlhf_negdata.datasets import arms

DOCS = Path(__file__).parent.parent / "docs"


def test_the_gallery_is_what_its_script_makes_and_holds_every_arm():
    made = runpy.run_path(str(DOCS / "gallery" / "make.py"))
    page = made["page"](json.loads((DOCS / "gallery" / "values.json").read_text(encoding="utf-8")))
    assert page == (DOCS / "gallery.md").read_text(encoding="utf-8"), "run: python docs/gallery/make.py"
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == arms.names()
