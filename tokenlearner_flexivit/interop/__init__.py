"""Reads and writes weights of big_vision, timm, Hugging Face and Scenic.

  info = interop.describe("FlexiViT-B i1k")
  model = models.ViT(**info.model)
  params = interop.load_params("FlexiViT-B i1k", model)

`load_params` prints what was loaded, resized, initialised and left out; a
difference that no rule bridges is an error. Of a file with an image and a text
tower (big_vision, CLIP, SigLIP, OWL-ViT), `models.create(**info.model)` is the
whole, and `models.ViT(**info.image_model)` that of images alone. `save_params`
goes the other way. Nothing is ever unpickled.
"""

from tokenlearner_flexivit.interop.description import (
  Description,
  class_names,
  describe,
  preprocessing,
  vocabulary,
  warn_of_other_values,
)
from tokenlearner_flexivit.interop.download import fetch
from tokenlearner_flexivit.interop.formats import FORMATS
from tokenlearner_flexivit.interop.load import (
  Report,
  load_params,
  load_params_and_report,
)
from tokenlearner_flexivit.interop.released import RELEASED
from tokenlearner_flexivit.interop.resize import inflate_kernel
from tokenlearner_flexivit.interop.save import save_params

__all__ = [
  "FORMATS",
  "RELEASED",
  "Description",
  "Report",
  "class_names",
  "describe",
  "fetch",
  "inflate_kernel",
  "load_params",
  "load_params_and_report",
  "preprocessing",
  "save_params",
  "vocabulary",
  "warn_of_other_values",
]
