"""Errors of disks in words, with advice."""

import errno
import re

_ADVICE = {  # By error number of the system.
  (errno.ENOSPC, errno.EDQUOT): "The disk is full: free some space.",
  (errno.EROFS, errno.EACCES, errno.EPERM): "Make the folder writable.",
  (errno.ENOENT, errno.ENOTDIR, errno.ESTALE): (
    "Was the folder moved, or its disk unmounted? Put it back."
  ),
  (errno.EFBIG,): "No file may be so large here (ulimit -f).",
}


def describe(error: Exception) -> str:
  """Returns the error in words, with advice where some is known."""
  text = f"{type(error).__name__}: {error}".rstrip(".") + "."
  code = getattr(error, "errno", None)
  if match := re.search(r"\(os error (\d+)\)", text):  # By safetensors.
    code = int(match[1])
  for codes, advice in _ADVICE.items():
    if code in codes:
      return f"{text} {advice}"
  return text
