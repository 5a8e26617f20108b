// A CUDA device for tests on machines without one: runs a kernel's threads as fibers of the host.
//
// Included before the kernels' sources, compiled by the C++ compiler. Blocks run one after
// another; the threads of a block take turns at barriers and shuffles. It shows that indices,
// masks and joins are right; it says nothing of speed, memory ordering or occupancy.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <functional>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one at a time
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace emulator {

struct Position {
  uint3 thread;
  uint3 block;
  dim3 grid;
};
const Position& position();

void block_barrier();
float exchange(float value, int lane_mask);
float* shared_memory();
int run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

}  // namespace emulator

#define threadIdx (emulator::position().thread)
#define blockIdx (emulator::position().block)
#define gridDim (emulator::position().grid)

inline void __syncthreads() { emulator::block_barrier(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  return emulator::exchange(value, mask);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
template <class T>
inline T __ldg(const T* from) {
  return *from;
}

#define ASTRA_EMULATED_DEVICE
#include "kernels.h"

namespace astra {

template <class... Parameters, class... Arguments>
Status launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                     const Launch&, Arguments... arguments) {
  return emulator::run(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

inline float* dynamic_shared_memory() { return emulator::shared_memory(); }

}  // namespace astra
