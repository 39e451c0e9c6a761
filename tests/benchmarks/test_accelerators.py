"""The suite that compiles for accelerators, and the script to run on one."""

import importlib.util
import json

import pytest

from benchmarks import accelerators, device_checks
from tokenlearner_flexivit.models import variants
from tokenlearner_flexivit.parallel import topologies


def row(name, memory, traffic):
  return dict(
    chip="TPU",
    name=name,
    program="train",
    variant="S",
    patch_size=16,
    num_images=4,
    fits=True,
    memory_gib=memory,
    traffic_gb=traffic,
    compile_s=1.0,
    kernels={"pallas": 2},
  )


def test_rows_are_compared_with_those_of_the_same_program():
  rows = [
    row("stock", 2.0, 10.0),
    row("ours", 1.0, 8.0),
    row("ours, scan", 0.5, None),
    row("stock", 7.0, 70.0) | {"patch_size": 8},
  ]
  ours, scan = accelerators.compare(rows)
  assert ours["memory/stock"] == 0.5 and ours["traffic/stock"] == 0.8
  assert scan["memory/ours"] == 0.5 and "traffic/stock" not in scan
  assert ours["kernels"] == "2 pallas"


def test_a_missing_compiler_is_told_and_left_out(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert accelerators.available(["v5e", "h200"]) == {}
  assert "tokenlearner_flexivit[tpu]" in capsys.readouterr().out


def test_rows_that_are_there_are_not_compiled_again(tmp_path, monkeypatch):
  chip = topologies.CHIPS["h200"]
  monkeypatch.setattr(
    topologies,
    "create",
    lambda name: topologies.Topology(name, chip, (), {}),
  )
  compiled = []

  def compile_row(topology, **cell):
    compiled.append(cell["name"])
    return row(cell["name"], 1.0, 1.0) | cell | {"chip": topology.chip.title}

  monkeypatch.setattr(accelerators, "compile_row", compile_row)
  path = tmp_path / "rows.jsonl"
  for names in (["stock"], ["stock", "ours"]):
    rows = accelerators.measure(
      ["h200"], ["S"], [16], names, ("forward", "train"), path
    )
  assert compiled == ["stock", "stock", "ours", "ours"]
  assert len(rows) == len(path.read_text().splitlines()) == 4


def test_ways_to_train_at_ten_patch_sizes_are_compared():
  drawn = dict(patch_size=None, program="switch", code_mib=3.0, copied_gb=0.1)
  sizes = variants.FLEXIVIT_PATCH_SIZES
  rows = [row("stock", 2.0, 1.0) | {"patch_size": p} for p in sizes]
  rows = [r | {"code_mib": 1.0, "copied_gb": 0.2} for r in rows]
  rows.append(row("ours", 1.5, 1.0) | drawn | {"compile_s": 4.0})
  rows.append(row("stock", 9.0, 1.0) | {"num_images": 99})
  stock, ours = accelerators.compare_dispatches(rows)
  assert stock["programs"] == 10 and stock["copied, GB"] == pytest.approx(0.2)
  assert stock["code, MiB"] == 10 and stock["memory, GiB"] == 2
  assert ours["compile/stock"] == pytest.approx(0.4)
  assert ours["dispatch"] == "switch" and ours["memory, GiB"] == 1.5


@pytest.mark.benchmarks
@pytest.mark.skipif(
  importlib.util.find_spec("jax_cuda12_plugin") is None,
  reason="the GPU's compiler (jax_cuda12_plugin) is not installed",
)
def test_a_small_model_is_compiled_for_a_gpu():
  rows = accelerators.run(quick=True)
  assert {r["program"] for r in rows} == {"forward", "train"}
  assert all("__cudnn$fmha" in r["kernels"] for r in rows)


@pytest.mark.benchmarks
def test_the_script_for_a_device_appends_its_tables(tmp_path, capsys):
  page = tmp_path / "page.md"
  page.write_text("# Page\n")
  device_checks.main(["--quick", f"--page={page}"])
  lines = capsys.readouterr().out.splitlines()
  tables = {json.loads(line)["table"] for line in lines if line[:1] == "{"}
  assert tables == {"steps", "fused attention", "dispatch", "input"}
  text = page.read_text()
  assert text.startswith("# Page\n") and "| variant |" in text


def test_a_machine_without_accelerator_is_refused(capsys):
  with pytest.raises(SystemExit):
    device_checks.main([])
  assert "no GPU or TPU" in capsys.readouterr().err
