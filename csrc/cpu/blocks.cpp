// Copying and swapping blocks on a CPU, where both sides of a swap are host memory.
#include <cstring>

#include "../kernels.h"

namespace astra {
namespace {

struct Copy {
  const BlockArguments* blocks;
  char* pool;  // null: within the caches
  bool into_pool;
};

// One task is one cache: its pairs in order, so no two threads touch the same bytes.
void copy_work(TaskQueue& queue, void* opaque) {
  const auto& copy = *static_cast<const Copy*>(opaque);
  const BlockArguments& b = *copy.blocks;
  for (int64_t cache; queue.take(&cache);) {
    char* base = static_cast<char*>(b.caches[cache]);
    auto in_cache = [&](int64_t block) { return base + block * b.block_bytes; };
    auto in_pool = [&](int64_t block) {
      return copy.pool + (block * b.num_caches + cache) * b.block_bytes;
    };
    for (int64_t i = 0; i < b.num_pairs; ++i) {
      const int64_t from = b.pairs[2 * i];
      const int64_t to = b.pairs[2 * i + 1];
      const char* source = copy.pool && !copy.into_pool ? in_pool(from) : in_cache(from);
      char* target = copy.pool && copy.into_pool ? in_pool(to) : in_cache(to);
      std::memcpy(target, source, b.block_bytes);
    }
  }
}

Status copy_all(const BlockArguments& blocks, char* pool, bool into_pool, const Launch& launch) {
  Copy copy{&blocks, pool, into_pool};
  const int64_t bytes = 2 * blocks.num_pairs * blocks.num_caches * blocks.block_bytes;
  TaskQueue queue(blocks.num_caches, useful_threads(blocks.num_caches, bytes, launch));
  launch.run(queue, copy_work, &copy);
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
