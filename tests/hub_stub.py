"""A stand-in for the Hugging Face hub on loopback, for huggingface_hub's own client."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as constants
import pytest

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories as files by path, `self.server.repos[repo]`; one commit, every branch."""

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repos.setdefault(repo, {})
            self.server.private[repo] = asked.get("private") or asked.get("visibility") == "private"
            return self.answer({"url": f"{self.server.url}/{repo}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repo, action = re.match(r"/api/models/([^/]+/[^/]+)/(\w+)", self.path).groups()
        files = self.server.repos[repo]
        if action == "preupload":
            paths = [each["path"] for each in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.answer({"files": [{"path": path, **how} for path in paths]})
        if action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    files[line["value"]["path"]] = content
            url = f"{self.server.url}/{repo}/commit/{COMMIT}"
            return self.answer({"commitUrl": url, "commitOid": COMMIT})
        return self.answer({})  # a branch

    def do_GET(self):
        api = re.match(r"/api/models/([^/]+/[^/]+)/(revision|tree)", self.path)
        if api:
            files = self.server.repos.get(api[1])
            if files is None:
                return self.answer({"error": "no repository"}, status=404)
            if api[2] == "revision":
                siblings = [{"rfilename": path} for path in files]
                return self.answer({"id": api[1], "sha": COMMIT, "siblings": siblings})
            sizes = {path: len(content) for path, content in files.items()}
            return self.answer(
                [
                    {"type": "file", "path": path, "size": size, "oid": oid(files[path])}
                    for path, size in sizes.items()
                ]
            )
        asked = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        repo, path = asked.groups() if asked else ("", "")
        content = self.server.repos.get(repo, {}).get(path)
        if content is None:
            return self.answer({"error": "no file"}, status=404)
        self.server.fetched.append(path)
        return self.send(content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, content, status=200):
        kind = {"Content-Type": "application/json"}
        kind |= {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
        self.send(json.dumps(content).encode(), kind, status)

    def send(self, content, headers, status=200):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def oid(content):
    """Return git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub(cache):
    """Serve an empty hub, to which the client of this process goes, with a cache of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repos, server.private, server.fetched = {}, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    form = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": form}
    settings |= {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": True}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(constants, name, value)
            patch.setenv("HF_TOKEN", "hf_of_the_test")
            yield server
    finally:
        server.shutdown()
        server.server_close()
