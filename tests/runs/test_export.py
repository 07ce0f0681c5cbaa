"""Exports: the smallest folder that opens as a run, its model card, and the way to a hub and back."""

from __future__ import annotations

import base64
import html
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet
import pytest
import torch
import yaml
from commands import script
from toy_data import write_kway

import mmtab
from mmtab.reports.model_card import model_card
from mmtab.reports.run_page import write_report
from mmtab.runs.export import model_files
from mmtab.runs.folder import read_facts, read_run_file
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError, MmtabError, RunError
from mmtab.utils.text import markdown_text


@pytest.mark.parametrize("fixture", ["kway_run", "numbers_run", "pairs_run"])
def test_an_export_predicts_the_same_without_the_rest(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data, folder = request.getfixturevalue(fixture)
    done = script("export", folder, "-o", tmp_path / "export")
    assert done.returncode == 0 and "written:" in done.stdout, done.stderr
    moved = Path(shutil.move(tmp_path / "export", tmp_path / "elsewhere"))
    run, exported = mmtab.load_run(folder), mmtab.load_run(moved)
    pairs = fixture == "pairs_run"
    tables = {side: pyarrow.parquet.read_table(data / f"{side}.parquet") for side in ("left", "right") if pairs}
    rows = pyarrow.parquet.read_table(data / f"{'pairs_' if pairs else ''}test.parquet")
    found = [each.predictor(image_root=data)(rows, **tables) for each in (run, exported)]
    assert found[0].equals(found[1])
    files = {path.relative_to(moved).as_posix() for path in moved.rglob("*") if path.is_file()}
    assert files == {*model_files(folder), "manifest.json", "README.md"}
    assert not any("predictions" in name or "report" in name for name in files)
    texts = [(moved / name).read_text() for name in files if name.endswith((".yaml", ".json", ".md"))]
    assert not any(str(tmp_path.parent) in text or str(data) in text for text in texts), "folders of this machine"


def test_the_card_has_the_figures_of_the_run(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = kway_run
    text = (mmtab.load_run(folder).export(tmp_path / "export") / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    card, metrics = yaml.safe_load(head), read_run_file(folder, "metrics.json")
    assert card["pipeline_tag"] == "tabular-classification" and "image" in card["tags"]
    for result in card["model-index"][0]["results"]:
        scores = metrics[result["dataset"]["split"]]
        assert {m["type"]: m["value"] for m in result["metrics"]}["accuracy"] == round(scores["accuracy"], 4)
    assert f"| accuracy | {metrics['valid']['accuracy']:.4g} (" in body and "not fitted: " in body
    assert "kind 0, kind 1, kind 2" in body and "60 training rows" in body
    with pytest.raises(ConfigError, match="exists"):
        mmtab.load_run(folder).export(tmp_path / "export")
    copy = Path(shutil.copytree(folder, tmp_path / "damaged"))
    (copy / "task.json").write_text("{}")
    with pytest.raises(RunError, match="has changed since"):
        mmtab.load_run(copy).export(tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for output, message in [("link", "link exists"), ("file/below", "cannot be written")]:
        (tmp_path / "file").touch()
        with pytest.raises(MmtabError, match=message):
            mmtab.load_run(folder).export(tmp_path / output)
    assert not (tmp_path / "nowhere").exists()


def test_a_run_that_lost_a_file_or_has_one_of_elsewhere(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    data, folder = kway_run
    run = mmtab.load_run(shutil.copytree(folder, tmp_path / "run"))
    rows = pyarrow.parquet.read_table(data / "test.parquet")
    before = run.predict_proba(rows, image_root=data)
    (run.folder / "task.json").unlink()  # temperatures, without which probabilities are others
    for use in (lambda: mmtab.load_run(run.folder).predict(rows), lambda: run.export(tmp_path / "export")):
        with pytest.raises(MmtabError, match=r"task\.json is missing"):
            use()
    shutil.rmtree(run.folder)
    assert run.predict_proba(rows, image_root=data) == before  # it is open
    shutil.copytree(folder, run.folder)
    (run.folder / "manifest.json").unlink()  # as who changes weights may do
    weights = run.folder / "checkpoints" / "best.ckpt"
    saved = torch.load(weights, weights_only=True)
    for name in (next(reversed(saved["state_dict"])), "model.base.mean", "model.base.trees.forest.value"):
        changed = saved["state_dict"] | {name: saved["state_dict"][name] * torch.nan}
        torch.save(saved | {"state_dict": changed}, weights)
        with pytest.raises(MmtabError, match=f"{name.removeprefix('model.')} is not finite"):
            mmtab.load_run(run.folder).predict(rows)
    shutil.rmtree(run.folder)
    run = mmtab.load_run(shutil.copytree(folder, tmp_path / "run"))
    (tmp_path / "secret").touch()
    (run.folder / "text_backbone" / "notes").symlink_to(tmp_path / "secret")
    with pytest.raises(MmtabError, match="is a link out of the run"):
        run.export(tmp_path / "export")
    assert not (tmp_path / "export").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.slow  # two trainings and reports
def test_alarms_of_the_data_are_in_the_card_and_the_report(
    kway_run: tuple[Path, Path], configure: Callable[..., Any], tmp_path: Path
) -> None:
    data, folder = kway_run
    copy = shutil.copytree(folder, tmp_path / "copy")  # the run is that of other tests, too
    assert "not checked for leaks" in model_card(copy) and "was not checked" in write_report(copy).read_text()
    data = write_kway(tmp_path / "data", images=False)
    rows = pyarrow.parquet.read_table(data / "train.parquet")
    leaked = rows.set_column(rows.column_names.index("title"), "title", rows["label"])
    pyarrow.parquet.write_table(leaked, data / "train.parquet")
    assert script("prepare_data", "check", data).returncode == 0
    kept = json.loads((data / "alarms.json").read_text())["alarms"]
    assert kept
    train(configure(data, "trainer.max_epochs=1"), tmp_path / "run")
    assert read_facts(tmp_path / "run")["alarms"] == kept
    card, page = model_card(tmp_path / "run"), write_report(tmp_path / "run").read_text()
    assert "not checked" not in card + page and "was not checked" not in page
    for alarm in kept:
        assert markdown_text(alarm["message"]) in card and alarm["message"] in html.unescape(page)
    pyarrow.parquet.write_table(rows, data / "train.parquet")  # of which the alarms are not
    train(configure(data, "trainer.max_epochs=1", f"output={tmp_path / 'other'}"), tmp_path / "other")
    assert read_facts(tmp_path / "other")["alarms"] is None
    (data / "alarms.json").write_text('{"data_fingerprint": ')
    with pytest.raises(RunError, match=r"alarms.json is damaged.*Fix: mmtab prepare check .*data, or remove the file"):
        train(configure(data, "trainer.max_epochs=1", f"output={tmp_path / 'third'}"), tmp_path / "third")
    assert not (tmp_path / "third" / "checkpoints").exists(), "it says so before it trains"


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload and a download ask for, over the loopback."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: Any) -> None:
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.asked.append(f"POST {self.path}")
        host = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            self.answer({"url": f"{host}/{json.loads(body)['organization']}/{json.loads(body)['name']}"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{host}/me/toys/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self.answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if not path.startswith(("/api/models/me/toys", "/me/toys/")):
            self.send(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)
        elif "/resolve/" in path:
            data = self.files[path.split("/resolve/")[1].split("/", 1)[1]]
            self.send(data, {"ETag": f'"{len(data)}-{hash(data)}"', "X-Repo-Commit": "1" * 40})
        elif "/tree/" in path:
            self.answer([{"type": "file", "path": n, "size": len(d), "oid": "2" * 40} for n, d in self.files.items()])
        else:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "me/toys", "sha": "1" * 40, "siblings": siblings, "private": False, "tags": []})

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_run_goes_to_a_hub_and_comes_back(kway_run: tuple[Path, Path], hub: type[Hub], tmp_path: Path) -> None:
    data, folder = kway_run
    run = mmtab.load_run(folder)
    assert run.push_to_hub("me/toys", token="secret").endswith("/me/toys")
    assert set(hub.files) == {*model_files(folder), "manifest.json", "README.md"}
    hub.files["evil.py"] = b"raise SystemExit"  # which is not fetched
    rows = pyarrow.parquet.read_table(data / "test.parquet")
    again = mmtab.load_run("me/toys")
    assert again.predict(rows, image_root=data).tolist() == run.predict(rows, image_root=data).tolist()
    assert again.folder.is_relative_to(tmp_path / "hub") and not list(again.folder.glob("*.py"))
    with pytest.raises(RunError, match="me/nothing is no folder, and could not be read from the hub"):
        mmtab.load_run("me/nothing")
    with pytest.raises(RunError, match="expected OWNER/NAME"):
        run.push_to_hub("toys")
