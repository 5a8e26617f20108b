// The emulated device: fibers, barriers, and the few calls of the CUDA runtime that are made.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "device.h"

namespace emulator {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

struct Barrier {
  int members = 0;
  int arrived = 0;
  long generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  Position position;
  bool done;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  std::vector<float> lanes;
  Barrier all;
  ucontext_t scheduler;
  const std::function<void()>* thread;
  int current;
  long progress;
};

Block block;
std::vector<float> shared;

void leave(Barrier& barrier) {
  if (barrier.arrived == barrier.members && barrier.members > 0) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++block.progress;
  }
}

void wait(Barrier& barrier) {
  const long generation = barrier.generation;
  ++barrier.arrived;
  leave(barrier);
  while (barrier.generation == generation) {
    swapcontext(&block.fibers[block.current].context, &block.scheduler);
  }
}

Barrier& warp() { return block.warps[block.current / kWarp]; }

void enter() {
  (*block.thread)();
  block.fibers[block.current].done = true;
  ++block.progress;
  --block.all.members;
  --warp().members;
  leave(block.all);
  leave(warp());
}

void start(int index, dim3 grid, uint3 at) {
  Fiber& fiber = block.fibers[index];
  fiber.position = {uint3{static_cast<unsigned>(index), 0, 0}, at, grid};
  fiber.done = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = &block.scheduler;
  makecontext(&fiber.context, enter, 0);
  ++block.all.members;
  ++block.warps[index / kWarp].members;
}

// Lets the threads of a warp go on, in turns, until all wait for other warps or are done.
void run_warp(int first, int last, bool forward) {
  for (long before = -1; block.progress != before;) {
    before = block.progress;
    for (int turn = 0; turn < last - first; ++turn) {
      block.current = forward ? first + turn : last - 1 - turn;
      Fiber& fiber = block.fibers[block.current];
      if (!fiber.done) swapcontext(&block.scheduler, &fiber.context);
    }
  }
}

// Warps run as far ahead of each other as barriers allow, from the first to the last and then the
// other way: what lacks a barrier meets what the others have yet to write, or wrote too soon.
void run_block(int threads) {
  for (bool forward = true; block.all.members > 0; forward = !forward) {
    const long before = block.progress;
    for (int turn = 0; turn * kWarp < threads; ++turn) {
      const int index = forward ? turn : (threads - 1) / kWarp - turn;
      const int last = (index + 1) * kWarp < threads ? (index + 1) * kWarp : threads;
      run_warp(index * kWarp, last, forward);
    }
    if (block.progress == before) {
      std::fprintf(stderr, "emulated device: threads wait for each other in vain\n");
      std::abort();
    }
  }
}

}  // namespace

const Position& position() { return block.fibers[block.current].position; }
void block_barrier() { wait(block.all); }
float* shared_memory() { return shared.data(); }

float exchange(float value, int lane_mask) {
  const int thread = block.current;
  block.lanes[thread] = value;
  wait(warp());
  const float other = block.lanes[thread ^ lane_mask];
  wait(warp());
  return other;
}

int run(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& thread) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  const int count = static_cast<int>(threads.x);
  block.fibers.resize(count);
  block.lanes.resize(count);
  block.thread = &thread;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        shared.assign(shared_bytes / sizeof(float) + 4, std::numeric_limits<float>::quiet_NaN());
        block.warps.assign((count + kWarp - 1) / kWarp, Barrier{});
        block.all = Barrier{};
        for (int i = 0; i < count; ++i) start(i, grid, uint3{x, y, z});
        run_block(count);
      }
    }
  }
  return cudaSuccess;
}

}  // namespace emulator

// The parts of the CUDA runtime and of torch's CUDA half that bindings and kernels call.
extern "C" {
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 4;  // multiprocessors: few, so that small cases split and larger ones do not
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "emulated error"; }
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
int32_t aoti_torch_create_device_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}
int32_t aoti_torch_delete_device_guard(void*) { return 0; }
}
