"""Text files as editors and spreadsheets write them."""

import codecs
import pathlib


def read(path: pathlib.Path) -> str:
  """Returns the text of a file in UTF-8, or in UTF-16 with a byte order mark.

  A byte order mark is left out; ends of lines stay as they are.

  Raises:
    ValueError: the file is in another encoding; names the first bad byte.
  """
  data = path.read_bytes()
  is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")
  except UnicodeDecodeError as error:
    line = error.object[: error.start].count(b"\n") + 1
    raise ValueError(
      f"{path} is not UTF-8: line {line} has the byte "
      f"0x{error.object[error.start]:02x}. Save it as UTF-8; if it is Latin-1, "
      "iconv -f latin1 -t utf-8 FILE > NEW does that."
    ) from None
