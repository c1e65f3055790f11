"""--push_to_hub against a server of this test's own that answers as the hub does, in a process that knows no other."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROBLEM = {"question": "1 + 1?", "answer": "It is 2.\n#### 2"}


class Hub(BaseHTTPRequestHandler):
    """Takes one commit; ``server.sent`` is its files by name, ``server.made`` what was asked of a new data set."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        url = f"http://127.0.0.1:{self.server.server_port}/datasets/me/set"
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            self.answer(200, {"url": url, "name": "me/set"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.sent[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer(200, {"commitUrl": f"{url}/commit/1", "commitOid": "1", "pullRequestUrl": None})
        else:
            self.answer(404, {"error": self.path})

    def do_GET(self):
        self.answer(404, {"error": self.path})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.sent, server.made = {}, None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def push(server, folder: Path, token: str) -> subprocess.CompletedProcess:
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / "problems.jsonl").write_text("".join(json.dumps(PROBLEM) + "\n" for _ in range(4)))
    words = ["build", "sft", "--task", "gsm8k", "--input", folder / "own", "--output", folder / "set.jsonl"]
    command = [sys.executable, "-m", "openrlhf_negdata.cli.main", *words, "--push_to_hub", "me/set"]
    where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    environment = os.environ | where | {"HF_HOME": str(folder / "hf"), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [*map(str, command), "--validation", "0.25"], env=environment, capture_output=True, text=True
    )


def test_a_set_is_sent_to_the_hub_with_its_card(server, tmp_path):
    told = push(server, tmp_path, "hf_right")
    assert told.returncode == 0, told.stderr
    assert (server.made["type"], server.made["name"]) == ("dataset", "set")
    assert server.made["visibility"] == "private"
    assert server.sent == {
        "README.md": (tmp_path / "set.jsonl.card.md").read_bytes(),
        "train.jsonl": (tmp_path / "set.jsonl").read_bytes(),
        "validation.jsonl": (tmp_path / "set.validation.jsonl").read_bytes(),
    }
    # A set that is there already is sent again when asked.
    server.sent.clear()
    assert "is complete" in push(server, tmp_path, "hf_right").stdout
    assert set(server.sent) == {"README.md", "train.jsonl", "validation.jsonl"}


def test_who_may_not_write_is_told_so_in_one_line(server, tmp_path):
    told = push(server, tmp_path, "hf_wrong")
    assert told.returncode == 2
    (line,) = [line for line in told.stderr.splitlines() if "error" in line]
    assert line.startswith("negdata build: error: --push_to_hub me/set: ")
    assert "401" in line
    assert (tmp_path / "set.jsonl").is_file()
    assert server.sent == {}
