"""Operations of preprocessing strings, by what they work on."""
