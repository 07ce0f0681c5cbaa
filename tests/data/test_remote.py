"""Tables at an address are read as local ones."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from commands import script

import mmtab
from mmtab.data.remote import fetched
from mmtab.utils.errors import ConfigError, DataError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder that lies there."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}", folder
        http_server.shutdown()


def rows(n: int = 60) -> pd.DataFrame:
    sizes = [i % 7 + (i >= n // 2) * 10.5 for i in range(n)]
    return pd.DataFrame({"size": sizes, "kind": ["small" if size < 10 else "large" for size in sizes]})


def test_a_local_path_is_itself(tmp_path: Path) -> None:
    odd = tmp_path / "s3:" / "rows.csv"
    odd.parent.mkdir()
    rows().to_csv(odd)
    for path in (odd, tmp_path / "absent.csv", "C:/rows.csv", "rows.csv"):
        assert fetched(path) is path
    frame = rows()
    assert fetched(frame) is frame


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_it_is_read_as_the_same_table_here(tmp_path: Path, suffix: str) -> None:
    address = f"memory://bucket/{suffix}/rows.{suffix}"
    data = rows().to_parquet(index=False) if suffix == "parquet" else rows().to_csv(index=False).encode()
    with fsspec.open(address, "wb", compression="gzip" if suffix.endswith("gz") else None) as file:
        file.write(data)
    made = mmtab.Dataset.from_frame(address, label="kind", folder=tmp_path / "there")
    here = mmtab.Dataset.from_frame(rows(), label="kind", folder=tmp_path / "here")
    assert made["train"].to_pandas().equals(here["train"].to_pandas())


def test_a_folder_gives_the_tables_in_it_and_nothing_leaves_it(tmp_path: Path) -> None:
    for name in ("part0.parquet", "part1.parquet", "note.md", "inner/part2.parquet"):
        with fsspec.open(f"memory://lake/shards/{name}", "wb") as file:
            rows().to_parquet(file, index=False)
    found = fetched("memory://lake/shards")
    assert sorted(path.name for path in found.iterdir()) == ["part0.parquet", "part1.parquet"]


def test_a_server_names_files_as_it_likes(server: tuple[str, Path]) -> None:
    address, served = server
    rows().to_csv(served / "ä rows [1].csv", index=False)
    for place in ("ä rows [1].csv", "%C3%A4%20rows%20%5B1%5D.csv?token=a/b&url=http://x/y", "ä rows [1].csv#top"):
        assert fetched(f"{address}/{place}").name == "ä rows [1].csv"
    (served / "page.csv").write_text('link\n"<a href=""page.csv/part.csv"">"\n')  # a cell is no listing
    assert fetched(f"{address}/page.csv").is_file()
    assert [path.name for path in fetched(f"{address}/..").iterdir()] == ["ä rows [1].csv", "page.csv"]


def test_what_changed_is_fetched_again(server: tuple[str, Path], tmp_path: Path) -> None:
    address, served = server
    for text in ("a\n1\n", "a\n2\n"):
        (served / "rows.csv").write_text(text)
        path = fetched(f"{address}/rows.csv", tmp_path)
        assert path.read_text() == text and tmp_path in path.parents


def test_the_address_of_a_file_here_is_its_path(tmp_path: Path) -> None:
    path = tmp_path / "my rows.csv"
    rows().to_csv(path)
    for address in (f"file://{path}", f"file://localhost{path}", path.as_uri(), Path(f"file://{path}")):
        assert fetched(address) == path


def test_copies_go_with_the_process_that_made_them() -> None:
    code = """
import multiprocessing, os, sys, fsspec
from mmtab.data.remote import fetched
with fsspec.open("memory://bucket/rows.csv", "w") as file:
    file.write("a")
path = fetched("memory://bucket/rows.csv")
if (child := os.fork()) == 0:
    sys.exit(0)
os.waitpid(child, 0)
worker = multiprocessing.get_context("fork").Process(target=lambda: print(fetched("memory://bucket/rows.csv")))
worker.start(), worker.join()
print(path, path.read_text(), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=False)
    of_worker, text = done.stdout.splitlines()
    path, _, content = text.partition(" ")
    assert content == "a", done.stderr
    assert not Path(of_worker).exists() and not Path(path).parent.parent.exists()


def test_commands_and_runs_take_addresses(
    numbers_run: tuple[Path, Path], server: tuple[str, Path], tmp_path: Path
) -> None:
    (data, folder), (address, served) = numbers_run, server
    run, test = mmtab.load_run(folder), data / "test.parquet"
    shutil.copy(test, served / "rows.parquet")
    expected = run.predict(test)
    assert (run.predict(f"{address}/rows.parquet", image_root=data) == expected).all()
    output = tmp_path / "out.csv"
    names = {"run": folder, "input": f"{address}/rows.parquet", "image_root": data, "output": output}
    done = script("predict", *(f"{name}={value}" for name, value in names.items()))
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(pd.read_csv(output)["prediction"], expected.astype(float), rtol=1e-5)
    rows().to_csv(served / "made.csv", index=False)
    done = script("prepare_data", "infer", f"{address}/made.csv", "-o", tmp_path / "made")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "dataset.yaml").is_file()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://bucket/absent.csv", "memory://bucket/absent.csv cannot be read"),
        ("nowhere://bucket/rows.csv", "nowhere://bucket/rows.csv cannot be read"),
        ("http://127.0.0.1:9/rows.csv", "http://127.0.0.1:9/rows.csv cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(address: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fetched(address)


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_passwords_and_queries_stay_secret(scheme: str) -> None:
    with pytest.raises(DataError, match=f"{scheme}://me:\\*\\*\\*@127.0.0.1:9/rows.csv") as caught:
        fetched(f"{scheme}://me:pass@word@127.0.0.1:9/rows.csv?sig=hidden")
    assert not any(secret in str(caught.value) for secret in ("word", "hidden")) and not caught.value.__cause__


def test_a_dataset_folder_or_one_without_tables_is_told() -> None:
    for name in ("dataset.yaml", "train.csv"):
        with fsspec.open(f"memory://made/{name}", "w") as file:
            file.write("a")
    with pytest.raises(DataError, match=r"memory://made is a dataset folder.*Fix: copy it to this machine"):
        mmtab.fit("memory://made")
    with fsspec.open("memory://none/note.md", "w") as file:
        file.write("a")
    with pytest.raises(DataError, match="memory://none holds no table"):
        fetched("memory://none")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mmtab.fit(rows(), label="kind", output="s3://me:word@bucket/run"), "fit: output"),
        (lambda: mmtab.fit(rows(), label="kind", image_root="s3://me:word@bucket/run"), "fit: image_root"),
        (lambda: mmtab.Dataset.from_frame(rows(), label="kind", folder="s3://me:word@bucket/run"), "folder"),
        (lambda: mmtab.load_run("s3://me:word@bucket/run"), "run"),
        (lambda: mmtab.load_dataset("s3://me:word@bucket/run"), "dataset"),
    ],
)
def test_what_has_to_lie_here_is_no_address(
    call: Callable[[], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{name}=s3://me:\\*\\*\\*@bucket/run: expected a path of this machine"):
        call()
    assert not list(tmp_path.iterdir())
