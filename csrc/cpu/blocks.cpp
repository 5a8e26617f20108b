// Copying and swapping blocks on a CPU, where both sides of a swap are host memory.
#include <cstring>

#include "tasks.h"

namespace astra {
namespace {

// Within the caches, or between them and a pool that is not null. One task is one cache: its pairs
// in order, so no two threads touch the same bytes.
Status copy_all(const BlockArguments& b, char* pool, bool into_pool, const Launch& launch) {
  const int64_t bytes = 2 * b.num_pairs * b.num_caches * b.block_bytes;
  for_tasks(b.num_caches, bytes, launch, [&](int64_t cache, int) {
    char* base = static_cast<char*>(b.caches[cache]);
    auto in_cache = [&](int64_t block) { return base + block * b.block_bytes; };
    auto in_pool = [&](int64_t block) {
      return pool + (block * b.num_caches + cache) * b.block_bytes;
    };
    for (int64_t i = 0; i < b.num_pairs; ++i) {
      const int64_t from = b.pairs[2 * i];
      const int64_t to = b.pairs[2 * i + 1];
      const char* source = pool && !into_pool ? in_pool(from) : in_cache(from);
      char* target = pool && into_pool ? in_pool(to) : in_cache(to);
      std::memcpy(target, source, b.block_bytes);
    }
  });
  return kDone;
}

}  // namespace

Status launch_copy_blocks(const BlockArguments& arguments, const Launch& launch) {
  return copy_all(arguments, nullptr, false, launch);
}

Status launch_swap_blocks(const SwapArguments& arguments, const Launch& launch) {
  return copy_all(arguments.blocks, static_cast<char*>(arguments.host_pool),
                  arguments.direction == SwapDirection::kOut, launch);
}

}  // namespace astra
