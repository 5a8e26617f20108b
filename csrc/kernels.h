// What a device's library implements: raw pointers, sizes and a launch context, no torch.
//
// cpu/ and cuda/ each define the functions below; bindings.cpp checks tensors and calls them.
#pragma once

#include <cstdint>

namespace astra {

enum class DataType : int { kFloat32, kFloat16, kBFloat16 };

// Outcome of a kernel: kDone, kUnsupported (no instantiation) or a positive CUDA error code.
using Status = int;
constexpr Status kDone = 0;
constexpr Status kUnsupported = -1;

#ifdef USE_CUDA
struct Launch {
  void* stream;             // cudaStream_t
  int num_multiprocessors;  // of the current device
};
#else
struct Launch {
  int num_threads;
  // Calls work(context) `count` times, on as many threads of torch's own, and waits for all.
  void (*run)(int count, void (*work)(void*), void* context);
};
#endif

// Attention over cached keys and values. Strides count elements; a head's vector is dense.
//
//   query, out            [num_queries, num_heads, head_size]
//   key_cache, value_cache[num_blocks, num_kv_heads, block_size, head_size]
//   block_tables          [num_seqs, max_blocks]; null: sequence i's tokens are all in block i
//   context_lens          [num_seqs], slots from 0 to the end of the context
//   start_offsets         [num_seqs], first slot that counts (left padding); null: 0
//   query_starts          [num_seqs + 1], prompt attention only: the rows of `query` per sequence
struct AttentionArguments {
  DataType dtype;
  void* out;
  const void* query;
  const void* key_cache;
  const void* value_cache;
  const int32_t* block_tables;
  const int32_t* context_lens;
  const int32_t* start_offsets;
  const int32_t* query_starts;
  int num_seqs;
  int num_heads;
  int num_kv_heads;
  int head_size;
  int block_size;
  int64_t out_stride;
  int64_t query_stride;
  int64_t block_stride;
  int64_t head_stride;
  int64_t table_stride;
  float scale;
  int max_context_len;  // CPU: a bound that sizes buffers; CUDA: a hint that sets the split
  int max_query_len;    // prompt attention only: a bound on the queries of a sequence
};

// Floats of scratch memory that an attention needs on this device.
int64_t decode_attention_workspace(const AttentionArguments& arguments, const Launch& launch);
int64_t prompt_attention_workspace(const AttentionArguments& arguments, const Launch& launch);

// One query per sequence attends to its whole context; an empty context yields zeros.
Status launch_decode_attention(const AttentionArguments& arguments, float* workspace,
                               const Launch& launch);

// A sequence's queries are the last tokens of its context, and each attends up to itself.
Status launch_prompt_attention(const AttentionArguments& arguments, float* workspace,
                               const Launch& launch);

// Writes row i of key and value [num_tokens, num_kv_heads, head_size] into slot
// slots[i] = block * block_size + offset; a negative slot is skipped. Strides count bytes.
struct WriteArguments {
  const void* key;
  const void* value;
  void* key_cache;
  void* value_cache;
  const int64_t* slots;
  int64_t num_tokens;
  int num_kv_heads;
  int head_bytes;
  int block_size;
  int64_t key_stride;
  int64_t value_stride;
  int64_t key_block_stride;
  int64_t value_block_stride;
};
Status launch_write_kv(const WriteArguments& arguments, const Launch& launch);

// Adds delta to residual, both [num_rows, width] and dense, and writes the normalised sum to out:
// LayerNorm with a bias, RMSNorm without one (null).
struct NormArguments {
  DataType dtype;
  void* out;
  void* residual;
  const void* delta;
  const void* weight;  // [width]
  const void* bias;    // [width]
  int64_t num_rows;
  int width;
  float eps;
};
Status launch_add_norm(const NormArguments& arguments, const Launch& launch);

// Writes silu(gate) * up to out [num_rows, width]; a row of `fused` is gate and up side by side.
struct GateArguments {
  DataType dtype;
  void* out;
  const void* fused;  // [num_rows, 2 * width]
  int64_t num_rows;
  int width;
};
Status launch_gate(const GateArguments& arguments, const Launch& launch);

// Rotates elements i and half + i of every head by angle i of the row, in place.
struct RotateArguments {
  DataType dtype;
  void* heads;      // [num_rows, num_heads, 2 * half], rows `stride` elements apart
  const void* cos;  // [num_rows, half]
  const void* sin;  // [num_rows, half]
  int64_t num_rows;
  int64_t stride;
  int num_heads;
  int half;
};
Status launch_rotate(const RotateArguments& arguments, const Launch& launch);

// Blocks of several cache tensors, all [num_blocks, block_bytes]; index pairs are (from, to).
struct BlockArguments {
  void* const* caches;  // num_caches pointers
  int num_caches;
  int64_t block_bytes;
  const int64_t* pairs;  // num_pairs x 2, in host memory
  int64_t num_pairs;
};

// Copies blocks within every cache. No block may be both a source and a destination.
Status launch_copy_blocks(const BlockArguments& arguments, const Launch& launch);

enum class SwapDirection : int { kOut, kIn };

// Moves blocks between caches and a host pool [num_host_blocks, num_caches, block_bytes]. A host
// block holds one block of all caches side by side, so that it crosses the bus in one transfer.
// `staging` is device memory for staging_blocks such blocks; with none, every block of every
// cache is a transfer of its own, as in the original system (paper, Figure 19a).
struct SwapArguments {
  BlockArguments blocks;
  void* host_pool;
  void* staging;
  int64_t staging_blocks;
  SwapDirection direction;
};
Status launch_swap_blocks(const SwapArguments& arguments, const Launch& launch);

// Text for a positive status.
const char* status_text(Status status);

}  // namespace astra
