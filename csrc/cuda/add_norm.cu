// A residual sum and its LayerNorm (or RMSNorm) in one kernel on CUDA: a thread block per row.
#include "common.cuh"

namespace astra {
namespace {

constexpr int kThreads = 256;

// The sum over the block's threads, in all of them.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float parts[kThreads / kWarp];
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  __syncthreads();  // the parts of an earlier sum have been read
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0.f;
  for (int i = 0; i < kThreads / kWarp; ++i) sum += parts[i];
  return sum;
}

// Threads keep their own values in shared memory, neighbours in neighbouring banks: no barrier.
template <class T>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(const NormArguments n) {
  constexpr int kElements = Chunk<T>::kElements;
  float* held = dynamic_shared_memory() + threadIdx.x;
  const int64_t row = int64_t{blockIdx.x} * n.width;
  T* residual = static_cast<T*>(n.residual) + row;
  const T* delta = static_cast<const T*>(n.delta) + row;
  float sum = 0.f;
  for (int i = threadIdx.x * kElements, h = 0; i < n.width; i += kThreads * kElements) {
    float a[kElements], b[kElements];
    auto* place = reinterpret_cast<uint4*>(residual + i);
    Chunk<T>::to_floats(*place, a);
    Chunk<T>::to_floats(load_chunk(delta + i), b);
    uint4 raw;
    T* rounded = reinterpret_cast<T*>(&raw);
#pragma unroll
    for (int e = 0; e < kElements; ++e, ++h) {
      rounded[e] = static_cast<T>(a[e] + b[e]);
      held[h * kThreads] = static_cast<float>(rounded[e]);
      sum += held[h * kThreads];
    }
    *place = raw;
  }
  const float mean = n.bias ? block_sum(sum) / n.width : 0.f;
  float squares = 0.f;
  for (int i = threadIdx.x * kElements, h = 0; i < n.width; i += kThreads * kElements) {
#pragma unroll
    for (int e = 0; e < kElements; ++e, ++h) {
      const float centred = held[h * kThreads] - mean;
      squares += centred * centred;
    }
  }
  const float factor = 1.f / sqrtf(block_sum(squares) / n.width + n.eps);
  T* out = static_cast<T*>(n.out) + row;
  for (int i = threadIdx.x * kElements, h = 0; i < n.width; i += kThreads * kElements) {
    float weight[kElements], bias[kElements] = {};
    Chunk<T>::to_floats(load_chunk(static_cast<const T*>(n.weight) + i), weight);
    if (n.bias) Chunk<T>::to_floats(load_chunk(static_cast<const T*>(n.bias) + i), bias);
    float scaled[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e, ++h) {
      scaled[e] = (held[h * kThreads] - mean) * factor * weight[e] + bias[e];
    }
    *reinterpret_cast<uint4*>(out + i) = Chunk<T>::from_floats(scaled);
  }
}

}  // namespace

Status launch_add_norm(const NormArguments& n, const Launch& launch) {
  return for_type(n.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kElements = Chunk<T>::kElements;
    const int chunks = ceil_div(n.width, kThreads * kElements);  // of a thread
    const size_t shared_bytes = sizeof(float) * chunks * kThreads * kElements;
    const dim3 grid(static_cast<unsigned>(n.num_rows));
    return launch_kernel(add_norm_kernel<T>, grid, dim3(kThreads), shared_bytes, launch, n);
  });
}

}  // namespace astra
