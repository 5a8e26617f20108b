// Rows of queries that attend to one head of one sequence, for whichever instruction set is here.
#pragma once

#include "../kernels.h"

namespace astra {

constexpr int kTile = 16;     // tokens whose rows are fetched together
constexpr int kRowGroup = 4;  // queries that share each key and value

inline int padded(int tokens) { return (tokens + kTile - 1) / kTile * kTile; }

// Where one sequence's keys and values of one head are; strides count elements.
struct HeadContext {
  const void* keys;
  const void* values;
  const int32_t* table;
  int64_t block_stride;
  int block_size;
  int start;  // first slot that counts
};

// Query r, a dense vector, attends to lengths[r] tokens; lengths do not fall.
struct RowGroup {
  const void* queries[kRowGroup];
  void* outs[kRowGroup];
  int lengths[kRowGroup];
};

using Attend = void (*)(const HeadContext&, const RowGroup&, float scale, float* scratch);

struct AttendFunctions {
  Attend one;   // the group's first row alone
  Attend many;  // all kRowGroup rows
};

// The functions for a type and a head size; null where none is compiled.
AttendFunctions find_attend(DataType dtype, int head_size);

// Scratch floats of one thread: queries, sums and scores of a row group.
inline int64_t scratch_floats(const AttentionArguments& a) {
  return int64_t{kRowGroup} * (2 * a.head_size + padded(a.max_context_len));
}

inline int element_bytes(DataType dtype) { return dtype == DataType::kFloat32 ? 4 : 2; }

// Bytes of keys and values that a batch of full contexts reads.
inline int64_t context_bytes(const AttentionArguments& a) {
  return 2 * int64_t{a.num_seqs} * a.max_context_len * a.num_kv_heads * a.head_size *
         element_bytes(a.dtype);
}

// The context of a sequence; own_block serves as its table where the cache is contiguous.
inline HeadContext head_context(const AttentionArguments& a, int seq, int kv_head,
                                const int32_t* own_block) {
  const int64_t offset = kv_head * a.head_stride * element_bytes(a.dtype);
  return {static_cast<const char*>(a.key_cache) + offset,
          static_cast<const char*>(a.value_cache) + offset,
          a.block_tables ? a.block_tables + seq * a.table_stride : own_block,
          a.block_stride,
          a.block_size,
          a.start_offsets ? a.start_offsets[seq] : 0};
}

// Puts query `row` of `head` into place r of a group.
inline void set_row(RowGroup& rows, int r, const AttentionArguments& a, int64_t row, int head,
                    int length) {
  const int64_t size = element_bytes(a.dtype), offset = int64_t{head} * a.head_size;
  rows.queries[r] = static_cast<const char*>(a.query) + (row * a.query_stride + offset) * size;
  rows.outs[r] = static_cast<char*>(a.out) + (row * a.out_stride + offset) * size;
  rows.lengths[r] = length;
}

}  // namespace astra
