// Chooses the widest instruction set that this processor has, of those attend.cpp was compiled for.
#include "attend.h"

namespace astra {

#define ASTRA_DECLARE(set)                                       \
  namespace set {                                                \
  Attend find_attend(DataType dtype, int head_size);             \
  }

ASTRA_DECLARE(plain)
ASTRA_DECLARE(avx2)
ASTRA_DECLARE(avx512)

Attend find_attend(DataType dtype, int head_size) {
#ifdef ASTRA_WITH_avx512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return avx512::find_attend(dtype, head_size);
  }
#endif
#ifdef ASTRA_WITH_avx2
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
