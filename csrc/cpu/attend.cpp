// The inner loops of attention on a CPU: scores, softmax, weighted sum of values. Compiled once
// per instruction set.
//
// Every token's score and every step of the sums is computed in the same order whatever the block
// size, the batch and the number of rows, so results do not depend on them.
#include "attend.h"
#include "vector.h"

namespace {

using astra::HeadContext;
using astra::RowGroup;
using astra::kTile;
using astra::padded;

// Walks the rows (one token of one head) of a sequence's blocks.
template <class T, int kSize>
class RowCursor {
 public:
  RowCursor(const T* head, const int32_t* table, int64_t block_stride, int block_size, int token)
      : head_(head), table_(table + token / block_size), block_stride_(block_stride),
        block_size_(block_size), offset_(token % block_size) {
    row_ = head_ + *table_ * block_stride_ + int64_t{offset_} * kSize;
  }

  // Points rows[0..kTile) at the next `count` tokens, repeating the last to fill the tile, and
  // starts fetching them: blocks lie scattered, so the hardware would not guess.
  void take(const T** rows, int count) {
    for (int i = 0; i < kTile; ++i) {
      if (i < count) rows[i] = next();
      else rows[i] = rows[i - 1];
    }
    constexpr int kLine = 64 / sizeof(T);
    for (int i = 0; i < count; ++i) {
      for (int at = 0; at < kSize; at += kLine) __builtin_prefetch(rows[i] + at);
    }
  }

 private:
  const T* next() {
    if (offset_ == block_size_) {
      ++table_;
      offset_ = 0;
      row_ = head_ + *table_ * block_stride_;
    }
    const T* row = row_;
    row_ += kSize;
    ++offset_;
    return row;
  }

  const T* head_;
  const int32_t* table_;
  int64_t block_stride_;
  int block_size_;
  int offset_;
  const T* row_;
};

inline int at_most(int value, int limit) { return value < limit ? value : limit; }

// Hands out the rows of a context tile by tile, with the fetching of later tiles under way.
template <class T, int kSize>
class TileStream {
 public:
  TileStream(RowCursor<T, kSize> cursor, int tokens) : cursor_(cursor), left_(tokens) {
    for (int i = 0; i < kAhead; ++i) fetch();
  }

  // The next tile's rows, valid until kAhead tiles later.
  const T* const* next() {
    fetch();
    return rows_[handed_++ % kTiles];
  }

 private:
  static constexpr int kAhead = 1;  // more does not help
  static constexpr int kTiles = kAhead + 1;

  void fetch() {
    if (left_ > 0) cursor_.take(rows_[fetched_ % kTiles], at_most(kTile, left_));
    left_ -= kTile;
    ++fetched_;
  }

  RowCursor<T, kSize> cursor_;
  int left_;
  unsigned fetched_ = 0;
  unsigned handed_ = 0;
  const T* rows_[kTiles][kTile];
};

// scores[r][t] = query[r] . key[t] for t < tokens; query is [kRows, kSize].
template <class T, int kSize, int kRows>
void compute_scores(const float* query, RowCursor<T, kSize> keys, int tokens, float* scores,
                    int64_t stride) {
  TileStream<T, kSize> stream(keys, tokens);
  for (int t = 0; t < tokens; t += kTile) {
    const T* const* rows = stream.next();
    for (int part = 0; part < kTile; part += kWidth) {
      const T* const* tile = rows + part;
      for (int r = 0; r < kRows; ++r) {
        Floats sums[kWidth] = {};
        for (int at = 0; at < kSize; at += kWidth) {
          Floats q = load(query + r * kSize + at);
#pragma GCC unroll 16
          for (int i = 0; i < kWidth; ++i) sums[i] += q * load(tile[i] + at);
        }
        store(scores + r * stride + t + part, sum_rows(sums));
      }
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

// sums[r] = sum over t < tokens of weights[r][t] * value[t]; sums is [kRows, kSize].
template <class T, int kSize, int kRows>
void sum_values(const float* weights, int64_t stride, RowCursor<T, kSize> values, int tokens,
                float* sums) {
  constexpr int kVectors = kSize / kWidth;
  constexpr int kChunk = kVectors < kAccumulators / kRows ? kVectors : kAccumulators / kRows;
  for (int i = 0; i < kRows * kSize; i += kWidth) store(sums + i, Floats{});
  TileStream<T, kSize> stream(values, tokens);
  for (int t = 0; t < tokens; t += kTile) {
    const T* const* rows = stream.next();
    const int count = at_most(kTile, tokens - t);
    const T* shifted[kTile];
    for (int v = 0; v < kVectors; v += kChunk) {
      for (int i = 0; i < count; ++i) shifted[i] = rows[i] + v * kWidth;
      float* part = sums + v * kWidth;
      if (v + kChunk <= kVectors) {
        add_rows<T, kSize, kRows, kChunk>(shifted, count, weights + t, stride, part);
      } else if constexpr (kVectors % kChunk != 0) {
        add_rows<T, kSize, kRows, kVectors % kChunk>(shifted, count, weights + t, stride, part);
      }
    }
  }
}

// Attends with kRows rows of `rows`; see attend.h.
template <class T, int kSize, int kRows>
void attend(const HeadContext& context, const RowGroup& rows, float scale, float* scratch) {
  const int tokens = rows.lengths[kRows - 1];
  const int64_t stride = padded(tokens);
  float* query = scratch;
  float* sums = query + kRows * kSize;
  float* scores = sums + kRows * kSize;
  float totals[kRows] = {};
  for (int r = 0; r < kRows; ++r) {
    const T* from = static_cast<const T*>(rows.queries[r]);
    for (int at = 0; at < kSize; at += kWidth) {
      store(query + r * kSize + at, load(from + at) * scale);
    }
  }
  if (tokens > 0) {
    const auto cursor = [&](const void* head) {
      return RowCursor<T, kSize>(static_cast<const T*>(head), context.table, context.block_stride,
                                 context.block_size, context.start);
    };
    compute_scores<T, kSize, kRows>(query, cursor(context.keys), tokens, scores, stride);
    for (int r = 0; r < kRows; ++r) {
      totals[r] = softmax_weights(scores + r * stride, rows.lengths[r], tokens);
    }
    sum_values<T, kSize, kRows>(scores, stride, cursor(context.values), tokens, sums);
  }
  for (int r = 0; r < kRows; ++r) {
    const bool empty = rows.lengths[r] <= 0;
    T* out = static_cast<T*>(rows.outs[r]);
    Floats factor = broadcast(empty ? 0.f : 1.f / totals[r]);
    for (int at = 0; at < kSize; at += kWidth) {
      store(out + at, empty ? Floats{} : load(sums + r * kSize + at) * factor);
    }
  }
}

template <class T>
astra::AttendFunctions for_size(int head_size) {
  switch (head_size) {
    case 64: return {attend<T, 64, 1>, attend<T, 64, astra::kRowGroup>};
    case 80: return {attend<T, 80, 1>, attend<T, 80, astra::kRowGroup>};
    case 96: return {attend<T, 96, 1>, attend<T, 96, astra::kRowGroup>};
    case 128: return {attend<T, 128, 1>, attend<T, 128, astra::kRowGroup>};
    case 256: return {attend<T, 256, 1>, attend<T, 256, astra::kRowGroup>};
    default: return {nullptr, nullptr};
  }
}

}  // namespace

namespace astra::ASTRA_INSTRUCTION_SET {

AttendFunctions find_attend(DataType dtype, int head_size) {
  switch (dtype) {
    case DataType::kFloat32: return for_size<float>(head_size);
    case DataType::kBFloat16: return for_size<BFloat16>(head_size);
    default: return {nullptr, nullptr};
  }
}

}  // namespace astra::ASTRA_INSTRUCTION_SET
