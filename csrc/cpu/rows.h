// One row of a small operation between products, for whichever instruction set is here.
#pragma once

#include "../kernels.h"

namespace astra {

enum class RowOperation : int { kAddNorm, kGate, kRotate };

// `arguments` are the operation's own: NormArguments, GateArguments, RotateArguments.
using RowFunction = void (*)(const void* arguments, int64_t row);

// The function for a type; null where none is compiled.
RowFunction find_row(RowOperation operation, DataType dtype);

}  // namespace astra
