"""A registry of container images, and images for it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import httpx

from .server import free_port
from .waiting import wait_until

OCI = "application/vnd.oci.image"


class Registry:
    """Debian's registry, on this machine."""

    def __init__(self, place: Path, password: str | None) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        self.auth = ("me", password) if password else None
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(place / "images")}},
            "http": {"addr": self.host},
        }
        if password:
            listed = subprocess.run(["htpasswd", "-Bbn", "me", password], check=True, capture_output=True, text=True).stdout
            (place / "htpasswd").write_text(listed)
            config["auth"] = {"htpasswd": {"realm": "here", "path": str(place / "htpasswd")}}
        # What is JSON is YAML.
        (place / "config.yml").write_text(json.dumps(config))
        self.log = (place / "log").open("w")
        command = ["docker-registry", "serve", str(place / "config.yml")]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def serves(self) -> bool:
        try:
            return httpx.get(f"http://{self.host}/v2/", auth=self.auth).status_code == 200
        except httpx.TransportError:
            return False

    def put_blob(self, name: str, content: bytes) -> dict:
        """Keeps something; what describes it."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        begun = httpx.post(f"http://{self.host}/v2/{name}/blobs/uploads/", auth=self.auth)
        assert begun.status_code == 202, begun.text
        done = httpx.put(begun.headers["Location"], params=dict(httpx.URL(begun.headers["Location"]).params) | {"digest": digest}, content=content, auth=self.auth)
        assert done.status_code == 201, done.text
        return {"digest": digest, "size": len(content)}

    def put_manifest(self, name: str, tag: str, kind: str, manifest: dict) -> dict:
        content = json.dumps({"schemaVersion": 2, "mediaType": kind, **manifest}).encode()
        done = httpx.put(f"http://{self.host}/v2/{name}/manifests/{tag}", content=content, headers={"Content-Type": kind}, auth=self.auth)
        assert done.status_code == 201, done.text
        return {"mediaType": kind, "digest": done.headers["Docker-Content-Digest"], "size": len(content)}

    def push(self, name: str, tag: str, layers: list[bytes], config: dict) -> dict:
        """Puts an image; what describes its manifest."""
        described = [{"mediaType": f"{OCI}.layer.v1.tar+gzip", **self.put_blob(name, layer)} for layer in layers]
        file = json.dumps({"os": "linux", "architecture": "amd64", "config": config}).encode()
        manifest = {"config": {"mediaType": f"{OCI}.config.v1+json", **self.put_blob(name, file)}, "layers": described}
        return self.put_manifest(name, tag, f"{OCI}.manifest.v1+json", manifest)


@contextmanager
def registry(place: Path, password: str | None = None) -> Iterator[Registry]:
    place.mkdir()
    one = Registry(place, password)
    try:
        wait_until(one.serves, 20, "the registry to serve")
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        one.log.close()


def layer(*members: tuple[str, bytes | str | None], mode: int = 0o755, owner: int = 0) -> bytes:
    """A layer: of a file with its content, a link with its target, or a directory."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for path, content in members:
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid = mode, owner, owner
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return gzip.compress(held.getvalue())
