// The residual sum and its norm on a CPU: rows over threads.
#include "add_norm.h"

namespace astra {
namespace {

constexpr int kRowsPerTask = 8;

struct NormWork {
  const NormArguments& arguments;
  AddNormRow row;
};

}  // namespace

Status launch_add_norm(const NormArguments& arguments, const Launch& launch) {
  NormWork work{arguments, find_add_norm(arguments.dtype)};
  if (!work.row) return kUnsupported;
  const int64_t num_tasks = (arguments.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  const int64_t element_bytes = arguments.dtype == DataType::kFloat32 ? 4 : 2;
  const int64_t bytes = 4 * arguments.num_rows * arguments.width * element_bytes;
  TaskQueue queue(num_tasks, useful_threads(num_tasks, bytes, launch));
  launch.run(
      queue,
      [](TaskQueue& tasks, void* opaque) {
        const auto& [n, add_norm_row] = *static_cast<const NormWork*>(opaque);
        for (int64_t task; tasks.take(&task);) {
          const int64_t first = task * kRowsPerTask;
          const int64_t last = first + kRowsPerTask;
          for (int64_t row = first; row < last && row < n.num_rows; ++row) add_norm_row(n, row);
        }
      },
      &work);
  return kDone;
}

}  // namespace astra
