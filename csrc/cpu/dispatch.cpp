// Chooses the widest instruction set that this processor has, of those the loops were compiled for;
// and what spreads over threads what is short.
#include "add_norm.h"
#include "attend.h"

namespace astra {

#define ASTRA_DECLARE(set)                           \
  namespace set {                                    \
  Attend find_attend(DataType dtype, int head_size); \
  AddNormRow find_add_norm(DataType dtype);          \
  }

ASTRA_DECLARE(plain)
ASTRA_DECLARE(avx2)
ASTRA_DECLARE(avx512)

namespace {

struct Finders {
  Attend (*attend)(DataType, int);
  AddNormRow (*add_norm)(DataType);
};

Finders widest() {
#ifdef ASTRA_WITH_avx512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::find_attend, avx512::find_add_norm};
  }
#endif
#ifdef ASTRA_WITH_avx2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::find_attend, avx2::find_add_norm};
  }
#endif
  return {plain::find_attend, plain::find_add_norm};
}

constexpr int kRowsPerTask = 8;

struct NormWork {
  const NormArguments& arguments;
  AddNormRow row;
};

}  // namespace

Attend find_attend(DataType dtype, int head_size) { return widest().attend(dtype, head_size); }

Status launch_add_norm(const NormArguments& arguments, const Launch& launch) {
  NormWork work{arguments, widest().add_norm(arguments.dtype)};
  if (!work.row) return kUnsupported;
  const int64_t num_tasks = (arguments.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  const int64_t bytes = 4 * arguments.num_rows * arguments.width * element_bytes(arguments.dtype);
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

const char* status_text(Status status) {
  return status == kUnsupported ? "not supported" : "unknown error";
}

}  // namespace astra
