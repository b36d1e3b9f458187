// SPDX-License-Identifier: Apache-2.0
// A differentiable op as a test case: inputs, the op, and the same mathematics in plain ATen. One driver
// asks of every op what every op must hold; an op's own test adds only what is special about it.
#pragma once

#include <string>
#include <vector>

#include "axial/testing/gradcheck/gradcheck.h"

namespace axial::testing {

/// Inputs of one size: fp64 where they float (the driver casts them), undefined where absent.
struct OpInputs {
  std::string label;  ///< in failures, as "5x17 no bias"
  Tensors tensors;
};

struct OpCase {
  std::string name;
  std::vector<OpInputs> inputs;  ///< several sizes: 1, odd, empty; small, as each element is differenced
  TensorsFunction op;
  TensorsFunction reference;  ///< plain differentiable ATen for fp64 and fp32

  std::vector<at::ScalarType> dtypes = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf};
  std::vector<size_t> constants;    ///< floating inputs that take no gradient
  std::vector<size_t> keep_dtype;   ///< floating inputs that are not cast (fp64 tables, fp32 slopes)
  std::vector<size_t> host_inputs;  ///< read by the host: not moved to Meta
  bool second_order = false;        ///< declared order; false: create_graph must be refused
  bool meta = true;                 ///< the op has Meta kernels
  bool strided = true;              ///< any strides are accepted; false: last dim contiguous
  double roundings = 2;             ///< of the largest value, allowed beyond twice the plain error
  double terms = 0;                 ///< size of terms that cancel in a small result (tolerance.h)
  GradcheckOptions gradcheck;
};

/// Run the whole case; each string is one failure with the check, the inputs' label and the numbers:
///   values and gradients in every dtype within twice the error of the reference in fp32;
///   gradients in fp64 by central differences; second order held or refused as declared;
///   strided inputs (padded rows, transposed storage) give the same bits;
///   Meta: shapes and dtypes of outputs and gradients as on the CPU;
///   1, 2, 3 and 5 threads give the same bits.
std::vector<std::string> failures(const OpCase& test);

}  // namespace axial::testing
