// SPDX-License-Identifier: Apache-2.0
// Layers that several models share: parameters declared under a name, applied with the house's ops.
// A layer holds rows of the ParameterTable and reads their values at call time, so it may be made
// before the table is materialised. The table must outlive it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "axial/core/recipe/recipe.h"
#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::models {

/// Declares parameters and remembers their names: what a block lists as its own.
class ParameterScope {
 public:
  explicit ParameterScope(parallel::ParameterTable& table) : table_(table) {}

  /// Declare a new row.
  parallel::Parameter* declare(const std::string& name, std::vector<int64_t> shape,
                               parallel::Initializer init, bool weight_decay);
  /// Use a row that another scope declared (tied weights).
  parallel::Parameter* share(const std::string& name);

  const std::vector<std::string>& names() const { return names_; }

 private:
  parallel::ParameterTable& table_;
  std::vector<std::string> names_;
};

/// y = x W^T + b with W [out, in].
struct Linear {
  parallel::Parameter* weight = nullptr;
  parallel::Parameter* bias = nullptr;  ///< null: none

  /// `<name>.weight` from N(0, std^2) and, when asked for, `<name>.bias` of zeros.
  static Linear declare(ParameterScope& scope, const std::string& name, int64_t in, int64_t out,
                        bool with_bias, double std);

  /// x [T, in] -> [T, out].
  at::Tensor operator()(const at::Tensor& x) const;
  /// The product alone, for callers that fuse the bias into what follows.
  at::Tensor without_bias(const at::Tensor& x) const;
  /// residual + x W^T + b in one product; residual [T, out] is left as it is.
  at::Tensor add_to(const at::Tensor& residual, const at::Tensor& x) const;

  std::optional<at::Tensor> bias_value() const;
};

/// Normalisation over the last dim.
struct Norm {
  enum class Kind { kLayerNorm, kRmsNorm };

  Kind kind = Kind::kLayerNorm;
  double eps = 1e-5;
  parallel::Parameter* weight = nullptr;
  parallel::Parameter* bias = nullptr;  ///< of kLayerNorm

  /// `<name>.weight` of ones and, for kLayerNorm, `<name>.bias` of zeros; neither is decayed.
  static Norm declare(ParameterScope& scope, const std::string& name, Kind kind, int64_t channels,
                      double eps);

  at::Tensor operator()(const at::Tensor& x) const;
};

/// Slopes of ALiBi for any number of heads, [heads] fp32 on the host (Press et al., 2022).
at::Tensor alibi_slopes(int64_t heads);

}  // namespace axial::models

template <>
struct axial::recipe::EnumNames<axial::models::Norm::Kind> {
  using E = axial::models::Norm::Kind;
  static constexpr std::pair<std::string_view, E> names[] = {{"layer_norm", E::kLayerNorm},
                                                             {"rms_norm", E::kRmsNorm}};
};
