// SPDX-License-Identifier: Apache-2.0
// Calls a differentiable op of an installed Axial and runs its backward.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>

#include "axial/ops/layer_norm/layer_norm.h"

int main() {
  const at::Tensor x = at::randn({4, 8}, at::kDouble).requires_grad_();
  const at::Tensor y =
      axial::ops::layer_norm(x, at::ones({8}, at::kDouble), at::zeros({8}, at::kDouble), 1e-5);
  y.square().sum().backward();
  const double mean_square = y.detach().square().mean().item<double>();
  std::printf("mean square %.6f, gradient %s\n", mean_square, x.grad().defined() ? "defined" : "missing");
  return x.grad().defined() && std::abs(mean_square - 1) < 1e-4 ? 0 : 1;
}
