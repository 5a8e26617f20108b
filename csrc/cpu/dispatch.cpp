// Chooses the widest instruction set that this processor has; attend.cpp is compiled for each.
#include "attend.h"

namespace astra {

namespace plain {
AttendFunctions find_attend(DataType dtype, int head_size);
}
#ifdef __x86_64__
namespace avx2 {
AttendFunctions find_attend(DataType dtype, int head_size);
}
namespace avx512 {
AttendFunctions find_attend(DataType dtype, int head_size);
}
#endif

AttendFunctions find_attend(DataType dtype, int head_size) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return avx512::find_attend(dtype, head_size);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2::find_attend(dtype, head_size);
  }
#endif
  return plain::find_attend(dtype, head_size);
}

const char* status_text(Status status) {
  return status == kUnsupported ? "not supported" : "unknown error";
}

}  // namespace astra
