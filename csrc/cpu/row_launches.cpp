// The small operations between products on a CPU: rows over threads.
#include "rows.h"
#include "tasks.h"

namespace astra {
namespace {

constexpr int kRowsPerTask = 8;

// `row_elements`: how many a row reads and writes.
template <class Arguments>
Status launch_rows(RowOperation operation, const Arguments& arguments, int64_t row_elements,
                   const Launch& launch) {
  const RowFunction function = find_row(operation, arguments.dtype);
  if (!function) return kUnsupported;
  const int64_t num_tasks = (arguments.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  const int64_t element_bytes = arguments.dtype == DataType::kFloat32 ? 4 : 2;
  const int64_t bytes = arguments.num_rows * row_elements * element_bytes;
  for_tasks(num_tasks, bytes, launch, [&](int64_t task, int) {
    const int64_t first = task * kRowsPerTask;
    const int64_t last = first + kRowsPerTask;
    for (int64_t row = first; row < last && row < arguments.num_rows; ++row) {
      function(&arguments, row);
    }
  });
  return kDone;
}

}  // namespace

Status launch_add_norm(const NormArguments& arguments, const Launch& launch) {
  return launch_rows(RowOperation::kAddNorm, arguments, 4 * int64_t{arguments.width}, launch);
}

Status launch_gate(const GateArguments& arguments, const Launch& launch) {
  return launch_rows(RowOperation::kGate, arguments, 3 * int64_t{arguments.width}, launch);
}

Status launch_rotate(const RotateArguments& arguments, const Launch& launch) {
  const int64_t pairs = int64_t{arguments.num_heads} * arguments.half;
  return launch_rows(RowOperation::kRotate, arguments, 4 * pairs, launch);
}

}  // namespace astra
