// Chooses the widest instruction set that this processor has, of those the loops were compiled for.
#include "attend.h"
#include "rows.h"

namespace astra {

#define ASTRA_DECLARE(set)                           \
  namespace set {                                    \
  Attend find_attend(DataType dtype, int head_size); \
  RowFunction find_row(RowOperation, DataType);      \
  }

ASTRA_DECLARE(plain)
ASTRA_DECLARE(avx2)
ASTRA_DECLARE(avx512)

namespace {

struct Finders {
  Attend (*attend)(DataType, int);
  RowFunction (*row)(RowOperation, DataType);
};

Finders widest() {
#ifdef ASTRA_WITH_avx512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::find_attend, avx512::find_row};
  }
#endif
#ifdef ASTRA_WITH_avx2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::find_attend, avx2::find_row};
  }
#endif
  return {plain::find_attend, plain::find_row};
}

}  // namespace

Attend find_attend(DataType dtype, int head_size) { return widest().attend(dtype, head_size); }
RowFunction find_row(RowOperation operation, DataType dtype) {
  return widest().row(operation, dtype);
}

const char* status_text(Status status) {
  return status == kUnsupported ? "not supported" : "unknown error";
}

}  // namespace astra
