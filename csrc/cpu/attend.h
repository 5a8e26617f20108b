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

// A head's query in a row, and how many tokens it attends to.
struct Query {
  int64_t row;
  int head;
  int length;
};

// Attends with queries of one sequence, as many together as a call takes.
class SequenceAttention {
 public:
  SequenceAttention(const AttentionArguments& a, Attend attend, int seq, float* scratch)
      : a_(a), attend_(attend), scratch_(scratch), own_block_(seq),
        context_{a.key_cache,
                 a.value_cache,
                 a.block_tables ? a.block_tables + seq * a.table_stride : &own_block_,
                 a.block_stride,
                 a.head_stride,
                 a.block_size,
                 a.start_offsets ? a.start_offsets[seq] : 0} {}

  const SequenceContext& context() const { return context_; }

  // Adds `count` queries of one key/value head, the i-th of which is query_of(i).
  template <class QueryOf>
  void add(int count, int kv_head, QueryOf query_of) {
    const int64_t size = element_bytes(a_.dtype);
    for (int i = 0; i < count;) {
      const int together = i + kRowGroup <= count ? kRowGroup : 1;
      if (batch_.num_rows + together > kMostRows) finish();
      RowGroup& group = batch_.groups[batch_.num_groups++];
      batch_.num_rows += together;
      group.count = together;
      group.kv_head = kv_head;
      for (int r = 0; r < together; ++r, ++i) {
        const Query query = query_of(i);
        const int64_t offset = int64_t{query.head} * a_.head_size;
        group.queries[r] =
            static_cast<const char*>(a_.query) + (query.row * a_.query_stride + offset) * size;
        group.outs[r] = static_cast<char*>(a_.out) + (query.row * a_.out_stride + offset) * size;
        group.lengths[r] = query.length;
      }
    }
  }

  // Attends with those that wait for others.
  void finish() {
    if (batch_.num_groups > 0) attend_(context_, batch_, a_.scale, scratch_);
    batch_.num_groups = batch_.num_rows = 0;
  }

 private:
  const AttentionArguments& a_;
  Attend attend_;
  float* scratch_;
  int32_t own_block_;  // serves as the table where the cache is contiguous
  SequenceContext context_;
  RowBatch batch_;
};

}  // namespace astra
