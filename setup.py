"""Installs tokenlearner_flexivit."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
  r'__version__ = "(.+)"',
  (_HERE / "tokenlearner_flexivit" / "__init__.py").read_text(encoding="utf-8"),
).group(1)
# To read tokenizers; the second has no wheels for other versions of Python.
_TEXT = [
  "sentencepiece>=0.2.1",
  "instant-clip-tokenizer>=0.1.1; python_version < '3.13'",
]


def _requirements() -> list[str]:
  lines = (_HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
  return [name for line in lines if (name := line.split("#")[0].strip())]


setuptools.setup(
  name="tokenlearner_flexivit",
  version=_VERSION,
  description="FlexiViT and TokenLearner in JAX: ViTs whose cost is a dial.",
  long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "License :: OSI Approved :: Apache Software License",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  # The configs, too: `--config=configs/...` finds them from any folder.
  packages=setuptools.find_packages(
    include=["tokenlearner_flexivit*", "configs"]
  ),
  package_data={"tokenlearner_flexivit": ["py.typed"]},
  python_requires=">=3.11",
  install_requires=_requirements(),
  extras_require={
    "test": [
      "pytest>=8.3",
      "pytest-xdist>=3.6",
      "ruff==0.17.5",  # As .pre-commit-config.yaml has it.
      "av>=15.0",
      "pycocotools>=2.0.8",
      "beartype>=0.23",  # Checks the shapes that functions declare.
      "ipykernel>=6.29",  # These three execute the notebooks.
      "nbclient>=0.10",
      "nbformat>=5.10",
      *_TEXT,
    ],
    "detection": ["pycocotools>=2.0.8"],
    "cuda": ["jax[cuda]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    "hub": ["huggingface_hub>=0.30"],
    "text": _TEXT,
    "video": ["av>=15.0"],  # To read video files.
  },
)
