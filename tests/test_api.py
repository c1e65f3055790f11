"""The page for Python users: its code runs, in its order, and comes to what it says."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
HEAVY = ("torch", "vllm", "ray", "openrlhf", "deepspeed", "transformers")


def test_the_code_of_the_page_runs_and_needs_nothing_heavy():
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    code += (
        f"\nimport sys\nprint(outcomes, len(steps), count, correct, pit, by_step)\n"
        f"print(by_token.shape == (len(answer),), [name for name in {HEAVY} if name in sys.modules])\n"
        "print([(row['chosen'], row['rejected']) for row in rows], accounts[0].kept, accounts[0].total)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = ["correct", "wrong", "truncated"]
    assert done.stdout.splitlines() == [
        f"{outcomes} 3 [4, 4, 4] [4, 4, 0] 1 [0.0, -1.0, 0.0]",
        "True []",
        r"[('\n#### 18', '18 - 1 = 17\n')] 1 1",
    ]


def test_everything_that_the_page_names_is_of_the_api():
    from openrlhf_negdata import api

    named = re.findall(r"from openrlhf_negdata\.api import (.*)", PAGE.read_text(encoding="utf-8"))
    assert {name for line in named for name in line.split(", ")} <= {*api.__all__}
    assert all(hasattr(api, name) for name in api.__all__)
    assert (Path(api.__file__).parent / "py.typed").is_file()
