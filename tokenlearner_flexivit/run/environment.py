"""Environment variables of processes that train on a CPU."""

# glibc then keeps freed memory, in large pages, instead of returning it to the
# system, which would clear it for the next step. Steps of small models on CPU
# are 1.4 times as fast (`python -m benchmarks --suite=allocator`).
KEEP_MEMORY = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**34),
  "MALLOC_TOP_PAD_": str(2**28),
  "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
