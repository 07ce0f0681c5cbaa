"""Mistakes at a terminal end in one line that says how to go on, before anything slow is imported. One process makes
them all, for each needs but a moment of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from commands import script
from toy_data import write_kway

# What is typed after mmtab (DATA is a dataset folder), what is said, and a library that is not installed.
MISTAKES: list[tuple[str, str]] = [
    ("trian", "error: mmtab has no command trian; did you mean train?"),
    (
        "train dataset=fashon",
        "fashon is neither a dataset folder nor a name of configs/dataset/; did you mean fashion?",
    ),
    ("train dataset=", "dataset=: expected a name of configs/dataset/, or a dataset folder"),
    ("train dataset=[fashion,music]", "a run has one dataset. Fix: train -m dataset=fashion,music makes a run of each"),
    ("train dataset=fashion,music", "one value is expected"),
    ("train trainer.epochs=3", "no setting trainer.epochs; did you mean trainer.max_epochs?"),
    ("train +trainer.epochs=3", "no setting trainer.epochs; did you mean trainer.max_epochs?"),
    ("train -m seed=0,1 output=out", "output=out: each run of -m has a folder of its own. Fix: hydra.sweep.dir=FOLDER"),
    ("train lr=0.1", "no setting lr; did you mean trainer.lr?"),
    ("train recip=auto", "no setting recip; did you mean recipe?"),
    ("train zzzzzz=1", "no setting zzzzzz; mmtab train --help lists all"),
    ("train fusion.n_headz=3", "no setting fusion.n_headz; did you mean fusion.n_heads?"),
    ("train recipe=xyz", "recipe=xyz: configs/recipe/ has no xyz; expected one of auto, cross, frozen, several, tuned"),
    ("train fusion=transfomer", "configs/fusion/ has no transfomer; did you mean transformer?"),
    ("train trainer.lr=-1", "trainer.lr=-1.0: expected at least 0"),
    ("train trainer.lr=quick", "trainer.lr=quick: expected a number"),
    ("train seed=a", "seed=a: expected a whole number"),
    ("train test=maybe", "test=maybe: expected true or false"),
    ("train trainer.max_minutes=soon", "trainer.max_minutes=soon: expected a number"),
    ("train trainer.max_minutes=-3", "trainer.max_minutes=-3.0: expected above 0"),
    ("train trainer.accelerator=gpu", "accelerator=gpu: this machine shows no GPU. Fix: accelerator=auto, or cpu"),
    ("train trainer.accelerator=gpuu", "trainer.accelerator=gpuu: expected one of auto, cpu, gpu"),
    ("train seed", "error: seed: expected NAME=VALUE"),
    ("evaluate runs/fashion/1", "error: run=runs/fashion/1: no such file or folder"),
    ("train noisy", "noisy: expected NAME=VALUE, such as dataset=noisy"),
    ("sweep noisy", "noisy: expected NAME=VALUE, such as datasets=noisy"),
    ("train SEED=1", "no setting SEED; did you mean seed"),
    ("train tiem_limit=60", "no setting tiem_limit; did you mean trainer.max_minutes (in minutes)?"),
    ("train time_limit=60", "no setting time_limit; did you mean trainer.max_minutes (in minutes)?"),
    ("train output=", "output=: expected a value. Fix: output=VALUE, or leave it out"),
    ("evaluate run=", "run=: expected a value"),
    ("evaluate runs/one runs/two", "runs/two: expected NAME=VALUE; the command takes one run by a word alone"),
    ("predict nowhere no.csv output=o.csv", "run=nowhere: no such file or folder"),
    ("match nowhere a b c output=o.csv", "c: expected NAME=VALUE; the command takes one run, then left, then right"),
    (
        "sweep recipe=frozen datasets=DATA output=o",
        "recipe is a setting of train, not of sweep. Fix: 'overrides=[",
    ),
    ("sweep trainer.lrr=1 output=o", "did you mean trainer.lr? Settings of train stand in 'overrides=[NAME=VALUE]'"),
    ("sweep dataset=DATA output=o", "no setting dataset; did you mean datasets?"),
    (
        "benchmark trainer.lr=1 output=o",
        "trainer.lr is a setting of train, not of benchmark. Fix: 'overrides=[trainer.",
    ),
    ("train --sed=1", "no setting sed; did you mean seed"),
    ("train --trainer.lr -1", "trainer.lr=-1.0: expected at least 0"),
    ("train --seed", "--seed: expected a value. Fix: --seed VALUE, or seed=VALUE"),
    ("train -x 3", "no option -x; settings are written name=VALUE or --name VALUE"),
    ("train dataset.drop=it's", "it cannot be read. Fix: put the value in quotes"),
    ("train dataset=custom", "dataset=custom wants dataset.path=FOLDER"),
    ("train dataset=custom dataset.path=nowhere", "no folder"),
    ("train dataset=custom dataset.path=DATA/train.parquet", "is a file, not a dataset folder. Fix: mmtab prepare all"),
    ("train dataset=DATA/train.parquet", "is no dataset folder, but a file"),
    ("train dataset=custom dataset.path=.", "no dataset.yaml"),
    ("train dataset=DATA dataset.drop=colour_", "cannot drop 'colour_'; expected a column type or one of"),
    ("train dataset=DATA dataset.metric=f1", "dataset.metric=f1: expected accuracy or macro_f1"),
    ("train dataset=DATA dataset.relations=x", "relations and ignored columns are for matching"),
    ("evaluate", "error: run is not given. Fix: add run=…"),
    ("evaluate run=nowhere", "run=nowhere: no such file or folder"),
    ("evaluate run=s3://me:word@bucket/run", "run=s3://me:***@bucket/run: expected a path of this machine"),
    ("predict run=DATA input=s3://b/rows.csv output=s3://b/out.csv", "output=s3://b/out.csv: expected a path|finished"),
    ("train dataset=s3://bucket/data", "dataset=s3://bucket/data: expected a path of this machine, found an address"),
    ("train dataset=custom dataset.path=hf://data", "dataset.path=hf://data: expected a path of this machine"),
    ("prepare all DATA/train.parquet lable=type -o out", "lable=type: no option lable, and no such file; did you mean"),
    ("prepare all DATA/train.parquet zzz=type -o out", "zzz=type: no option zzz, and no such file; expected one of"),
    ("prepare all left.csv pairs.csv -o out", "left is alone. Fix: give both tables, left and right, or call the one"),
    ("export DATA outpt=o", "outpt=o: no option outpt, and no such file; did you mean output?"),
    ("results nowhere", "no folder nowhere; expected run folders, or folders that hold some"),
    ("prepare infer DATA/train.parquet -o s3://b/x", "output=s3://b/x: expected a path of this machine"),
    ("train dataset.path=DATA", "is not read, for dataset=catalogue is generated. Fix: add dataset=custom"),
    ("evaluate run=DATA/train.parquet", "it is a file"),
    ("evaluate run=DATA", "is not a finished run: it has no provenance.json"),
    ("evaluate run=RUNS", "is not a finished run: it has no provenance.json (but it holds runs, the last of them"),
    ("evaluate run=DATA split=tets", "split=tets: expected one of train, valid, test"),
    ("predict run=DATA input=no.csv output=out.csv", "is not a finished run|input=no.csv: no such file or folder"),
    ("report run=DATA,DATA", "is not a finished run"),
    ("reproduce run=DATA tolerance=-1", "tolerance=-1.0: expected at least 0"),
    ("match run=DATA output=out.csv", "is not a finished run"),
    ("sweep output=out", "datasets is not given"),
    ("sweep datasets=openmojj output=out", "openmojj is neither a dataset folder nor a name"),
    ("sweep datasets=DATA seeds=a output=out", "expected a whole number"),
    ("sweep datasets=DATA sampler=grit output=out", "sampler=grit: expected one of"),
    ("sweep datasets=DATA space=nowhere output=out", "space=nowhere: neither a name of configs/sweep/"),
    ("sweep datasets=DATA overrides=trainer.epochs=3 output=out", "overrides: no setting trainer.epochs; did you mean"),
    ("sweep datasets=DATA space=optimizer output=out", "configs/sweep/ nor a yaml file; did you mean optimiser?"),
    ("-optuna sweep datasets=DATA output=out", 'error: this needs optuna. Fix: pip install "mmtab[sweep]"'),
    (
        "-sparse_dot_topn match run=DATA output=o.csv",
        'this needs sparse_dot_topn. Fix: pip install "mmtab[matching]"',
    ),
    ("benchmark track=kwya output=out", "configs/track/ has no kwya; did you mean kway?"),
    ("benchmark system=[frozen,majorty] output=out", "system=majorty: configs/system/ has no majorty; did you mean"),
    ("benchmark seeds=a output=out", "seeds=a: expected a number from 1, or a list of seeds"),
    ("prepare infre", "error: mmtab prepare: No such command 'infre'. Did you mean 'infer'"),
    ("prepare infer no.csv -o out", "no file no.csv"),
    ("prepare infer DATA/train.parquet --labell type -o out", "No such option: --labell (Possible options: --label)"),
    ("prepare infer DATA/train.parquet -o DATA/train.parquet/x", "DATA/train.parquet: File exists. Fix: give another"),
    ("train dataset=DATA output=DATA/train.parquet/x", "DATA/train.parquet/x: Not a directory. Fix: give another path"),
    ("train dataset=DATA output=/proc/out", "/proc/out: No such file or directory. Fix: give another"),
    ("train dataset=DATA output=out${", "a name in which ${ is not closed. Fix: give another output=FOLDER"),
    (f"train dataset=DATA output={'n' * 300}", "File name too long. Fix: give another path"),
    ("prepare split DATA --method alphabetic", "'alphabetic' is not one of"),
    ("export", "Missing argument 'run'"),
    ("results", "Missing argument 'folders'"),
    ("export DATA", "Missing option '--output'"),
    ("export run=DATA", "Missing option '--output'"),
    ("prepare split folder=DATA method=alphabetic", "'alphabetic' is not one of"),
    ("cache clean all=perhaps", "all=perhaps: expected true or false"),
    ("cache clean --older-than soon", "Invalid value for '--older-than'"),
]

MAKE_ALL = """
import contextlib, io, json, sys, time

from mmtab.cli import main

for line in sys.stdin:
    words = line.split()
    absent = words.pop(0)[1:] if words[0].startswith("-") else ""
    if absent:
        sys.modules[absent] = None
    out, err, status, began = io.StringIO(), io.StringIO(), 0, time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["mmtab", *words]
        try:
            main.main()
        except SystemExit as ended:
            status = ended.code
    if absent:
        del sys.modules[absent]
    facts = {"status": status, "out": out.getvalue(), "err": err.getvalue(), "torch": "torch" in sys.modules}
    print(json.dumps(facts | {"seconds": time.process_time() - began}), flush=True)
"""


def test_mistakes_are_one_line_before_anything_slow(tmp_path: Path) -> None:
    """One test, so that one worker makes them all."""
    write_kway(tmp_path / "toys", n=30, images=False)
    (tmp_path / "left.csv").write_text("id,name\n1,cup\n2,pot\n")
    (tmp_path / "pairs.csv").write_text("left_id,right_id,label\n1,1,1\n2,1,0\n")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "provenance.json").write_text("{}")
    typed = [line.replace("DATA", "toys").replace("RUNS", "runs") for line, _ in MISTAKES]
    check_told(typed, [message.replace("DATA", "toys") for _, message in MISTAKES], tmp_path)
    assert not (tmp_path / "out").exists()


def check_told(typed: list[str], messages: list[str], folder: Path) -> None:
    """Each line is refused in one line, which says one of the parts of its message, without torch."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # also where there is a GPU
    command, text = [sys.executable, "-c", MAKE_ALL], "\n".join(typed)
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, cwd=folder, timeout=500, check=False, env=environment
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(typed), done.stderr[-2000:]
    for line, message, result in zip(typed, messages, results, strict=True):
        said = result["err"]
        assert said.startswith("error: ") and said.count("\n") == 1, (line, said)
        assert any(part in said for part in message.split("|")), (line, said)
        assert result["status"] in (1, 2) and not result["torch"], line
    print("CPU seconds of each, with imports not made yet:", *(f"{result['seconds']:.2f}" for result in results))


# As MISTAKES, of finished runs: KWAY and PAIRS, with their datasets KDATA and PDATA
OF_RUNS: list[tuple[str, str]] = [
    ("match run=KWAY output=o.csv", "is a run of kway; mmtab match wants one of matching. Fix: mmtab predict run="),
    ("match run=PAIRS output=o.xlsx", "output=o.xlsx: expected a name ending in .parquet or .csv"),
    ("match run=PAIRS output=/proc/o.csv", "output=/proc/o.csv: No such file or directory. Fix: give another path"),
    ("match run=PAIRS output=PAIRS/o.csv", "lies in the run folder, which is read"),
    ("match run=PAIRS output=KDATA", "expected a name ending in"),
    ("match run=PAIRS records=notes.md output=o.csv", "records=notes.md: no table; expected a name ending in one of"),
    ("match run=PAIRS records=rows.csv output=rows.csv", "would overwrite rows.csv"),
    ("evaluate KWAY path=PDATA", "is a dataset of matching; "),
    ("predict KWAY no.csv output=o.csv", "input=no.csv: no such file or folder"),
    ("evaluate KWAY -o KWAY/metrics.json", "lies in the run folder, which is read"),
    ("evaluate KWAY -o metrics.csv", "output=metrics.csv: expected a name ending in .json"),
    ("evaluate KWAY path=.", "table test: the table is missing"),
    ("predict run=KWAY input=rows.csv output=o.xlsx", "output=o.xlsx: expected a name ending in .parquet or .csv"),
    ("predict run=KWAY input=rows.csv output=rows.csv/o.csv", "output=rows.csv/o.csv: Not a directory. Fix: give"),
    ("predict run=KWAY input=rows.csv output=a.csv", "output=a.csv is a folder; expected a file"),
    ("predict run=KWAY input=rows.csv output=rows.csv", "would overwrite rows.csv"),
    ("predict run=KWAY input=notes.md output=o.csv", "input=notes.md: no table; expected a name ending in one of"),
    ("predict run=KWAY input=rows.csv output=o.csv", "table rows, column title: the file lacks this column"),
    ("predict run=KWAY input=KDATA/test.parquet output=o.csv cost=3", "cost is for matching; this is a run of kway"),
    ("predict run=KWAY input=KDATA/test.parquet output=o.csv interval=.9", "interval is for regression"),
    ("predict run=KWAY input=rows.csv output=o.csv left=rows.csv", "left: for matching; this is a run of kway"),
    ("predict run=PAIRS input=rows.csv output=o.csv", "matching wants left=TABLE and right=TABLE, or records=TABLE"),
    ("report KWAY split=train", "has no scored predictions of 'train'; run mmtab evaluate"),
    ("report KWAY,KWAY output=o.html", "the same run is named twice"),
    ("report KWAY,KWAY output=o.csv", "output=o.csv: expected a name ending in .html"),
    ("report KWAY,PAIRS output=o.html", "runs of different datasets cannot be compared"),
    ("export KWAY -o /proc/o", "output /proc/o cannot be written"),
    ("export KWAY -o out format=pickle", "format=pickle: expected run, onnx or torch"),
    ("sweep datasets=KDATA output=rows.csv", "output=rows.csv: Not a directory. Fix: give another path"),
    ("benchmark track=kway output=rows.csv", "output=rows.csv: Not a directory. Fix: give another path"),
    ("benchmark track.kway.datasets=[nowhere/x] track=kway output=o", "track.kway: there is no "),
]


def test_what_a_run_cannot_do_is_told_before_it_is_opened(
    kway_run: tuple[Path, Path], pairs_run: tuple[Path, Path], tmp_path: Path
) -> None:
    names = {"KDATA": kway_run[0], "PDATA": pairs_run[0], "KWAY": kway_run[1], "PAIRS": pairs_run[1]}
    (tmp_path / "rows.csv").write_text("id,name\n1,cup\n")
    (tmp_path / "notes.md").write_text("a,b\n")
    (tmp_path / "a.csv").mkdir()
    typed = [re.sub("|".join(names), lambda name: str(names[name[0]]), line) for line, _ in OF_RUNS]
    check_told(typed, [message for _, message in OF_RUNS], tmp_path)


def test_a_command_without_arguments_shows_its_help(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmtab.cli", "prepare"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500, check=False)
    assert done.returncode == 0 and "infer" in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_page_of_one_run_has_no_other_place(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    told = script("report", f"run={kway_run[1]}", f"output={tmp_path / 'page.html'}")
    assert told.returncode == 1 and told.stderr.startswith("error: output= is for a comparison of several runs")


def test_runs_that_cannot_be_compared_are_told_before_anything_is_written(
    kway_run: tuple[Path, Path], numbers_run: tuple[Path, Path], tmp_path: Path
) -> None:
    folders = [Path(shutil.copytree(run, tmp_path / name)) for name, (_, run) in (("a", kway_run), ("b", numbers_run))]
    told = script("report", f"run=[{folders[0]},{folders[1]}]", f"output={tmp_path / 'page.html'}")
    assert told.returncode == 1 and "(kway) of a" in told.stderr and "Fix: name runs of one dataset" in told.stderr
    assert not (tmp_path / "page.html").exists() and not any((folder / "report").exists() for folder in folders)


def test_a_warning_is_one_line_and_no_optional_library_is_loaded(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    """In one process, which imports all that a training needs."""
    data, folder = kway_run
    rows = pyarrow.parquet.read_table(data / "test.parquet")
    rows = rows.set_column(rows.column_names.index("size"), "size", pa.array([1e9] * len(rows)))
    pyarrow.parquet.write_table(
        rows.drop_columns("photo").append_column("photo", pa.nulls(len(rows), pa.string())), tmp_path / "rows.parquet"
    )
    command = ["predict", f"run={folder}", f"input={tmp_path / 'rows.parquet'}", f"output={tmp_path / 'out.csv'}"]
    code = (
        "import sys, mmtab.runs.evaluate, mmtab; from mmtab.cli.main import main; mmtab.fit; sys.argv[0] = 'mmtab'\n"
        "seen = {'optuna', 'wandb'} & {*sys.modules}; main()\n"  # timm imports wandb
        "print('loaded:', seen | {'lightgbm', 'pytorch_lightning', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=500)
    assert done.stdout.splitlines()[-1] == "loaded: set()", done.stderr
    assert done.returncode == 0 and re.fullmatch(r"warning: dataset .* unlike .*size.* Fix: .*\n", done.stderr), (
        done.stderr
    )
