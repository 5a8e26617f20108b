// Writing new keys and values into their blocks on CUDA: a thread moves one word of each.
#include "common.cuh"

namespace astra {
namespace {

constexpr int kThreads = 256;

// kWord bytes at a time: 16 where everything is aligned, otherwise 2 (no type is smaller).
template <class Word>
__global__ void __launch_bounds__(kThreads) write_kernel(const WriteArguments w) {
  const int head_words = w.head_bytes / static_cast<int>(sizeof(Word));
  const int token_words = head_words * w.num_kv_heads;
  const int64_t token = blockIdx.x;
  const int64_t slot = w.slots[token];
  if (slot < 0) return;
  const int64_t block = slot / w.block_size;
  const int64_t offset = slot % w.block_size;
  const auto* key = reinterpret_cast<const Word*>(static_cast<const char*>(w.key) +
                                                  token * w.key_stride);
  const auto* value = reinterpret_cast<const Word*>(static_cast<const char*>(w.value) +
                                                    token * w.value_stride);
  auto* key_block = reinterpret_cast<Word*>(static_cast<char*>(w.key_cache) +
                                            block * w.key_block_stride);
  auto* value_block = reinterpret_cast<Word*>(static_cast<char*>(w.value_cache) +
                                              block * w.value_block_stride);
  for (int i = threadIdx.x; i < token_words; i += kThreads) {
    const int64_t head = i / head_words;
    const int64_t at = (head * w.block_size + offset) * head_words + i % head_words;
    key_block[at] = key[i];
    value_block[at] = value[i];
  }
}

bool aligned(const WriteArguments& w) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(w.key) |
                         reinterpret_cast<uintptr_t>(w.value) |
                         reinterpret_cast<uintptr_t>(w.key_cache) |
                         reinterpret_cast<uintptr_t>(w.value_cache) | w.key_stride |
                         w.value_stride | w.key_block_stride | w.value_block_stride | w.head_bytes;
  return bits % 16 == 0;
}

}  // namespace

Status launch_write_kv(const WriteArguments& arguments, const Launch& launch) {
  const dim3 grid(static_cast<unsigned>(arguments.num_tokens));
  if (aligned(arguments)) {
    return launch_kernel(write_kernel<uint4>, grid, dim3(kThreads), 0, launch, arguments);
  }
  return launch_kernel(write_kernel<uint16_t>, grid, dim3(kThreads), 0, launch, arguments);
}

}  // namespace astra
