// Chooses the widest instruction set that this processor has, of those the loops were compiled for.
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

}  // namespace

Attend find_attend(DataType dtype, int head_size) { return widest().attend(dtype, head_size); }
AddNormRow find_add_norm(DataType dtype) { return widest().add_norm(dtype); }

const char* status_text(Status status) {
  return status == kUnsupported ? "not supported" : "unknown error";
}

}  // namespace astra
