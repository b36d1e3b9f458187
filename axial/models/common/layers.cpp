// SPDX-License-Identifier: Apache-2.0
// Shared layers. The residual is the starting value of the product (beta = 1 of the matrix multiply), so
// adding a branch to the stream costs no pass of its own.
#include "axial/models/common/layers.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <utility>

#include "axial/ops/layer_norm/layer_norm.h"
#include "axial/ops/rms_norm/rms_norm.h"

namespace axial::models {

parallel::Parameter* ParameterScope::declare(const std::string& name, std::vector<int64_t> shape,
                                             parallel::Initializer init, bool weight_decay) {
  names_.push_back(name);
  return &table_.declare({name, std::move(shape), init, weight_decay});
}

parallel::Parameter* ParameterScope::share(const std::string& name) {
  parallel::Parameter* row = &table_.at(name);
  names_.push_back(row->spec.name);
  return row;
}

Linear Linear::declare(ParameterScope& scope, const std::string& name, int64_t in, int64_t out,
                       bool with_bias, double std) {
  Linear linear;
  linear.weight = scope.declare(name + ".weight", {out, in}, parallel::Initializer::normal(std), true);
  if (with_bias) linear.bias = scope.declare(name + ".bias", {out}, parallel::Initializer::zeros(), false);
  return linear;
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return bias ? at::linear(x, weight->value, bias->value) : at::linear(x, weight->value);
}

at::Tensor Linear::without_bias(const at::Tensor& x) const { return at::linear(x, weight->value); }

at::Tensor Linear::add_to(const at::Tensor& residual, const at::Tensor& x) const {
  at::Tensor y = at::addmm(residual, x, weight->value.t());
  if (bias) y.add_(bias->value);
  return y;
}

Norm Norm::declare(ParameterScope& scope, const std::string& name, Kind kind, int64_t channels, double eps) {
  Norm norm;
  norm.kind = kind;
  norm.eps = eps;
  norm.weight = scope.declare(name + ".weight", {channels}, parallel::Initializer::ones(), false);
  if (kind == Kind::kLayerNorm) {
    norm.bias = scope.declare(name + ".bias", {channels}, parallel::Initializer::zeros(), false);
  }
  return norm;
}

at::Tensor Norm::operator()(const at::Tensor& x) const {
  if (kind == Kind::kRmsNorm) return ops::rms_norm(x, weight->value, eps);
  return ops::layer_norm(x, weight->value, bias->value, eps);
}

at::Tensor add_two(const at::Tensor& residual, const Linear& first, const at::Tensor& a, const Linear& second,
                   const at::Tensor& b) {
  at::Tensor y = at::addmm(residual, a, first.weight->value.t());
  y.addmm_(b, second.weight->value.t());
  if (first.bias && second.bias) {
    y.add_(first.bias->value + second.bias->value);
  } else if (first.bias || second.bias) {
    y.add_((first.bias ? first.bias : second.bias)->value);
  }
  return y;
}

at::Tensor alibi_slopes(int64_t heads) {
  // A power of two m has slopes 2^(-8 i / m), i = 1..m; other counts take the odd steps of the next power.
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes;
  for (int64_t i = 1; i <= power; ++i) {
    slopes.push_back(
        static_cast<float>(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(power))));
  }
  for (int64_t i = 1; static_cast<int64_t>(slopes.size()) < heads; i += 2) {
    const double step = -8.0 / static_cast<double>(2 * power);
    slopes.push_back(static_cast<float>(std::exp2(step * static_cast<double>(i))));
  }
  return at::tensor(slopes);
}

}  // namespace axial::models
