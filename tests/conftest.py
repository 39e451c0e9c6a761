"""Makes the test world strict: eight devices, and no silent broadcasting.

Implicit rank promotion is how token and patch code goes wrong without a
sound, so it is an error here.
"""

import gc
import mmap
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import jaxlib
import jaxtyping
import ml_collections
import numpy as np
import pytest

from tests import shapes

_FORMAT_WARNING = warnings.formatwarning
# What a test imports of these checks the shapes that its functions declare.
_DECLARE_SHAPES = (
  "data.ops",
  "data.vocabulary",
  "dials",
  "evaluators",
  "inference.answers",
  "inference.programs",
  "interop.resize",
  "models",
  "parallel",
  "tasks",
)
jaxtyping.install_import_hook(
  [f"tokenlearner_flexivit.{name}" for name in _DECLARE_SHAPES],
  f"{shapes.__name__}.checked",
)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile many programs and run each a few times, on tiny inputs: a
# program compiles in a sixth of the time without what makes it fast.
jax.config.update("jax_disable_most_optimizations", True)
# Tracing makes many small objects: to look for cycles as often as Python does
# by itself takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)
_CHEAP = {
  "xla_cpu_use_fusion_emitters": "false",
  "xla_cpu_parallel_codegen_split_count": "1",
}


def _known_flags():
  """Returns those of the flags that this XLA has; it dies of others."""
  known = set()
  for path in pathlib.Path(jaxlib.__file__).parent.glob("*jax_common.*"):
    with (
      path.open("rb") as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
    ):
      # A string of its own: names of flags that are gone stay in descriptors.
      known |= {
        name for name in _CHEAP if library.find(f"\0{name}\0".encode()) >= 0
      }
  return " ".join(f"--{name}={_CHEAP[name]}" for name in sorted(known))


# Processes that tests start, and workers of xdist, inherit these.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if "XLA_FLAGS" not in os.environ:
  os.environ["XLA_FLAGS"] = _known_flags()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
  """A worker that has ended takes tests over from one that has not."""
  if config.getoption("dist", "no") == "load":
    config.option.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Whole trainings come first, so that no long test is the last."""
  items.sort(key=lambda item: not item.nodeid.startswith("tests/train/"))


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
  """Tests of one session share what they compile, also between processes."""
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent
  jax.config.update("jax_compilation_cache_dir", str(root / "jax_cache"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def _format_of_warnings():
  """Commands change it, which tests run in this process."""
  yield
  warnings.formatwarning = _FORMAT_WARNING


@pytest.fixture(scope="session", autouse=True)
def _datasets(tmp_path_factory):
  """Datasets that tests prepare go to a folder of their own."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
    yield


@pytest.fixture
def unchecked_shapes():
  """Lets a test see the package's own errors for wrong shapes."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def write_config(tmp_path):
  """Returns a function that writes a config for the command line to a file."""

  def write(config: ml_collections.ConfigDict) -> pathlib.Path:
    path = tmp_path / "config.py"
    path.write_text(
      "import ml_collections\ndef get_config():\n"
      f"  return ml_collections.ConfigDict({config.to_dict()!r})\n"
    )
    return path

  return write


def make_config() -> ml_collections.ConfigDict:
  """A run of four steps on noise: 12 px, patch sizes 6, 4 and 3."""
  pp = "decode|value_range(-1,1)|keep('image','label')"
  c = ml_collections.ConfigDict()
  c.seed = 1
  c.batch_size = 16
  c.total_steps = 4
  c.log_steps = 2
  c.data = dict(name="fake:12x12x3:5:64", split="train", pp=pp, num_threads=1)
  c.model = dict(
    variant="mu",
    depth=1,
    patch_size=(4, 4),
    posemb_grid=(3, 3),
    token_learner=dict(layer=0, num_tokens=3),
  )
  c.flexi = dict(patch_size=dict(values=(6, 4, 3)), dispatch="host")
  c.task = dict(name="classification")
  c.optimizer = dict(name="adamw", lr=1e-2, schedule=dict(warmup_steps=1))
  c.evals = dict(
    test=dict(data=dict(name="fake:12x12x3:5:21", split="test", pp=pp))
  )
  return c


@pytest.fixture
def config() -> ml_collections.ConfigDict:
  """See `make_config`."""
  return make_config()


@pytest.fixture
def small_config(config) -> ml_collections.ConfigDict:
  """A run without dials, for tests of the loop."""
  config.model.token_learner = None
  config.flexi.patch_size.values = (4,)
  return config


def write_untrained(parts, path: pathlib.Path, **about) -> pathlib.Path:
  """Leaves in a folder what a run does, with random parameters.

  Args:
    parts: an `setup.Experiment`.
    path: of the folder.
    **about: what is known of the data, other than it tells.
  """
  # Most tests need none of it.
  from tokenlearner_flexivit.run import checkpoint
  from tokenlearner_flexivit.train import binding

  path.mkdir(parents=True, exist_ok=True)
  binding.bind_workdir(path, parts.config, {**parts.about_data, **about})
  checkpoints = checkpoint.Checkpoints(path, 1, parts.config)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda: parts.task.init(jax.random.key(0), parts.image_shape)
  )
  # Zeros, as the head starts with, would hide what depends on what.
  params = jax.tree.map(
    lambda x: jnp.float32(0.3 * rng.normal(size=x.shape)), shapes
  )
  checkpoints.save(0, {"params": params, "ema": None}, must=True)
  checkpoints.close()
  return path


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory) -> pathlib.Path:
  """The workdir of a run of `make_config`, which no test may change."""
  from tokenlearner_flexivit.train import setup

  parts = setup.Experiment(make_config())
  return write_untrained(parts, tmp_path_factory.mktemp("untrained"))
