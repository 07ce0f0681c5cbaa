"""Paths in cells of pictures: one policy for fitting, preparing and predicting, and nothing is written outside."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_data import draw_picture

import mmtab
from mmtab.benchmark.handout import without_labels
from mmtab.data.cells import image_sources
from mmtab.data.dataset import Dataset
from mmtab.data.pictures import find_picture, read_picture
from mmtab.data.table import Table
from mmtab.prepare.convert import convert
from mmtab.prepare.frames import from_frames
from mmtab.utils.errors import DataError, MmtabError

FILES = ("x.png", "a/x.png", "b/x.png", "sp ace/50%.png", "odd.name", "a/UP.PNG")


def photos(top: Path) -> Path:
    """A folder of pictures, no two of them alike, with links, beside things that nobody may read or change."""
    for number, name in enumerate(FILES):
        path = draw_picture(top / "src" / name if "." in name[-4:] else top / "src" / f"{name}.png", number, number)
        if path.name != Path(name).name:
            path.rename(path.with_name(Path(name).name))
    (top / "src" / "link.png").symlink_to(top / "src" / "a" / "x.png")
    (top / "src" / "out.png").symlink_to(top / "secret.png")
    for name in ("secret.png", "dst/x.png", "dst/pics/x.png", "pics/x.png", "x.png"):
        draw_picture(top / name, 7, 99)
    return top / "src"


def frames(cells: list[Any], **columns: Any) -> dict[str, pd.DataFrame]:
    rows = pd.DataFrame({"n": np.arange(len(cells)) / 7, "kind": ["cup", "hat"] * (len(cells) // 2), "photo": cells})
    return dict.fromkeys(("train", "valid", "test"), rows.assign(**columns))


def dataset(top: Path, cells: list[Any], **options: Any) -> Dataset:
    options = {"label": "kind", "types": {"photo": "image", "n": "numeric"}, "image_root": top / "src"} | options
    return from_frames(frames(cells), folder=top / "dst" / "new", **options)


def pictures(made: Dataset, table: str = "train") -> list[list[bytes]]:
    """The bytes of each cell."""
    read = Table(made.schema.name, table, made.folder, made[table].to_arrow()["id"].combine_chunks(), {})
    cells = made[table].to_arrow()["photo"].to_pylist()
    return [[read_picture(read, s, i, "photo") or b"" for s in image_sources(c)] for i, c in enumerate(cells)]


def everything(top: Path, but: Path) -> dict[str, bytes]:
    paths = (path for path in top.rglob("*") if path.is_file() and but not in path.parents)
    return {str(path): path.read_bytes() for path in paths}


SPELLINGS = {  # of a path, and the file that it names
    "x.png": "x.png",
    "./x.png": "x.png",
    "a//x.png": "a/x.png",
    "b/../x.png": "x.png",
    "../src/b/x.png": "b/x.png",
    "{root}/a/x.png": "a/x.png",
    "{root}/../src/a/x.png": "a/x.png",
    "{root}/sp ace/50%.png": "sp ace/50%.png",
    "sp ace/50%.png": "sp ace/50%.png",
    "file://{root}/sp%20ace/50%25.png": "sp ace/50%.png",
    "file://localhost{root}/x.png": "x.png",
    "a\\x.png": "a/x.png",
    "a\\UP.PNG": "a/UP.PNG",
    "link.png": "a/x.png",
    "odd.name": "odd.name",
}


def test_every_spelling_is_read_and_ends_inside(tmp_path: Path) -> None:
    root = photos(tmp_path)
    cells = [spelling.format(root=root) for spelling in SPELLINGS]
    cells.append(f"{root}/a/x.png;x.png;b/x.png")
    made = dataset(tmp_path, cells)
    names = [[name] for name in SPELLINGS.values()] + [["a/x.png", "x.png", "b/x.png"]]
    assert pictures(made) == [[(root / name).read_bytes() for name in cell] for cell in names]
    stored = made["train"].to_arrow()["photo"].to_pylist()
    assert stored[0] == "x.png" and stored[8] == "sp ace/50%.png", "an ordinary path stays as it is"
    assert not any(Path(s).is_absolute() or ".." in s or "\\" in s for cell in stored for s in cell.split(";"))
    again = convert(made.folder, tmp_path / "dst" / "again", "csv")
    assert pictures(Dataset.read(again)) == pictures(made)


REFUSED = {
    "https://example.org/a.png": "download the pictures first",
    "s3://bucket/a.png": "download the pictures first",
    "file://elsewhere/a.png": "download the pictures first",
    "../secret.png": "leaves the folder of the pictures",
    "..\\secret.png": "leaves the folder of the pictures",
    "file://{top}/secret.png": "leaves the folder of the pictures",
    "{top}/secret.png": "leaves the folder of the pictures",
    "out.png": "leaves the folder of the pictures",
    "a/absent.png": "image missing",
    "%2e%2e/secret.png": "image missing",
}


@pytest.mark.parametrize("cell", REFUSED)
def test_what_is_refused_is_named_as_the_user_wrote_it(tmp_path: Path, cell: str) -> None:
    root, path = photos(tmp_path), cell.format(top=tmp_path)
    with pytest.raises(DataError, match=REFUSED[cell]) as error:
        dataset(tmp_path, ["x.png", path])
    assert "row 2" in str(error.value) and path[:100] in str(error.value) and "building" not in str(error.value)
    assert not (tmp_path / "dst" / "new").exists()
    if REFUSED[cell] == "image missing":
        assert str(root) in str(error.value)
        assert pictures(dataset(tmp_path, ["x.png", "x.png"])) and dataset_with_a_gap(tmp_path, path)


def dataset_with_a_gap(top: Path, path: str) -> Dataset:
    return dataset(top / "gap", ["x.png", path], image_root=top / "src", bad_cells="missing")


def test_pictures_of_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    """Of two roots, of two embedded pictures, and where one is called like the other's folder."""
    root = photos(tmp_path)
    one, two = ((root / name).read_bytes() for name in ("a/x.png", "b/x.png"))
    rows = frames(["x.png", "x.png"])
    roots = {"train": root / "a", "valid": root / "b", "test": root / "a"}
    made = from_frames(rows, label="kind", types={"photo": "image"}, image_root=roots, folder=tmp_path / "dst" / "new")
    assert [pictures(made, table)[0][0] for table in ("train", "valid", "test")] == [one, two, one]
    cells = [{"bytes": one, "path": "x.png"}, {"bytes": two, "path": "x.png"}, {"bytes": two, "path": "x.png/y.png"}]
    cells += [{"bytes": two, "path": "../../pics/x.png"}]
    embedded = dataset(tmp_path / "e", cells)
    filed = convert(embedded.folder, tmp_path / "e" / "files", "csv")
    assert pictures(Dataset.read(filed)) == [[one], [two], [two], [two]]


@pytest.mark.parametrize("cell", [["x.png", "a/x.png"], {"bytes": None, "path": "a/x.png"}])
def test_paths_in_structs_and_lists_are_taken_along(tmp_path: Path, cell: Any) -> None:
    root = photos(tmp_path)
    made = dataset(tmp_path, [cell, cell])
    names = cell if isinstance(cell, list) else [cell["path"]]
    assert pictures(made) == [[(root / name).read_bytes() for name in names]] * 2


PARTS = ["a", "b", "..", ".", "x.png", "pics", "src", "link.png", "dataset.yaml", "train.parquet", "%2e%2e", ""]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "", "{root}/", "{top}/", "file://{root}/", "/", "\\", "~/"]),
            st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
            st.sampled_from(["/", "/", "\\"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_call_writes_outside_its_folder(cells: list[tuple[str, list[str], str, bool]]) -> None:
    with TemporaryDirectory() as scratch:
        top = Path(scratch)
        root, new = photos(top), top / "dst" / "new"
        data = (root / "b" / "x.png").read_bytes()
        values: list[Any] = []
        for prefix, parts, slash, is_embedded in cells:
            path = prefix.format(root=root, top=top) + slash.join(parts)
            values.append({"bytes": data, "path": path} if is_embedded else path)
        if any(is_embedded for *_, is_embedded in cells):
            values = [v if isinstance(v, dict) else {"bytes": None, "path": v} for v in values]
        before = everything(top, but=new)
        made = None
        for call in (
            lambda: dataset(top, values * 2),
            lambda: convert(new, new / "csv", "csv", "files"),
            lambda: convert(new, new / "parquet", "parquet", "embed"),
            lambda: without_labels(new, new / "handout"),
        ):
            try:
                result = call()
                made = made or result
            except MmtabError:
                pass
            assert everything(top, but=new) == before
        if isinstance(made, Dataset):
            for cell, found in zip(values * 2, pictures(made), strict=True):
                files = [find_picture(root.resolve(), str(s.path))[0] for s in image_sources(cell) if not s.data]
                assert found == [file.read_bytes() for file in files if file] or isinstance(cell, dict)


def test_a_handout_leaves_the_pictures_where_they_are(tmp_path: Path) -> None:
    """Absolute paths, as a folder written by hand may have them: linking such a one would have removed it first."""
    root = photos(tmp_path)
    made = dataset(tmp_path, ["x.png", "a/x.png"])
    rows = made["train"].to_pandas()
    rows["photo"] = [str(made.folder / cell) for cell in rows.photo]
    rows.to_parquet(made.folder / "train.parquet")
    before = everything(tmp_path, but=tmp_path / "handout")
    with pytest.raises(DataError, match=r"lead out of the handout.*mmtab prepare convert"):
        without_labels(made.folder, tmp_path / "handout")
    assert everything(tmp_path, but=tmp_path / "handout") == before and root.is_dir()


@pytest.mark.slow
def test_fit_and_predict_look_in_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path)
    n = 60
    rows = frames(["x.png", "b/x.png"] * (n // 2))["train"]
    options: dict[str, Any] = {"label": "kind", "types": {"photo": "image"}, "recipe": "frozen", "d_model": 16}
    options |= {"image": {"size": 32}, "trainer": {"max_epochs": 1, "progress": False}}
    run = mmtab.fit(rows, image_root=root, output=tmp_path / "run", **options)
    expected = run.predict_proba(rows).to_numpy()
    monkeypatch.chdir(root)
    here = mmtab.fit(rows, output=tmp_path / "here", **options)
    assert here.metrics == run.metrics
    np.testing.assert_array_equal(here.predict_proba(rows), expected)
    rows.drop(columns="kind").to_csv(root / "rows.csv", index=False)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(here.predict_proba(root / "rows.csv"), expected)
    with pytest.raises(DataError, match=rf"row 1 .*missing; expected a file under {tmp_path}.*no\.png"):
        here.predict(rows.assign(photo="no.png"))
    for spelling, name in SPELLINGS.items():
        told = [run.predict_proba(rows.head(2).assign(photo=p)) for p in (spelling.format(root=root), name)]
        np.testing.assert_array_equal(*told)
    rows.to_csv(root / "b" / "train.csv", index=False)  # whose pictures are found from where it lies
    with pytest.raises(DataError, match=r"b/x\.png"):
        mmtab.fit(root / "b" / "train.csv", output=tmp_path / "no", **options)
    named = mmtab.fit(root / "b" / "train.csv", image_root=root, output=tmp_path / "csv", **options)
    assert named.metrics == run.metrics


def test_paths_of_pictures_of_which_none_is_found_are_told(tmp_path: Path) -> None:
    rows = frames([f"pics/{i}.png" for i in range(8)])["train"]
    with pytest.warns(UserWarning, match=r"photo: taken as text, though .* paths of pictures.* image_root"):
        assert from_frames({"rows": rows}, label="kind").schema.of_type("image") == []
    for i in range(8):
        draw_picture(tmp_path / "pics" / f"{i}.png", 0, i)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_frames({"rows": rows}, label="kind", types={"photo": "text"})
        assert from_frames({"rows": rows}, label="kind", image_root=tmp_path).schema.of_type("image") == ["photo"]


def test_an_empty_file_is_no_picture(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    rows = pd.read_parquet(kway_run[0] / "test.parquet").head(2).assign(photo="x.png")
    with pytest.raises(DataError, match=r"row 1 .*column photo: not an image; .*found x\.png"):
        mmtab.load_run(kway_run[1]).predict(rows, image_root=tmp_path)


@pytest.mark.parametrize("cell", [1, True, 1.5, {"a": 1}])
def test_a_cell_that_is_no_picture_is_not_a_missing_one(cell: object) -> None:
    frame = pd.DataFrame({"photo": [None, *[cell] * 9], "label": ["a", "b"] * 5})
    with pytest.raises(DataError, match=r"row 2.*column photo: the cell is no picture; expected a path"):
        from_frames({"rows": frame}, label="label", types={"photo": "image"})
    assert len(from_frames({"rows": frame}, label="label", types={"photo": "image"}, bad_cells="missing")["train"])
