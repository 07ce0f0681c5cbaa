"""How fast mmtab is on this machine: each number a median over repeats, each claim a ratio of two numbers of one run.

Data are the shipped catalogue's, with descriptions made longer so that a row fills ``max_length`` tokens.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer

from mmtab.benchmark.job import FOREIGN
from mmtab.benchmark.speed_tools import (
    WORDS,
    Clock,
    distinct,
    epoch_speed,
    lengthen,
    repeated,
    run_program,
    run_python,
    seconds_of,
    stepper,
    write_rows,
)
from mmtab.config.compose import compose
from mmtab.config.types import RunConfig
from mmtab.data import files
from mmtab.data.pictures import load_pictures
from mmtab.data.schema import ColumnType
from mmtab.data.synthetic import write_catalogue
from mmtab.data.table import read_split
from mmtab.features.backbones import ImageBackbone, TextBackbone
from mmtab.features.backbones.pretrained import tiny_text_backbone
from mmtab.features.loader import RowBatches, loader
from mmtab.features.text import tokenize
from mmtab.runs import provenance
from mmtab.runs.folder import read_facts
from mmtab.runs.predict import predict_table
from mmtab.runs.session import Session, open_run
from mmtab.runs.setup import prepare
from mmtab.runs.train import train
from mmtab.training.compute import silence_libraries
from mmtab.training.fit import fit
from mmtab.utils.atomic import write_json
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError
from mmtab.utils.machine import prepare_process, usable_cores
from mmtab.utils.memory import MemoryStore

TUNED = ("text.n_tuned_layers=null", "image.tuned=true", "trainer.batch_size=32")
FROZEN = ("text.n_tuned_layers=0", "image.tuned=false")
SIZES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Settings:
    rows: int = 900  # of the dataset; train is 70 %
    words: int = 80  # added to each description
    repeats: int = 3
    sizes: tuple[int, ...] = SIZES  # training rows of the part about memory
    peer_python: Path | None = None  # the Python of an environment that has AutoGluon


@dataclass(frozen=True)
class Finding:
    """``value`` in ``unit``; ``ratio`` to what it is compared with, and what that should be at least (or ``most``)."""

    what: str
    value: float
    unit: str = "rows/s"
    against: str = ""
    ratio: float | None = None
    least: float | None = None
    most: float | None = None
    part: str = ""


class Bench:
    """The parts of the benchmark: each yields findings as they come."""

    def __init__(self, settings: Settings, work: Path) -> None:
        self.settings, self.work = settings, work
        self.folder = work / f"catalogue-{settings.rows}-{settings.words}"
        if not self.folder.exists():
            write_catalogue(self.folder, "product_type", n_rows=settings.rows)
            lengthen(self.folder, settings.words)
        silence_libraries()
        prepare_process()
        torch.set_num_threads(usable_cores())

    def parts(self) -> dict[str, Callable[[], Iterable[Finding]]]:
        names: tuple[str, ...] = (
            "startup",
            "loop",
            "profile",
            "kernels",
            "frozen",
            "top",
            "store",
            "predict",
            "row",
            "memory",
        )
        names += ("autogluon",)
        return {name: getattr(self, name) for name in names}

    # --- parts

    def startup(self) -> Iterator[Finding]:
        """What a user waits for before a run begins."""
        commands = {
            "import torch": ["-c", "import torch"],
            "--help": ["-m", "mmtab.cli", "train", "--help"],
            "a setting that does not exist": ["-m", "mmtab.cli", "train", "trainer.max_epoch=3"],
            "a value that does not fit": ["-m", "mmtab.cli", "train", "trainer.precision=fp99"],
        }
        for what, command in commands.items():
            seconds = self._median(lambda command=command: seconds_of(lambda: run_python(command)))  # type: ignore[misc]
            most = {"--help": 1.5, "import torch": None}.get(what, 2.0)
            yield Finding(what, seconds, "s", most=most)

    def loop(self) -> Iterator[Finding]:
        """Training as mmtab train does it, against the least that PyTorch needs for the same steps."""
        ours, bare = [], []
        for seed in range(self.settings.repeats):
            settings = (*TUNED, f"seed={seed}")
            ours.append(self._fit(*settings)[-1])
            session, train = self._session(*settings)
            batches = list(loader(train, session.config.trainer.batch_size, shuffle=True, seed=seed))
            step = stepper(session, len(batches))
            bare.append([epoch_speed(session, step, batches) for _ in range(2)][-1])
        yield Finding("bare loop, tensors in memory", statistics.median(bare))
        yield _compared("training, tuned text and pictures", ours, bare, "bare loop", 0.95)

    def profile(self) -> Iterator[Finding]:
        """Where a step's time goes, tuned and frozen."""
        for name, settings in (("tuned", TUNED), ("frozen", FROZEN)):
            session, train = self._session(*settings)
            clock = Clock(session.compute.device)
            model: Any = session.model
            for part, module in (*model.tokenizer.encoders.items(), ("fusion", model.fusion), ("head", model.head)):
                clock.watch(part, module)
            batches = iter(loader(train, session.config.trainer.batch_size, shuffle=True))
            step = stepper(session, len(train), clock)
            step(next(batches))  # the first makes kernels
            clock.seconds.clear()
            start = time.perf_counter()
            while True:
                with clock("slicing the store"):
                    batch = next(batches, None)
                if batch is None:
                    break
                step(batch)
            total = time.perf_counter() - start
            for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
                yield Finding(f"{name}: {part}", 100 * seconds / total, "% of a step")

    def kernels(self) -> Iterator[Finding]:
        """bf16 against float32 and gradient checkpointing against none, tuned; torch.compile against none, frozen, for
        to compile the backward of whole backbones takes many minutes on CPU."""
        for base, changes in (
            (TUNED, {"fp32": "trainer.precision=fp32", "checkpointing": "text.checkpointing=true"}),
            (FROZEN, {"compile": "trainer.compile=true"}),
        ):
            name, plain = "tuned" if base is TUNED else "frozen", self._fit(*base)[-1]
            yield Finding(f"{name}, {self._session(*base)[0].compute.precision}", plain)
            for what, change in changes.items():
                speed = self._fit(*base, change)[-1]
                yield Finding(f"{name}, {what}", speed, "rows/s", "as above", speed / plain)

    def frozen(self) -> Iterator[Finding]:
        """Frozen networks: the second and later epochs, against encoding in every step."""
        many = Bench(replace(self.settings, rows=6 * self.settings.rows), self.work)
        for size in (64, 256):
            settings = (*FROZEN, f"trainer.batch_size={size}")
            encoding = many._fit(*settings, "store_frozen=false", epochs=1)[0]
            yield Finding(f"encoding in every step, batch {size}", encoding)
            speed = statistics.median(many._fit(*settings, epochs=1 + self.settings.repeats)[1:])
            yield Finding(f"stored, batch {size}", speed, "rows/s", "each step", speed / encoding, 50)

    def top(self) -> Iterator[Finding]:
        """The top two text layers tuned from stored states, against tuning all and against running the lower ones."""
        frozen = ("image.tuned=false", "trainer.batch_size=32")
        full = self._fit("text.n_tuned_layers=null", *frozen)[-1]
        yield Finding("all text layers tuned", full)
        unstored = self._fit("text.n_tuned_layers=2", *frozen, "store_frozen=false")[-1]
        yield Finding("top two, nothing stored", unstored, "rows/s", "all tuned", unstored / full)
        stored = self._fit("text.n_tuned_layers=2", *frozen)[-1]
        yield Finding("top two, lower layers stored", stored, "rows/s", "all tuned", stored / full, 2.0)

    def store(self) -> Iterator[Finding]:
        """Building the store, against its tokenizer and its picture decoder alone, on the same cores."""
        session, _ = self._session(*FROZEN)
        schema, table = session.schema, read_split(self.folder, session.schema, "train")
        text, image = _backbones(session)
        columns = schema.of_type(ColumnType.TEXT)
        many = replace(table, ids=repeated(table.ids, 20), columns={n: distinct(table.columns[n], 20) for n in columns})
        texts = [value for name in columns for value in many.columns[name].to_pylist() if value is not None]
        rust = Tokenizer.from_str(text.spec.tokenizer.backend_tokenizer.to_str())
        rust.enable_truncation(text.spec.max_length)

        def built(make: Callable[[Store], object]) -> float:
            with tempfile.TemporaryDirectory(dir=self.work) as cache:
                return seconds_of(lambda: make(Store(Path(cache))))

        def tokenize_alone() -> None:
            for start in range(0, len(texts), 4096):
                rust.encode_batch_fast(texts[start : start + 4096], add_special_tokens=False)

        raw = self._median(lambda: seconds_of(tokenize_alone))
        ours = self._median(lambda: built(lambda store: tokenize(many, columns, text.spec, store)))
        yield Finding("tokens", len(texts) / ours, "cells/s", "tokenizer alone", raw / ours, 0.8)
        folder = self.work / "pictures"
        if not folder.exists():
            write_catalogue(folder, "product_type", n_rows=6000)
        table = read_split(folder, schema, "train")
        paths = [folder / cell for cell in table.columns["image"].to_pylist() if cell]

        def decode(path: Path) -> None:
            with Image.open(path) as picture:
                np.asarray(ImageOps.pad(picture.convert("RGB"), (image.spec.size,) * 2, Image.Resampling.BICUBIC))

        with ThreadPoolExecutor(usable_cores()) as pool:
            raw = self._median(lambda: seconds_of(lambda: list(pool.map(decode, paths))))
        ours = self._median(lambda: built(lambda store: load_pictures(table, ["image"], image.spec, store)))
        yield Finding("pictures", len(paths) / ours, "pictures/s", "decoder alone", raw / ours, 0.8)

    def predict(self) -> Iterator[Finding]:
        """Predicting rows whose tokens and pictures are stored, against the two backbones alone."""
        session, train = self._session(*TUNED)
        text, image = _backbones(session)
        size, n_columns = session.config.trainer.eval_batch_size, len(session.schema.of_type(ColumnType.TEXT))
        batches = [batch.to(session.compute.device) for batch in loader(train, size, shuffle=False)]

        def backbones() -> None:
            with session.evaluating():
                for batch in batches:
                    text(batch.table.text, batch.table.n_rows, n_columns)
                    image(batch.table.image)

        bare = len(train) / self._median(lambda: seconds_of(backbones))
        ours = len(train) / self._median(lambda: seconds_of(lambda: session.predictions(train)))
        yield Finding("backbones alone", bare)
        yield Finding("predictions", ours, "rows/s", "backbones", ours / bare)

    def row(self) -> Iterator[Finding]:
        """A row at a time, as a service predicts with an open run: nothing is stored."""
        session, _ = self._session(*FROZEN)
        session.model.eval()  # as ``open_run`` leaves it: to change the mode and back takes a fifth of a row
        rows = pa.parquet.read_table(self.folder / "test.parquet").slice(0, 50)

        def each() -> None:
            for i in range(len(rows)):
                one = files.InMemory("rows", rows.slice(i, 1), self.folder)
                predict_table(session, self.work, one, {}, store=MemoryStore())

        each()
        yield Finding("a row alone, of an open run", 1e3 * self._median(lambda: seconds_of(each)) / len(rows), "ms")

    def memory(self) -> Iterator[Finding]:
        """Peak memory and speed as rows grow: text and tables, a text encoder small enough to read a million rows."""
        backbone = tiny_text_backbone(self.work / "tiny", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "title", ":", *WORDS])
        first = None
        for n in sorted(self.settings.sizes):
            folder = self.work / f"rows-{n}"
            write_rows(folder, n)
            run_python(["-c", TRAIN, *map(str, (folder, self.work / f"run-{n}", self.work / "cache", backbone))])
            facts = read_facts(self.work / f"run-{n}")
            yield Finding(f"{n:,} rows: training", facts["train_rows_per_second"])
            yield Finding(f"{n:,} rows: reading, fitting, store", n / facts["seconds"]["prepare"])
            peak = facts["peak_memory_mib"]
            first = peak if n == 10_000 else first
            ratio = None if first is None or n <= 10_000 else peak / first
            what, against = f"{n:,} rows: peak memory", "10,000 rows" if ratio else ""
            yield Finding(what, peak, "MiB", against, ratio, most=1.2 if ratio else None)

    def autogluon(self) -> Iterator[Finding]:
        """AutoGluon MultiModal, an epoch with the same text and picture networks, token length, picture size, batch."""
        if self.settings.peer_python is None:
            raise ConfigError("autogluon: give --peer-python PYTHON of an environment that has it")
        speeds = [self._beside_autogluon(self.settings.peer_python, seed) for seed in range(self.settings.repeats)]
        of = {what: [speed[what] for speed in speeds] for what in speeds[0]}
        yield Finding("AutoGluon: training, all of fit()", statistics.median(of["their training"]))
        yield _compared("training, all of train()", of["training"], of["their training"], "AutoGluon", 3.0)
        yield Finding("AutoGluon: prediction", statistics.median(of["their prediction"]))
        yield _compared("prediction, nothing stored", of["cold"], of["their prediction"], "AutoGluon", 5.0)
        yield _compared("prediction, rows stored", of["warm"], of["their prediction"], "AutoGluon", 5.0)

    def _beside_autogluon(self, python: Path, seed: int) -> dict[str, float]:
        """Rows/s of both."""
        n = {split: pa.parquet.read_metadata(self.folder / f"{split}.parquet").num_rows for split in ("train", "test")}
        with tempfile.TemporaryDirectory(dir=self.work) as scratch:
            program = [python, FOREIGN / "autogluon_.py", "multimodal", self.folder, scratch, "--seed", seed]
            options = ["--epochs", 1, "--batch", 32, "--time", 100_000, "--threads", usable_cores()]
            run_program([str(word) for word in (*program, *options)])
            facts, folder = json.loads(Path(scratch, "facts.json").read_text()), Path(scratch) / "run"
            config = self._config(*TUNED, f"seed={seed}", "trainer.max_epochs=1", f"cache={scratch}/cache")
            training = seconds_of(lambda: train(config, folder))
            session = open_run(folder)
            cold, warm = (
                seconds_of(lambda: session.predictions(session.load("test", self.folder)[0])) for _ in range(2)
            )
        return {
            "their training": n["train"] / facts["train_seconds"],
            "training": n["train"] / training,
            "their prediction": facts["predict_rows_per_second"],
            "cold": n["test"] / cold,
            "warm": n["test"] / warm,
        }

    # --- what they share

    def _config(self, *settings: str) -> RunConfig:
        places = f"dataset.path={self.folder}", f"cache={self.work / 'cache'}", f"output={self.work / 'run'}"
        return compose("dataset=custom", *places, "trainer.progress=false", *settings)

    def _session(self, *settings: str) -> tuple[Session, RowBatches]:
        config = self._config("trainer.max_epochs=2", *settings)
        torch.manual_seed(config.seed)
        prepared = prepare(config)
        session, train = prepared.session, prepared.train
        assert isinstance(train, RowBatches)
        session.model.to(session.compute.device)
        return session, train

    def _fit(self, *settings: str, epochs: int = 2) -> list[float]:
        """Train rows/s of each epoch; the first pays for what is made once."""
        config = self._config(*settings, f"trainer.max_epochs={epochs}", "trainer.patience=100")
        torch.manual_seed(config.seed)
        prepared = prepare(config)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            module, *_ = fit(prepared.fit_settings, Path(folder))
        return [len(prepared.train) / seconds for seconds in module.epoch_seconds]

    def _median(self, measure: Callable[[], float]) -> float:
        return statistics.median(measure() for _ in range(self.settings.repeats))


TRAIN = """
import sys
from pathlib import Path
from mmtab.config.compose import compose
from mmtab.runs.train import train

data, folder, cache, backbone = sys.argv[1:]
config = compose("dataset=custom", f"dataset.path={data}", f"cache={cache}", f"output={folder}",
                 "trainer.progress=false", f"text.backbone={backbone}", "text.n_tuned_layers=null",
                 "text.max_length=64", "trainer.max_epochs=1", "trainer.batch_size=256", "d_model=64")
train(config, Path(folder))
"""


def measure(settings: Settings, only: list[str], output: Path, report: Callable[[Finding], None]) -> list[Finding]:
    """Run the parts named (none: all that can be run), reporting and saving each finding as it comes."""
    with tempfile.TemporaryDirectory(prefix="mmtab-speed-") as work:
        bench = Bench(settings, Path(work))
        if unknown := sorted(set(only) - set(bench.parts())):
            raise ConfigError(f"no part {unknown[0]}: expected some of {', '.join(bench.parts())}")
        findings: list[Finding] = []
        for name, part in bench.parts().items():
            if name in only or (not only and (name != "autogluon" or settings.peer_python is not None)):
                for finding in part():
                    findings.append(replace(finding, part=name))
                    report(findings[-1])
                    own = json.loads(json.dumps(asdict(settings), default=str))
                    facts = provenance.facts() | {"threads": usable_cores(), "settings": own}
                    write_json(output, facts | {"findings": list(map(asdict, findings))})
    return findings


def _compared(what: str, ours: list[float], theirs: list[float], against: str, least: float) -> Finding:
    """Medians, of the speeds and of their ratio in each repeat."""
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return Finding(what, statistics.median(ours), against=against, ratio=ratio, least=least)


def _backbones(session: Session) -> tuple[TextBackbone, ImageBackbone]:
    text, image = session.backbones.text, session.backbones.image
    assert isinstance(text, TextBackbone) and isinstance(image, ImageBackbone)
    return text, image
