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

// Calls `launch(type, number of 16-byte chunks in `elements`)` for the type's kernel.
template <class Function>
Status for_chunks(DataType dtype, int64_t elements, Function launch) {
  switch (dtype) {
    case DataType::kFloat32: return launch(float{}, elements / Chunk<float>::kElements);
    case DataType::kFloat16: return launch(__half{}, elements / Chunk<__half>::kElements);
    default: return launch(__nv_bfloat16{}, elements / Chunk<__nv_bfloat16>::kElements);
  }
}

dim3 grid_of(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
}

}  // namespace

Status launch_gate(const GateArguments& arguments, const Launch& context) {
  return for_chunks(arguments.dtype, arguments.num_rows * arguments.width,
                    [&](auto type, int64_t chunks) {
                      return launch_kernel(gate_kernel<decltype(type)>, grid_of(chunks),
                                           dim3(kThreads), 0, context, arguments);
                    });
}

Status launch_rotate(const RotateArguments& arguments, const Launch& context) {
  const int64_t pairs = arguments.num_rows * arguments.num_heads * arguments.half;
  return for_chunks(arguments.dtype, pairs, [&](auto type, int64_t chunks) {
    return launch_kernel(rotate_kernel<decltype(type)>, grid_of(chunks), dim3(kThreads), 0,
                         context, arguments);
  });
}

}  // namespace astra
