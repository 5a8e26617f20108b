// Queries that attend to one sequence, for whichever instruction set is here.
#pragma once

#include "../kernels.h"

namespace astra {

constexpr int kTile = 16;      // tokens whose rows are read together
constexpr int kRowGroup = 4;   // queries that share each key and value
constexpr int kMostRows = 16;  // queries of one call

inline int padded(int tokens) { return (tokens + kTile - 1) / kTile * kTile; }

// Where one sequence's keys and values are; strides count elements.
struct SequenceContext {
  const void* keys;
  const void* values;
  const int32_t* table;
  int64_t block_stride;
  int64_t head_stride;
  int block_size;
  int start;  // first slot that counts
};

// `count` queries (1 or kRowGroup), dense vectors, of one key/value head: query r attends to
// lengths[r] tokens; lengths do not fall.
struct RowGroup {
  const void* queries[kRowGroup];
  void* outs[kRowGroup];
  int lengths[kRowGroup];
  int count;
  int kv_head;
};

// Groups of one sequence that are attended together, in order of their heads; at most kMostRows
// queries. A tile of tokens is read for one head after the other, as a block holds them.
struct RowBatch {
  RowGroup groups[kMostRows];
  int num_groups = 0;
  int num_rows = 0;

  bool fits(int rows) const { return num_rows + rows <= kMostRows; }
};

using Attend = void (*)(const SequenceContext&, const RowBatch&, float scale, float* scratch);

// The function for a type and a head size; null where none is compiled.
Attend find_attend(DataType dtype, int head_size);

// Scratch floats of one thread: queries, sums and scores of kMostRows rows.
inline int64_t scratch_floats(const AttentionArguments& a) {
  return int64_t{kMostRows} * (2 * a.head_size + padded(a.max_context_len));
}

inline int element_bytes(DataType dtype) { return dtype == DataType::kFloat32 ? 4 : 2; }

// Bytes of keys and values that a batch of full contexts reads.
inline int64_t context_bytes(const AttentionArguments& a) {
  return 2 * int64_t{a.num_seqs} * a.max_context_len * a.num_kv_heads * a.head_size *
         element_bytes(a.dtype);
}

// The context of a sequence; own_block serves as its table where the cache is contiguous.
inline SequenceContext sequence_context(const AttentionArguments& a, int seq,
                                        const int32_t* own_block) {
  return {a.key_cache,
          a.value_cache,
          a.block_tables ? a.block_tables + seq * a.table_stride : own_block,
          a.block_stride,
          a.head_stride,
          a.block_size,
          a.start_offsets ? a.start_offsets[seq] : 0};
}

// Adds a group of queries to a batch that has room for it.
class GroupWriter {
 public:
  GroupWriter(RowBatch& batch, int count, int kv_head) : group_(batch.groups[batch.num_groups++]) {
    batch.num_rows += count;
    group_.count = count;
    group_.kv_head = kv_head;
  }

  // Query `row` of `head` is the group's next.
  void add(const AttentionArguments& a, int64_t row, int head, int length) {
    const int64_t size = element_bytes(a.dtype), offset = int64_t{head} * a.head_size;
    group_.queries[r_] = static_cast<const char*>(a.query) + (row * a.query_stride + offset) * size;
    group_.outs[r_] = static_cast<char*>(a.out) + (row * a.out_stride + offset) * size;
    group_.lengths[r_++] = length;
  }

 private:
  RowGroup& group_;
  int r_ = 0;
};

}  // namespace astra
