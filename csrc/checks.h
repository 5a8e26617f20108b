// Checks of tensors; every message names what was got and what is allowed.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "kernels.h"

namespace astra {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// CUDA kernels read the cache 16 bytes at a time. Lengths, tables and slots lie in device memory
// then: only the CPU library can afford to read them.
#ifdef USE_CUDA
constexpr bool kOnDevice = true;
#else
constexpr bool kOnDevice = false;
#endif

inline const char* data_type_name(DataType dtype) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16"};
  return kNames[static_cast<int>(dtype)];
}

inline DataType data_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DataType::kFloat32;
    case ScalarType::Half: return DataType::kFloat16;
    case ScalarType::BFloat16: return DataType::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "dtype must be float32, float16 or bfloat16, got scalar type ",
                      static_cast<int>(tensor.scalar_type()));
  }
}

inline void check_dims(const Tensor& tensor, const char* name, int64_t dims) {
  STD_TORCH_CHECK(tensor.dim() == dims, name, " must have ", dims, " dimensions, got ",
                  tensor.dim());
}

inline void check_same_shape(const Tensor& a, const char* a_name, const Tensor& b,
                             const char* b_name) {
  check_dims(a, a_name, b.dim());
  for (int64_t d = 0; d < b.dim(); ++d) {
    STD_TORCH_CHECK(a.size(d) == b.size(d), a_name, " has size ", a.size(d), " in dimension ", d,
                    " but ", b_name, " has ", b.size(d));
  }
}

inline void check_same_device(const Tensor& a, const Tensor& b, const char* name) {
  STD_TORCH_CHECK(a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(),
                  name, " must be on the same device as the other tensors");
}

inline void check_same_kind(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), "dtypes differ: scalar type ",
                  static_cast<int>(a.scalar_type()), " and ", static_cast<int>(b.scalar_type()));
  check_same_device(a, b, "every tensor");
}

// The last `dims` dimensions lie densely in memory.
inline void check_dense(const Tensor& tensor, const char* name, int64_t dims) {
  int64_t expected = 1;
  for (int64_t d = tensor.dim() - 1; d >= tensor.dim() - dims; --d) {
    STD_TORCH_CHECK(tensor.size(d) <= 1 || tensor.stride(d) == expected, name,
                    " must be contiguous in its last ", dims, " dimensions, got stride ",
                    tensor.stride(d), " in dimension ", d, " instead of ", expected);
    expected *= tensor.size(d);
  }
}

inline void check_integers(const Tensor& tensor, const char* name, const Tensor& like,
                           int64_t dims, ScalarType type = ScalarType::Int) {
  check_dims(tensor, name, dims);
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ",
                  type == ScalarType::Int ? "int32" : "int64", ", got scalar type ",
                  static_cast<int>(tensor.scalar_type()));
  check_dense(tensor, name, 1);
  check_same_device(tensor, like, name);
}

inline void check_count(int64_t got, int64_t expected, const char* name, const char* like) {
  STD_TORCH_CHECK(got == expected, "got ", got, " ", name, " for ", expected, " ", like);
}

inline void check_aligned(const void* pointer, const char* name) {
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(pointer) % 16 == 0, name,
                  " must start at a multiple of 16 bytes");
}

// Rows that are read 16 bytes at a time.
inline void check_chunks(const Tensor& tensor, const char* name, int64_t row_elements) {
  check_aligned(tensor.data_ptr(), name);
  const auto row_bytes = row_elements * static_cast<int64_t>(tensor.element_size());
  STD_TORCH_CHECK(row_bytes % 16 == 0, "a row of ", row_bytes, " bytes is no multiple of 16");
}

inline void check_vectors(const void* cache, const char* name, int64_t block_stride,
                          int64_t head_stride, size_t element_bytes) {
  if (!kOnDevice) return;
  check_aligned(cache, name);
  const auto bytes = static_cast<int64_t>(element_bytes);
  STD_TORCH_CHECK(block_stride * bytes % 16 == 0 && head_stride * bytes % 16 == 0, name,
                  " has strides of ", block_stride, " and ", head_stride,
                  " elements: not multiples of 16 bytes");
}

inline void check_contexts(const AttentionArguments& a, int64_t capacity, int64_t num_blocks) {
  if (kOnDevice) return;
  for (int i = 0; i < a.num_seqs; ++i) {
    const int length = a.context_lens[i];
    const int start = a.start_offsets ? a.start_offsets[i] : 0;
    STD_TORCH_CHECK(length <= capacity && length <= a.max_context_len, "context length ", length,
                    " of sequence ", i, " exceeds the ", capacity,
                    " slots it has or max_context_len ", a.max_context_len);
    STD_TORCH_CHECK(start >= 0, "start offset ", start, " of sequence ", i, " is negative");
    if (a.block_tables == nullptr) continue;
    for (int b = 0; b * a.block_size < length; ++b) {
      const int block = a.block_tables[i * a.table_stride + b];
      STD_TORCH_CHECK(block >= 0 && block < num_blocks, "block table of sequence ", i,
                      " names block ", block, " of ", num_blocks);
    }
  }
}

inline void check_queries(const AttentionArguments& a, int64_t num_queries) {
  if (kOnDevice) return;
  STD_TORCH_CHECK(a.query_starts[0] == 0 && a.query_starts[a.num_seqs] == num_queries,
                  "query_starts runs from ", a.query_starts[0], " to ",
                  a.query_starts[a.num_seqs], " for ", num_queries, " queries");
  for (int i = 0; i < a.num_seqs; ++i) {
    const int queries = a.query_starts[i + 1] - a.query_starts[i];
    STD_TORCH_CHECK(queries >= 0 && queries <= a.context_lens[i] && queries <= a.max_query_len,
                    "sequence ", i, " has ", queries, " queries for a context of ",
                    a.context_lens[i], " and max_query_len ", a.max_query_len);
  }
}

inline void check_slots(const Tensor& slots, const Tensor& key, int64_t num_slots) {
  check_integers(slots, "slot_mapping", key, 1, ScalarType::Long);
  check_count(slots.size(0), key.size(0), "slots", "tokens");
  if (kOnDevice) return;
  const auto* values = static_cast<const int64_t*>(slots.data_ptr());
  for (int64_t i = 0; i < slots.size(0); ++i) {
    STD_TORCH_CHECK(values[i] < num_slots, "slot ", values[i], " of token ", i,
                    " is beyond the cache's ", num_slots);
  }
}

inline void check_pairs(const Tensor& pairs) {
  check_dims(pairs, "pairs", 2);
  STD_TORCH_CHECK(pairs.size(1) == 2 && pairs.scalar_type() == ScalarType::Long,
                  "pairs must be int64 of shape [n, 2], got scalar type ",
                  static_cast<int>(pairs.scalar_type()), " and ", pairs.size(1), " columns");
  check_dense(pairs, "pairs", 2);
  STD_TORCH_CHECK(pairs.is_cpu(), "pairs must be in host memory");
}

inline void check_block_range(const BlockArguments& blocks, int column, int64_t num_blocks,
                              const char* name) {
  for (int64_t i = 0; i < blocks.num_pairs; ++i) {
    const int64_t block = blocks.pairs[2 * i + column];
    STD_TORCH_CHECK(block >= 0 && block < num_blocks, name, " block ", block, " of pair ", i,
                    " is not among ", num_blocks, " blocks");
  }
}

// A pool's row holds one block of every cache.
inline void check_pool(const Tensor& pool, const char* name, const Tensor& cache,
                       int64_t row_bytes) {
  STD_TORCH_CHECK(pool.scalar_type() == cache.scalar_type(), name,
                  " must have the caches' dtype, got scalar type ",
                  static_cast<int>(pool.scalar_type()));
  check_dims(pool, name, 2);
  check_dense(pool, name, 2);
  check_aligned(pool.data_ptr(), name);
  const int64_t got = pool.size(1) * static_cast<int64_t>(pool.element_size());
  STD_TORCH_CHECK(got == row_bytes, "a row of ", name, " has ", got,
                  " bytes but one block of all caches has ", row_bytes);
}

}  // namespace astra
