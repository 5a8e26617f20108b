// Decode attention on CUDA: one query per sequence, bound by reading keys and values once.
//
// A thread block takes one head of one split of one sequence. Within it a group of lanes holds a
// token's whole vector, 16 bytes a lane at a time, and streams every kGroups-th token with its
// own running maximum, sum and output; nothing is shared until the end, so no barrier stalls the
// loads. Long contexts are cut into splits whose partial results a second kernel joins.
#include "common.cuh"

namespace astra {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSplitUnit = 64;        // splits are multiples of this many tokens
constexpr int kSplitTokens = 1024;    // longest split before another is added
constexpr int kMaxSplits = 64;
constexpr int kBlocksPerProcessor = 8;

constexpr int largest_power_of_two(int n) {
  int power = 1;
  while (power * 2 <= kWarp && n % (power * 2) == 0) power *= 2;
  return power;
}

// How a vector of kSize elements is dealt out to lanes.
template <class T, int kSize>
struct Deal {
  static constexpr int kElements = Chunk<T>::kElements;
  static constexpr int kLanes = largest_power_of_two(kSize / kElements);  // lanes of one token
  static constexpr int kChunks = kSize / kElements / kLanes;              // 16-byte loads a lane
  static constexpr int kHeld = kChunks * kElements;                       // elements a lane
  static constexpr int kGroups = kThreads / kLanes;                       // tokens at a time
  static constexpr int kUnroll = kChunks >= 4 ? 1 : 4 / kChunks;          // tokens in flight
  // Left to itself ptxas goes for nine blocks on a multiprocessor and spills to get there.
  static constexpr int kResident = kChunks >= 3 ? 4 : 8;                  // thread blocks
};

struct DecodeArguments {
  AttentionArguments a;
  FastDivisor block_size;
  int num_splits;
  float* partial_out;      // [num_seqs, num_heads, num_splits, head_size], not yet divided
  float* partial_max;      // [num_seqs, num_heads, num_splits]
  float* partial_sum;      // [num_seqs, num_heads, num_splits]
};

__device__ __forceinline__ int split_length(int length, int num_splits) {
  return larger(ceil_div(ceil_div(length, num_splits), kSplitUnit), 1) * kSplitUnit;
}

// A running softmax: weights are 2^(score - max).
template <int kHeld>
struct Running {
  float max = kLowest;
  float sum = 0.f;
  float out[kHeld] = {};

  __device__ __forceinline__ void rescale(float new_max) {
    const float factor = exp2f(max - new_max);
    max = new_max;
    sum *= factor;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) out[i] *= factor;
  }
};

// Loads one token's share of this lane.
template <class T, int kSize>
__device__ __forceinline__ void load_row(const T* row, int lane, uint4* chunks) {
  using D = Deal<T, kSize>;
#pragma unroll
  for (int c = 0; c < D::kChunks; ++c) {
    chunks[c] = load_chunk(row + (c * D::kLanes + lane) * D::kElements);
  }
}

template <class T, int kSize>
__device__ __forceinline__ float dot(const uint4* chunks, const float* query) {
  using D = Deal<T, kSize>;
  float sum = 0.f;
#pragma unroll
  for (int c = 0; c < D::kChunks; ++c) {
    float values[D::kElements];
    Chunk<T>::to_floats(chunks[c], values);
#pragma unroll
    for (int i = 0; i < D::kElements; ++i) sum += query[c * D::kElements + i] * values[i];
  }
#pragma unroll
  for (int step = D::kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  return sum;
}

template <class T, int kSize>
__device__ __forceinline__ void add_row(const uint4* chunks, float weight, float* out) {
  using D = Deal<T, kSize>;
#pragma unroll
  for (int c = 0; c < D::kChunks; ++c) {
    float values[D::kElements];
    Chunk<T>::to_floats(chunks[c], values);
#pragma unroll
    for (int i = 0; i < D::kElements; ++i) out[c * D::kElements + i] += weight * values[i];
  }
}

// Streams tokens [begin, end) through this thread's group. The loop is the same for all lanes of
// the block; a group past the end reads the last token again and gives it no weight, so that slots
// never written are never read.
template <class T, int kSize, class Rows>
__device__ __forceinline__ void stream_tokens(const Rows& rows, const T* keys, const T* values,
                                              int begin, int end, const float* query,
                                              Running<Deal<T, kSize>::kHeld>& running) {
  using D = Deal<T, kSize>;
  const int lane = threadIdx.x % D::kLanes;
  const int group = threadIdx.x / D::kLanes;
  int blocks[D::kUnroll];
#pragma unroll
  for (int u = 0; u < D::kUnroll; ++u) {
    blocks[u] = rows.find(smaller(begin + u * D::kGroups + group, end - 1));
  }
  for (int base = begin; base < end; base += D::kGroups * D::kUnroll) {
    uint4 key[D::kUnroll][D::kChunks], value[D::kUnroll][D::kChunks];
#pragma unroll
    for (int u = 0; u < D::kUnroll; ++u) {
      const int token = smaller(base + u * D::kGroups + group, end - 1);
      const int64_t row = rows.row(token, blocks[u]);
      load_row<T, kSize>(keys + row, lane, key[u]);
      load_row<T, kSize>(values + row, lane, value[u]);
    }
    // The next tokens' blocks are looked up while the loads above are on their way.
#pragma unroll
    for (int u = 0; u < D::kUnroll; ++u) {
      blocks[u] = rows.find(smaller(base + (D::kUnroll + u) * D::kGroups + group, end - 1));
    }
    float scores[D::kUnroll];
    float best = running.max;
#pragma unroll
    for (int u = 0; u < D::kUnroll; ++u) {
      scores[u] = dot<T, kSize>(key[u], query);
      if (base + u * D::kGroups + group < end) best = fmaxf(best, scores[u]);
    }
    running.rescale(best);
#pragma unroll
    for (int u = 0; u < D::kUnroll; ++u) {
      const bool valid = base + u * D::kGroups + group < end;
      const float weight = valid ? exp2f(scores[u] - best) : 0.f;
      running.sum += weight;
      add_row<T, kSize>(value[u], weight, running.out);
    }
  }
}

// Joins the groups of a warp: afterwards every group holds the warp's result.
template <int kLanes, int kHeld>
__device__ __forceinline__ void join_groups(Running<kHeld>& running) {
#pragma unroll
  for (int step = kLanes; step < kWarp; step *= 2) {
    running.rescale(fmaxf(running.max, __shfl_xor_sync(kAllLanes, running.max, step)));
    running.sum += __shfl_xor_sync(kAllLanes, running.sum, step);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      running.out[i] += __shfl_xor_sync(kAllLanes, running.out[i], step);
    }
  }
}

// What the warps of a block leave for each other.
template <int kSize>
struct WarpResults {
  float max[kWarps];
  float sum[kWarps];
  float out[kWarps][kSize];
};

template <class T, int kSize>
__device__ __forceinline__ void leave_result(const Running<Deal<T, kSize>::kHeld>& running,
                                             WarpResults<kSize>& results) {
  using D = Deal<T, kSize>;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (lane < D::kLanes) {
#pragma unroll
    for (int i = 0; i < D::kHeld; ++i) {
      const int chunk = i / D::kElements * D::kLanes + lane;
      results.out[warp][chunk * D::kElements + i % D::kElements] = running.out[i];
    }
  }
  if (lane == 0) {
    results.max[warp] = running.max;
    results.sum[warp] = running.sum;
  }
}

template <class T, int kSize, class Rows>
__global__ void __launch_bounds__(kThreads, (Deal<T, kSize>::kResident))
    decode_kernel(const DecodeArguments arguments) {
  using D = Deal<T, kSize>;
  __shared__ WarpResults<kSize> results;
  const AttentionArguments& a = arguments.a;
  const int head = blockIdx.x, seq = blockIdx.y, split = blockIdx.z;
  const int kv_head = head / (a.num_heads / a.num_kv_heads);
  const int first = a.start_offsets ? a.start_offsets[seq] : 0;
  const int length = larger(a.context_lens[seq] - first, 0);
  const int per_split = split_length(length, arguments.num_splits);
  const int begin = first + split * per_split;
  const int end = smaller(first + length, begin + per_split);
  if (begin >= end && split > 0) return;  // the joining kernel knows that this split is empty

  Running<D::kHeld> running;
  if (begin < end) {
    float query[D::kHeld];
    const T* from = static_cast<const T*>(a.query) + seq * a.query_stride + head * kSize;
    const int lane = threadIdx.x % D::kLanes;
#pragma unroll
    for (int i = 0; i < D::kHeld; ++i) {
      const int chunk = i / D::kElements * D::kLanes + lane;
      query[i] = static_cast<float>(from[chunk * D::kElements + i % D::kElements]) *
                 (a.scale * kLog2E);
    }
    const int64_t offset = kv_head * a.head_stride;
    stream_tokens<T, kSize>(Rows(a, arguments.block_size, seq),
                            static_cast<const T*>(a.key_cache) + offset,
                            static_cast<const T*>(a.value_cache) + offset, begin, end, query,
                            running);
    join_groups<D::kLanes>(running);
  }
  leave_result<T, kSize>(running, results);
  __syncthreads();

  float best = kLowest, sum = 0.f;
  for (int w = 0; w < kWarps; ++w) best = fmaxf(best, results.max[w]);
  for (int w = 0; w < kWarps; ++w) sum += results.sum[w] * exp2f(results.max[w] - best);
  const int64_t row = (int64_t{seq} * a.num_heads + head) * arguments.num_splits + split;
  for (int d = threadIdx.x; d < kSize; d += kThreads) {
    float out = 0.f;
    for (int w = 0; w < kWarps; ++w) out += results.out[w][d] * exp2f(results.max[w] - best);
    if (arguments.num_splits == 1) {
      T* to = static_cast<T*>(a.out) + seq * a.out_stride + head * kSize;
      to[d] = static_cast<T>(sum > 0.f ? out / sum : 0.f);
    } else {
      arguments.partial_out[row * kSize + d] = out;
    }
  }
  if (arguments.num_splits > 1 && threadIdx.x == 0) {
    arguments.partial_max[row] = best;
    arguments.partial_sum[row] = sum;
  }
}

// Joins the splits of one head of one sequence.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) join_splits_kernel(const DecodeArguments arguments) {
  const AttentionArguments& a = arguments.a;
  const int head = blockIdx.x, seq = blockIdx.y;
  const int first = a.start_offsets ? a.start_offsets[seq] : 0;
  const int length = larger(a.context_lens[seq] - first, 0);
  const int used = ceil_div(length, split_length(length, arguments.num_splits));
  const int64_t row = (int64_t{seq} * a.num_heads + head) * arguments.num_splits;
  float best = kLowest, sum = 0.f;
  for (int s = 0; s < used; ++s) best = fmaxf(best, arguments.partial_max[row + s]);
  for (int s = 0; s < used; ++s) {
    sum += arguments.partial_sum[row + s] * exp2f(arguments.partial_max[row + s] - best);
  }
  T* to = static_cast<T*>(a.out) + seq * a.out_stride + head * kSize;
  for (int d = threadIdx.x; d < kSize; d += kThreads) {
    float out = 0.f;
    for (int s = 0; s < used; ++s) {
      out += arguments.partial_out[(row + s) * kSize + d] *
             exp2f(arguments.partial_max[row + s] - best);
    }
    to[d] = static_cast<T>(sum > 0.f ? out / sum : 0.f);
  }
}

// Enough blocks to fill the device, and no split much longer than kSplitTokens, so that one long
// context among short ones does not hold up the step.
int count_splits(const AttentionArguments& a, const Launch& launch) {
  const int blocks = larger(a.num_seqs * a.num_heads, 1);
  const int to_fill = ceil_div(launch.num_multiprocessors * kBlocksPerProcessor, blocks);
  const int by_length = ceil_div(a.max_context_len, kSplitTokens);
  const int useful = larger(ceil_div(a.max_context_len, 2 * kSplitUnit), 1);
  return smaller(smaller(larger(to_fill, by_length), useful), kMaxSplits);
}

}  // namespace

int64_t decode_attention_workspace(const AttentionArguments& a, const Launch& launch) {
  const int splits = count_splits(a, launch);
  if (splits == 1) return 0;
  return int64_t{a.num_seqs} * a.num_heads * splits * (a.head_size + 2);
}

Status launch_decode_attention(const AttentionArguments& a, float* workspace,
                               const Launch& launch) {
  const int splits = count_splits(a, launch);
  const int64_t partials = int64_t{a.num_seqs} * a.num_heads * splits;
  float* partial_max = workspace + partials * a.head_size;
  const DecodeArguments arguments{a,           FastDivisor(a.block_tables ? a.block_size : 1),
                                  splits,      workspace,
                                  partial_max, partial_max + partials};
  const dim3 grid(a.num_heads, a.num_seqs, splits);
  return for_type_and_size(a.dtype, a.head_size, [&](auto type, auto size) -> Status {
    using T = decltype(type);
    constexpr int kSize = decltype(size)::value;
    const auto kernel = a.block_tables ? decode_kernel<T, kSize, PagedRows>
                                       : decode_kernel<T, kSize, ContiguousRows>;
    const Status status = launch_kernel(kernel, grid, dim3(kThreads), 0, launch, arguments);
    if (status != kDone || splits == 1) return status;
    return launch_kernel(join_splits_kernel<T, kSize>, dim3(a.num_heads, a.num_seqs),
                         dim3(kThreads), 0, launch, arguments);
  });
}

}  // namespace astra
