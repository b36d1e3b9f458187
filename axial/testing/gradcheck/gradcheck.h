// SPDX-License-Identifier: Apache-2.0
// Gradients by autograd, and their check by central differences in fp64.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace axial::testing {

using Tensors = std::vector<at::Tensor>;
using TensorFunction = std::function<at::Tensor(const Tensors&)>;
using TensorsFunction = std::function<Tensors(const Tensors&)>;

struct GradcheckOptions {
  double step = 1e-6;  ///< of the central difference; its error is O(step^2) + 1e-16 / step
  double rtol = 1e-5;  ///< of the larger of the two values
  double atol = 1e-7;  ///< of an element's derivative
};

/// Outcome with the element that is furthest off, whether or not it is within tolerance.
struct GradcheckReport {
  bool ok = true;
  std::string text;
  int64_t input = -1;    ///< which input the worst element is in
  int64_t element = -1;  ///< its index in the flattened input
  double analytic = 0;
  double numeric = 0;
};

/// Sum over outputs of <output, fixed random cotangent>, over those outputs that need gradients.
at::Tensor contract(const Tensors& outputs);

/// Gradients of contract(f(inputs)) by each input that requires grad; undefined where f does not use it.
/// With create_graph the gradients can be differentiated again.
Tensors gradients(const TensorsFunction& f, const Tensors& inputs, bool create_graph = false);

/// Check autograd of `f` against central differences at fp64 `inputs`; those that require grad are moved.
GradcheckReport gradcheck(const TensorsFunction& f, const Tensors& inputs,
                          const GradcheckOptions& options = {});
GradcheckReport gradcheck(const TensorFunction& f, const Tensors& inputs,
                          const GradcheckOptions& options = {});

/// The same for the gradient itself: second derivatives.
GradcheckReport gradgradcheck(const TensorsFunction& f, const Tensors& inputs,
                              const GradcheckOptions& options = {});

/// Deterministic normal values in [-3, 3], different for each `site`.
at::Tensor random_normal(at::IntArrayRef shape, at::ScalarType dtype, std::string_view site);

}  // namespace axial::testing
