// The inner loops of attention on a CPU: scores, softmax, weighted sum of values. Compiled once
// per instruction set.
//
// Every token's score and every step of the sums is computed in the same order whatever the block
// size, the batch and the number of rows, so results do not depend on them.
#include "attend.h"
#include "vector.h"

namespace {

using astra::kRowGroup;
using astra::kTile;
using astra::padded;
using astra::RowBatch;
using astra::RowGroup;
using astra::SequenceContext;

inline int at_most(int value, int limit) { return value < limit ? value : limit; }

inline int longest(const RowGroup& group) { return group.lengths[group.count - 1]; }

// Where the tokens of a tile are in a cache, in elements from its first head's start.
struct Tile {
  int64_t at[kTile];
  int count;
};

// Walks a sequence's tokens through its blocks, tile by tile.
class TileCursor {
 public:
  TileCursor(const SequenceContext& context, int head_size, int tokens)
      : table_(context.table + context.start / context.block_size),
        block_stride_(context.block_stride), block_size_(context.block_size),
        head_size_(head_size), offset_(context.start % context.block_size), left_(tokens) {}

  // The next tile; where fewer tokens are left, the last fills it up.
  void next(Tile& tile) {
    tile.count = at_most(kTile, left_);
    left_ -= tile.count;
    for (int i = 0; i < kTile; ++i) {
      if (i >= tile.count) {
        tile.at[i] = i ? tile.at[i - 1] : 0;
        continue;
      }
      if (offset_ == block_size_) {
        ++table_;
        offset_ = 0;
      }
      tile.at[i] = *table_ * block_stride_ + int64_t{offset_++} * head_size_;
    }
  }

 private:
  const int32_t* table_;
  int64_t block_stride_;
  int block_size_;
  int head_size_;
  int offset_;
  int left_;
};

// Runs ahead of what is computed, fetching one head's tile after the other in the order of use:
// blocks lie scattered, so the hardware would not guess. It fetches into the second-level cache,
// which can have many more lines under way than the first.
template <class T, int kSize>
class Fetcher {
 public:
  Fetcher(const SequenceContext& context, const T* base, const RowBatch& batch, int tokens)
      : cursor_(context, kSize, tokens), base_(base), head_stride_(context.head_stride),
        batch_(batch) {
    cursor_.next(tile_);
    for (int i = 0; i < kAhead; ++i) next();
  }

  void next() {
    const int head = batch_.groups[group_].kv_head;
    const bool is_new = group_ == 0 || head != batch_.groups[group_ - 1].kv_head;
    if (is_new) fetch(base_ + head * head_stride_);
    if (++group_ < batch_.num_groups) return;
    group_ = 0;
    cursor_.next(tile_);
  }

 private:
  static constexpr int kAhead = 4;

  void fetch(const T* head) {
    constexpr int kLine = 64 / sizeof(T);
    for (int i = 0; i < tile_.count; ++i) {
      for (int at = 0; at < kSize; at += kLine) {
        __builtin_prefetch(head + tile_.at[i] + at, /*rw=*/0, /*locality=*/2);
      }
    }
  }

  TileCursor cursor_;
  Tile tile_;
  const T* base_;
  int64_t head_stride_;
  const RowBatch& batch_;
  int group_ = 0;
};

// Calls use(group, rows of its head, tile, first token) for every tile of each group's context.
template <class T, int kSize, class Use>
void walk(const SequenceContext& context, const void* cache, const RowBatch& batch, int tokens,
          Use use) {
  const T* base = static_cast<const T*>(cache);
  Fetcher<T, kSize> fetcher(context, base, batch, tokens);
  TileCursor cursor(context, kSize, tokens);
  Tile tile;
  for (int t = 0; t < tokens; t += kTile) {
    cursor.next(tile);
    for (int g = 0; g < batch.num_groups; ++g) {
      const RowGroup& group = batch.groups[g];
      fetcher.next();
      if (t < longest(group)) use(g, base + group.kv_head * context.head_stride, tile, t);
    }
  }
}

// scores[r][0..kTile) = query[r] . a tile's keys; query is [kRows, kSize].
template <class T, int kSize, int kRows>
void score_tile(const float* query, const T* head, const Tile& tile, float* scores,
                int64_t stride) {
  for (int part = 0; part < kTile; part += kWidth) {
    const T* rows[kWidth];
    for (int i = 0; i < kWidth; ++i) rows[i] = head + tile.at[part + i];
    for (int r = 0; r < kRows; ++r) {
      Floats sums[kWidth] = {};
      for (int at = 0; at < kSize; at += kWidth) {
        Floats q = load(query + r * kSize + at);
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) sums[i] += q * load(rows[i] + at);
      }
      store(scores + r * stride + part, sum_rows(sums));
    }
  }
}

// Replaces scores[0..length) by weights exp(score - max), the rest of the row up to `tokens`
// (padded) by 0, and returns the weights' sum.
inline float softmax_weights(float* scores, int length, int tokens) {
  const float kNone = -__builtin_inff();
  for (int t = length; t < padded(tokens); ++t) scores[t] = kNone;
  Floats best = broadcast(kNone);
  for (int t = 0; t < padded(length); t += kWidth) best = maximum(best, load(scores + t));
  Floats shift = broadcast(maximum_lane(best));
  Floats sum = {};
  for (int t = 0; t < padded(length); t += kWidth) {
    Floats weights = exp_nonpositive(load(scores + t) - shift);
    store(scores + t, weights);
    sum += weights;
  }
  for (int t = padded(length); t < padded(tokens); ++t) scores[t] = 0;
  return sum_lanes(sum);
}

// sums[r][0..kCount vectors) += weights[r][i] * rows[i] over a tile's tokens.
template <class T, int kSize, int kRows, int kCount>
inline void add_rows(const T* const* rows, int count, const float* weights, int64_t stride,
                     float* sums) {
  Floats held[kRows][kCount];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) held[r][v] = load(sums + r * kSize + v * kWidth);
  }
  for (int i = 0; i < count; ++i) {
    Floats value[kCount];
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) value[v] = load(rows[i] + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Floats weight = broadcast(weights[r * stride + i]);
#pragma GCC unroll 16
      for (int v = 0; v < kCount; ++v) held[r][v] += weight * value[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) store(sums + r * kSize + v * kWidth, held[r][v]);
  }
}

// sums[r] += the sum over a tile's tokens of weights[r][i] * value[i]; sums is [kRows, kSize].
template <class T, int kSize, int kRows>
void add_tile(const float* weights, int64_t stride, const T* head, const Tile& tile, float* sums) {
  constexpr int kVectors = kSize / kWidth;
  constexpr int kChunk = kVectors < kAccumulators / kRows ? kVectors : kAccumulators / kRows;
  const T* rows[kTile];
  for (int v = 0; v < kVectors; v += kChunk) {
    for (int i = 0; i < tile.count; ++i) rows[i] = head + tile.at[i] + v * kWidth;
    float* part = sums + v * kWidth;
    if (v + kChunk <= kVectors) {
      add_rows<T, kSize, kRows, kChunk>(rows, tile.count, weights, stride, part);
    } else if constexpr (kVectors % kChunk != 0) {
      add_rows<T, kSize, kRows, kVectors % kChunk>(rows, tile.count, weights, stride, part);
    }
  }
}

// Attends with the rows of a batch; see attend.h.
template <class T, int kSize>
void attend(const SequenceContext& context, const RowBatch& batch, float scale, float* scratch) {
  int tokens = 0;
  for (int g = 0; g < batch.num_groups; ++g) {
    if (tokens < longest(batch.groups[g])) tokens = longest(batch.groups[g]);
  }
  const int64_t stride = padded(tokens);
  int first[astra::kMostRows];  // row of each group
  for (int g = 0, row = 0; g < batch.num_groups; row += batch.groups[g++].count) first[g] = row;
  float* queries = scratch;
  float* sums = queries + batch.num_rows * kSize;
  float* scores = sums + batch.num_rows * kSize;
  float totals[astra::kMostRows] = {};
  const auto each_row = [&](auto use) {
    for (int g = 0; g < batch.num_groups; ++g) {
      for (int r = 0; r < batch.groups[g].count; ++r) use(batch.groups[g], r, first[g] + r);
    }
  };
  each_row([&](const RowGroup& group, int r, int row) {
    const T* from = static_cast<const T*>(group.queries[r]);
    for (int at = 0; at < kSize; at += kWidth) {
      store(queries + row * kSize + at, load(from + at) * scale);
      store(sums + row * kSize + at, Floats{});
    }
  });
  if (tokens > 0) {
    walk<T, kSize>(context, context.keys, batch, tokens,
                   [&](int g, const T* head, const Tile& tile, int t) {
      const float* query = queries + first[g] * kSize;
      float* to = scores + first[g] * stride + t;
      if (batch.groups[g].count == 1) score_tile<T, kSize, 1>(query, head, tile, to, stride);
      else score_tile<T, kSize, kRowGroup>(query, head, tile, to, stride);
    });
    each_row([&](const RowGroup& group, int r, int row) {
      totals[row] = softmax_weights(scores + row * stride, group.lengths[r], tokens);
    });
    walk<T, kSize>(context, context.values, batch, tokens,
                   [&](int g, const T* head, const Tile& tile, int t) {
      const float* weights = scores + first[g] * stride + t;
      float* to = sums + first[g] * kSize;
      if (batch.groups[g].count == 1) add_tile<T, kSize, 1>(weights, stride, head, tile, to);
      else add_tile<T, kSize, kRowGroup>(weights, stride, head, tile, to);
    });
  }
  each_row([&](const RowGroup& group, int r, int row) {
    const bool empty = group.lengths[r] <= 0;
    T* out = static_cast<T*>(group.outs[r]);
    Floats factor = broadcast(empty ? 0.f : 1.f / totals[row]);
    for (int at = 0; at < kSize; at += kWidth) {
      store(out + at, empty ? Floats{} : load(sums + row * kSize + at) * factor);
    }
  });
}

template <class T>
astra::Attend for_size(int head_size) {
  switch (head_size) {
    case 64: return attend<T, 64>;
    case 80: return attend<T, 80>;
    case 96: return attend<T, 96>;
    case 128: return attend<T, 128>;
    case 256: return attend<T, 256>;
    default: return nullptr;
  }
}

}  // namespace

namespace astra::ASTRA_INSTRUCTION_SET {

Attend find_attend(DataType dtype, int head_size) {
  switch (dtype) {
    case DataType::kFloat32: return for_size<float>(head_size);
    case DataType::kBFloat16: return for_size<BFloat16>(head_size);
    default: return nullptr;
  }
}

}  // namespace astra::ASTRA_INSTRUCTION_SET
