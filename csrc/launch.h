// The device's launch context, and what the two libraries are called.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include "kernels.h"

#ifdef USE_CUDA
#include <cuda_runtime_api.h>
#endif

// A build may name its own: the tests run the CUDA kernels on an emulated device.
#ifndef ASTRA_NAMESPACE
#ifdef USE_CUDA
#define ASTRA_NAMESPACE astra_cuda
#define ASTRA_DISPATCH_KEY CUDA
#else
#define ASTRA_NAMESPACE astra_cpu
#define ASTRA_DISPATCH_KEY CPU
#endif
#endif

namespace astra {

inline void check_done(Status status, const char* name) {
  STD_TORCH_CHECK(status == kDone, name, " failed: ", status_text(status));
}

#ifdef USE_CUDA

constexpr const char* kDeviceName = "CUDA";
constexpr const char* kDataTypes = "float32, float16, bfloat16";

// Makes the tensor's device current for its lifetime and finds torch's current stream there.
struct LaunchScope {
  explicit LaunchScope(const torch::stable::Tensor& tensor) : guard(tensor.get_device_index()) {
    const int device = tensor.get_device_index();
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &launch.stream));
    // This library's own CUDA runtime, too, must know the device.
    check_done(cudaSetDevice(device), "selecting the device");
    check_done(cudaDeviceGetAttribute(&launch.num_multiprocessors,
                                      cudaDevAttrMultiProcessorCount, device),
               "reading the number of multiprocessors");
  }
  torch::stable::accelerator::DeviceGuard guard;
  Launch launch{};
};

#else

constexpr const char* kDeviceName = "CPU";
constexpr const char* kDataTypes = "float32, bfloat16";

inline void run_on_torch_threads(int count, void (*work)(void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(context);
  });
}

struct LaunchScope {
  explicit LaunchScope(const torch::stable::Tensor&)
      : launch{static_cast<int>(torch::stable::get_num_threads()), run_on_torch_threads} {}
  Launch launch;
};

#endif

}  // namespace astra
