"""CKA of streams: that of the model, and no examples mixed up."""

import numpy as np
import pytest

from tokenlearner_flexivit.analysis import cka_streams
from tokenlearner_flexivit.analysis.cka_streams import Features

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3, 2)).astype(np.float32)
Y = X.reshape(20, 6) @ RNG.normal(size=(6, 4)).astype(np.float32)
IDS = np.arange(20)


def stream(values, ids=IDS, size=8, mask=None):
  return [
    Features(
      ids[i : i + size],
      {"x": values[i : i + size]},
      None if mask is None else mask[i : i + size],
    )
    for i in range(0, len(ids), size)
  ]


def test_batches_are_compared_and_filling_left_out():
  seen = []
  values, labels = cka_streams.cka(
    {"a": stream(X), "b": stream(Y)}, seen.append
  )
  assert seen == [8, 16, 20]
  assert labels == [("a", "x"), ("b", "x")]
  assert 0.1 < values[0, 1] < 0.99
  # One of them fills its last batch up, the other is as before.
  filled = np.concatenate([Y, np.full((4, 4), 7, np.float32)])
  ids, mask = np.r_[IDS, [0] * 4], np.arange(24) < 20
  again, _ = cka_streams.cka(
    {"a": stream(X), "b": stream(filled, ids, mask=mask)}
  )
  np.testing.assert_allclose(again, values, rtol=1e-5)


@pytest.mark.parametrize(
  "other, words",
  [
    (
      stream(Y, IDS[::-1]),
      r"Batch 0 of the streams 'a' and 'b'.*\[0, 1, 2, 3\]",
    ),
    (stream(Y, np.r_[IDS[:8], IDS[:7:-1]]), "Batch 1 .* in the same order"),
    (stream(Y)[:2], "'b' ends after 2 batches"),
    (stream(Y, size=10), "Batch 0 .* same examples"),
    ([Features(IDS[:8], {"x": Y[:7]})] * 3, "has 8 ids, but examples {'x': 7}"),
    ([*stream(Y)[:2], Features(IDS[16:], {"y": Y[16:]})], "Batch 2 has"),
  ],
)
def test_other_examples_or_another_order_are_refused(other, words):
  with pytest.raises(ValueError, match=words):
    cka_streams.cka({"a": stream(X), "b": other})


def test_one_example_is_too_few():
  with pytest.raises(ValueError, match="at least 4 examples, and got none"):
    cka_streams.cka({"a": stream(X, size=1), "b": stream(Y, size=1)})
