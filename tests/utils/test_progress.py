"""What a long computation shows: on an injected clock, in the log of a short training, and on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import script
from toy_data import write_kway

from mmtab.utils import progress
from mmtab.utils.progress import Display, Stage, asked, duration, say, showing, steps, under_way, unseen


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log() -> Iterator[tuple[Clock, Display]]:
    clock = Clock()
    display = Display("log", clock)
    display._watch = lambda: None  # type: ignore[method-assign]  # the test looks itself
    yield clock, display
    display.close()


def test_a_log_gets_a_line_at_least_every_thirty_seconds(
    log: tuple[Clock, Display], capsys: pytest.CaptureFixture[str]
) -> None:
    clock, display = log
    outer, inner = Stage("preparing", clock=clock), Stage("text features", 40, clock=clock)
    display.begin(outer)
    display.begin(inner)
    last, gaps, text = 0.0, [], ""
    for tick in range(1, 800):
        clock.now = tick * progress.LOOK
        inner.done = int(clock.now / 10)
        display.look()
        if said := capsys.readouterr().out:
            gaps.append(clock.now - last)
            last, text = clock.now, said
    assert len(gaps) == 7 and max(gaps) <= 30
    assert text == "preparing, 3 min; text features 17 of 40, 3 min, about 4 min to go\n"
    display.end(inner)
    display.end(outer)
    clock.now += 1000
    display.look()
    assert not capsys.readouterr().out, "nothing is under way"


def test_a_line_that_is_said_counts(
    log: tuple[Clock, Display], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, display = log
    monkeypatch.setattr(progress, "_display", display)
    with under_way(Stage("training", clock=clock)):
        clock.now = 20
        say("epoch 1")
        clock.now = 40
        display.look()
        assert capsys.readouterr().out == "epoch 1\n"
        clock.now = 46
        display.look()
        assert capsys.readouterr().out == "training, 46 s\n"


def test_the_time_left_is_that_of_the_steps_since_the_beginning() -> None:
    clock = Clock()
    stage = Stage("epoch 1 of 9, step", 900, clock=clock)
    assert stage.left is None, "nothing is known yet"
    stage.begin(600)  # of a run that is gone on with
    clock.now = 10.0
    assert stage.left is None
    stage.done = 650
    assert stage.left == 50.0
    assert stage.line() == "epoch 1 of 9, step 650 of 900, 10 s, about 50 s to go"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (118, "2 min"), (130, "2 min 10 s"), (1800, "30 min"), (9000, "2.5 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_library_is_quiet_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with unseen():
        assert list(steps(range(3), 3, "steps")) == [0, 1, 2]
        say("nobody hears this")
        with asked(None), under_way("nor sees this"):
            say("nor this")
        assert capsys.readouterr().out == ""
        with asked(True):
            say("asked for")
            assert progress._display is not None
        say("nothing again")
    assert capsys.readouterr().out == "asked for\n"
    with showing(), asked(False), under_way("hidden"):  # of a command
        say("lines stay")
        display = progress._display
        assert display is not None and not display.stages
    assert capsys.readouterr().out == "lines stay\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_only_the_first_process_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with showing():
        assert progress._display is None


SMALL = ["trainer.max_epochs=2", "trainer.batch_size=16", "d_model=16", "fusion.d_hidden=32", "text.n_tuned_layers=1"]


def arguments(folder: Path, backbone: Path) -> list[str]:
    data = write_kway(folder / "toy", n=100, images=False)
    return [f"dataset={data}", f"output={folder / 'run'}", f"text.backbone={backbone}", "text.max_length=24", *SMALL]


def test_a_training_says_what_it_does_from_beginning_to_end(tmp_path: Path, backbone: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = script("train", *arguments(tmp_path, backbone))
    assert done.returncode == 0, done.stderr
    expected = [
        "toy: k-way classification, columns: 1 text, ",
        r"rows: train 60, valid 20, test 20; 3 classes",
        r"training: [\d,]+ of [\d,]+ parameters learn from 60 rows, at most 2 epochs of 4 steps, on cpu, \d+ threads",
        "epoch   1  loss ",
        "epoch   2  loss ",
        "report: ",
        "- ",
        f"run folder: {re.escape(str(tmp_path / 'run'))}",
        r"next: mmtab predict run=\S+/run input=ROWS.csv output=predictions.csv; mmtab export \S+/run -o MODEL",
    ]
    lines = iter(done.stdout.splitlines())
    for pattern in expected:
        assert any(re.match(pattern, line) for line in lines), (pattern, done.stdout)


@pytest.mark.slow
def test_a_terminal_shows_bars_and_is_left_clean(tmp_path: Path, backbone: Path) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "mmtab.cli", "train", *arguments(tmp_path, backbone), "report=false"]
    process = subprocess.Popen(
        command, stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(terminal)
    text, seconds = "", 0.0
    while True:
        try:
            part = os.read(controller, 4096).decode(errors="replace")
        except OSError:  # the process has ended
            break
        if not text:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        text += part
    assert process.wait() == 0, text
    print(f"the first line came after {seconds:.2f} s of CPU")
    assert text.startswith("toy: k-way classification") and seconds < 3
    assert "loading torch, " in text, "which takes long enough to be shown"
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
    assert "Traceback" not in text and "next: mmtab predict" in text


def test_a_process_without_output_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)  # as Python has it where a shell closed it (>&-)
    with showing(), under_way("waiting"):
        say("unheard")


def test_threads_that_overlap_share_one_display_which_ends_with_the_last() -> None:
    first_ends, second_began, seen = threading.Event(), threading.Event(), list[bool]()

    def first() -> None:
        with showing():
            second_began.wait(10)
        first_ends.set()

    def second() -> None:
        with showing(), under_way("long"):
            second_began.set()
            first_ends.wait(10)
            seen.append(progress._display is not None)

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] and progress._display is None
    with showing():
        assert progress._display is not None
    assert progress._display is None


@pytest.mark.parametrize("end", ["| head -1", ">&-"])
def test_a_command_goes_on_when_nobody_reads_what_it_says(end: str, tmp_path: Path) -> None:
    code = "import sys; sys.argv=['mmtab','zzz']\n"
    code += "from mmtab.utils.progress import say\nimport mmtab.cli.main as m\n"
    code += "m.COMMANDS = {}\n"
    code += "import contextlib\nwith contextlib.suppress(SystemExit): m.main()\n"
    code += "for i in range(20000): say(f'line {i} of many')\n"
    code += f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    (tmp_path / "code.py").write_text(code)
    command = f"{sys.executable} {tmp_path / 'code.py'} {end}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=500, check=False)
    assert (tmp_path / "done").is_file(), done.stderr
    assert "Traceback" not in done.stderr
