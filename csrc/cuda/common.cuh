// What the CUDA kernels share: checked launches, element types, 16-byte loads, block lookup.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../kernels.h"

namespace astra {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -3.0e38f;  // stands for minus infinity: differences of it stay finite

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }

#ifndef ASTRA_EMULATED_DEVICE
// Launches on the context's stream and reports what the runtime says of the launch.
template <class... Parameters, class... Arguments>
Status launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                     const Launch& launch, Arguments... arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(launch.stream)>>>(arguments...);
  return cudaGetLastError();
}

__device__ inline float* dynamic_shared_memory() {
  extern __shared__ float4 bytes[];
  return reinterpret_cast<float*>(bytes);
}
#endif

// Sixteen bytes as floats, and back; kElements of them.
template <class T>
struct Chunk {
  static constexpr int kElements = 16 / sizeof(T);
  static __device__ __forceinline__ void to_floats(uint4 raw, float* out) {
    const T* values = reinterpret_cast<const T*>(&raw);
#pragma unroll
    for (int i = 0; i < kElements; ++i) out[i] = static_cast<float>(values[i]);
  }
  static __device__ __forceinline__ uint4 from_floats(const float* in) {
    uint4 raw;
    T* values = reinterpret_cast<T*>(&raw);
#pragma unroll
    for (int i = 0; i < kElements; ++i) values[i] = static_cast<T>(in[i]);
    return raw;
  }
};

__device__ __forceinline__ uint4 load_chunk(const void* from) {
  return __ldg(static_cast<const uint4*>(from));
}

// n / divisor for 0 <= n < 2^24 and 1 <= divisor <= 256, by one multiplication.
struct FastDivisor {
  int divisor;
  unsigned multiplier;
  explicit FastDivisor(int d)
      : divisor(d), multiplier(d == 1 ? 0u : static_cast<unsigned>((1ull << 32) / d + 1)) {}
  __device__ __forceinline__ int divide(int n) const {
    return divisor == 1 ? n : static_cast<int>(__umulhi(static_cast<unsigned>(n), multiplier));
  }
};

// Where the tokens of one head of one sequence lie. find() reads the block table; row() gives the
// token's offset in elements. Split in two so that a loop can look ahead.
struct PagedRows {
  const int32_t* table;
  int64_t block_stride;
  FastDivisor block_size;
  int head_size;
  __device__ PagedRows(const AttentionArguments& a, FastDivisor size, int seq)
      : table(a.block_tables + seq * a.table_stride), block_stride(a.block_stride),
        block_size(size), head_size(a.head_size) {}
  __device__ __forceinline__ int find(int token) const {
    return __ldg(table + block_size.divide(token));
  }
  __device__ __forceinline__ int64_t row(int token, int block) const {
    const int offset = token - block_size.divide(token) * block_size.divisor;
    return block * block_stride + int64_t{offset} * head_size;
  }
};

struct ContiguousRows {
  int64_t start;  // offset of the sequence's first slot
  int head_size;
  __device__ ContiguousRows(const AttentionArguments& a, FastDivisor, int seq)
      : start(seq * a.block_stride), head_size(a.head_size) {}
  __device__ __forceinline__ int find(int) const { return 0; }
  __device__ __forceinline__ int64_t row(int token, int) const {
    return start + int64_t{token} * head_size;
  }
};

// Calls `function(type)` with the arguments' type.
template <class Function>
Status for_type(DataType dtype, Function function) {
  switch (dtype) {
    case DataType::kFloat32: return function(float{});
    case DataType::kFloat16: return function(__half{});
    default: return function(__nv_bfloat16{});
  }
}

// Calls `function(type, size)` for the arguments' type and head size, as constants.
template <int kValue>
struct Size {
  static constexpr int value = kValue;
};

template <class Function>
Status for_type_and_size(DataType dtype, int head_size, Function function) {
  return for_type(dtype, [&](auto type) -> Status {
    switch (head_size) {
      case 64: return function(type, Size<64>{});
      case 80: return function(type, Size<80>{});
      case 96: return function(type, Size<96>{});
      case 128: return function(type, Size<128>{});
      case 256: return function(type, Size<256>{});
      default: return kUnsupported;
    }
  });
}

}  // namespace astra
