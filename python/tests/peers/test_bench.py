# SPDX-License-Identifier: Apache-2.0
"""python -m kumiko.bench: what it says, never how fast anything is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kumiko.bench import __main__ as program
from kumiko.bench import files, models, report
from kumiko.bench.cases import Case, Data, built_in
from kumiko.bench.libraries import PEERS, Kumiko
from kumiko.bench.measure import measure, spread

QUICK = ["--rounds", "2", "--window", "0.001", "--threads", "1"]
PREFILL = Case(q_heads=4, kv_heads=4, q_len=33, kv_len=33, head_dim=32)
DECODE = Case(batch=2, q_heads=8, kv_heads=2, q_len=1, kv_len=70, head_dim=32, causal=True)


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "kumiko.bench", *arguments], capture_output=True, text=True, check=False)


def test_a_shape_of_ones_own(tmp_path):
    plot, figures = tmp_path / "plot.svg", tmp_path / "figures.json"
    done = run("--q-heads", "4", "--q-len", "40", "--head-dim", "32", "--causal", *QUICK, "--json", figures, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert "1 of 1: f32 causal prefill, B1 H4 D32, 40 x 40" in done.stderr and "geometric mean" in done.stdout
    found = json.loads(figures.read_text())
    names = {"Kumiko", "PyTorch", "ONNX Runtime", "OpenVINO"}
    row, = found["rows"]
    assert {name.rpartition(" ")[0] for name in row["results"]} == names and found["missing"] == [] and row["notes"] == []
    for name, result in row["results"].items():
        assert name.rpartition(" ")[0] in done.stdout
        assert result["seconds"] > 0 and len(result["rounds"]) == 2 and ("ratio" in result) == (name != row["kumiko"])
    assert plot.read_text().count("f32 causal prefill") == 1 and "<svg" in plot.read_text()


@pytest.mark.parametrize("arguments, words", [
    (["--q-heads", "6", "--kv-heads", "4"], "--q-heads is 6, expected a multiple of --kv-heads 4"),
    (["--q-len", "0"], "--q-len is 0, expected at least 1"),
    (["--threads", "999"], "--threads is 999, expected 1 to"),
    (["--rounds", "0"], "--rounds is 0, expected at least 1"),
    (["--window", "0"], "--window is 0.0, expected more than 0"),
    (["--models", "--lengths", "5", "0"], "--lengths is [5, 0], expected each at least 1"),
    (["--models", "--q-len", "5"], "--q-len is given, expected no shape or type with --models"),
    (["--models", "--dtype", "bf16"], "--dtype is given, expected no shape or type with --models"),
    (["--lengths", "5"], "--lengths is [5], expected none without --models"),
    (["--window", "nan"], "--window is nan, expected more than 0"),
    (["--head-dim", "577"], "--head-dim is 577, expected at most 576"),
    (["--q-len", "1000000000", "--kv-len", "1000000000"], "the shape takes at least"),
    (["--json", "/no/such/folder/x.json"], "--json is /no/such/folder/x.json, expected a file that can be written: No such file or directory"),
    (["--plot", "/no/such/folder/x.svg"], "--plot is /no/such/folder/x.svg, expected a file that can be written"),
    (["--plot", "x.nonsense"], "--plot is x.nonsense, expected a name with one of the endings"),
    (["--plot", "x"], "--plot is x, expected a name with one of the endings"),
])
def test_bad_arguments_are_named(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2 and words in done.stderr and not done.stdout


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch, capsys):
    """Whatever fails, also after the measurement; a link stays one, and nothing is left beside it."""
    older, link = tmp_path / "older.json", tmp_path / "link.json"
    older.write_text("older")
    older.chmod(0o640)
    link.symlink_to("older.json")
    monkeypatch.setattr(program, "hold", lambda threads: 1)
    monkeypatch.setattr(program, "PEERS", ())
    command = ["--q-len", "8", *QUICK, "--json", str(link)]

    def full(*_):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as context:
        context.setattr(files.os, "replace", full)
        assert program.main(command) == 1
    found = capsys.readouterr()
    assert "No space left on device" in found.err and str(link) in found.err and "f32 prefill" in found.out
    assert older.read_text() == "older" and sorted(tmp_path.iterdir()) == [link, older]
    assert program.main(command) == 0
    assert json.loads(older.read_text())["rows"] and link.is_symlink() and older.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [link, older]


def test_json_may_go_to_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert files.why_not_written(str(pipe)) is None
        files.write_whole(str(pipe), b"{}")
        assert reader.communicate(timeout=60)[0] == "{}"


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("case", [PREFILL, Case(**{**vars(PREFILL), "causal": True}), DECODE,
                                  Case(q_heads=4, kv_heads=2, q_len=9, kv_len=33, head_dim=32, causal=True),
                                  Case(q_heads=4, kv_heads=2, q_len=33, kv_len=9, head_dim=32, causal=True)])  # first queries without keys
def test_every_way_of_every_library_is_right_or_says_why_not(case, dtype):
    case = Case(**{**vars(case), "dtype": dtype})
    data = Data(case)
    for library in (Kumiko, *PEERS):
        try:
            for way, make in library(1).ways(case, data):
                if way == "SDPA, computes in f16":
                    continue  # errs by more than the type requires, and is dropped
                call, answer = make()
                call(0)
                assert data.wrong(answer()) is None
        except NotImplementedError as error:
            assert library is not Kumiko and str(error)


def test_the_reference_is_attention():
    for case in (PREFILL, DECODE, Case(q_heads=4, kv_heads=2, q_len=9, kv_len=33, head_dim=32, causal=True)):
        data = Data(case)
        k, v = (x.astype(float).repeat(case.group, 1) for x in data.sets[0])
        right = np.empty(data.q.shape)
        for b, h, i in np.ndindex(data.q.shape[:3]):
            seen = case.kv_len - case.q_len + i + 1 if case.causal else case.kv_len
            weights = np.exp(k[b, h, :seen] @ data.q[b, h, i].astype(float) * case.scale)
            right[b, h, i] = weights @ v[b, h, :seen] / weights.sum()
        assert data.wrong(right) is None
        assert "errs by 0.001" in data.wrong(right + 1e-3)
        assert "not finite" in data.wrong(np.where(right == right.max(), np.nan, right))
        assert "shape is" in data.wrong(right[..., 1:])


class Wrong(Kumiko):
    def __init__(self, threads):
        super().__init__(threads)
        self.name = "Wrong 1"

    def ways(self, case, data):
        way, make = next(super().ways(case, data))
        call, answer = make()
        yield "doubled", lambda: (call, lambda: answer() * 2)
        yield "raises", lambda: 1 / 0
        yield way, make


def test_wrong_ways_are_dropped_and_named():
    row = measure(PREFILL, [Kumiko(1), Wrong(1)], 3, 1e-4)
    assert [note.partition(":")[0] for note in row["notes"]] == ["Wrong 1, doubled", "Wrong 1, raises"]
    assert row["results"]["Wrong 1"]["way"] == "attention"


def test_a_wrong_answer_of_kumiko_is_the_exit_status(monkeypatch, capsys):
    class Broken(Wrong):
        def ways(self, case, data):
            return list(super().ways(case, data))[:1]
    monkeypatch.setattr(program, "hold", lambda threads: 1)
    monkeypatch.setattr(program, "Kumiko", Broken)
    monkeypatch.setattr(program, "PEERS", ())
    assert program.main(["--q-len", "8", *QUICK]) == 1
    assert "wrong" in capsys.readouterr().out


def test_peers_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    libraries, missing = program.load(1)
    assert len(libraries) == 2 and [line.split(" is not measured")[0] for line in missing] == ["onnxruntime", "openvino"]


def test_report():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.5, "high": 2.5}

    def row(kind, **ratios):
        return {"case": kind, "kind": kind, "kumiko": "K", "results": {"K": {"seconds": 1e-3}, **{
            name: {"ratio": {"median": ratio, "low": ratio, "high": ratio}} for name, ratio in ratios.items()}}}
    text = report.table([row("prefill", A=8.0, B=4.0), row("prefill", A=1.0), row("decode", B=0.5)])
    assert "prefill: the fastest other library takes 2.00 times as long (geometric mean); Kumiko is ahead in 1 of 2" in text
    assert "decode: the fastest other library takes 0.50 times as long (geometric mean); Kumiko is ahead in 0 of 1" in text
    assert "1.000 ms" in text


def test_the_built_in_list_has_prefill_and_decode_in_two_types():
    assert {(case.kind, case.dtype) for case in built_in()} == {(kind, dtype) for kind in ("prefill", "decode") for dtype in ("f32", "bf16")}
    assert len({case.name for case in built_in()}) == len(built_in())


def test_eager_attention_is_left_out_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(models, "LAYERS", 1)
    scores = 8 * models.HEADS * 20**2
    for free, left_out in ((scores + 1, False), (scores, True)):
        monkeypatch.setattr(models, "_free_bytes", lambda free=free: free)
        row = models.measure_model(lambda: models._prefill(20), 1, 1)
        assert ("eager" not in row["rate"]) == left_out == ("eager" not in row["gain"])
        assert row["compared_with"] == ("sdpa" if left_out else "eager") and row["error"] < models.BOUND
        assert ("\n  eager " in models.model_table([row])) != left_out


@pytest.mark.parametrize("kind", ["_prefill", "_decode"])
def test_models_are_measured_and_checked(monkeypatch, capsys, kind):
    monkeypatch.setattr(models, "LAYERS", 1)
    monkeypatch.setattr(models, "models", lambda lengths: [lambda: getattr(models, kind)(lengths[0])])
    monkeypatch.setattr(program, "hold", lambda threads: 1)
    arguments = ["--models", "--lengths", "20", "--rounds", "1"]
    assert program.main([*arguments, "--json", "-"]) == 0
    row, = json.loads(capsys.readouterr().out)["models"]
    assert row["error"] < models.BOUND and set(row["rate"]) == set(row["share"]) == {"eager", "sdpa", "kumiko"}
    assert all(rate > 0 for rate in row["rate"].values()) and set(row["gain"]) == {"eager", "sdpa"}
    monkeypatch.setattr(models, "BOUND", -1.0)
    assert program.main(arguments) == 1
    found = capsys.readouterr()
    assert "Kumiko's output differs" in found.err and "of the time" in found.out


@pytest.mark.parametrize("low, median, high, words", [
    (1.1, 1.2, 1.3, "1.20 times SDPA's rate (1.10-1.30), 2.00 times eager's"), (0.9, 1.1, 1.3, "gains nothing over SDPA"),
    (0.7, 0.8, 0.9, "0.80 times SDPA's rate"), (1.001, 1.01, 1.02, "gains nothing over SDPA"),
])
def test_what_a_model_gains(low, median, high, words):
    assert models.says({"gain": {"sdpa": {"low": low, "median": median, "high": high}, "eager": {"median": 2.0}}}).startswith(words)
