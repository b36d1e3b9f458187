// SPDX-License-Identifier: Apache-2.0
// Shared layers. The residual goes into the product (ops/linear), so adding a branch to the stream costs
// no pass of its own.
#include "axial/models/common/layers.h"

#include <ATen/ops/tensor.h>

#include <cmath>
#include <utility>

#include "axial/ops/layer_norm/layer_norm.h"
#include "axial/ops/linear/linear.h"
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

std::optional<at::Tensor> Linear::bias_value() const {
  return bias ? std::optional(bias->value) : std::nullopt;
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return ops::linear(x, weight->value, bias_value());
}

at::Tensor Linear::without_bias(const at::Tensor& x) const { return ops::linear(x, weight->value); }

at::Tensor Linear::add_to(const at::Tensor& residual, const at::Tensor& x) const {
  return ops::linear(x, weight->value, bias_value(), residual);
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
