// Prompt attention over a cached prefix on CUDA: a tile of queries of one head per thread block.
//
// The keys and values of the queries themselves are already in the cache. Tiles of keys, then of
// values, go through shared memory as floats; four neighbouring threads hold one query's row, so
// that a running softmax needs no barrier. Works in float32 for every type: prompts with a cached
// prefix are short, and this path must be exact before it is fast.
#include "common.cuh"

namespace astra {
namespace {

constexpr int kThreads = 128;
constexpr int kRowThreads = 4;                       // threads that share a query
constexpr int kQueries = kThreads / kRowThreads;     // queries of a tile
constexpr int kTokens = 32;                          // tokens of a tile
constexpr int kScores = kTokens / kRowThreads;       // scores a thread computes
constexpr int kWeightStride = kTokens + 1;           // no two rows in one bank

template <int kSize>
struct Shared {
  static constexpr int kStride = kSize + 4;  // rows start four banks apart, 16 bytes aligned
  static constexpr int kBytes =
      ((kQueries + kTokens) * kStride + kQueries * kWeightStride) * sizeof(float);
  float* queries;  // [kQueries, kStride]
  float* tokens;   // [kTokens, kStride], keys or values
  float* weights;  // [kQueries, kWeightStride]
  __device__ explicit Shared(float* memory)
      : queries(memory), tokens(queries + kQueries * kStride),
        weights(tokens + kTokens * kStride) {}
};

struct PromptArguments {
  AttentionArguments a;
  FastDivisor block_size;
};

// Copies `count` rows of kSize elements, row_of(i) each, into shared memory as floats times
// `factor`; rows from `valid` on are zero, so that what lies behind them is never read.
template <class T, int kSize, class RowOf>
__device__ __forceinline__ void load_tile(float* to, int count, int valid, float factor,
                                          const RowOf& row_of) {
  constexpr int kElements = Chunk<T>::kElements;
  constexpr int kChunks = kSize / kElements;
  for (int i = threadIdx.x; i < count * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    float values[kElements] = {};
    if (row < valid) Chunk<T>::to_floats(load_chunk(row_of(row) + chunk * kElements), values);
    float* target = to + row * Shared<kSize>::kStride + chunk * kElements;
#pragma unroll
    for (int e = 0; e < kElements; ++e) target[e] = values[e] * factor;
  }
}

__device__ __forceinline__ float4 read4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// This thread's scores: its query with tokens part, part + 4, ...
template <int kSize>
__device__ __forceinline__ void compute_scores(const Shared<kSize>& shared, int row, int part,
                                               float* scores) {
  const float* query = shared.queries + row * Shared<kSize>::kStride;
  for (int d = 0; d < kSize; d += 4) {
    const float4 q = read4(query + d);
#pragma unroll
    for (int j = 0; j < kScores; ++j) {
      const float4 k =
          read4(shared.tokens + (j * kRowThreads + part) * Shared<kSize>::kStride + d);
      scores[j] += q.x * k.x + q.y * k.y + q.z * k.z + q.w * k.w;
    }
  }
}

__device__ __forceinline__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

// One query's running softmax; `out` holds columns part * 4 + 16 i + (0..3).
template <int kSize>
struct RunningRow {
  float max = kLowest;
  float sum = 0.f;  // of this thread's tokens
  float out[kSize / kRowThreads] = {};

  // Turns scores into weights, of which those of tokens from `valid` on are zero.
  __device__ __forceinline__ void weigh(float* scores, int part, int valid, float* weights) {
    float best = max;
#pragma unroll
    for (int j = 0; j < kScores; ++j) {
      if (j * kRowThreads + part < valid) best = fmaxf(best, scores[j]);
    }
    best = row_max(best);
    const float factor = exp2f(max - best);
    max = best;
    sum *= factor;
#pragma unroll
    for (int i = 0; i < kSize / kRowThreads; ++i) out[i] *= factor;
#pragma unroll
    for (int j = 0; j < kScores; ++j) {
      const int token = j * kRowThreads + part;
      const float weight = token < valid ? exp2f(scores[j] - best) : 0.f;
      sum += weight;
      weights[token] = weight;
    }
  }

  __device__ __forceinline__ void add_values(const Shared<kSize>& shared, int row, int part) {
    const float* weights = shared.weights + row * kWeightStride;
    for (int token = 0; token < kTokens; ++token) {
      const float weight = weights[token];
      const float* value = shared.tokens + token * Shared<kSize>::kStride + part * 4;
#pragma unroll
      for (int i = 0; i < kSize / 16; ++i) {
        const float4 v = read4(value + i * 16);
        out[4 * i + 0] += weight * v.x;
        out[4 * i + 1] += weight * v.y;
        out[4 * i + 2] += weight * v.z;
        out[4 * i + 3] += weight * v.w;
      }
    }
  }
};

template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) prompt_kernel(const PromptArguments arguments) {
  const AttentionArguments& a = arguments.a;
  const int head = blockIdx.x, seq = blockIdx.z;
  const int first = a.query_starts[seq];
  const int num_queries = a.query_starts[seq + 1] - first;
  const int tile_start = blockIdx.y * kQueries;
  if (tile_start >= num_queries) return;
  const int prefix = a.context_lens[seq] - num_queries;
  const int tile_queries = smaller(kQueries, num_queries - tile_start);
  const int limit = prefix + tile_start + tile_queries;  // tokens that the last query sees

  const Shared<kSize> shared(dynamic_shared_memory());
  const int row = threadIdx.x / kRowThreads, part = threadIdx.x % kRowThreads;
  const int length = row < tile_queries ? prefix + tile_start + row + 1 : 0;
  const PagedRows rows(a, arguments.block_size, seq);
  const int64_t kv_offset = head / (a.num_heads / a.num_kv_heads) * a.head_stride;
  const T* keys = static_cast<const T*>(a.key_cache) + kv_offset;
  const T* values = static_cast<const T*>(a.value_cache) + kv_offset;
  const T* query = static_cast<const T*>(a.query) + head * kSize;
  load_tile<T, kSize>(shared.queries, kQueries, tile_queries, a.scale * kLog2E, [&](int i) {
    return query + int64_t{first + tile_start + i} * a.query_stride;
  });

  RunningRow<kSize> running;
  for (int base = 0; base < limit; base += kTokens) {
    const auto row_in = [&](const T* cache) {
      return [&rows, cache, base](int i) {
        return cache + rows.row(base + i, rows.find(base + i));
      };
    };
    load_tile<T, kSize>(shared.tokens, kTokens, limit - base, 1.f, row_in(keys));
    __syncthreads();
    float scores[kScores] = {};
    compute_scores<kSize>(shared, row, part, scores);
    running.weigh(scores, part, length - base, shared.weights + row * kWeightStride);
    __syncthreads();
    load_tile<T, kSize>(shared.tokens, kTokens, limit - base, 1.f, row_in(values));
    __syncthreads();
    running.add_values(shared, row, part);
    __syncthreads();
  }

  const float sum = row_sum(running.sum);
  if (row >= tile_queries) return;
  T* out = static_cast<T*>(a.out) + int64_t{first + tile_start + row} * a.out_stride +
           head * kSize + part * 4;
#pragma unroll
  for (int i = 0; i < kSize / kRowThreads; ++i) {
    out[i / 4 * 16 + i % 4] = static_cast<T>(running.out[i] / sum);
  }
}

}  // namespace

int64_t prompt_attention_workspace(const AttentionArguments&, const Launch&) { return 0; }

Status launch_prompt_attention(const AttentionArguments& a, float*, const Launch& launch) {
  const PromptArguments arguments{a, FastDivisor(a.block_size)};
  const dim3 grid(a.num_heads, ceil_div(a.max_query_len, kQueries), a.num_seqs);
  return for_type_and_size(a.dtype, a.head_size, [&](auto type, auto size) -> Status {
    constexpr int kSize = decltype(size)::value;
    return launch_kernel(prompt_kernel<decltype(type), kSize>, grid, dim3(kThreads),
                         Shared<kSize>::kBytes, launch, arguments);
  });
}

}  // namespace astra
