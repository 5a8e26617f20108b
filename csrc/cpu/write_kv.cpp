// Writing new keys and values into their blocks on a CPU.
#include <cstring>

#include "tasks.h"

namespace astra {
namespace {

void write_token(const WriteArguments& w, int64_t token) {
  const int64_t slot = w.slots[token];
  if (slot < 0) return;
  const int64_t block = slot / w.block_size;
  const int64_t offset = slot % w.block_size;
  auto write = [&](const void* from, int64_t stride, void* cache, int64_t block_stride) {
    const char* source = static_cast<const char*>(from) + token * stride;
    char* target = static_cast<char*>(cache) + block * block_stride + offset * w.head_bytes;
    for (int head = 0; head < w.num_kv_heads; ++head) {
      std::memcpy(target, source, w.head_bytes);
      source += w.head_bytes;
      target += int64_t{w.block_size} * w.head_bytes;
    }
  };
  write(w.key, w.key_stride, w.key_cache, w.key_block_stride);
  write(w.value, w.value_stride, w.value_cache, w.value_block_stride);
}

constexpr int kTokensPerTask = 8;

}  // namespace

Status launch_write_kv(const WriteArguments& arguments, const Launch& launch) {
  const int64_t num_tasks = (arguments.num_tokens + kTokensPerTask - 1) / kTokensPerTask;
  const int64_t bytes = 4 * arguments.num_tokens * arguments.num_kv_heads * arguments.head_bytes;
  for_tasks(num_tasks, bytes, launch, [&](int64_t task, int) {
    const int64_t first = task * kTokensPerTask;
    const int64_t last = first + kTokensPerTask;
    for (int64_t t = first; t < last && t < arguments.num_tokens; ++t) write_token(arguments, t);
  });
  return kDone;
}

}  // namespace astra
