// A gated MLP's product and rotary positions on CUDA: a thread per 16 bytes, or two of a pair.
#include "common.cuh"

namespace astra {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) gate_kernel(const GateArguments g) {
  constexpr int kElements = Chunk<T>::kElements;
  const int chunks = g.width / kElements;  // of a row
  const int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (chunk >= g.num_rows * chunks) return;
  const int64_t row = chunk / chunks, at = chunk % chunks * kElements;
  const T* fused = static_cast<const T*>(g.fused) + 2 * row * g.width + at;
  float gate[kElements], up[kElements];
  Chunk<T>::to_floats(load_chunk(fused), gate);
  Chunk<T>::to_floats(load_chunk(fused + g.width), up);
#pragma unroll
  for (int e = 0; e < kElements; ++e) gate[e] = gate[e] / (1.f + expf(-gate[e])) * up[e];
  T* out = static_cast<T*>(g.out) + row * g.width + at;
  *reinterpret_cast<uint4*>(out) = Chunk<T>::from_floats(gate);
}

template <class T>
__global__ void __launch_bounds__(kThreads) rotate_kernel(const RotateArguments r) {
  constexpr int kElements = Chunk<T>::kElements;
  const int chunks = r.half / kElements;  // of half a head
  const int64_t row_chunks = int64_t{r.num_heads} * chunks;
  const int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (chunk >= r.num_rows * row_chunks) return;
  const int64_t row = chunk / row_chunks, head = chunk % row_chunks / chunks;
  const int64_t at = chunk % chunks * kElements;
  auto* first = reinterpret_cast<uint4*>(static_cast<T*>(r.heads) + row * r.stride +
                                         2 * head * r.half + at);
  auto* second = first + chunks;
  float a[kElements], b[kElements], cos[kElements], sin[kElements];
  Chunk<T>::to_floats(*first, a);
  Chunk<T>::to_floats(*second, b);
  Chunk<T>::to_floats(load_chunk(static_cast<const T*>(r.cos) + row * r.half + at), cos);
  Chunk<T>::to_floats(load_chunk(static_cast<const T*>(r.sin) + row * r.half + at), sin);
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const float turned = a[e] * cos[e] - b[e] * sin[e];
    b[e] = b[e] * cos[e] + a[e] * sin[e];
    a[e] = turned;
  }
  *first = Chunk<T>::from_floats(a);
  *second = Chunk<T>::from_floats(b);
}

dim3 grid_of(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
}

}  // namespace

Status launch_gate(const GateArguments& g, const Launch& launch) {
  return for_type(g.dtype, [&](auto type) {
    using T = decltype(type);
    const dim3 grid = grid_of(g.num_rows * g.width / Chunk<T>::kElements);
    return launch_kernel(gate_kernel<T>, grid, dim3(kThreads), 0, launch, g);
  });
}

Status launch_rotate(const RotateArguments& r, const Launch& launch) {
  return for_type(r.dtype, [&](auto type) {
    using T = decltype(type);
    const dim3 grid = grid_of(r.num_rows * r.num_heads * r.half / Chunk<T>::kElements);
    return launch_kernel(rotate_kernel<T>, grid, dim3(kThreads), 0, launch, r);
  });
}

}  // namespace astra
