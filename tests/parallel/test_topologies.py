"""Chips that are compiled for without being there."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from tokenlearner_flexivit.parallel import compiled, topologies

needs_tpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU's compiler (libtpu) is not installed",
)
needs_cuda = pytest.mark.skipif(
  importlib.util.find_spec("jax_cuda12_plugin") is None,
  reason="the GPU's compiler (jax_cuda12_plugin) is not installed",
)


@pytest.mark.parametrize(
  "name", ["", "v5e", "v5e:", "v5e:4x", "v5e:0x2", "k80:8", "V5E:2x2"]
)
def test_unknown_topologies_list_the_known(name):
  with pytest.raises(ValueError, match=r"v5e.*h200.*'v5e:4x4'") as error:
    topologies.create(name)
  assert repr(name) in str(error.value)


@pytest.mark.parametrize(
  ("name", "extra"), [("v5e:2x2", "tpu"), ("h200:8", "cuda")]
)
def test_a_missing_compiler_names_the_extra(monkeypatch, name, extra):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=rf"tokenlearner_flexivit\[{extra}\]"):
    topologies.create(name)


def compile_product(topology, size):
  sharding = SingleDeviceSharding(topology.devices[0])
  x = jax.ShapeDtypeStruct((size, size), jnp.float32, sharding=sharding)
  return compiled.compile_for(topology, jax.jit(jnp.matmul).lower(x, x))


@needs_tpu
def test_tpu_programs_are_counted():
  topology = topologies.create("v5e:2x2")
  assert len(topology.devices) == 4
  program = compile_product(topology, 256)
  assert program.fits
  assert program.memory >= 3 * 256**2 * 4
  assert program.traffic >= 3 * 256**2 * 4
  assert program.flops == pytest.approx(2 * 256**3, rel=0.01)


@needs_tpu
def test_a_program_that_is_too_large_is_no_error():
  program = compile_product(topologies.create("v5e:2x2"), 100_000)
  assert not program.fits


@needs_tpu
@pytest.mark.parametrize("name", ["v5e:3x5", "v5e:1x1"])
def test_slices_that_do_not_exist_are_named(name):
  with pytest.raises(ValueError, match=name):
    topologies.create(name)


@needs_cuda
def test_gpu_programs_are_counted():
  topology = topologies.create("h200:8")
  assert len(topology.devices) == 8
  program = compile_product(topology, 256)
  assert program.fits
  assert program.memory >= 3 * 256**2 * 4


@needs_cuda
@pytest.mark.parametrize("name", ["h200:12", "a100:2x2"])
def test_gpus_come_in_hosts_of_eight(name):
  with pytest.raises(ValueError, match=r"cards|GPUs"):
    topologies.create(name)
