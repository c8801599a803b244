"""The real download path, against a stand-in for the Hub on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from melete.data.datasets import resolve
from melete.data.hub import download
from melete.errors import InputError, StorageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """As much of the Hub as a snapshot needs: the revision, the list of files, and the files."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0]).removeprefix("/api").strip("/")
        self.asked.append(path)
        name = next((name for name in self.repositories if path.startswith(name)), None)
        if name is None or name == "models/some/gated":
            code = "RepoNotFound" if name is None else "GatedRepo"
            self.answer(404 if name is None else 403, b"{}", X_Error_Code=code)
            return
        files, rest = self.repositories[name], path.removeprefix(name)
        if rest.startswith("/revision/"):
            if rest.removeprefix("/revision/") not in ("main", COMMIT, "refs/convert/parquet"):
                self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
                return
            listed = [{"rfilename": file} for file in files]
            self.answer(
                200, json.dumps({"id": name.split("/", 1)[1], "sha": COMMIT, "siblings": listed}).encode()
            )
        elif rest.startswith("/tree/"):
            tree = [
                {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for file, body in files.items()
            ]
            self.answer(200, json.dumps(tree).encode())
        else:
            body = files[rest.split(f"/resolve/{COMMIT}/")[1]]
            self.answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Served(Handler):
        repositories = {}  # noqa: RUF012
        asked = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MELETE_DATA", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("NO_PROXY", "no_proxy"):  # the stand-in is on this machine, whatever proxy the machine has
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield Served
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_comes_without_its_pickles(hub: type[Handler]) -> None:
    hub.repositories["models/some/model"] = {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
        "tokenizer.json": b"{}",
        "training.pt": b"pickle",
    }
    # Its files are served without the prefix.
    hub.repositories["some/model"] = hub.repositories["models/some/model"]
    folder = download("some/model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert not any(name in asked for name in ("pytorch_model.bin", "training.pt") for asked in hub.asked)


def test_what_was_downloaded_is_found_offline(hub: type[Handler], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["datasets/some/set"] = {"a.txt": b"text"}
    folder = download("some/set", kind="dataset")
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download("some/set", kind="dataset") == folder
    assert not hub.asked
    with pytest.raises(
        StorageError, match=r"^other/set: not downloaded before, and HF_HUB_OFFLINE is set; unset"
    ):
        download("other/set", kind="dataset")


def test_a_pattern_cannot_ask_for_pickles(hub: type[Handler]) -> None:
    hub.repositories["models/some/old"] = hub.repositories["some/old"] = {
        "config.json": b"{}",
        "model.bin": b"pickle",
    }
    with pytest.raises(
        InputError, match=r"^some/old: the Hub has none .* expected \*\.safetensors; pickled weights"
    ):
        download("some/old")
    with pytest.raises(InputError, match="the Hub has none of the files wanted here"):
        download("some/old", patterns=["*.bin"])


def test_each_refusal_is_one_line(hub: type[Handler], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["models/some/gated"] = {}
    hub.repositories["datasets/some/set"] = {"a.txt": b"text"}
    cases = [
        ("some/none", {}, InputError, "some/none: the Hub has no such model; check the name"),
        (
            "some/none",
            {"kind": "dataset"},
            InputError,
            "some/none: the Hub has no such dataset; check the name",
        ),
        ("not a name", {}, InputError, "not a name: not a Hub name; expected owner/name"),
        (
            "some/gated",
            {},
            InputError,
            "some/gated: access has to be granted first; ask for it at http://127.0.0.1",
        ),
        (
            "some/set",
            {"kind": "dataset", "revision": "v9"},
            InputError,
            "some/set: no revision 'v9'; expected a branch",
        ),
    ]
    for repo_id, options, kind, message in cases:
        with pytest.raises(kind) as caught:
            download(repo_id, **options)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"^far/away: cannot be fetched from http://127\.0\.0\.1:9 .*; check the netw"
    ):
        download("far/away")


def parquet(*texts: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": list(texts)}), file)
    return file.getvalue()


def test_a_named_set_is_fetched_once_and_kept_in_its_own_form(hub: type[Handler], tmp_path: Path) -> None:
    hub.repositories["datasets/Salesforce/wikitext"] = {
        "wikitext-2-v1/train-00000-of-00001.parquet": parquet("", " = Title = \n", "", " A <unk> text . \n"),
        "wikitext-2-v1/validation-00000-of-00001.parquet": parquet("", " = Other = \n"),
        "wikitext-103-v1/train-00000-of-00002.parquet": b"large",
    }
    named = resolve("wikitext-2")
    assert [document.text for document in named.train] == ["\n = Title =\n\n A <unk> text .\n"]
    assert named.valid is not None
    assert [document.text for document in named.valid] == ["\n = Other =\n"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["wikitext-2"]
    hub.asked.clear()
    resolve("wikitext-2")
    assert not hub.asked


def test_tinyshakespeare_from_the_hub_is_put_together_again(hub: type[Handler]) -> None:
    parts = {"train": "a" * 90, "validation": "b" * 5, "test": "c" * 5}
    hub.repositories["datasets/karpathy/tiny_shakespeare"] = {
        f"default/{part}/0000.parquet": parquet(text) for part, text in parts.items()
    }
    named = resolve("tinyshakespeare")
    assert named.valid is not None
    assert [document.text for part in (named.train, named.valid) for document in part] == [
        "a" * 90,
        "bbbbbccccc",
    ]


def test_a_fetch_that_fails_leaves_nothing(hub: type[Handler], tmp_path: Path) -> None:
    hub.repositories["datasets/Salesforce/wikitext"] = {
        "wikitext-2-v1/train-00000-of-00001.parquet": parquet("text"),
        "wikitext-2-v1/validation-00000-of-00001.parquet": b"PAR1 damaged",
    }
    with pytest.raises(InputError, match="damaged parquet file"):
        resolve("wikitext-2")
    assert list((tmp_path / "cache").iterdir()) == []
