// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, 2019) over a ParameterTable, one fused pass (kernels/optimizer_step).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::optim {

struct AdamWOptions {
  double learning_rate = 3e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;

  template <class V>
  void fields(V& v) {
    v("learning_rate", learning_rate, "peak learning rate; the schedule multiplies it");
    v("beta1", beta1, "decay of the first moment");
    v("beta2", beta2, "decay of the second moment");
    v("eps", eps, "added to the root of the second moment");
    v("weight_decay", weight_decay, "decoupled decay; biases and norms are not decayed");
  }
  void validate() const;  ///< throws ValueError
};

/// Keeps its moments as companions "exp_avg" and "exp_avg_sq" of each row (dtype of the master: fp32, fp64
/// for fp64) and updates "master" where there is one, else the value. Rows without a gradient are left alone.
class AdamW {
 public:
  /// Allocate missing moments (zeros). The table must outlive it.
  AdamW(AdamWOptions options, parallel::ParameterTable& parameters);
  /// One update with gradients multiplied by `grad_scale` (1 / loss scale x clip factor). On Meta nothing is
  /// computed, but the same buffers are there.
  void step(double learning_rate, double grad_scale);
  const AdamWOptions& options() const { return options_; }
  /// {"step": updates done}; the moments are in the table.
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  AdamWOptions options_;
  parallel::ParameterTable& parameters_;
  int64_t step_ = 0;
};

}  // namespace axial::optim
