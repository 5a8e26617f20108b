// One row of the residual sum and its norm, for whichever instruction set is here.
#pragma once

#include "../kernels.h"

namespace astra {

using AddNormRow = void (*)(const NormArguments&, int64_t row);

// The function for a type; null where none is compiled.
AddNormRow find_add_norm(DataType dtype);

}  // namespace astra
