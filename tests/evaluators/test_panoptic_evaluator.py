"""The evaluator panoptic, on eight devices with a last batch that is padded."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.test_panoptic_runs import IDS, MASKS, SIDE, write_panoptic
from tokenlearner_flexivit import dials, evaluators, models
from tokenlearner_flexivit.tasks import panoptic_answers, panoptic_code

PP = (
  f"{IDS}|decode(masks='panoptic_image')|panoptic|resize({SIDE},{MASKS})"
  "|canonical(3)|value_range(-1,1)|keep('image','semantic','instances')"
)
TRUTH = (
  f"{IDS}|panoptic(crowds=True)|pad_to(20,255,key='semantic',"
  "masks=('instances','crowd'))|keep('semantic','instances','crowd','valid')"
)


class Knowing(panoptic_code.PanopticCode):
  """Answers with the true segments; at parameters of 1 all are the first."""

  def predict(self, params, batch, setting):
    labels = self.labels(batch)
    things = 1 + labels["instances"]
    is_stuff = labels["semantics"] == 2
    segments = jnp.where(is_stuff, 1 + self.coder.num_instances + 1, things)
    segments = jnp.where(labels["semantics"] == 0, 0, segments)
    segments = jnp.where(params > 0, 2, segments)
    classes = np.full(self.num_segments, panoptic_answers.NO_CLASS)
    classes[[2, 3, 4]], classes[1 + self.coder.num_instances + 1] = 0, 1
    classes = jnp.broadcast_to(classes[None], (len(segments), len(classes)))
    return {"segments": segments, "classes": classes}


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
  folder = write_panoptic(tmp_path_factory.mktemp("coco"))
  coder = models.LabelCoder(
    num_labels=3,
    num_instances=4,
    width=8,
    encoder_depth=1,
    decoder_depth=1,
    mlp_dim=8,
    num_heads=1,
    patch_size=4,
    posemb_grid=4,
    code_grid=2,
  )
  task = Knowing(coder, 2, ["ball", "sky"], ["sky"])
  context = evaluators.Context(
    task, [dials.Setting()], 8, class_names=task.class_names
  )
  data = dict(name=f"coco:{folder}", split="train[:5]", pp=PP, num_threads=1)
  section = dict(type="panoptic", data=data, truth=TRUTH)
  return evaluators.create(section, context)


def test_true_segments_have_the_best_quality(evaluator):
  params = evaluator._parallel.place(np.float32(0))
  values = dict(evaluator.run(params))
  assert values.pop("default/examples") == 5
  # Void of the original is no part of any segment.
  assert set(values.values()) == {1.0}
  assert {"default/PQ_things", "default/SQ_stuff", "default/PQ_sky"} <= set(
    values
  )
  assert "default/ceiling" not in values


def test_one_segment_for_all_is_right_nowhere(evaluator):
  params = evaluator._parallel.place(np.float32(1))
  values = dict(evaluator.run(params))
  assert values["default/PQ"] == values["default/PQ_ball"] == 0


def test_classes_of_other_data_are_refused(evaluator):
  task = Knowing(evaluator._task.model, 2, ["dog", "sky"], ["sky"])
  context = evaluators.Context(
    task, [dials.Setting()], 8, class_names=["dog", "sky"]
  )
  with pytest.raises(ValueError, match="other classes than the training data"):
    evaluators.create(
      dict(type="panoptic", data=evaluator._data, truth=TRUTH), context
    )
