"""Alarms that a dataset folder keeps, and which anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import script
from toy_data import write_kway

from mmtab.data.checked import keep_alarms, kept_alarms
from mmtab.data.schema import Schema
from mmtab.data.table import fingerprint, training_files
from mmtab.utils.errors import DataError, RunError

ALARM = {"severity": "note", "message": "of train | <b>\n"}


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys", images=False)
    of = fingerprint(training_files(folder, Schema.read(folder)))
    assert kept_alarms(folder, of) is None
    keep_alarms(folder, [(ALARM["severity"], ALARM["message"])])
    assert kept_alarms(folder, of) == [ALARM]
    assert kept_alarms(folder, "another") is None
    assert fingerprint(training_files(folder, Schema.read(folder))) == of, "alarms are no data"


@pytest.mark.parametrize(
    "content",
    [
        '{"data_fingerprint": ' + "[" * 100_000,
        '{"data_fingerprint": NaN, "alarms": []}',
        '{"data_fingerprint": "x", "alarms": "none"}',
        '{"data_fingerprint": "x", "alarms": [{"severity": 1, "message": null}]}',
        '{"data_fingerprint": "x", "alarms": [{"severity": "note", "message": "\\ud800"}]}',  # half a character
    ],
)
def test_a_damaged_file_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "alarms.json").write_text(content)
    with pytest.raises(RunError, match=r"alarms.json.*Fix: mmtab prepare check") as error:
        kept_alarms(tmp_path, "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[1]", "mine", "", '{"alarms": []}'])
def test_a_file_of_somebody_else_is_left_alone(content: str, tmp_path: Path) -> None:
    folder = write_kway(tmp_path / "toys", images=False)
    (folder / "alarms.json").write_text(content)
    assert kept_alarms(folder, "x") is None
    checked = script("prepare_data", "check", folder)
    assert "alarms.json is no file of mmtab; rename it" in " ".join(checked.stdout.split())
    assert checked.returncode == 0 and (folder / "alarms.json").read_text() == content


def test_whole_characters_are_read_however_they_are_written(tmp_path: Path) -> None:
    message = "\U0001f4f7 of \u7530"
    for ascii in (True, False):
        alarms = {"data_fingerprint": "x", "alarms": [{"severity": "note", "message": message}]}
        (tmp_path / "alarms.json").write_text(json.dumps(alarms, ensure_ascii=ascii), encoding="utf-8")
        assert kept_alarms(tmp_path, "x") == [{"severity": "note", "message": message}]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toys").mkdir()
    (tmp_path / "secret.json").write_text(json.dumps({"data_fingerprint": "x", "alarms": [ALARM]}))
    (tmp_path / "toys" / "alarms.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(DataError, match=r"alarms.json is a link out of the folder"):
        kept_alarms(tmp_path / "toys", "x")
