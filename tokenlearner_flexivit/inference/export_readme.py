"""The README of an export, for people without this package."""

from collections.abc import Mapping
from typing import Any

import jax

from tokenlearner_flexivit import dials, terminal
from tokenlearner_flexivit.figures import table
from tokenlearner_flexivit.inference import about
from tokenlearner_flexivit.inference import trained as trained_lib


def readme(
  trained: trained_lib.Trained,
  manifest: Mapping[str, Any],
  manifest_file: str,
) -> str:
  """Returns the README of an export.

  Args:
    trained: the model.
    manifest: of the export.
    manifest_file: its name.
  """
  rows, platforms = manifest["settings"], manifest["platforms"]
  kind, axes = trained.kind, about.input_axes(trained)
  headline, metric = trained.headline, trained.headline_metric
  shape = 1, *trained.preparation().shape
  title = {"image": "An image", "video": "A video"}[kind]
  per = " of a view" if "views" in axes else ""
  shown = [
    {
      "file": f"`{row['file']}`",
      **{
        title: text or "the model's own"
        for title, text in dials.Setting.from_row(row).cells.items()
      },
      f"multiply-adds{per} in 10⁶": terminal.number(row["multiply_adds"] / 1e6),
      metric.column: (
        "not recorded" if row[headline] is None else metric.text(row[headline])
      ),
    }
    for row in rows
  ]
  programs = terminal.counted(len(rows), "program")
  call = f"answer = program(weights, {kind}s)"
  labels = ", and the labels of the classes" * bool(trained.class_names)
  if trained.classifies:
    call = (
      f"logits = program(weights, {kind}s)\n"
      f"probabilities = jax.nn.{about.link_name(trained)}(logits)"
    )
    labels = ", and the labels in the order of the\nlogits"
  else:
    call += f"\n# A dict of {about.answer_in_words(rows[-1]['answer'])}"
    text = trained.task.answer_text
    call += f":\n# {text}." if text else "."
  others = "".join(
    f"\n`{program['file']}` takes {program['dtype']} "
    f"[{', '.join(map(str, program['shape']))}] in the same way and gives\n"
    f"{program['gives']}."
    for program in manifest.get("further_programs", {}).values()
  )
  return f"""\
# {title} {about.noun(trained)}, exported

One set of weights and {programs}, one for each setting of the dials.
They need no more than `pip install jax flatbuffers safetensors`:

```python
import jax
import numpy as np
import safetensors.numpy
from jax import export

weights = safetensors.numpy.load_file("{trained_lib.MODEL_FILE}")
weights = jax.device_put(weights)
with open("{rows[-1]["file"]}", "rb") as file:
  program = jax.jit(export.deserialize(file.read()).call)
{kind}s = np.zeros({shape}, np.float32)  # Yours, preprocessed as below.
{call}
```

The number of {kind}s is free; each new one is compiled once. The programs run
on {", ".join(platforms[:-1])} and {platforms[-1]}.

{table.markdown(shown)}
{others}

{kind.capitalize()}s are float32 [{", ".join(axes)}], colours in the order red,
green, blue, prepared from files by these steps.{about.input_in_words(trained)}

{about.preprocessing_table(trained)}

`{manifest_file}` has all this for machines{labels}.

Written with JAX {jax.__version__}. JAX promises to read such programs with
releases up to six months newer, and up to three weeks older. The weights have
no such limit, and tokenlearner_flexivit writes new programs from them:

    python -m tokenlearner_flexivit.predict export --workdir=THIS --output=NEW
"""
