"""Environment variables of processes that train on a CPU."""

# For glibc: keeps freed memory, in large pages, rather than give it back to the
# system and have it cleared for the next step. Steps of small models on CPU are
# 1.4 times as fast (`python -m benchmarks --suite=allocator`).
KEEP_MEMORY = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**34),
  "MALLOC_TOP_PAD_": str(2**28),
  "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
