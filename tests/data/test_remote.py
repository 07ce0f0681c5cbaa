"""Tables at an address are read as local ones."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from commands import script

import mmtab
from mmtab.data.remote import fetched
from mmtab.utils.errors import DataError


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
    for name in ("part0.parquet", "part1.parquet", "note.txt", "inner/part2.parquet"):
        with fsspec.open(f"memory://lake/shards/{name}", "wb") as file:
            rows().to_parquet(file, index=False)
    found = fetched("memory://lake/shards")
    assert sorted(path.name for path in found.iterdir()) == ["part0.parquet", "part1.parquet"]


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
