"""A model hub on this machine: as much of the Hugging Face Hub's protocol as creating, uploading and downloading take."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`files` of its repositories, by repository and name; `asked`: the requests so far."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_) -> None:
        pass

    def answer(self, status: int, body: bytes | dict, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "X-Repo-Commit": SHA, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            repository = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.files.setdefault(repository, {})
            return self.answer(200, {"url": f"{self.server.url}/{repository}"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        repository = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            return self.answer(200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.server.files[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{repository}/commit/{SHA}"
            return self.answer(200, {"success": True, "commitOid": SHA, "commitUrl": url})
        return self.answer(404, {})

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        words = self.path.partition("?")[0].strip("/").split("/")
        repository = "/".join(words[2:4] if words[0] == "api" else words[:2])
        files = self.server.files.get(repository)
        if files is None:
            return self.answer(404, {}, X_Error_Code="RepoNotFound", X_Error_Message="Repository Not Found")
        if "tree" in words:
            found = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files.items()]
            return self.answer(200, json.dumps(found).encode())
        if words[0] == "api":
            return self.answer(200, {"id": repository, "sha": SHA, "siblings": [{"rfilename": name} for name in files]})
        content = files.get(words[-1])
        if content is None:
            return self.answer(404, {}, X_Error_Code="EntryNotFound")
        return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    do_HEAD = do_GET
